"""A sweep of the margin experiment beside a plain loop and an ordinary LightningModule, in one run.

``python benchmarks/momentum_margin.py`` (or ``make bench BENCH=momentum_margin``). All sides take turns. The sweep
trains all settings at once and measures the training samples 37 times on its way; the others train one setting and
measure nothing but the loss. An ordinary LightningModule has the full batch once an epoch. The Trainer is bare, or as
it comes, with a logger, a checkpoint each epoch and a progress bar. What is compared is processor time, medians, which
other work on the machine disturbs less than it does wall time. The floor is the two products of matrices of every step,
at the speed of the product of two matrices of 1,024 x 1,024.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout

import numpy as np
import pytorch_lightning as pl
import torch
from plain_momentum_margin import PlainModule, plain_loop
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch import Tensor

from datamodules import MarginPatchDataModule
from zoo.console import console, quiet
from zoo.momentum_margin import CubicPatchCNN, MarginExperiment

SIZE = 1024
EPOCHS = 36  # 2,991 steps
LR, MOMENTUM = 1.0, 0.99


def trainer(max_epochs: int, folder: str, bare: bool = True) -> pl.Trainer:
    """A Trainer that does nothing beside training, or one as it comes."""
    options = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return pl.Trainer(
        max_epochs=max_epochs,
        limit_val_batches=0,
        default_root_dir=folder,
        accelerator="cpu",
        **(dict.fromkeys(options, False) if bare else {}),
    )


def experiment(num_settings: int, dim: int, steps_per_epoch: int) -> MarginExperiment:
    """All settings on one problem, none of which stops before the end."""
    momenta = np.linspace(0.0, 0.99, num_settings).tolist()
    return MarginExperiment(1, dim, momentum=momenta, stop_loss=None, steps_per_epoch=steps_per_epoch)


def plain(x: Tensor, y: Tensor, steps_per_epoch: int) -> PlainModule:
    """An ordinary module of one setting."""
    return PlainModule(CubicPatchCNN(x.shape[2]), x, y, LR, MOMENTUM, steps_per_epoch)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=3, help="trainings of each side")
    parser.add_argument("--settings", type=positive, default=16, help="of the sweep")
    parser.add_argument("--scale", type=positive, default=10, help="steps of the first epoch; 10 for 2,991 in all")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        report(args, folder)


class Side:
    """An action that notes its processor time, and prints nothing."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action
        self.seconds: list[float] = []

    def __call__(self) -> None:
        begun = time.process_time()
        with redirect_stdout(io.StringIO()):
            self.action()
        self.seconds.append(time.process_time() - begun)

    @property
    def median(self) -> float:
        """Without the first time, which warms up."""
        return statistics.median(self.seconds[1:])


def report(args: argparse.Namespace, folder: str) -> None:
    """Time all sides and print the table."""
    torch.manual_seed(0)
    data = MarginPatchDataModule(num_test=1, seed=0)
    x, y = data.train.x[0], data.train.y[0]
    steps = experiment(1, data.dim, args.scale).steps_until(EPOCHS)
    square = torch.randn(SIZE, SIZE)

    def sweep(num_settings: int, bare: bool = True) -> None:
        trainer(EPOCHS, folder, bare).fit(experiment(num_settings, data.dim, args.scale), datamodule=data)

    def ordinary(bare: bool = True, steps_per_epoch: int = 1) -> None:
        trainer(steps // steps_per_epoch, folder, bare).fit(plain(x, y, steps_per_epoch))

    many = args.settings
    product = Side(lambda: [square @ square for _ in range(20)])
    bare = {
        f"sweep of {many} settings": Side(lambda: sweep(many)),
        "sweep of 1 setting": Side(lambda: sweep(1)),
        "plain loop, autograd": Side(lambda: plain_loop(CubicPatchCNN(data.dim), x, y, LR, MOMENTUM, steps)),
        "ordinary LightningModule": Side(ordinary),
        "the same, one epoch of all steps": Side(lambda: ordinary(steps_per_epoch=steps)),
    }
    full = {
        f"sweep of {many} settings, Trainer as it comes": Side(lambda: sweep(many, bare=False)),
        "ordinary LightningModule, Trainer as it comes": Side(lambda: ordinary(bare=False)),
    }
    wall = take_turns({**bare, **full, "product": product}, args.rounds)
    rate = 20 * 2 * SIZE**3 / product.median
    floor = 4 * x.shape[0] * x.shape[1] * data.dim * experiment(1, data.dim, 1).net.weight.shape[2] * steps / rate
    title = f"{steps:,} steps of 200 samples of 4 patches in 200 dimensions, 8 filters\n{machine()}"
    table = Table("", "wall", "processor", "a trajectory", "slower by", "share of the floor", title=title)
    for sides in (bare, full):
        first = next(iter(sides.values())).median / many
        for name, side in sides.items():
            trajectory = side.median / (many if name.startswith(f"sweep of {many} ") else 1)
            table.add_row(
                name,
                in_words(wall[name]),
                in_words(side.seconds[1:]),
                f"{trajectory:.3f} s",
                f"{trajectory / first:.1f}x",
                f"{floor / trajectory:.0%}",
            )
        table.add_section()
    table.add_row(f"floor, at {rate / 1e9:.0f} GFLOP/s", "", "", f"{floor:.3f} s", "", "")
    console().print(table)


if __name__ == "__main__":
    main()
