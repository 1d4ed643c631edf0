"""LipConvNet: a convolutional network that is 1-Lipschitz by construction."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from zoo.backbones.backbone import Backbone
from zoo.paraunitary_conv.activation import MaxMin
from zoo.paraunitary_conv.circular import CircularConv2d
from zoo.paraunitary_conv.layer import OrthogonalConv2d
from zoo.paraunitary_conv.linear import OrthogonalLinear
from zoo.paraunitary_conv.orthogonal import Chart
from zoo.paraunitary_conv.parametrization import Init

Constraint = Literal["orthogonal", "none"]
CONSTRAINTS = get_args(Constraint)
STAGES = 5


class LipConvNet(Backbone):
    """Five stages, each of which halves the image and doubles the channels: convolutions and MaxMin, a linear layer.

    A stage has ``depth / 5`` convolutions, the last one with stride 2; kernels are 3 x 3, and cover as many cells of
    2 x 2 pixels where the stride is 2; one cell in the last stage. Boundaries are circular. The mean is subtracted
    from the pixels, and nothing divided, so that the network is 1-Lipschitz in the pixels themselves.

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image; both sides are multiples of 32.
        depth: Number of convolutions, a multiple of 5.
        base_channels: The first stage gives twice as many channels, the last one 32 times as many.
        constraint: ``"orthogonal"``; or ``"none"``, the same network of plain convolutions, as a baseline.
        parametrization: ``"cayley"`` or ``"exp"``.
        init: Of the orthogonal convolutions; see :class:`~zoo.paraunitary_conv.SeparableParaunitary`.
        mean: Subtracted from the pixels: one number, or one for each channel.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Singla and Feizi, *Skew Orthogonal Convolutions*, ICML 2021; Su, Byeon, Huang, ICML 2022.

    Example:
        >>> net = LipConvNet(10, base_channels=4).eval()
        >>> x, y = torch.rand(2, 1, 3, 32, 32)
        >>> bool((net(x) - net(y)).norm() <= (x - y).norm())
        True
    """

    mean: Tensor

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        depth: int = 5,
        base_channels: int = 32,
        constraint: Constraint = "orthogonal",
        parametrization: Chart = "cayley",
        init: Init = "permutation",
        mean: float | Sequence[float] = 0.5,
    ) -> None:
        super().__init__()
        channels, *sides = input_shape
        means = [float(mean)] if isinstance(mean, (int, float)) else list(mean)
        if depth < 1 or depth % STAGES:
            raise ValueError(f"depth must be a multiple of {STAGES}, got {depth}")
        if base_channels < 1:
            raise ValueError(f"base_channels must be at least 1, got {base_channels}")
        if any(side % 2**STAGES for side in sides):
            raise ValueError(f"input_shape must have sides that are multiples of {2**STAGES}, got {tuple(input_shape)}")
        if constraint not in CONSTRAINTS:
            raise ValueError(f"constraint must be one of {', '.join(CONSTRAINTS)}, got {constraint!r}")
        if len(means) not in (1, channels):
            raise ValueError(f"mean must be one number or {channels}, one for each channel, got {mean}")
        self.constraint, self.sides = constraint, tuple(sides)
        self.register_buffer("mean", torch.tensor(means).view(-1, 1, 1))
        width = 2**STAGES * base_channels * (sides[0] >> STAGES) * (sides[1] >> STAGES)
        conv: Callable[..., nn.Module] = CircularConv2d
        if constraint == "orthogonal":
            conv = partial(OrthogonalConv2d, bias=True, parametrization=parametrization, init=init)
            self.head = OrthogonalLinear(width, num_classes, parametrization=parametrization)
        else:
            self.head = nn.Linear(width, num_classes)
        shapes = _convolutions(channels, base_channels, depth // STAGES)
        self.layers = nn.Sequential(*(layer for shape in shapes for layer in (conv(*shape), MaxMin())), nn.Flatten())

    def features(self, x: Tensor) -> Tensor:
        """What the last layer is given, shape ``(B, d)``, of pixels ``(B, C, H, W)``."""
        return self.layers(x - self.mean)

    @torch.no_grad()
    def lipschitz_bound(self) -> Tensor:
        """A Lipschitz constant in the l2 norm: the product of the layers' largest singular values, scalar.

        Of orthogonal layers it is 1; of plain ones all singular values are computed.
        """
        if self.constraint == "orthogonal":
            return self.mean.new_ones(())
        bound = torch.linalg.matrix_norm(self.head.weight, 2)
        sides = self.sides
        for layer in self.layers:
            if isinstance(layer, CircularConv2d):
                bound = bound * layer.singular_values(sides)[0]
                sides = tuple(side // step for side, step in zip(sides, layer.stride))
        return bound


def _convolutions(channels: int, base_channels: int, per_stage: int) -> list[tuple[int, int, int, int]]:
    """Input and output channels, kernel size and stride of every convolution."""
    found = []
    width = base_channels
    for stage in range(STAGES):
        for _ in range(per_stage - 1):
            found.append((channels, width, 3, 1))
            channels = width
        found.append((channels, 2 * width, 2 if stage == STAGES - 1 else 6, 2))
        channels = width = 2 * width
    return found
