"""What is left when a command is killed, the disk fills up, or a download breaks off, and how the next start goes on.

``python benchmarks/faults.py --kills 20 --seed 0`` (POSIX only). Everything happens in a temporary folder, without
network. ``train.py`` is killed in a process that is forked from one with torch in it, so that the moments fall into
its work and not into its imports; ``reproduce.py`` is started as users start it. The disk is a small tmpfs, which
needs the right to mount one. What cannot be made exact is counted under a name of its own: see :func:`only_unlogged`.
"""

import argparse
import csv
import errno
import json
import os
import pickle
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import scipy.sparse as sp
import torch
import yaml
from rich.table import Table
from timing import positive

import zoo.cli  # noqa: F401  torch and Lightning, before anything is forked
from datamodules import temporal_england
from zoo.console import console
from zoo.recipes import find_recipe

ROOT = Path(__file__).resolve().parents[1]
# A simulation without validation, and a training with validation, a best checkpoint and a test.
RECIPES = {
    "extended_ufm": [],
    "gcn": ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "150"],
}
TEMPORARY = (".partial", ".lock")
NO_CHECKPOINT = "has a checkpoint last.ckpt yet; leave it away to start"
TRAINED = "to test it, say test before --model"
CLAIM = "deep_linear"  # the quickest one, and it needs no data
LONGEST = 40.0  # seconds until a reproduction is killed; it goes on where it was, so that the kills cover all of it
PATIENCE = 600.0


@dataclass
class Fault:
    """One row of the table.

    Args:
        name: What happens.
        checked: What must hold then.
        tries: How often it was tried.
        found: How often each outcome was met.
        failures: What did not hold.
    """

    name: str
    checked: str
    tries: int = 0
    found: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def check(self, holds: bool, failure: str) -> bool:
        """Note a failure, unless something holds."""
        if not holds:
            self.failures.append(failure)
            print(f"FAILED  {self.name}: {failure}", flush=True)
        return holds


# ---- processes


@dataclass
class Ended:
    """How a process ended: its exit status (negative: a signal), what it printed, and the seconds it took."""

    status: int
    text: str
    seconds: float


@dataclass
class Process:
    """A process that has been started, with what it prints in a file of its own."""

    pid: int
    output: Path
    begun: float = field(default_factory=time.monotonic)
    status: int | None = None

    def wait(self, seconds: float) -> bool:
        """Wait for its end; returns whether it has ended."""
        until = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                return False
            else:
                time.sleep(0.005)
        return True

    def kill(self, group: bool = True) -> None:
        """End it by SIGKILL, alone or with the processes that it has started."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)
        self.wait(PATIENCE)

    def end(self) -> Ended:
        """Wait for its end, and kill it if it does not come."""
        if not self.wait(PATIENCE):
            self.kill()
        assert self.status is not None
        text = self.output.read_text(encoding="utf-8", errors="replace")
        return Ended(self.status, text, time.monotonic() - self.begun)


def start_train(folder: Path, words: list[str], prepare: Callable[[], None] | None = None) -> Process:
    """Start ``train.py`` in a folder, forked from this process; ``prepare`` is called in it before."""

    def train() -> int:
        if prepare:
            prepare()
        sys.argv = ["train.py", *words]
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return _forked(folder, train)


def start_reproduce(folder: Path, workers: int) -> Process:
    """Start ``reproduce.py`` in a folder, in a group of processes of its own."""
    words = [sys.executable, str(ROOT / "reproduce.py"), CLAIM, "--workers", str(workers)]
    return _forked(folder, lambda: os.execv(sys.executable, words))


def _forked(folder: Path, action: Callable[[], int]) -> Process:
    """A process in a group of its own that does something in a folder and ends with the status that it gives."""
    file, name = tempfile.mkstemp(suffix=".txt", dir=os.environ["FAULTS_OUTPUT"])
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(file)
        return Process(pid, Path(name))
    status = 1
    try:
        os.setsid()
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.chdir(folder)
        status = action()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def group_is_gone(group: int, seconds: float = 20.0) -> bool:
    """Whether all processes of a group end within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


# ---- files


