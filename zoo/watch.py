"""How a reproduction proceeds: a live view on a terminal, else a line for each run."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from zoo.runner import Task


class Estimate:
    """How long the runs that are left will take, judged by those that have finished.

    Args:
        workers: Runs at a time.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._seconds: dict[str, list[float]] = {}

    def learn(self, kind: str, seconds: float) -> None:
        """Take note of a run of a kind that took so long."""
        self._seconds.setdefault(kind, []).append(seconds)

    def left(self, waiting: Sequence[str], running: Sequence[tuple[str, float]]) -> float | None:
        """Seconds to go; ``None`` as long as nothing has finished.

        Args:
            waiting: Kinds of the runs that have not begun.
            running: Kinds and seconds so far of those that have.

        Example:
            >>> estimate = Estimate(workers=2)
            >>> estimate.learn("slow", 100.0)
            >>> estimate.left(["slow", "slow"], [("slow", 40.0), ("slow", 0.0)])
            180.0
        """
        if not self._seconds:
            return None
        rests = [max(self._expected(kind) - seconds, 0.0) for kind, seconds in running]
        work = sum(map(self._expected, waiting)) + sum(rests)
        return max([work / self.workers, *rests])

    def _expected(self, kind: str) -> float:
        """Mean of the runs of this kind; of all if there was none."""
        known = self._seconds.get(kind) or [second for seconds in self._seconds.values() for second in seconds]
        return sum(known) / len(known)


class Watch:
    """Shows runs done, running and left, and the time to go.

    Args:
        tasks: All runs of the claims.
        left: Those that are to be done.
        workers: Runs at a time.
        console: Where to show it.
    """

    def __init__(self, tasks: Sequence[Task], left: Sequence[Task], workers: int, console: Console) -> None:
        self._console = console
        self._left = {task.key: task for task in left}
        self._running: dict[str, tuple[Task, float]] = {}
        self._total = len(tasks)
        self._failed = 0
        self._estimate = Estimate(workers)
        for task in tasks:
            self._learn(task)
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._say(f"{len(tasks) - len(left)} of {len(tasks)} runs are there; {len(left)} to do, {workers} at a time")

    def __enter__(self) -> "Watch":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def started(self, task: Task) -> None:
        """A run has begun."""
        self._left.pop(task.key)
        self._running[task.key] = (task, time.monotonic())

    def ended(self, task: Task, failure: str) -> None:
        """A run has ended; ``failure`` is empty if it finished."""
        _, begun = self._running.pop(task.key)
        self._failed += bool(failure)
        self._learn(task)
        outcome = f"FAILED: {failure.splitlines()[-1]}" if failure else _metrics(task)
        self._say(f"[{self._done}/{self._total}] {task.name}: {outcome}, {time.monotonic() - begun:.0f} s")

    def given_up(self, tasks: Sequence[Task]) -> None:
        """Runs will not be done, for want of their data."""
        for task in tasks:
            self._left.pop(task.key)
            self._total -= 1

    def waited(self) -> None:
        """A moment has passed."""
        if self._live:
            self._live.update(self.view())

    def view(self) -> Group:
        """The bar, and a line for each run in progress."""
        progress = Progress(TextColumn("{task.description}"), BarColumn(bar_width=30), console=self._console)
        counts = f"{self._done} done, {len(self._running)} running, {len(self._left)} left"
        failed = f", [red]{self._failed} failed[/]" if self._failed else ""
        progress.add_task(f"{counts}{failed}, {self._to_go()} to go", total=self._total, completed=self._done)
        lines = Table.grid(padding=(0, 2))
        for task, begun in self._running.values():
            lines.add_row(f"  {task.name}", _clock(time.monotonic() - begun))
        return Group(progress, lines)

    @property
    def _done(self) -> int:
        return self._total - len(self._left) - len(self._running)

    def _to_go(self) -> str:
        now = time.monotonic()
        running = [(task.kind, now - begun) for task, begun in self._running.values()]
        left = self._estimate.left([task.kind for task in self._left.values()], running)
        return "time unknown" if left is None else _clock(left)

    def _learn(self, task: Task) -> None:
        measurement = task.measurement()
        if measurement is not None:
            self._estimate.learn(task.kind, measurement.seconds)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _metrics(task: Task) -> str:
    measurement = task.measurement()
    tested = {name: value for name, value in (measurement.metrics if measurement else {}).items() if "test/" in name}
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(tested.items())[:2])


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
