"""A training step of a deep equilibrium layer, forward and backward, beside torchdeq's, same solver and tolerance.

``python benchmarks/deep_equilibrium.py`` (or ``make bench BENCH=deep_equilibrium``). All sides take turns; figures are
medians, with their range. The floor is what the evaluations of f alone would take, those that a side made: one is a
matrix product and the activation. Gradients are set beside those of a dense solve in float64.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch import Tensor

from zoo.console import console
from zoo.deep_equilibrium import DEQ, ConvergenceWarning, FixedPointSolver, InjectionCell
from zoo.deep_equilibrium.activation import SLOPE
from zoo.deep_equilibrium.solvers import METHODS

CASES = (
    ("linear", "iid", 0.8),
    ("linear", "orthogonal", 0.9),
    ("linear", "goe", 0.9),
    ("tanh", "iid", 1.25),
    ("tanh", "goe", 1.25),
)
PEER = {"iteration": "fixed_point_iter", "anderson": "anderson", "broyden": "broyden"}
Step = Callable[[], tuple[Tensor, int]]


def our_step(cell: InjectionCell, u: Tensor, method: str, max_iter: int, tol: float, check_every: int = 1) -> Step:
    """Gradient of the weight, and evaluations of f and of its adjoint."""
    layer = DEQ(cell, FixedPointSolver(method, max_iter, tol, check_every=check_every))  # type: ignore[arg-type]

    def step() -> tuple[Tensor, int]:
        loss = layer(u).square().mean()
        (gradient,) = torch.autograd.grad(loss, cell.weight)
        assert layer.forward_stats is not None
        assert layer.backward_stats is not None
        return gradient, layer.forward_stats.num_evaluations + 1 + layer.backward_stats.num_evaluations

    return step


def torchdeq_step(cell: InjectionCell, u: Tensor, method: str, max_iter: int, tol: float) -> Step:
    """The same of torchdeq; of its evaluations those of f are counted, not those of the adjoint."""
    import torchdeq

    solver = PEER[method]
    kinds = {"f_solver": solver, "b_solver": solver, "f_stop_mode": "rel", "b_stop_mode": "rel"}
    layer = torchdeq.get_deq(ift=True, **kinds, f_max_iter=max_iter, b_max_iter=max_iter, f_tol=tol, b_tol=tol)
    start = torch.zeros_like(u)
    calls = 0

    def f(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return cell(z, u)

    def step() -> tuple[Tensor, int]:
        nonlocal calls
        calls = 0
        states, _ = layer(f, start)
        loss = states[-1].square().mean()
        (gradient,) = torch.autograd.grad(loss, cell.weight)
        return gradient, calls

    return step


def exact_gradient(cell: InjectionCell, u: Tensor) -> Tensor:
    """Of the weight in float64: the state by iteration to rounding, the adjoint by a dense solve for each sample."""
    double = InjectionCell(u.shape[1], cell.activation).double()
    double.weight.data.copy_(cell.weight)
    with torch.no_grad():
        z, _ = FixedPointSolver(max_iter=20_000, tol=1e-14)(
            lambda z: double(z, u.double()), torch.zeros_like(u.double())
        )
        slope = SLOPE[cell.activation](z)
        g = 2 * z / z.numel()
        matrices = (
            torch.eye(u.shape[1]).double() - slope.unsqueeze(1) * double.weight.mT
        )  # (I - J^T), J = diag(slope) W
        y = torch.linalg.solve(matrices, g.unsqueeze(2)).squeeze(2)
        return (y * slope).mT @ z


@torch.no_grad()
def seconds_of_one(cell: InjectionCell, u: Tensor, number: int = 50) -> float:
    """What one evaluation of f takes."""
    z = torch.randn_like(u)
    return statistics.median(take_turns({"f": lambda: [cell(z, u) for _ in range(number)]}, 20)["f"]) / number


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=10, help="steps of each side")
    parser.add_argument("--width", type=positive, default=128)
    parser.add_argument("--batch_size", type=positive, default=128)
    parser.add_argument("--max_iter", type=positive, default=60)
    parser.add_argument("--tol", type=float, default=1e-4, help="relative tolerance, forward and backward")
    parser.add_argument(
        "--check_every", type=positive, default=1, help="steps from one look at the residual to the next, ours"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    peer = find_spec("torchdeq") is not None
    sizes = f"width {args.width}, batch {args.batch_size}, at most {args.max_iter} evaluations, tol {args.tol:g}"
    title = f"{sizes}\n{machine()}"
    names = ("", "ours", "evaluations", "error", "share of the floor", "torchdeq", "error", "ours is faster by")
    table = Table(*names, title=title, title_justify="left")
    for activation, family, sigma_w in CASES:
        torch.manual_seed(0)
        cell = InjectionCell(args.width, activation, family, sigma_w)  # type: ignore[arg-type]
        u = torch.randn(args.batch_size, args.width)
        exact = exact_gradient(cell, u)
        evaluation = seconds_of_one(cell, u)
        for method in METHODS:
            settings = (cell, u, method, args.max_iter, args.tol)
            sides = {"ours": our_step(*settings, args.check_every)} | (
                {"torchdeq": torchdeq_step(*settings)} if peer else {}
            )
            table.add_row(
                f"{activation}, {family} {sigma_w:g}, {method}", *compared(sides, exact, evaluation, args.rounds)
            )
        table.add_section()
    console().print(table)
    if not peer:
        console().print("torchdeq is not installed, so it was left out: pip install torchdeq==0.1.0")


def compared(sides: dict[str, Step], exact: Tensor, evaluation: float, rounds: int) -> list[str]:
    """The columns of a row: times, evaluations, and relative errors of the gradient."""
    error = {}
    for name, step in sides.items():
        gradient, count = step()
        error[name] = f"{float((gradient - exact).norm() / exact.norm()):.1e}"
        if name == "ours":
            evaluations = count
    seconds = take_turns(sides, rounds)  # type: ignore[arg-type]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    floor = evaluations * evaluation
    ours = [in_words(seconds["ours"]), f"{evaluations:.0f}", error["ours"], f"{floor / median['ours']:.0%}"]
    if "torchdeq" not in sides:
        return [*ours, "", "", ""]
    return [*ours, in_words(seconds["torchdeq"]), error["torchdeq"], f"{median['torchdeq'] / median['ours']:.2f}x"]


if __name__ == "__main__":
    main()