def not_whole(folder: Path) -> list[str]:
    """The files below a folder that look whole and are not; what bears a name of something unfinished may be."""
    problems = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(sign in part for part in path.parts for sign in TEMPORARY):
            try:
                _read(path)
            except Exception as error:  # a broken file raises what it likes
                problems.append(f"{path.relative_to(folder)} is not whole ({type(error).__name__}: {error})")
    return problems


def _read(path: Path) -> None:
    kind = path.suffix
    if kind in (".ckpt", ".pt"):
        content = torch.load(path, map_location="cpu", weights_only=True)
        assert kind == ".pt" or content["state_dict"]
    elif kind == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif kind == ".csv":
        text = path.read_text(encoding="utf-8")
        header, *rows = csv.reader(text.splitlines())
        assert text.endswith("\n"), "the last row is cut short"
        assert all(len(row) == len(header) for row in rows)
    elif kind == ".png":
        matplotlib.image.imread(path)
    elif kind == ".yaml":
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert path.name != "config.yaml" or {"model", "data", "trainer", "seed_everything"} <= set(content)
    elif kind == ".md":
        assert path.read_text(encoding="utf-8").endswith("\n")


def only(folder: Path, pattern: str) -> Path | None:
    """The newest path of a pattern, ``None`` if there is none."""
    found = sorted(folder.glob(pattern))
    return found[-1] if found else None


# ---- train.py


def trained(run: Path) -> str:
    """All that a training has measured, as text: metrics, every logged value, the last weights."""
    result = json.loads((run / "results.json").read_text(encoding="utf-8"))
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [sorted((name, value) for name, value in row.items() if value) for row in csv.DictReader(file)]
    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    numbers = {name: value.tolist() for name, value in sorted(weights.items())}
    return json.dumps([result["metrics"], result["last_epoch"], rows, numbers], sort_keys=True)


@dataclass
class Reference:
    """An undisturbed training: its recipe, its words, what it measured, and how long it took."""

    recipe: str
    words: list[str]
    outcome: str
    seconds: float

    @classmethod
    def of(cls, recipe: str, folder: Path) -> "Reference":
        folder.mkdir(parents=True)
        words = ["--model", recipe, *RECIPES[recipe]]
        ended = start_train(folder, words).end()
        if ended.status != 0:
            sys.exit(f"{recipe} does not train:\n{ended.text}")
        run = folder / "logs" / recipe / "version_0"
        return cls(recipe, words, trained(run), ended.seconds)

    def go_on(self, folder: Path, fault: Fault) -> None:
        """Give the command for going on, do what it says, and compare with the undisturbed training."""
        runs, where = folder / "logs" / self.recipe, f"{self.recipe} in {folder.name}"
        had = only(runs, "version_*/checkpoints/last.ckpt")
        epoch = None if had is None else torch.load(had, weights_only=True)["epoch"]
        finished = only(runs, "version_*/results.json")
        ended = start_train(folder, [*self.words, "--ckpt_path", "last"]).end()
        message = [line for line in ended.text.splitlines() if not line.startswith("warning:")]
        if ended.status == 0:
            fault.found["went on"] += 1
            fault.check(had is not None, f"{where}: went on from nothing")
        elif fault.check(ended.status == 2, f"{where}: going on ended with {ended.status}\n{ended.text}"):
            fault.check(len(message) == 1 and "Traceback" not in ended.text, f"{where}: not one message\n{ended.text}")
            if had is None:
                fault.found["started anew, as no epoch was over"] += 1
                fault.check(NO_CHECKPOINT in ended.text, f"{where}: does not say that there is no checkpoint")
                again = start_train(folder, self.words).end()
                fault.check(again.status == 0, f"{where}: the next start ended with {again.status}\n{again.text}")
            else:
                fault.found["was trained, and tested" if finished is None else "was finished"] += 1
                fault.check(TRAINED in ended.text, f"{where}: does not say what to do\n{ended.text}")
                if finished is None:
                    test = start_train(folder, ["test", *self.words, "--ckpt_path", "last"]).end()
                    fault.check(test.status == 0, f"{where}: the test ended with {test.status}\n{test.text}")
                    return
        last = only(runs, "version_*/results.json")
        if fault.check(last is not None, f"{where}: there is no result"):
            assert last is not None
            if epoch is not None and only_unlogged(self, last.parent, epoch):
                fault.found["lacks the row that was to be logged"] += 1
            else:
                fault.check(trained(last.parent) == self.outcome, f"{where}: {difference(self, last.parent)}")
        for problem in not_whole(folder):
            fault.check(False, f"{where}, after going on: {problem}")


