"""Speed of local augmentation beside a plain transcription of the published procedure, in one run.

``python benchmarks/local_augmentation.py`` (or ``make bench``); ``--whole`` also times ``train.py`` from the first step
of the generator to the test. Both sides take turns, and figures are medians, with their range.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from plain_local_augmentation import HIDDEN, PlainRun
from pytorch_lightning import Callback
from rich.table import Table
from timing import in_words, positive, processor, timed
from torch_geometric.data import Data

from datamodules import PlanetoidDataModule
from zoo.cli import Started, ZooCLI
from zoo.console import console, quiet
from zoo.local_augmentation import GeneratorPretraining
from zoo.recipes import find_recipe

NUM_SAMPLES = 4
NUM_REPLICAS = 10
PUBLISHED = {"every_n_steps": 1, "mc_samples": 100}  # a score after every step, of a hundred passes


class Clock(Callback):
    """Notes when each epoch and each step of a training begins."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.steps: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(time.perf_counter())

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append(time.perf_counter())


def durations(starts: list[float]) -> list[float]:
    """Seconds between successive starts, without the first two, in which caches fill."""
    return [later - earlier for earlier, later in pairwise(starts[2:])]


def our_epochs(args: argparse.Namespace, folder: str, num_replicas: int = 1) -> list[float]:
    """Seconds of the epochs of ``local_aug_gcn`` as a user gets them: with logs, checkpoints and validation."""
    words = ["--config", str(find_recipe("local_aug_gcn").path), "--data.name", args.dataset]
    words += ["--trainer.max_epochs", str(args.epochs + 3), "--trainer.default_root_dir", folder]
    words += ["--model.generator.criterion", "last", "--model.generator.max_epochs", "1"]  # its quality costs no time
    words += [
        "--model.num_replicas",
        str(num_replicas),
        "--model.generator.cache_dir",
        folder,
        "--trainer.accelerator",
        "cpu",
    ]
    cli = ZooCLI(words, "fit", "local_aug_gcn", {}, Started())
    clock = Clock()
    cli.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return durations(clock.epochs)


def our_steps(data: Data, num_steps: int) -> list[float]:
    """Seconds of the generator's steps, each with a score, at the published settings."""
    clock = Clock()
    GeneratorPretraining(max_epochs=1, **PUBLISHED).fit(  # type: ignore[arg-type]
        data, limit_train_batches=num_steps + 3, callbacks=[clock], enable_progress_bar=False
    )
    return durations(clock.steps)


def gemm_rate(num_nodes: int, in_channels: int, repeats: int = 30) -> float:
    """Floating-point operations per second of the decoder's second product, ``(N, 256) x (256, F)``."""
    hidden, weight = torch.rand(num_nodes, HIDDEN), torch.rand(HIDDEN, in_channels)
    out = torch.empty(num_nodes, in_channels)
    seconds = [timed(lambda: torch.mm(hidden, weight, out=out)) for _ in range(repeats)]
    return 2 * num_nodes * HIDDEN * in_channels / statistics.median(seconds)


def whole_run(args: argparse.Namespace) -> float:
    """Seconds of ``python train.py --model local_aug_gcn`` without a cached generator, the start of Python included."""
    script = Path(__file__).resolve().parents[1] / "train.py"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), "--model", "local_aug_gcn", "--data.name", args.dataset]
        command += ["--trainer.default_root_dir", folder, "--data.root", str(args.root)]
        environment = os.environ | {"ZOO_CACHE": folder, "OMP_NUM_THREADS": str(args.threads)}
        return timed(lambda: subprocess.run(command, env=environment, check=True))


def measure(args: argparse.Namespace, datamodule: PlanetoidDataModule) -> dict[str, list[float]]:
    """Seconds of each piece, of ours and of the plain procedure by turns."""
    data = datamodule.data
    plain = PlainRun(data)
    names = ("our epoch", "our epoch of a replica", "plain epoch", "our step", "plain step")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            seconds["our epoch"] += our_epochs(args, folder)
            together = our_epochs(args, folder, NUM_REPLICAS)
            seconds["our epoch of a replica"] += [epoch / NUM_REPLICAS for epoch in together]
            seconds["plain epoch"] += [timed(plain.epoch) for _ in range(args.plain_epochs)]
            seconds["our step"] += our_steps(data, args.steps)
            seconds["plain step"] += [timed(plain.pretraining_step) for _ in range(args.plain_steps)]
    pretraining = GeneratorPretraining()
    seconds["our pre-training"] = [timed(lambda: pretraining.fit(data, enable_progress_bar=False))]
    return seconds


