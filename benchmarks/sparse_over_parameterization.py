"""Speed of SOP beside cross-entropy, and of its noise beside dense parameters under SGD, in one run.

``python benchmarks/sparse_over_parameterization.py``; sides take turns, and figures are medians, with their range.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from rich.table import Table
from torch import Tensor, nn

from zoo.cli import Started, ZooCLI
from zoo.console import console, quiet
from zoo.recipes import find_recipe
from zoo.sparse_over_parameterization import SparseOverParam, sop_loss

SIDES = {"sop_mnist": "sop_mnist_ce", "sop": "sop_ce"}  # SOP and its baseline, which differ in nothing else
SMALLER = {"sop": ["--model.backbone", "resnet10", "--data.train_fraction", "0.05"]}  # for processors
SIZES = {"CIFAR-10": (50_000, 10), "CIFAR-100": (50_000, 100), "Clothing1M": (1_000_000, 14)}
BATCH_SIZE = 128


class Clock(Callback):
    """Notes when the first and the last step of each epoch begin and end: validation is not counted."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun = _now()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(_now() - self.begun)


def _now() -> float:
    """Seconds: of the clock on a GPU, else of the processor, so that other programs do not count."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def epochs(recipe: str, args: argparse.Namespace, folder: str) -> list[float]:
    """Seconds of the training epochs of a recipe, without validation and without the first epoch."""
    smaller = [] if args.whole else SMALLER.get(recipe.removesuffix("_ce"), [])
    words = ["--config", str(find_recipe(recipe).path), "--trainer.callbacks", "null", *smaller]
    words += ["--trainer.max_epochs", str(args.epochs + 1), "--trainer.default_root_dir", folder]
    words += ["--trainer.limit_val_batches", "0", "--trainer.enable_checkpointing", "false"]
    if args.root:
        words += ["--data.root", str(args.root)]
    cli = ZooCLI(words, "fit", recipe, {}, Started())
    clock = Clock()
    cli.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return clock.epochs[1:]


def steps(num_samples: int, num_classes: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of the loss and the step of the noise alone: rows in closed form, and dense parameters under SGD."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sop = SparseOverParam(num_samples, num_classes).to(device)
    u, v = (nn.Parameter(part.clone()) for part in (sop.u, sop.v))
    optimizer = torch.optim.SGD([u, v], lr=10.0)
    logits = torch.randn(BATCH_SIZE, num_classes, device=device, requires_grad=True)
    y = torch.randint(num_classes, (BATCH_SIZE,), device=device)

    def rows(index: Tensor) -> None:
        sop(logits, y, index)[0].backward()
        sop.step()

    def dense(index: Tensor) -> None:
        optimizer.zero_grad()
        sop_loss(logits, y, u[index], v[index]).backward()
        optimizer.step()

    seconds: dict[str, list[float]] = {"rows": [], "dense": []}
    for turn in range(args.steps + 3):
        index = torch.randperm(num_samples, device=device)[:BATCH_SIZE]
        for name, step in {"rows": rows, "dense": dense}.items():
            taken = timed(lambda step=step, index=index: step(index))  # type: ignore[misc]
            if turn >= 3:
                seconds[name].append(taken)
    return seconds


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    begun = _now()
    action()
    return _now() - begun


def measure(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Seconds of each piece, of both sides by turns."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe, baseline in SIDES.items():
            sides: dict[str, list[float]] = {"SOP": [], "cross-entropy": []}
            for _ in range(args.rounds):
                sides["SOP"] += epochs(recipe, args, folder)
                sides["cross-entropy"] += epochs(baseline, args, folder)
            found[recipe] = sides
    return found | {name: steps(*size, args) for name, size in SIZES.items()}


def table(found: dict[str, dict[str, list[float]]], args: argparse.Namespace) -> Table:
    """The figures for the console."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"processor time, {args.threads} threads"
    rows = Table("", "SOP", "beside", "ratio", title=f"{device}, torch {torch.__version__}", title_justify="left")
    for recipe in SIDES:
        smaller = "" if args.whole else " ".join(SMALLER.get(recipe, []))
        _add(rows, f"epoch of {recipe} {smaller}".strip(), found[recipe], "cross-entropy")
    rows.add_section()
    for name, (num_samples, num_classes) in SIZES.items():
        title = f"loss and step of the noise, {name} ({num_samples:,} x {num_classes})"
        _add(rows, title, {"SOP": found[name]["rows"], "dense SGD": found[name]["dense"]}, "dense SGD")
    return rows


def _add(rows: Table, title: str, sides: dict[str, list[float]], other: str) -> None:
    ratio = statistics.median(sides["SOP"]) / statistics.median(sides[other])
    rows.add_row(title, in_words(sides["SOP"]), f"{other}: {in_words(sides[other])}", f"{ratio:.2f}")


def in_words(values: list[float]) -> str:
    """Median and range in milliseconds, or in seconds from one second on."""
    unit, scale = ("s", 1.0) if statistics.median(values) >= 1 else ("ms", 1e3)
    low, mid, high = (scale * value for value in (min(values), statistics.median(values), max(values)))
    return f"{mid:.2f} {unit} ({low:.2f} to {high:.2f}, n={len(values)})"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the data; by default ZOO_DATA, else data/")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each side")
    parser.add_argument("--epochs", type=positive, default=3, help="epochs in a turn")
    parser.add_argument("--steps", type=positive, default=100, help="steps of the noise alone")
    parser.add_argument("--whole", action="store_true", help="the recipe sop as it is; wants a GPU")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def positive(text: str) -> int:
    """An integer from 1 up."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def main() -> None:
    """Measure and print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with quiet():
        found = measure(args)
    console().print(table(found, args))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
