"""Gradient descent on deep linear networks: a sweep by the recipe's engine beside one run at a time, in one run.

``python benchmarks/deep_linear.py`` (or ``make bench BENCH=deep_linear``). The sides do the same steps of the same
networks: the recipe's module under the Trainer, with all settings as replicas; an ordinary LightningModule, one setting
and one batch a step; and a plain loop of torch without a Trainer. All take turns; figures are medians, with their
range. Two floors: the multiplications of a step at the speed of a large product, and its calls of torch's operators at
the price of the cheapest one.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from rich.table import Table
from timing import in_words, machine, positive, take_turns, timed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules import WhitenedRegressionDataModule
from zoo.console import console, quiet
from zoo.deep_linear import DeepLinearModule, Start, euler_

DIMS = [5, 3, 1, 4]
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class OrdinaryModule(pl.LightningModule):
    """One setting as one would write it: linear layers, the loss of all samples, autograd and SGD.

    Args:
        weights: Of the start, the input's first.
        lr: Learning rate.
    """

    def __init__(self, weights: list[Tensor], lr: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(w.shape[1], w.shape[0], bias=False).double() for w in weights))
        for layer, weight in zip(self.layers, weights):
            layer.weight.data.copy_(weight)
        self.lr = lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return (self.layers(x) - y).square().sum() / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def trainer(**options: object) -> pl.Trainer:
    """One that does nothing besides training."""
    return pl.Trainer(enable_checkpointing=False, **QUIET, **options)  # type: ignore[arg-type]


class Sweep:
    """The sides of the comparison.

    Args:
        settings: Learning rates, from 0.01 to 0.03, of one start.
        steps: Of each.
    """

    def __init__(self, settings: int, steps: int) -> None:
        torch.manual_seed(0)
        self.data = WhitenedRegressionDataModule()
        self.lrs = torch.linspace(0.01, 0.03, settings).tolist()
        self.steps = steps
        self.start = self.module().net.flat.data[:1].clone()

    def module(self) -> DeepLinearModule:
        """The recipe's, one epoch of all steps."""
        starts = [Start("random")]
        return DeepLinearModule(
            DIMS, self.data.target, starts, "euler", self.lrs, steps_per_epoch=self.steps, growth=1.0
        )

    def recipe(self) -> DeepLinearModule:
        """All settings by the Trainer."""
        module = self.module()
        module.net.flat.data.copy_(self.start.expand_as(module.net.flat))
        trainer(max_epochs=1).fit(module, datamodule=self.data)
        return module

    def engine(self) -> None:
        """All settings by the integrator alone."""
        module = self.module()
        module.net.flat.data.copy_(self.start.expand_as(module.net.flat))
        euler_(module.net, module.target, module.step_sizes, self.steps)

    def ordinary(self, setting: int = 0) -> OrdinaryModule:
        """One setting as one would write it."""
        module = self.module()
        module.net.flat.data.copy_(self.start.expand_as(module.net.flat))
        return OrdinaryModule([weight[0].detach() for weight in module.net.weights()], self.lrs[setting])

    def batch(self) -> tuple[Tensor, Tensor]:
        """All samples."""
        return self.data.batch.x[0], self.data.batch.y[0]

    def by_trainer(self, setting: int = 0) -> OrdinaryModule:
        """One setting by the Trainer, one batch a step."""
        module = self.ordinary(setting)
        batches = DataLoader([self.batch()] * self.steps, batch_size=None)  # type: ignore[arg-type]
        trainer(max_epochs=1).fit(module, batches)
        return module

    def by_loop(self, setting: int = 0) -> OrdinaryModule:
        """One setting without a Trainer."""
        module, batch = self.ordinary(setting), self.batch()
        optimizer = module.configure_optimizers()
        for step in range(self.steps):
            optimizer.zero_grad()
            module.training_step(batch, step).backward()
            optimizer.step()
        return module


def multiplications() -> int:
    """Of a gradient in closed form and the step, for one network."""
    # a layer above the first multiplies the product below it, and the error by that, and the error on its way back
    products = sum(3 * rows * columns * DIMS[0] for rows, columns in zip(DIMS[2:], DIMS[1:]))
    return products + sum(rows * columns for rows, columns in zip(DIMS[1:], DIMS))


def calls() -> int:
    """Of torch's operators in a step: 3 (N - 1) products, the error, and the step."""
    return 3 * (len(DIMS) - 2) + 2


def per_call() -> float:
    """Seconds of the cheapest operator."""
    one, number = torch.zeros(1), 20_000

    def run() -> None:
        for _ in range(number):
            one.add_(one)

    return min(timed(run) for _ in range(5)) / number


def per_multiplication() -> float:
    """Seconds of a multiplication within a large product in float64."""
    size = 512
    a, b = (torch.rand(size, size, dtype=torch.float64) for _ in range(2))
    return min(timed(lambda: a @ b) for _ in range(10)) / size**3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--settings", type=positive, default=16, help="learning rates, replicas of the recipe's module")
    parser.add_argument("--steps", type=positive, default=2000, help="of each setting")
    parser.add_argument("--rounds", type=positive, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sweep = Sweep(args.settings, args.steps)
    sides: dict[str, tuple[int, Callable[[], object]]] = {
        f"the recipe's module, {args.settings} settings": (args.settings, sweep.recipe),
        f"its integrator alone, {args.settings} settings": (args.settings, sweep.engine),
        "an ordinary LightningModule, one setting": (1, sweep.by_trainer),
        "a plain loop of torch, one setting": (1, sweep.by_loop),
    }
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds = take_turns({name: action for name, (_, action) in sides.items()}, args.rounds)
    per_trajectory = {name: statistics.median(seconds[name]) / number for name, (number, _) in sides.items()}
    ours = next(iter(per_trajectory.values()))
    title = f"{args.steps:,} steps of gradient descent, widths {DIMS}, float64\n{machine()}"
    table = Table("", "a run", "trajectories a second", "the recipe is faster by", title=title, title_justify="left")
    for name in sides:
        one = per_trajectory[name]
        table.add_row(name, in_words(seconds[name]), f"{1 / one:.1f}", f"{one / ours:.1f}x")
    table.add_section()
    run, alone = (statistics.median(values) for values in list(seconds.values())[:2])
    for name, floor in (
        (f"floor: {multiplications()} multiplications", per_multiplication() * multiplications() * args.settings),
        (f"floor: {calls()} calls of torch", per_call() * calls()),
    ):
        whole = floor * args.steps
        share = f"{whole / run:.1%} of the recipe's run, {whole / alone:.1%} of its integrator's"
        table.add_row(f"{name} a step", f"{1e3 * whole:.1f} ms", "", share)
    console().print(table)


if __name__ == "__main__":
    main()
