"""Where runs are executed: processes on this machine, or Ray. One thread a run, so that all cores are used at once."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from joblib import cpu_count

import zoo

TAIL = 15
ROOTS = ("ZOO_DATA", "ZOO_CACHE")


@dataclass(frozen=True)
class Job:
    """What a worker is given.

    Args:
        recipe: Name of the recipe.
        words: Its arguments.
        folder: Where logs go: the absolute path of an empty folder.
        directory: The directory to run in.
    """

    recipe: str
    words: Sequence[str]
    folder: str
    directory: str


@dataclass
class Outcome:
    """What a worker answers.

    Args:
        result: The :class:`~zoo.results.Result` as a dictionary; empty if the run failed.
        error: What went wrong, with the tail of the log; empty if nothing did.
        data_is_missing: Whether it went wrong because the data is not available.
    """

    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    data_is_missing: bool = False


class Engine(Protocol):
    """Executes jobs side by side."""

    workers: int

    def start(self, job: Job) -> None:
        """Begin a job; there are at most ``workers`` at a time."""

    def finished(self, timeout: float) -> list[tuple[Job, Outcome]]:
        """Jobs that have ended since the last call, waiting for one up to ``timeout`` seconds."""

    def close(self) -> None:
        """Stop whatever still runs."""


def execute(job: Job) -> Outcome:
    """Train and test in this process, with one thread; what is printed goes to ``log.txt`` in the job's folder."""
    if Path(job.directory).is_dir():
        return _execute(job, Path(job.folder), job.directory)
    with TemporaryDirectory() as folder:  # another machine of a cluster has other folders; only the answer is kept
        return _execute(job, Path(folder), folder)


def _execute(job: Job, folder: Path, directory: str) -> Outcome:
    os.chdir(directory)
    with printed_to(folder / "log.txt"):
        try:
            return _train(job, folder)
        except (Exception, SystemExit):
            report = traceback.format_exc()
            with suppress(OSError):  # the disk may be full
                print(report, file=sys.stderr, flush=True)
    return Outcome(error=tail(folder / "log.txt") or report.strip().splitlines()[-1])


def _train(job: Job, folder: Path) -> Outcome:
    import torch

    from zoo.cli import Started, run
    from zoo.console import quiet
    from zoo.recipes import find_recipe
    from zoo.usage import USER_ERRORS, message_of

    torch.set_num_threads(1)
    started = Started()
    own = {"default_root_dir": str(folder), "enable_progress_bar": "false", "devices": "1"}
    words = [*job.words, *(word for name, value in own.items() for word in (f"--trainer.{name}", value))]
    with quiet():
        try:
            result = run("train", find_recipe(job.recipe), words, started)
        except USER_ERRORS as error:
            if started.yet:
                raise
            return Outcome(error=message_of(error), data_is_missing=isinstance(error, FileNotFoundError))
    return Outcome(asdict(result), error="the run was interrupted" if result.stopped else "")


@contextmanager
def printed_to(path: Path) -> Iterator[None]:
    """Send standard output and error to a file, those of libraries in C included."""
    with path.open("wb") as file:
        kept = {stream: os.dup(stream) for stream in (1, 2)}
        try:
            for stream in kept:
                os.dup2(file.fileno(), stream)
            yield
        finally:
            with suppress(OSError):  # a full disk must not keep the outcome from the driver
                sys.stdout.flush()
                sys.stderr.flush()
            for stream, original in kept.items():
                os.dup2(original, stream)
                os.close(original)


def tail(path: Path, lines: int = TAIL) -> str:
    """The last lines of a log, empty if there is none."""
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


class LocalEngine:
    """Runs every job in a process of its own, forked from one that has imported torch already.

    Workers end when the process that started them does, however it ends. On a machine with several GPUs they take
    turns.

    Args:
        workers: Jobs at a time; ``None`` for one per core.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or cpu_count()
        methods = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            self._context.set_forkserver_preload(["zoo.cli"])
        self._running: dict[Connection, tuple[Job, Any, int]] = {}

    def start(self, job: Job) -> None:
        slots = {slot for _, _, slot in self._running.values()}
        slot = min(set(range(len(slots) + 1)) - slots)
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(job, sender, slot, dict(os.environ)))
        process.start()
        sender.close()  # the worker holds the only one: when it dies, the receiver learns of it
        self._running[receiver] = (job, process, slot)

    def finished(self, timeout: float) -> list[tuple[Job, Outcome]]:
        return [self._collect(receiver) for receiver in wait(list(self._running), timeout)]  # type: ignore[arg-type]

    def _collect(self, receiver: Connection) -> tuple[Job, Outcome]:
        job, process, _ = self._running.pop(receiver)
        try:
            outcome = receiver.recv()
        except EOFError:
            process.join()
            outcome = Outcome(error="\n".join([_end_of(process.exitcode), tail(Path(job.folder) / "log.txt")]))
        receiver.close()
        process.join()
        return job, outcome

    def close(self) -> None:
        for _, process, _ in self._running.values():
            process.kill()
        for _, process, _ in self._running.values():
            process.join()
        self._running = {}


def _end_of(exitcode: int) -> str:
    if exitcode < 0:
        return f"the worker was killed by {signal.Signals(-exitcode).name}"
    return f"the worker ended with status {exitcode}"


def _work(job: Job, sender: Connection, slot: int, environment: Mapping[str, str]) -> None:
    """What a worker process does; the process that it is forked from may have had another environment."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _take_one_gpu(slot)
    sender.send(execute(job))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)


def _take_one_gpu(slot: int) -> None:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    if len(names) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]


class RayEngine:
    """Submits every job as a Ray task of one CPU, with its share of a GPU where the cluster has any.

    Our packages travel with the tasks. Data does not: a machine that lacks it downloads it.

    Args:
        workers: Jobs at a time; ``None`` for one per CPU of the cluster.
        address: Of a running cluster; ``None`` starts one on this machine.

    Raises:
        ImportError: If Ray is not installed.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        check_ray()
        import ray

        self._ray = ray
        roots = {name: os.environ[name] for name in ROOTS if name in os.environ}
        packages = [str(Path(zoo.__file__).parents[1] / name) for name in ("zoo", "datamodules", "callbacks")]
        ray.init(
            address=address,
            num_cpus=None if address else workers,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": packages, "env_vars": roots},
        )
        cluster = ray.cluster_resources()
        cpus = int(cluster.get("CPU", 1))
        self.workers = workers or cpus
        self._execute = ray.remote(num_cpus=1, num_gpus=min(1.0, cluster.get("GPU", 0) / cpus))(execute)
        self._running: dict[Any, Job] = {}

    def start(self, job: Job) -> None:
        self._running[self._execute.remote(job)] = job

    def finished(self, timeout: float) -> list[tuple[Job, Outcome]]:
        ready, _ = self._ray.wait(list(self._running), timeout=timeout)
        return [(self._running.pop(reference), self._outcome(reference)) for reference in ready]

    def _outcome(self, reference: Any) -> Outcome:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Outcome(error=str(error))

    def close(self) -> None:
        self._ray.shutdown()


def check_ray() -> None:
    """Raise an ``ImportError`` that says how to install Ray, if it is missing."""
    if find_spec("ray") is None:
        raise ImportError("--engine ray needs the package ray: pip install 'ray>=2.40'")
