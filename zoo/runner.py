"""Executes the runs of claims and keeps every finished one, so that none is done twice."""

import hashlib
import json
import platform
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from typing import Protocol

from zoo.claims import Measurement, Run, setting
from zoo.engines import Engine, Job, Outcome
from zoo.files import write_json
from zoo.recipes import find_recipe
from zoo.sources import code_hash

# What computes a run's numbers; another version of one of these makes another run.
COMPUTING = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torch-geometric",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-learn",
)
STAND_IN = "data.if_unavailable"


@lru_cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    return {"python": platform.python_version(), **{name: version(name) for name in COMPUTING}}


def on_real_data(run: Run) -> Run:
    """The run with stand-ins refused, where its data has any."""
    if setting(run.config(), STAND_IN) in (None, "error"):
        return run
    return Run(run.recipe, run.seed, {**run.overrides, STAND_IN: "error"})


@dataclass(frozen=True)
class Task:
    """A run and where it is kept.

    Args:
        run: The run.
        key: Hash of its whole configuration, of the code that it imports and of the packages that compute.
        folder: ``runs/<recipe>/<key>``, with the measurement, the log and the logs of the Trainer.
    """

    run: Run
    key: str
    folder: Path

    @property
    def name(self) -> str:
        """The run in a few words."""
        overrides = [
            f"{key.rpartition('.')[2]}={value}" for key, value in self.run.overrides.items() if key != STAND_IN
        ]
        return " ".join([self.run.recipe, *overrides, f"seed={self.run.seed}"])

    @property
    def kind(self) -> str:
        """What all seeds of a configuration have in common."""
        return json.dumps([self.run.recipe, self.run.overrides], sort_keys=True)

    def measurement(self) -> Measurement | None:
        """What the run measured, ``None`` if it has not finished (or the file is damaged, or of long ago)."""
        try:
            return Measurement(**json.loads((self.folder / "measurement.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, TypeError, ValueError):
            return None

    def keep(self, outcome: Outcome) -> None:
        """Keep what the run measured, and remove its checkpoints."""
        result = outcome.result
        measurement = Measurement(
            recipe=self.run.recipe,
            seed=self.run.seed,
            overrides=dict(self.run.overrides),
            config=self.run.config(),
            metrics=result["last_epoch"] | result["metrics"],
            data=result["data"],
            device=result["device"],
            seconds=result["seconds"],
            versions=versions(),
            code=code_hash(find_recipe(self.run.recipe).path.parent, self.run.config()),
            finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            curves=result["curves"],
        )
        write_json(self.folder / "measurement.json", asdict(measurement))
        for checkpoints in self.folder.glob("logs/*/*/checkpoints"):
            rmtree(checkpoints)

    def has_changed(self) -> bool:
        """Whether the code is no longer the one of the key: somebody has edited it since the task was made."""
        return task(self.run).key != self.key

    def job(self) -> Job:
        """What a worker needs; what an earlier attempt left is removed."""
        rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return Job(self.run.recipe, self.run.words(), str(self.folder.absolute()), str(Path.cwd()))


def task(run: Run, root: Path = Path("runs")) -> Task:
    """Where a run is kept.

    Args:
        run: The run.
        root: The folder of all runs.
    """
    config = run.config()
    room = find_recipe(run.recipe).path.parent
    identity = {"config": config, "code": code_hash(room, config), "versions": versions()}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:20]
    return Task(run, key, root / run.recipe / key)


class Watcher(Protocol):
    """Is told how the runs proceed."""

    def started(self, task: Task) -> None:
        """A run has begun."""

    def ended(self, task: Task, failure: str) -> None:
        """A run has ended; ``failure`` is empty if it finished."""

    def given_up(self, tasks: Sequence[Task]) -> None:
        """Runs will not be done, for want of their data."""

    def waited(self) -> None:
        """A moment has passed."""


@dataclass
class Failures:
    """What did not finish.

    Args:
        errors: What went wrong, by key of the task.
        missing_data: Why data is not available, by key of the task.
    """

    errors: dict[str, str]
    missing_data: dict[str, str]


def execute(tasks: Iterable[Task], engine: Engine, watcher: Watcher) -> Failures:
    """Execute tasks side by side and keep each one that finishes.

    A run that fails does not stop the others, unless its data is not available: then those that wait for the same
    data are given up.

    Args:
        tasks: What is to be done.
        engine: Executes the jobs.
        watcher: Is told of every event.

    Returns:
        What did not finish, and why.
    """
    failures = Failures({}, {})
    waiting = deque(tasks)
    running: dict[str, Task] = {}
    while waiting or running:
        while waiting and len(running) < engine.workers:
            one = waiting.popleft()
            job = one.job()
            running[job.folder] = one
            engine.start(job)
            watcher.started(one)
        for job, outcome in engine.finished(timeout=0.2):
            one = running.pop(job.folder)
            if not outcome.error and one.has_changed():
                outcome.error = "the source code was changed during the run"
            if not outcome.error:
                one.keep(outcome)
            elif outcome.data_is_missing:
                lost = [other for other in waiting if _data(other) == _data(one)]
                failures.missing_data |= {task.key: outcome.error for task in [one, *lost]}
                waiting = deque(other for other in waiting if other not in lost)
                watcher.given_up(lost)
            else:
                failures.errors[one.key] = outcome.error
            watcher.ended(one, outcome.error)
        watcher.waited()
    return failures


def _data(task: Task) -> object:
    return task.run.config().get("data")