def only_unlogged(reference: Reference, run: Path, epoch: int) -> bool:
    """Whether all that a training lacks is the mean training loss of the epoch after which it was stopped.

    Lightning saves the checkpoint of an epoch some milliseconds before it logs the means of its batches. A kill between
    the two cannot be made good: the row is in no file. Metrics, weights and all later rows are not touched by it.
    """
    wanted, got = json.loads(reference.outcome), json.loads(trained(run))
    lost = [row for row in wanted[2] if row not in got[2]]
    if len(lost) != 1 or len(got[2]) != len(wanted[2]) - 1:
        return False
    names = {name for name, _ in lost[0]}
    others_same = json.dumps(wanted[:2] + wanted[3:]) == json.dumps(got[:2] + got[3:])
    return (
        others_same
        and ["epoch", str(epoch)] in lost[0]
        and all(name in ("epoch", "step") or name.startswith("train/") for name in names)
    )


def difference(reference: Reference, run: Path) -> str:
    """Where the outcome of a training that went on differs from that of the undisturbed one."""
    names = ("metrics", "metrics of the last epoch", "rows of metrics.csv", "weights")
    pairs = zip(names, json.loads(reference.outcome), json.loads(trained(run)))
    differing = []
    for name, wanted, got in pairs:
        if json.dumps(wanted) != json.dumps(got):
            rows = name.startswith("rows")
            lost = [row for row in wanted if row not in got] if rows else ""
            differing.append(f"{name}" + (f" ({len(wanted)} and {len(got)}; lacks {lost[:3]})" if rows else ""))
    return f"differs from the undisturbed run in {', '.join(differing)}"


def kill_training(place: Path, references: list[Reference], kills: int, rng: random.Random) -> Fault:
    fault = Fault("train.py killed", "files whole; the next start goes on to the same numbers, or says what to do")
    for number in range(kills):
        reference = references[number % len(references)]
        folder = place / f"kill_{number}"
        folder.mkdir(parents=True)
        process = start_train(folder, reference.words)
        moment = rng.uniform(0, reference.seconds)
        process.wait(moment)
        process.kill()
        fault.tries += 1
        print(f"train.py {reference.recipe}: killed after {moment:.1f} of {reference.seconds:.1f} s", flush=True)
        for problem in not_whole(folder):
            fault.check(False, f"{folder.name}, after {moment:.2f} s: {problem}")
        reference.go_on(folder, fault)
        shutil.rmtree(folder)
    return fault


# ---- reproduce.py


def reproduced(folder: Path) -> str:
    """What a reproduction says, without times: verdict, checks, figures, every run's metrics."""
    report = json.loads((folder / "reports" / CLAIM / "results.json").read_text(encoding="utf-8"))
    runs = [{name: run[name] for name in ("recipe", "seed", "overrides", "metrics")} for run in report["runs"]]
    return json.dumps([report["verdict"], report["checks"], report["figures"], runs], sort_keys=True)


def finished_runs(folder: Path) -> dict[str, int]:
    """The finished runs, and when each was written."""
    found = folder.glob("runs/*/*/measurement.json")
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}


def undisturbed_reproduction(folder: Path, workers: int) -> tuple[str, float]:
    """What an undisturbed reproduction says, and its seconds."""
    folder.mkdir(parents=True)
    ended = start_reproduce(folder, workers).end()
    if ended.status != 0:
        sys.exit(f"{CLAIM} is not reproduced:\n{ended.text}")
    print(f"reproduce.py {CLAIM}: {ended.seconds:.0f} s undisturbed", flush=True)
    return reproduced(folder), ended.seconds


