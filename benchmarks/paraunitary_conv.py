"""Orthogonal convolutions, forward and backward, beside orthogonium's and a straightforward one, in one run.

``python benchmarks/paraunitary_conv.py`` (or ``make bench BENCH=paraunitary_conv``). All sides take turns; figures are
medians, with their range. The floor is a plain convolution with zero padding, which no layer that builds its weight
and wraps its boundaries can be faster than.
"""

import argparse
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from plain_paraunitary import PlainOrthogonalConv2d
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch import Tensor, nn

from zoo.console import console
from zoo.paraunitary_conv import OrthogonalConv2d, conv_singular_values

INSTALL = "pip install --no-deps orthogonium==0.0.4"


class Shape(NamedTuple):
    """Of a layer and its input."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    size: int
    batch_size: int

    def __str__(self) -> str:
        return (
            f"{self.in_channels} to {self.out_channels} channels, {self.kernel_size} x {self.kernel_size}, stride "
            f"{self.stride}, {self.size} x {self.size}, batch {self.batch_size}"
        )


SHAPES = (Shape(64, 64, 3, 1, 16, 32), Shape(256, 256, 3, 1, 8, 64), Shape(32, 64, 4, 2, 32, 32))
FLOOR = "floor: plain, zero padding"
PLAIN = (FLOOR, "plain, circular")


def layers(shape: Shape) -> dict[str, nn.Module]:
    """All sides by name."""
    torch.manual_seed(0)
    channels, (kernel_size, stride) = shape[:2], shape[2:4]
    padding = (kernel_size - stride) // 2
    sides: dict[str, nn.Module] = {
        FLOOR: nn.Conv2d(*channels, kernel_size, stride, padding, bias=False),
        PLAIN[1]: nn.Conv2d(*channels, kernel_size, stride, padding, bias=False, padding_mode="circular"),
        "ours": OrthogonalConv2d(*channels, kernel_size, stride),
        "ours, exponential": OrthogonalConv2d(*channels, kernel_size, stride, parametrization="exp"),
        "straightforward": PlainOrthogonalConv2d(*channels, kernel_size, stride),
    }
    if find_spec("orthogonium") is not None:
        from orthogonium.layers import AdaptiveOrthoConv2d
        from orthogonium.reparametrizers import CHOLESKY_ORTHO_PARAMS, EXP_ORTHO_PARAMS, OrthoParams

        kinds = {"Björck": OrthoParams(), "exponential": EXP_ORTHO_PARAMS, "Cholesky": CHOLESKY_ORTHO_PARAMS}
        for name, params in kinds.items():
            sides[f"orthogonium, {name}"] = AdaptiveOrthoConv2d(
                *channels, kernel_size, stride, padding=padding, bias=False, ortho_params=params
            )
    return sides


@torch.no_grad()
def error(layer: nn.Module, shape: Shape) -> float:
    """Largest distance of a singular value from 1."""
    weight: Any = layer.weight
    found = weight() if callable(weight) else weight
    values = conv_singular_values(found, [shape.size, shape.size], shape.stride)
    return float((values - 1).abs().max())


def step(layer: nn.Module, x: Tensor, gradient: Tensor) -> Callable[[], None]:
    """Forward and backward, to the input and to the parameters."""

    def run() -> None:
        x.grad = None
        layer.zero_grad()
        layer(x).backward(gradient)

    return run


def measure(shape: Shape, rounds: int, memory_format: torch.memory_format) -> Table:
    """Time all sides at a shape."""
    sides = layers(shape)
    x = torch.randn(shape.batch_size, shape.in_channels, shape.size, shape.size).to(memory_format=memory_format)
    gradient = torch.randn_like(sides[FLOOR](x))
    x.requires_grad_()
    for name in PLAIN:
        sides[name].to(memory_format=memory_format)  # of the others no parameter is a weight
    errors = {name: error(layer, shape) for name, layer in sides.items()}
    training = take_turns({name: step(layer, x, gradient) for name, layer in sides.items()}, rounds)
    for layer in sides.values():
        layer.eval()
    with torch.no_grad():
        evaluation = take_turns({name: lambda layer=layer: layer(x) for name, layer in sides.items()}, rounds)
    floor = statistics.median(training[FLOOR])
    table = Table("", "forward and backward", "over the floor", "evaluation", "error", title=str(shape))
    for name in sides:
        ratio = f"{statistics.median(training[name]) / floor:.2f}x"
        table.add_row(name, in_words(training[name]), ratio, in_words(evaluation[name]), f"{errors[name]:.1e}")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=20, help="passes of each side")
    parser.add_argument("--shapes", type=positive, default=len(SHAPES), help="how many of the shapes are timed")
    parser.add_argument("--channels-last", action="store_true", help="inputs and plain weights in that memory format")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    console().print(f"{machine()}, {'channels last' if args.channels_last else 'contiguous'}")
    for shape in SHAPES[: args.shapes]:
        console().print(measure(shape, args.rounds, memory_format))
    if find_spec("orthogonium") is None:
        console().print(f"orthogonium is not installed, so its layers were left out: {INSTALL}")


if __name__ == "__main__":
    main()
