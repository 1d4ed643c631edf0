"""What is left when a write, a download or a run is cut short; ``benchmarks/faults.py`` does the same by real kills."""

import csv
import errno
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from callbacks.neural_collapse_callback import NeuralCollapseCallback
from datamodules import EnglandCovidDataModule, temporal_england
from zoo import reproduce
from zoo.claims import Run
from zoo.engines import Job, execute
from zoo.files import whole, write_json, write_text
from zoo.logs import ContinuedCSVLogger, new_version, read_curve, read_rows
from zoo.recipes import main
from zoo.resume import WholeCheckpoints
from zoo.runner import Failures, task

QUICK = ["--model", "extended_ufm", "--trainer.max_epochs", "2"]


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def half(self, content):
    """``Path.write_bytes`` on a disk that fills up."""
    with self.open("wb") as file:
        file.write(content[: len(content) // 2])
    full()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_fails_leaves_the_file_of_before_and_nothing_else(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"acc": 0.8})

    def write_half():
        with whole(path) as partial:
            partial.write_text('{"acc": ')
            full()

    with pytest.raises(OSError, match="No space"):
        write_half()
    assert json.loads(path.read_text()) == {"acc": 0.8}
    assert names(tmp_path) == ["results.json"]


def test_until_a_file_is_whole_it_has_another_name(tmp_path):
    path = tmp_path / "new" / "figure.png"
    with whole(path) as partial:
        partial.write_bytes(b"half")
        assert [name.endswith(".partial") for name in names(path.parent)] == [True]
    assert names(path.parent) == ["figure.png"]


def test_a_checkpoint_that_does_not_fit_leaves_the_one_of_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    keeper = WholeCheckpoints()
    keeper.save_checkpoint({"epoch": 1}, path)
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space"):
        keeper.save_checkpoint({"epoch": 2, "state_dict": {"w": torch.zeros(1000)}}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert names(path.parent) == ["last.ckpt"]


def test_checkpoints_are_not_copied_from_the_temporary_folder(workplace, monkeypatch, capsys):
    def another_disk(*_, **__):
        raise AssertionError("written into the temporary folder")

    monkeypatch.setattr("fsspec.implementations.local.tempfile.mkstemp", another_disk)
    assert main(QUICK) == 0
    assert torch.load("logs/extended_ufm/version_0/checkpoints/last.ckpt", weights_only=True)["epoch"] == 1


def test_a_full_disk_ends_a_training_with_one_message_that_says_how_to_go_on(workplace, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(WholeCheckpoints, "save_checkpoint", full)
        assert main(QUICK) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: the disk is full ([Errno 28] No space left on device)")
    assert "--ckpt_path last" in error
    assert "\n" not in error
    assert main([*QUICK, "--ckpt_path", "last"]) == 2
    assert "leave it away to start" in capsys.readouterr().err


def test_what_is_trained_can_be_tested(workplace, capsys):
    gcn = ["--model", "gcn", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]
    assert main(gcn) == 0
    assert main([*gcn, "--ckpt_path", "last"]) == 2
    assert "to test it, say test before --model" in capsys.readouterr().err
    assert main(["test", *gcn, "--ckpt_path", "last"]) == 0


def test_a_new_column_never_empties_the_log(tmp_path, monkeypatch):
    folder = new_version(tmp_path / "gcn")
    logger = ContinuedCSVLogger(folder)
    for epoch in range(3):
        logger.log_metrics({"val/loss": 1.0, "epoch": epoch}, step=epoch)
        logger.save()
    monkeypatch.setattr("zoo.files.os.replace", full)
    logger.log_metrics({"test/acc": 0.8}, step=3)
    with pytest.raises(OSError, match="No space"):
        logger.save()
    assert read_curve(folder, "val/loss")[0] == [0, 1, 2]
    with pytest.raises(OSError, match="No space"):
        ContinuedCSVLogger(folder, first_step=2)  # going on
    assert read_curve(folder, "val/loss")[0] == [0, 1, 2]


def test_a_row_that_was_cut_short_is_not_read_and_going_on_replaces_it(tmp_path):
    folder = new_version(tmp_path / "gcn")
    write_text(folder / "metrics.csv", "epoch,step,val/loss\n0,9,0.25\n1,19,0.12")
    assert read_rows(folder) == [{"epoch": "0", "step": "9", "val/loss": "0.25"}]
    logger = ContinuedCSVLogger(folder, first_step=10)
    logger.log_metrics({"val/loss": 0.125, "epoch": 1}, step=19)
    logger.save()
    with (folder / "metrics.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["epoch", "step", "val/loss"], ["0", "9", "0.25"], ["1", "19", "0.125"]]


@pytest.mark.parametrize("content", ["", '{"recipe": "gcn", "metr', "{}", "[]"])
def test_a_damaged_measurement_is_not_a_finished_run(content, tmp_path):
    one = task(Run("gcn", 0), tmp_path)
    write_text(one.folder / "measurement.json", content)
    assert one.measurement() is None


def test_a_worker_whose_disk_is_full_says_what_went_wrong(tmp_path, workplace):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "log.txt").symlink_to("/dev/full")
    outcome = execute(Job("no_such_recipe", [], str(tmp_path), os.getcwd()))
    assert "there is no recipe 'no_such_recipe'" in outcome.error


@pytest.mark.parametrize("place", ["zoo.reproduce._execute", "zoo.report.Report.save"])
def test_a_full_disk_ends_a_reproduction_with_one_message(place, workplace, monkeypatch, capsys):
    monkeypatch.setattr("zoo.reproduce._execute", lambda *_: Failures({}, {}))
    monkeypatch.setattr(place, full)
    assert reproduce.main(["deep_linear"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: the disk is full")
    assert "goes on with the runs that are left" in error
    assert "\n" not in error


def test_other_errors_of_a_reproduction_keep_their_traceback(workplace, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("zoo.reproduce._execute", broken)
    with pytest.raises(OSError, match="Input/output"):
        reproduce.main(["deep_linear"])


def test_a_figure_that_does_not_fit_leaves_the_one_of_before(tmp_path, monkeypatch):
    callback = NeuralCollapseCallback()
    (tmp_path / callback.file_name).write_bytes(b"the one of before")

    def savefig(self, path, **_):
        Path(path).write_bytes(b"half")
        full()

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    monkeypatch.setattr("callbacks.neural_collapse_callback.draw_collapse", lambda _: Figure())
    with pytest.raises(OSError, match="No space"):
        callback._draw(tmp_path)
    assert (tmp_path / callback.file_name).read_bytes() == b"the one of before"


@pytest.fixture
def server():
    """Serves a file, or the half of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if self.server.announced:
                self.send_header("Content-Length", str(len(self.server.content)))
            self.end_headers()
            self.wfile.write(self.server.content[: self.server.sent])

        def log_message(self, *_):
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    yield http
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize("announced", [True, False])
def test_a_download_that_breaks_off_leaves_nothing_and_the_next_one_works(announced, server, tmp_path, monkeypatch):
    edges = [[i, (i + 1) % 6] for i in range(6)]
    days = {str(day): edges for day in range(30)}
    weights = {day: [1.0 + i for i in range(6)] for day in days}
    cases = [[float((3 * day + i) % 7) for i in range(6)] for day in range(30)]
    content = {"edge_mapping": {"edge_index": days, "edge_weight": weights}, "y": cases}
    server.content, server.announced = json.dumps(content).encode(), announced
    server.sent = len(server.content) // 2
    monkeypatch.setattr(temporal_england, "URL", f"http://127.0.0.1:{server.server_address[1]}/file")
    with pytest.raises(FileNotFoundError, match=r"england_covid\.json, and the download from .* failed"):
        EnglandCovidDataModule(tmp_path / "data").prepare_data()
    assert not list((tmp_path / "data").glob("*"))
    server.sent = len(server.content)
    EnglandCovidDataModule(tmp_path / "data").prepare_data()
    assert names(tmp_path / "data") == ["england_covid.json"]