def figures(
    args: argparse.Namespace, datamodule: PlanetoidDataModule, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    """Medians, ratios and the share of the floor."""
    num_nodes, in_channels = datamodule.data.x.shape
    median = {name: statistics.median(values) for name, values in seconds.items()}
    recipe = GeneratorPretraining()
    num_steps = recipe.max_epochs * -(-datamodule.data.num_edges // recipe.batch_size)
    plain_pretraining = median["plain step"] * num_steps
    rate = gemm_rate(num_nodes, in_channels)
    floor = (NUM_SAMPLES + 1) * 2 * num_nodes * HIDDEN * in_channels / rate
    return {
        "data": datamodule.description,
        "processor": processor(),
        "threads": args.threads,
        "torch": torch.__version__,
        "seconds": seconds,
        "epoch ratio": median["plain epoch"] / median["our epoch"],
        "epoch ratio of a replica": median["plain epoch"] / median["our epoch of a replica"],
        "pre-training steps": num_steps,
        "plain pre-training, extrapolated": plain_pretraining,
        "pre-training ratio": plain_pretraining / median["our pre-training"],
        "pre-training ratio at the same settings": median["plain step"] / median["our step"],
        "decode GFLOP/s": rate / 1e9,
        "decode floor of an epoch": floor,
        "share of the floor": floor / median["our epoch"],
    }


def table(found: dict[str, Any]) -> Table:
    """The figures for the console."""
    seconds = found["seconds"]
    title = f"{found['data']}\n{found['processor']}, {found['threads']} threads, torch {found['torch']}"
    rows = Table("", "ours", "as published", "ratio", title=title, title_justify="left")
    rows.add_row(
        "LAGCN epoch", in_words(seconds["our epoch"]), in_words(seconds["plain epoch"]), f"{found['epoch ratio']:.0f}x"
    )
    rows.add_row(
        f"LAGCN epoch, {NUM_REPLICAS} seeds side by side, per seed",
        in_words(seconds["our epoch of a replica"]),
        in_words(seconds["plain epoch"]),
        f"{found['epoch ratio of a replica']:.0f}x",
    )
    extrapolated = (
        f"{found['plain pre-training, extrapolated'] / 3600:.1f} h "
        f"({found['pre-training steps']} x {in_words(seconds['plain step'])})"
    )
    rows.add_row(
        "pre-training with selection, by the recipe",
        in_words(seconds["our pre-training"]),
        extrapolated,
        f"{found['pre-training ratio']:.0f}x",
    )
    rows.add_row(
        "pre-training step, a score of 100 passes at each",
        in_words(seconds["our step"]),
        in_words(seconds["plain step"]),
        f"{found['pre-training ratio at the same settings']:.0f}x",
    )
    rows.add_section()
    floor = f"{1e3 * found['decode floor of an epoch']:.0f} ms at {found['decode GFLOP/s']:.0f} GFLOP/s"
    rows.add_row("floor of an epoch: its 5 decoding products", floor, "", f"{found['share of the floor']:.0%} reached")
    if "whole run" in found:
        rows.add_row("train.py --model local_aug_gcn, nothing cached", f"{found['whole run']:.1f} s", "", "")
    return rows


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", choices=["cora", "citeseer"], default="cora")
    parser.add_argument("--root", type=Path, help="folder of the data; by default ZOO_DATA, else data/")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each side")
    parser.add_argument("--epochs", type=positive, default=20, help="our epochs in a turn")
    parser.add_argument("--plain-epochs", type=positive, default=2, help="plain epochs in a turn")
    parser.add_argument("--steps", type=positive, default=5, help="our pre-training steps in a turn")
    parser.add_argument("--plain-steps", type=positive, default=1, help="plain pre-training steps in a turn")
    parser.add_argument("--whole", action="store_true", help="time a whole run of train.py too")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args()
    args.root = (args.root or Path(os.environ.get("ZOO_DATA") or "data")).resolve()
    if not args.root.is_dir() and args.root.exists():
        parser.error(f"--root must be a folder, got {args.root}")
    return args


def main() -> None:
    """Measure and print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with quiet():
        datamodule = PlanetoidDataModule(args.dataset, root=args.root, if_unavailable="stand_in")
        found = figures(args, datamodule, measure(args, datamodule))
    if args.whole:
        found["whole run"] = whole_run(args)
    console().print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
