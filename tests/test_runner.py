import json
from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock

import pytest

from zoo import runner
from zoo.claims import Run
from zoo.engines import Job, Outcome
from zoo.runner import execute, on_real_data, task

RUN = Run("gcn", 0, {"data.name": "cora"})
RESULT = {
    "metrics": {"test/acc": 0.8},
    "last_epoch": {"train/acc": 0.9},
    "curves": {},
    "data": "Cora",
    "device": "cpu",
    "seconds": 2.0,
}


class FakeEngine:
    """Ends jobs in the order in which they began, as the test says."""

    def __init__(self, outcome, workers=2):
        self.workers = workers
        self.outcome = outcome
        self.running: list[Job] = []
        self.jobs: list[Job] = []

    def start(self, job):
        assert len(self.running) < self.workers
        self.running.append(job)
        self.jobs.append(job)

    def finished(self, timeout):
        job = self.running.pop(0)
        return [(job, self.outcome(job))]


def succeed(job):
    return Outcome(RESULT)


@pytest.mark.parametrize(
    "other",
    [
        Run("gcn", 1, {"data.name": "cora"}),
        Run("gat", 0, {"data.name": "cora"}),
        Run("gcn", 0, {"data.name": "citeseer"}),
        Run("gcn", 0, {"data.name": "cora", "model.dropout": 0.4}),
    ],
)
def test_another_seed_recipe_or_override_is_another_run(other):
    assert task(other).key != task(RUN).key


def test_what_the_recipe_says_already_changes_nothing():
    assert task(Run("gcn", 0)).key == task(RUN).key == task(Run("gcn", 0, {"trainer.max_epochs": 200})).key


def test_other_packages_or_other_code_make_another_run(monkeypatch):
    before = task(RUN).key
    with monkeypatch.context() as patch:
        patch.setattr(runner, "versions", lambda: {"torch": "0.4"})
        assert task(RUN).key != before
    monkeypatch.setattr(runner, "code_hash", lambda room, config: "edited")
    assert task(RUN).key != before


def test_stand_ins_are_refused_where_there_are_any():
    assert on_real_data(RUN).overrides == {"data.name": "cora", "data.if_unavailable": "error"}
    assert on_real_data(on_real_data(RUN)) == on_real_data(RUN)


def test_a_finished_run_is_kept_whole(workplace):
    one = task(RUN)
    assert one.measurement() is None
    failures = execute([one], FakeEngine(succeed), Mock())
    assert (failures.errors, failures.missing_data) == ({}, {})
    kept = one.measurement()
    assert kept.metrics == {"test/acc": 0.8, "train/acc": 0.9}
    assert kept.config["model"]["init_args"]["hidden_channels"] == 16
    assert kept.versions["torch"]
    assert [path.name for path in Path("runs/gcn").glob("*/*")] == ["measurement.json"]
    assert json.loads(next(Path("runs").rglob("measurement.json")).read_text()) == asdict(kept)


def test_a_failure_stops_no_other_run_and_is_not_kept(workplace):
    tasks = [task(Run("gcn", seed)) for seed in range(5)]
    broken = str(tasks[1].folder.absolute())
    engine = FakeEngine(lambda job: Outcome(error="boom") if job.folder == broken else Outcome(RESULT))
    failures = execute(tasks, engine, Mock())
    assert failures.errors == {tasks[1].key: "boom"}
    assert [one.measurement() is not None for one in tasks] == [True, False, True, True, True]


def test_runs_that_wait_for_missing_data_are_given_up_and_others_are_not(workplace):
    cora, citeseer = (
        [task(Run("gcn", seed, {"data.name": name})) for seed in range(4)] for name in ("cora", "citeseer")
    )
    missing = {str(one.folder.absolute()) for one in cora}
    engine = FakeEngine(
        lambda job: Outcome(error="no Cora", data_is_missing=True) if job.folder in missing else Outcome(RESULT), 1
    )
    failures = execute([*cora, *citeseer], engine, Mock())
    assert failures.missing_data == {one.key: "no Cora" for one in cora}
    assert len(engine.jobs) == 1 + 4
    assert all(one.measurement() for one in citeseer)


def test_code_that_is_edited_during_a_run_is_not_blamed_on_the_old_one(workplace, monkeypatch):
    one = task(RUN)

    def edit(job):
        monkeypatch.setattr(runner, "code_hash", lambda room, config: "edited")
        return Outcome(RESULT)

    failures = execute([one], FakeEngine(edit), Mock())
    assert failures.errors == {one.key: "the source code was changed during the run"}
    assert one.measurement() is None


def test_a_new_attempt_begins_with_an_empty_folder(workplace):
    one = task(RUN)
    (one.folder / "logs").mkdir(parents=True)
    (one.folder / "log.txt").write_text("of the last attempt")
    one.job()
    assert list(one.folder.iterdir()) == []