def kill_reproduction(
    place: Path, outcome: str, seconds: float, kills: int, workers: int, rng: random.Random
) -> tuple[Fault, Fault]:
    """Kill it, in turn with its workers and without them, again and again as it goes on where it was."""
    together = Fault("reproduce.py killed with its workers", "finished runs kept; files whole; same verdict, numbers")
    alone = Fault("reproduce.py killed alone", "the same, and its workers end")
    folder, number, before = place / "reproduction", 0, {}
    folder.mkdir()
    while number < kills:
        fault = alone if number % 2 else together
        process = start_reproduce(folder, workers)
        moment = rng.uniform(0, min(LONGEST, seconds))
        if process.wait(moment):  # all was done before the moment came
            _same_reproduction(process.end(), folder, outcome, before, fault)
            shutil.rmtree(folder)
            folder.mkdir()
            before = {}
            continue
        process.kill(group=fault is together)
        gone = group_is_gone(process.pid)
        if not fault.check(gone, f"workers live on after kill {number}"):
            os.killpg(process.pid, signal.SIGKILL)
        number += 1
        fault.tries += 1
        after = finished_runs(folder)
        print(f"reproduce.py: killed after {moment:.1f} s, {len(after)} runs finished", flush=True)
        fault.found["runs finished in time"] += len(after) - len(before)
        fault.check(before.items() <= after.items(), f"kill {number}: a finished run was lost or repeated")
        for problem in not_whole(folder):
            fault.check(False, f"kill {number}, after {moment:.2f} s: {problem}")
        before = after
    _same_reproduction(start_reproduce(folder, workers).end(), folder, outcome, before, together)
    return together, alone


def _same_reproduction(ended: Ended, folder: Path, outcome: str, before: dict[str, int], fault: Fault) -> None:
    fault.found["brought to the end"] += 1
    if fault.check(ended.status == 0, f"the next start ended with {ended.status}\n{ended.text}"):
        fault.check(before.items() <= finished_runs(folder).items(), "a finished run was lost or repeated at the end")
        fault.check(reproduced(folder) == outcome, "the verdict or the numbers differ from the undisturbed ones")


