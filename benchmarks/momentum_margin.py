"""A sweep of the margin experiment beside a plain loop and an ordinary LightningModule, in one run.

``python benchmarks/momentum_margin.py`` (or ``make bench BENCH=momentum_margin``). All sides take turns; figures are
medians, with their range. The sweep trains all settings at once and measures the training samples 37 times on its
way; the others train one setting and measure nothing but the loss. An ordinary LightningModule has the full batch once
an epoch; with the batch repeated in one long epoch the Trainer costs less. The floor is the two products of matrices of
every step, at the speed of the product of two matrices of 1,024 x 1,024.
"""

import argparse
import statistics
import tempfile

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


def trainer(max_epochs: int, folder: str) -> pl.Trainer:
    """One that does nothing beside training."""
    return pl.Trainer(
        max_epochs=max_epochs,
        limit_val_batches=0,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
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


def report(args: argparse.Namespace, folder: str) -> None:
    """Time all sides and print the table."""
    torch.manual_seed(0)
    data = MarginPatchDataModule(num_test=1, seed=0)
    x, y = data.train.x[0], data.train.y[0]
    steps = experiment(1, data.dim, args.scale).steps_until(EPOCHS)
    square = torch.randn(SIZE, SIZE)
    sides = {
        f"sweep of {args.settings} settings": lambda: trainer(EPOCHS, folder).fit(
            experiment(args.settings, data.dim, args.scale), datamodule=data
        ),
        "sweep of 1 setting": lambda: trainer(EPOCHS, folder).fit(experiment(1, data.dim, args.scale), datamodule=data),
        "plain loop, autograd": lambda: plain_loop(CubicPatchCNN(data.dim), x, y, LR, MOMENTUM, steps),
        "ordinary LightningModule": lambda: trainer(steps, folder).fit(plain(x, y, steps_per_epoch=1)),
        "the same, one epoch of all steps": lambda: trainer(1, folder).fit(plain(x, y, steps_per_epoch=steps)),
        "product": lambda: [square @ square for _ in range(20)],
    }
    seconds = take_turns(sides, args.rounds)
    rate = 20 * 2 * SIZE**3 / statistics.median(seconds.pop("product"))
    flops = 4 * x.shape[0] * x.shape[1] * data.dim * experiment(1, data.dim, 1).net.weight.shape[2] * steps
    trajectory = {name: statistics.median(values) for name, values in seconds.items()}
    sweep = next(iter(trajectory))
    trajectory[sweep] /= args.settings
    title = f"{steps:,} steps of 200 samples of 4 patches in 200 dimensions, 8 filters\n{machine()}"
    table = Table("", "all", "a trajectory", "the sweep is faster by", "share of the floor", title=title)
    for name, values in seconds.items():
        table.add_row(
            name,
            in_words(values),
            f"{trajectory[name]:.3f} s",
            f"{trajectory[name] / trajectory[sweep]:.1f}x",
            f"{flops / rate / trajectory[name]:.0%}",
        )
    table.add_section()
    table.add_row(f"floor: {flops / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s", "", f"{flops / rate:.3f} s", "", "")
    console().print(table)


if __name__ == "__main__":
    main()
