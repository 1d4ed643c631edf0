import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zoo import engines
from zoo.claims import Run
from zoo.engines import LocalEngine, printed_to, tail
from zoo.runner import on_real_data, task

QUICK = {"trainer.max_epochs": 2, "trainer.accelerator": "cpu", "model.hidden_channels": 4}


@pytest.fixture
def engine():
    one = LocalEngine(workers=2)
    yield one
    one.close()


def outcomes(engine, *runs):
    """Outcomes of runs side by side, in their order."""
    jobs = [task(on_real_data(run)).job() for run in runs]
    for job in jobs:
        engine.start(job)
    ended = {}
    while len(ended) < len(jobs):
        ended |= {job.folder: outcome for job, outcome in engine.finished(timeout=1.0)}
    return [ended[job.folder] for job in jobs]


def test_runs_side_by_side_measure_what_they_measure_alone(engine, root, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(root))
    first, second = Run("gcn", 0, QUICK), Run("gcn", 1, QUICK)
    together = outcomes(engine, first, second)
    alone = [outcomes(engine, run)[0] for run in (first, second)]
    assert [one.result["metrics"] for one in together] == [one.result["metrics"] for one in alone]
    assert together[0].result["metrics"] != together[1].result["metrics"]
    assert together[0].result["device"] == "cpu, 1 threads"
    assert "STAND-IN" not in together[0].result["data"]


def test_a_configuration_that_is_wrong_answers_in_one_line(engine, root, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(root))
    (outcome,) = outcomes(engine, Run("gcn", 0, {"model.dropout": 1.5}))
    assert outcome.error == "dropout must be in [0, 1), got 1.5"
    assert not outcome.data_is_missing
    assert not outcome.result


def test_a_run_that_fails_at_work_answers_with_the_tail_of_its_log(engine, root, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(root))
    stops = {"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {"monitor": "val/nothing"}}
    (outcome,) = outcomes(engine, Run("gcn", 0, {**QUICK, "trainer.callbacks": [stops]}))
    assert "Traceback" in outcome.error or "File " in outcome.error
    assert "Early stopping conditioned on metric `val/nothing` which is not available" in outcome.error
    assert not outcome.data_is_missing


def test_missing_data_is_told_apart_from_other_failures(engine):
    (outcome,) = outcomes(engine, Run("gcn", 0, QUICK))
    assert outcome.data_is_missing
    assert outcome.error.startswith("Cora is not available")


def test_a_killed_worker_is_reported_and_the_next_one_works(engine, root, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(root))
    job = task(on_real_data(Run("gcn", 0, {**QUICK, "trainer.max_epochs": 1_000_000}))).job()
    engine.start(job)
    while not list(Path(job.folder).rglob("metrics.csv")):
        time.sleep(0.05)
    ((_, process, _),) = engine._running.values()
    os.kill(process.pid, signal.SIGKILL)
    ((ended, outcome),) = engine.finished(timeout=30)
    assert ended == job
    assert outcome.error.startswith("the worker was killed by SIGKILL")
    (after,) = outcomes(engine, Run("gcn", 0, QUICK))
    assert after.result["metrics"]


def test_close_stops_what_still_runs(engine, root, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(root))
    engine.start(task(on_real_data(Run("gcn", 0, {**QUICK, "trainer.max_epochs": 1_000_000}))).job())
    ((_, process, _),) = engine._running.values()
    engine.close()
    assert process.exitcode == -signal.SIGKILL


def test_a_machine_without_the_drivers_folders_answers_all_the_same(root, workplace, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(root))
    job = replace(task(on_real_data(Run("gcn", 0, QUICK))).job(), directory="/nowhere", folder="/nowhere/run")
    outcome = engines.execute(job)
    assert outcome.result["metrics"]
    monkeypatch.chdir(workplace)
    assert not list(workplace.rglob("*.ckpt"))


def test_what_is_printed_goes_to_the_log_even_from_below_python(tmp_path, capfd):
    with printed_to(tmp_path / "log.txt"):
        os.write(1, b"from below\n")
        os.system("echo from a child >&2")
    print("afterwards")
    assert tail(tmp_path / "log.txt") == "from below\nfrom a child"
    assert capfd.readouterr().out == "afterwards\n"


@pytest.mark.parametrize(
    ("visible", "slot", "expected"), [(None, 4, "1"), ("5,7", 0, "5"), ("5,7", 3, "7"), ("GPU-a", 3, "GPU-a")]
)
def test_workers_take_turns_at_the_gpus(monkeypatch, visible, slot, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    engines._take_one_gpu(slot)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