# ---- a full disk


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own.

    Raises:
        PermissionError: If this process may not mount one.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        raise PermissionError(errno.EPERM, "no right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write a file that leaves no room at all; returns it."""
    ballast = disk / "ballast.partial"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return ballast


def fill_disk_of_training(place: Path, references: list[Reference], tries: int, rng: random.Random) -> Fault:
    fault = Fault("disk of train.py full", "status 2, one message; files whole; goes on when there is room")
    for number in range(tries):
        reference = references[number % len(references)]
        try:
            with small_disk(place / f"disk_{number}", 24) as disk:
                process = start_train(disk, reference.words)
                moment = rng.uniform(0, reference.seconds)
                process.wait(moment)
                ballast = fill(disk)
                ended = process.end()
                fault.tries += 1
                print(f"train.py {reference.recipe}: disk full after {moment:.1f} s, status {ended.status}", flush=True)
                if ended.status == 0:
                    fault.found["had written all"] += 1
                else:
                    lines = [line for line in ended.text.splitlines() if not line.startswith("warning:")]
                    says = ended.status == 2 and len(lines) == 1 and re.search("No space left", lines[0])
                    fault.check(bool(says), f"disk full after {moment:.2f} s: {ended.status}\n{ended.text}")
                for problem in not_whole(disk):
                    fault.check(False, f"disk full after {moment:.2f} s: {problem}")
                ballast.unlink()
                reference.go_on(disk, fault)
        except PermissionError as error:
            fault.found[f"not tried: {error}"] += 1
            break
    return fault


def fill_disk_of_reproduction(
    place: Path, outcome: str, seconds: float, tries: int, workers: int, rng: random.Random
) -> Fault:
    fault = Fault("disk of reproduce.py full", "status 1 or 2, with the reason; files whole; same numbers in the end")
    for number in range(tries):
        try:
            with small_disk(place / f"claim_disk_{number}", 64) as disk:
                process = start_reproduce(disk, workers)
                moment = rng.uniform(0.2, 0.8) * seconds
                process.wait(moment)
                ballast, before = fill(disk), finished_runs(disk)
                ended = process.end()
                fault.tries += 1
                print(f"reproduce.py: disk full after {moment:.1f} s, status {ended.status}", flush=True)
                says = ended.status in (1, 2) and "No space left" in ended.text and "Traceback" not in ended.text
                fault.check(says, f"disk full after {moment:.2f} s: {ended.status}\n{ended.text}")
                for problem in not_whole(disk):
                    fault.check(False, f"disk full after {moment:.2f} s: {problem}")
                ballast.unlink()
                _same_reproduction(start_reproduce(disk, workers).end(), disk, outcome, before, fault)
        except PermissionError as error:
            fault.found[f"not tried: {error}"] += 1
            break
    return fault


# ---- a download that breaks off


class Server(ThreadingHTTPServer):
    """Serves files from memory, whole or not.

    Attributes:
        files: Contents by path.
        breaks: The name of the file that breaks off; empty for none.
        how: ``"closed"``: half of what was announced comes; ``"unannounced"``: half comes, and nothing says so;
            ``"silent"``: half comes, and then nothing.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.breaks = self.how = ""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        breaks = self.path.endswith(self.server.breaks) if self.server.breaks else False
        self.send_response(200)
        if not (breaks and self.server.how == "unannounced"):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if breaks else content)
        if breaks and self.server.how == "silent":
            self.wfile.flush()
            time.sleep(PATIENCE)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def england_file() -> bytes:
    """A file in the form of England-COVID's: a ring of 12 regions over 30 days."""
    rng = np.random.default_rng(0)
    edges = [[i, i] for i in range(12)] + [[i, (i + 1) % 12] for i in range(12)]
    content = {
        "edge_mapping": {
            "edge_index": {str(day): edges for day in range(30)},
            "edge_weight": {str(day): rng.uniform(10, 1000, len(edges)).tolist() for day in range(30)},
        },
        "time_periods": 30,
        "y": rng.integers(0, 30, (30, 12)).tolist(),
    }
    return json.dumps(content).encode()


def cora_files() -> dict[str, bytes]:
    """Files in the form of Cora's: a ring of 650 papers with 12 words."""
    rng = np.random.default_rng(0)
    allx, tx = (sp.csr_matrix(rng.random((rows, 12)).astype(np.float32)) for rows in (600, 50))
    ally, ty = (np.eye(3, dtype=np.int32)[np.arange(rows) % 3] for rows in (600, 50))
    graph = {node: [(node - 1) % 650, (node + 1) % 650] for node in range(650)}
    parts = {"x": allx[:60], "tx": tx, "allx": allx, "y": ally[:60], "ty": ty, "ally": ally, "graph": graph}
    files = {f"ind.cora.{part}": pickle.dumps(content) for part, content in parts.items()}
    return files | {"ind.cora.test.index": "".join(f"{node}\n" for node in range(600, 650)).encode()}


@dataclass
class Source:
    """Data that is fetched: by which recipe, what breaks off, what a message must name, and how to find our server.

    Args:
        recipe: Whose data it is.
        breaks: The file that breaks off.
        named: What the message must name.
        point: Points the data to the address of our server, in the process that trains.
        can_succeed: Whether our server's files are taken for the data when they come whole.
    """

    recipe: str
    breaks: str
    named: str
    point: Callable[[str], None]
    can_succeed: bool = True


def _point_england(url: str) -> None:
    temporal_england.URL = f"{url}/{temporal_england.FILE}"


def _point_cora(url: str) -> None:
    from torch_geometric.datasets import Planetoid

    Planetoid.url = url


def _point_mnist(url: str) -> None:
    from torchvision.datasets import MNIST

    MNIST.mirrors = [f"{url}/"]


SOURCES = [
    Source("gru_gcn", temporal_england.FILE, temporal_england.FILE, _point_england),
    Source("gcn", "ind.cora.allx", "planetoid/Cora/raw", _point_cora),
    # torchvision knows the checksums, so what comes from us can never be MNIST
    Source("sop_mnist", "train-images-idx3-ubyte.gz", "MNIST", _point_mnist, can_succeed=False),
]


def break_downloads(place: Path) -> Fault:
    fault = Fault("download broken off", "status 2, the message names the file; nothing looks whole; fetched next time")
    server = Server()
    server.files = {temporal_england.FILE: england_file(), **cora_files(), SOURCES[2].breaks: bytes(100_000)}
    for source in SOURCES:
        for how in ("closed", "unannounced", "silent"):
            folder = place / f"{source.recipe}_{how}"
            folder.mkdir(parents=True)
            words = ["--model", source.recipe, "--data.if_unavailable", "error", "--trainer.max_epochs", "2"]
            words += ["--trainer.accelerator", "cpu"]
            where = f"{source.recipe}, {how}"

            def prepare(source: Source = source) -> None:
                os.environ.pop("ZOO_DATA", None)
                source.point(server.url)

            server.breaks, server.how = source.breaks, how
            process = start_train(folder, words, prepare)
            if how == "silent":  # until somebody has enough of it
                process.wait(6.0)
                process.kill()
            else:
                ended = process.end()
                lines = [line for line in ended.text.splitlines() if not line.startswith("warning:")]
                says = ended.status == 2 and "Traceback" not in ended.text and source.named in ended.text
                fault.check(says, f"{where}: {ended.status}\n{ended.text}")
                fault.found["one line"] += len([line for line in lines if line.startswith("error:")]) == 1
                fault.check(not (folder / "logs").exists() or not list(folder.glob("logs/*/*")), f"{where}: left a log")
            fault.tries += 1
            left = [path for path in folder.rglob("*") if path.is_file() and not _unfinished(path)]
            fault.check(not left, f"{where}: leaves {left}")
            server.breaks = ""
            if source.can_succeed:
                ended = start_train(folder, words, prepare).end()
                fault.check(ended.status == 0, f"{where}: the next start ended with {ended.status}\n{ended.text}")
                fault.found["fetched next time"] += 1
            print(f"download, {where}: done", flush=True)
    server.shutdown()
    return fault


def _unfinished(path: Path) -> bool:
    return any(part.startswith("download-") for part in path.parts) or path.suffix in TEMPORARY


# ---- the command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=positive, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--workers", type=positive, default=2, help="of reproduce.py")
    parser.add_argument(
        "--only", nargs="+", choices=("train", "reproduce", "disk", "download"), help="these faults and no other"
    )
    options = parser.parse_args()
    wanted = options.only or ["train", "reproduce", "disk", "download"]
    rng = random.Random(options.seed)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["no_proxy"] = "127.0.0.1"
    for protocol in ("http", "https"):  # no network but our own server
        os.environ[f"{protocol}_proxy"] = "http://127.0.0.1:9"
    for recipe in RECIPES:
        find_recipe(recipe)
    faults: list[Fault] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        place = Path(name)
        os.environ["FAULTS_OUTPUT"] = str(place)
        (place / "data").mkdir()  # empty: recipes train on stand-ins
        os.environ["ZOO_DATA"] = str(place / "data")
        if "download" in wanted:
            faults.append(break_downloads(place / "downloads"))
        if "train" in wanted or "disk" in wanted:
            references = [Reference.of(recipe, place / "whole" / recipe) for recipe in RECIPES]
            if "train" in wanted:
                faults.append(kill_training(place, references, options.kills, rng))
            if "disk" in wanted:
                faults.append(fill_disk_of_training(place, references, max(2, options.kills // 4), rng))
        if "reproduce" in wanted or "disk" in wanted:
            outcome, seconds = undisturbed_reproduction(place / "whole" / CLAIM, options.workers)
            if "reproduce" in wanted:
                faults += kill_reproduction(place, outcome, seconds, options.kills, options.workers, rng)
            if "disk" in wanted:
                tries = max(1, options.kills // 10)
                faults.append(fill_disk_of_reproduction(place, outcome, seconds, tries, options.workers, rng))
    table = Table("fault", "tries", "what was checked", "outcomes", "failures", title="Faults", title_justify="left")
    for fault in faults:
        found = ", ".join(f"{count} {outcome}" for outcome, count in fault.found.items())
        table.add_row(fault.name, str(fault.tries), fault.checked, found, str(len(fault.failures)))
    console().print(table)
    for fault in faults:
        for failure in fault.failures:
            print(f"{fault.name}: {failure}")
    return 1 if any(fault.failures for fault in faults) else 0


if __name__ == "__main__":
    sys.exit(main())
