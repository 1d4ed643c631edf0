import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from zoo.reproduce import main

CLAIM = """
from zoo.claims import Check, Claim, Run, Verdict, welch

QUICK = {{"trainer.max_epochs": {epochs}, "trainer.accelerator": "cpu", "model.hidden_channels": 4}}


def runs(scale):
    return [Run(recipe, seed, QUICK) for recipe in ("gcn", "local_aug_control") for seed in range({seeds})] + {more}


def verdict(results):
    gcn, control = (100 * results.of(recipe).metric("test/acc") for recipe in ("gcn", "local_aug_control"))
    figures = {{"Cora: GCN": gcn, "Cora: control": control}}
    beside = Check("the difference", None, str(welch(control, gcn)))
    return Verdict(figures, [Check("accuracies are percentages", {holds}, f"{{gcn.mean():.2f}}"), beside])


CLAIM = Claim("A claim for the tests", {{"Cora: GCN": (81.5, 0.5)}}, runs, verdict, unit="test accuracy, %")
"""
SCRIPT = """
import sys
from pathlib import Path

import zoo.claims

if __name__ == "__main__":
    zoo.claims.ROOMS = Path({rooms!r})
    sys.exit(zoo.reproduce.main(sys.argv[1:]))
"""


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A function that writes the claim of a paper "tiny", the only one that there is."""
    rooms = tmp_path / "rooms"
    (rooms / "tiny").mkdir(parents=True)
    (rooms / "tiny/__init__.py").write_text('"""A tiny paper."""\n')
    monkeypatch.setattr("zoo.claims.ROOMS", rooms)

    def write(epochs=2, seeds=2, more="[]", holds="True"):
        text = CLAIM.format(epochs=epochs, seeds=seeds, more=more, holds=holds)
        (rooms / "tiny/claim.py").write_text(text)
        return rooms

    write()
    return write


@pytest.fixture
def real(root, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(root))
    return root


def report(folder="."):
    return json.loads((Path(folder) / "reports/tiny/results.json").read_text())


def measurements(folder="."):
    """Time of writing of every measurement."""
    return {path: path.stat().st_mtime_ns for path in Path(folder).glob("runs/*/*/measurement.json")}


def test_a_claim_is_measured_once_and_reported(room, real, workplace, capsys):
    assert main(["tiny"]) == 0
    first = report()
    assert first["verdict"] == "reproduced"
    assert (len(first["runs"]), first["runs"][0]["seed"], first["failed"]) == (4, 0, {})
    assert first["figures"]["Cora: GCN"]["paper"] == 81.5
    assert first["figures"]["Cora: control"]["paper"] is None
    text = (workplace / "reports/tiny/report.md").read_text()
    assert "**Verdict: reproduced** (`python reproduce.py tiny`)" in text
    assert "| Cora: GCN | 81.5 ± 0.5 |" in text
    assert "--data.if_unavailable error" in text
    assert (workplace / "reports/tiny/figure.png").read_bytes().startswith(b"\x89PNG")
    assert "**reproduced**, small scale" in (workplace / "RESULTS.md").read_text()
    assert not list(workplace.rglob("*.ckpt"))

    before = measurements()
    capsys.readouterr()
    assert main(["tiny"]) == 0
    assert measurements() == before
    assert report() == first
    assert "runs are there" not in capsys.readouterr().out
    assert main([]) == 0
    assert "  reproduced (small scale, 4 runs; reports/tiny/report.md)" in capsys.readouterr().out


def test_the_commands_of_a_report_give_its_numbers(room, real, capsys):
    from zoo.recipes import main as train

    main(["tiny", "--seeds", "1"])
    text = Path("reports/tiny/report.md").read_text()
    (command,) = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `python train.py --model gcn")]
    assert train(command.replace(" S ", " 0 ").split()[2:]) == 0
    trained = json.loads(Path("logs/gcn/version_0/results.json").read_text())
    (run,) = [run for run in report()["runs"] if run["recipe"] == "gcn"]
    assert trained["last_epoch"] | trained["metrics"] == run["metrics"]
    assert "curves" not in run


def test_the_report_can_be_rebuilt_without_runs(room, real, workplace, capsys):
    assert main(["tiny", "--report-only"]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert not (workplace / "reports").exists()
    main(["tiny", "--seeds", "2"])
    room(holds="bool((gcn > 100).all())")  # the claim is no part of a run
    before = measurements()
    assert main(["tiny", "--report-only"]) == 1
    assert measurements() == before
    assert report()["verdict"] == "not reproduced"
    assert main(["tiny", "--report-only", "--seeds", "3"]) == 1
    assert report()["reason"] == "only 4 of 6 runs have finished"


def test_a_check_that_fails_is_not_reproduced(room, real, workplace, capsys):
    room(holds="bool((gcn > 100).all())")
    assert main(["tiny"]) == 1
    assert report()["verdict"] == "not reproduced"
    assert "tiny: not reproduced" in capsys.readouterr().out
    assert "**fails**" in (workplace / "reports/tiny/report.md").read_text()
    assert "**not reproduced**" in (workplace / "RESULTS.md").read_text()


def test_without_the_data_nothing_is_measured(room, workplace, capsys):
    assert main(["tiny"]) == 1
    assert report()["verdict"] == "not measured"
    assert report()["reason"].startswith("Cora is not available")
    assert report()["runs"] == []
    assert not (workplace / "reports/tiny/figure.png").exists()
    assert "tiny: not measured: Cora is not available" in capsys.readouterr().out
    assert "**not measured**" in (workplace / "RESULTS.md").read_text()


def test_a_failed_run_is_shown_and_keeps_the_claim_from_being_reproduced(room, real, workplace):
    room(more='[Run("gcn", 7, {"model.dropout": 1.5})]')
    assert main(["tiny"]) == 1
    content = report()
    assert (content["verdict"], content["reason"]) == ("not measured", "1 of 5 runs failed")
    assert len(content["runs"]) == 4
    (error,) = content["failed"].values()
    assert "dropout must be in [0, 1), got 1.5" in error
    text = (workplace / "reports/tiny/report.md").read_text()
    assert "python train.py --model gcn --seed_everything 7 --model.dropout 1.5" in text
    assert "dropout must be in [0, 1), got 1.5" in text


def test_too_few_seeds_are_said(room, real):
    assert main(["tiny", "--seeds", "1"]) == 1
    assert report()["verdict"] == "not measured"
    assert report()["reason"] == "a comparison needs at least two runs on each side, got 1 and 1"


def test_the_full_scale_is_kept_beside_the_small_one(room, real, workplace, capsys):
    main(["tiny"])
    main(["tiny", "--scale", "full"])
    assert (workplace / "reports/tiny/full/report.md").exists()
    assert report()["scale"] == "small"
    assert (workplace / "RESULTS.md").read_text().count("A tiny paper") == 2
    capsys.readouterr()
    main([])
    assert "(full scale, 4 runs" in capsys.readouterr().out


def drive(rooms, folder):
    """The command as a process of its own."""
    folder.mkdir(exist_ok=True)
    script = folder / "drive.py"
    script.write_text(SCRIPT.format(rooms=str(rooms)).replace("import zoo.claims", "import zoo.claims, zoo.reproduce"))
    words = [sys.executable, str(script), "tiny", "--workers", "2"]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_driver_loses_only_the_runs_in_flight(room, real, tmp_path):
    rooms = room(epochs=60, seeds=4)
    folder = tmp_path / "killed"
    driver = drive(rooms, folder)
    while len(measurements(folder)) < 2:
        assert driver.poll() is None, driver.stdout.read()
        time.sleep(0.02)
    workers = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive  # nobody goes on with what nobody waits for
    kept = measurements(folder)
    assert 2 <= len(kept) < 8

    again = drive(rooms, folder)
    out, _ = again.communicate()
    assert again.returncode == 0, out
    assert f"{len(kept)} of 8 runs are there; {8 - len(kept)} to do" in out
    after = measurements(folder)
    assert len(after) == 8
    assert {path: after[path] for path in kept} == kept

    undisturbed = drive(rooms, tmp_path / "undisturbed")
    assert undisturbed.wait() == 0
    texts = [(where / "reports/tiny/report.md").read_text() for where in (folder, tmp_path / "undisturbed")]
    assert texts[0] == texts[1]


def test_ctrl_c_keeps_what_has_finished(room, real, tmp_path):
    rooms = room(epochs=60, seeds=4)
    folder = tmp_path / "stopped"
    driver = drive(rooms, folder)
    while not measurements(folder):
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGINT)
    out, _ = driver.communicate()
    assert driver.returncode == 130
    assert "the same command goes on with the runs that are left" in out
    assert measurements(folder)
    assert not (folder / "reports").exists()


def test_ray_measures_what_processes_measure(room, real, workplace, tmp_path, monkeypatch):
    metrics = {}
    for engine in ("local", "ray"):
        (tmp_path / engine).mkdir()
        monkeypatch.chdir(tmp_path / engine)
        assert main(["tiny", "--engine", engine, "--workers", "2"]) == 0
        metrics[engine] = [(run["recipe"], run["seed"], run["metrics"]) for run in report()["runs"]]
    assert metrics["ray"] == metrics["local"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tyni"], "there is no paper 'tyni'; did you mean tiny?"),
        (["tiny", "--seeds", "0"], "argument --seeds: expected a whole number of at least 1, got 0"),
        (["tiny", "--workers", "many"], "argument --workers: expected a whole number of at least 1, got many"),
        (["tiny", "--scale", "huge"], "argument --scale: invalid choice: 'huge'"),
        (["tiny", "--engine", "local", "--address", "auto"], "--address auto needs --engine ray, got --engine local"),
        (["--scale", "full"], "name a paper, or say --all"),
        (["tiny", "--seed", "3"], "unrecognized arguments: --seed 3"),
    ],
)
def test_errors_are_one_message_before_anything_is_written(room, workplace, capsys, words, message):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert list(workplace.iterdir()) == []


def test_ray_that_is_not_installed_is_named(room, monkeypatch, capsys):
    monkeypatch.setattr("zoo.engines.find_spec", lambda name: None)
    assert main(["tiny", "--engine", "ray"]) == 2
    assert "pip install 'ray>=2.40'" in capsys.readouterr().err
