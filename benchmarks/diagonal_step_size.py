"""A sweep of 16 step sizes on diagonal linear networks beside one network at a time, in one run.

``python benchmarks/diagonal_step_size.py`` (or ``make bench BENCH=diagonal_step_size``). All sides take turns; figures
are medians, with their range, of a step of one network. The floor is the arithmetic that no step can do without, two
products with the inputs, at the speed of a product of two large matrices.
"""

import argparse
import logging
import statistics
import warnings
from collections.abc import Callable

import torch
from plain_diagonal_step_size import autograd, closed_form, lightning
from rich.table import Table
from timing import machine, positive, take_turns
from torch import Tensor

from datamodules import SparseRegressionDataModule
from zoo.console import console
from zoo.diagonal_step_size import Descent, StepSizeSweep

SIZE = 1000  # of the large matrices
RATES = [0.25, 0.5, 0.75, 0.9, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.75, 1.8, 1.85, 1.9, 1.95]  # none diverges
SCALE = 0.3


def sweep(x: Tensor, y: Tensor, num_steps: int) -> StepSizeSweep:
    """The recipe's engine on these problems."""
    found = StepSizeSweep(len(x), x.shape[2], RATES, [SCALE], "init_sharpness")
    found.run(x, y, num_steps)
    return found


def steps_alone(x: Tensor, y: Tensor, lr: Tensor, num_steps: int) -> Descent:
    """The steps of the engine without a look at what becomes of them."""
    start = torch.full((*lr.shape, x.shape[2]), 2 * SCALE, dtype=x.dtype)
    descent = Descent(x, y, start, torch.zeros_like(start), lr)
    for _ in range(num_steps // descent.chunk):
        descent.advance(descent.chunk)
    return descent


def large_product() -> Callable[[], object]:
    """A product of two large matrices."""
    a, b, c = (torch.rand(SIZE, SIZE, dtype=torch.float64) for _ in range(3))
    return lambda: torch.mm(a, b, out=c)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--steps", type=positive, default=5000, help="of every network, in a round")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")

    data = SparseRegressionDataModule(num_problems=5, seed=0).batch
    x, y = data.x, data.y
    first = sweep(x[:1], y[:1], 0)
    first.prepare(x[:1], y[:1])
    lr = first.lr[0, RATES.index(0.9)].item()
    same = {one.__name__: one(x[0], y[0], lr, SCALE, 300) for one in (lightning, autograd, closed_form)}
    ours = sweep(x[:1], y[:1], 300).beta[0, RATES.index(0.9)]
    for name, beta in same.items():
        torch.testing.assert_close(beta, ours, msg=f"{name} computes something else")

    plain = {
        "LightningModule, a step a batch": lightning,
        "loop, torch.optim.SGD": autograd,
        "loop, gradient in closed form": closed_form,
    }
    actions: dict[str, tuple[int, Callable[[], object]]] = {
        "sweep: 16 step sizes, 5 problems": (80, lambda: sweep(x, y, args.steps)),
        "sweep: 16 step sizes, 1 problem": (16, lambda: sweep(x[:1], y[:1], args.steps)),
        "its steps alone, 1 problem": (16, lambda: steps_alone(x[:1], y[:1], first.lr, args.steps)),
    }
    for name, action in plain.items():
        actions[name] = (1, lambda action=action: action(x[0], y[0], lr, SCALE, args.steps))  # type: ignore[misc]
    timed = {name: action for name, (_, action) in actions.items()} | {"mm": large_product()}
    seconds = take_turns(timed, args.rounds)

    flops = 2 * SIZE**3 / statistics.median(seconds["mm"])
    floor = 4 * x.shape[1] * x.shape[2] / flops  # seconds: two products of N by d
    title = f"{x.shape[1]} samples, {x.shape[2]} features, float64, {args.steps:,} steps\n{machine()}"
    columns = ("", "a step of a network, µs", "networks a second", "the sweep of 16 is faster by", "share of the floor")
    table = Table(*columns, title=title, title_justify="left")
    per_step = {name: [one / args.steps / networks for one in seconds[name]] for name, (networks, _) in actions.items()}
    best = statistics.median(per_step["sweep: 16 step sizes, 1 problem"])
    for name, values in per_step.items():
        middle = statistics.median(values)
        text = f"{1e6 * middle:.2f} ({1e6 * min(values):.2f} to {1e6 * max(values):.2f}, n={len(values)})"
        faster = "" if actions[name][0] > 1 else f"{middle / best:.1f}x"
        table.add_row(name, text, f"{1 / middle / args.steps:.2f}", faster, f"{floor / middle:.1%}")
    table.add_section()
    table.add_row(
        f"floor: {flops / 1e9:.1f} GFLOP/s of a large product",
        f"{1e6 * floor:.2f}",
        f"{1 / floor / args.steps:.2f}",
        "",
        "100%",
    )
    console().print(table)


if __name__ == "__main__":
    main()
