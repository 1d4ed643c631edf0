"""Weights of convolutions that are orthogonal for all values of their parameters, as a parametrization of torch."""

from collections.abc import Sequence
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from zoo.paraunitary_conv.factor import paraunitary_kernel, polyphase_to_strided
from zoo.paraunitary_conv.orthogonal import (
    CHARTS,
    Chart,
    block_rotations,
    haar,
    orthonormal_columns,
    polished,
    subspace_coordinates,
)

Init = Literal["uniform", "permutation", "identity", "reverse", "torus"]
INITS = get_args(Init)


class SeparableParaunitary(nn.Module):
    r"""The weight of an orthogonal convolution, made of one orthogonal matrix and elementary factors.

    For :func:`torch.nn.utils.parametrize.register_parametrization` on a ``weight`` of shape
    ``(out_channels, in_channels / groups, *kernel_size)``. With :math:`R^d` phases of the input (the product of the
    strides), each group maps :math:`S R^d` channels to :math:`T`; it works on the larger of the two, C, and keeps the
    rows or columns that are needed. Fewer outputs than inputs preserve the norm of gradients, more outputs preserve
    that of inputs, equally many both: all non-zero singular values are 1, up to rounding, with circular boundaries.

    All matrices of a layer are computed together: one inverse for the orthogonal matrix, one for all factors. They are
    computed in float32 at least, outside autocast, and polished, so that the weight stays orthogonal under mixed
    precision, far from the start, and after ``double()``.

    The parameters are the free part of the orthogonal matrix (``original0``) and those of the subspaces
    (``original1``; none for a kernel of one tap); a buffer ``base`` has the orthogonal matrix of the start.

    Args:
        out_channels: Channels T times ``groups``.
        in_channels: Channels S times ``groups``.
        kernel_size: Taps of each axis, a multiple of the stride; ``()`` is a linear layer.
        stride: Of each axis.
        groups: Blocks of channels, each of which has its own weight.
        rank: Rank r of the projectors, in ``[1, C - 1]``; ``None`` is C / 2, rounded down, the largest family.
        parametrization: ``"cayley"``, or ``"exp"``, which the authors use, and which is slower.
        init: ``"uniform"``: orthogonal matrix and subspaces are drawn uniformly. Else the factors cancel, and the
            middle tap is a random permutation, the identity, the reversed identity, or ``"torus"``: rotations of pairs
            of channels by uniform angles. These need an odd number of taps per phase.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Su, Byeon, Huang, *Scaling-up Diverse Orthogonal Convolutional Networks by a Paraunitary Framework*, ICML 2022.

    Example:
        >>> conv = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", bias=False)
        >>> _ = nn.utils.parametrize.register_parametrization(conv, "weight", SeparableParaunitary(8, 8, (3, 3)))
        >>> x = torch.randn(2, 8, 6, 6)
        >>> torch.allclose(conv(x).norm(), x.norm())
        True
    """

    base: Tensor

    def __init__(
        self,
        out_channels: int,
        in_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
        groups: int = 1,
        rank: int | None = None,
        parametrization: Chart = "cayley",
        init: Init = "uniform",
    ) -> None:
        super().__init__()
        self.stride = tuple(stride) if stride is not None else (1,) * len(kernel_size)
        _check(out_channels, in_channels, kernel_size, self.stride, groups)
        if parametrization not in CHARTS:
            raise ValueError(f"parametrization must be one of {', '.join(CHARTS)}, got {parametrization!r}")
        self.groups, self.chart = groups, parametrization
        self.taps = tuple(size // step for size, step in zip(kernel_size, self.stride))
        self.rows, self.columns = out_channels // groups, in_channels // groups * prod(self.stride)
        self.channels, self.kept = max(self.rows, self.columns), min(self.rows, self.columns)
        if rank is not None and not 1 <= rank <= self.channels - 1:
            raise ValueError(f"rank must be in [1, {self.channels - 1}], got {rank}")
        self.rank = self.channels // 2 if rank is None else rank
        _check_init(init, self.taps)
        self.register_buffer("base", _base(init, groups, self.channels))
        self._start: tuple[Tensor, ...] | None = self._initial(init)

    def _initial(self, init: Init) -> tuple[Tensor, ...]:
        free = torch.zeros(self.groups, self.channels, self.kept)
        lengths = [taps - 1 for taps in self.taps]
        if not any(lengths):
            return (free,)
        pairs = 1 if init == "uniform" else 2  # equal neighbours cancel
        drawn = [
            haar(self.groups * (length // pairs), self.channels)[..., : self.rank]
            .view(self.groups, length // pairs, self.channels, self.rank)
            .repeat_interleave(pairs, dim=1)
            for length in lengths
            if length
        ]
        u = torch.cat(drawn, dim=1).flatten(0, 1)  # three axes: .to(memory_format=...) leaves these as they are
        return free, subspace_coordinates(u, self.chart)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The parameters at the start, for the registration; no tensor can be assigned to the weight later on.

        Raises:
            ValueError: If the weight is assigned to.
        """
        if self._start is None:
            raise ValueError("weight cannot be assigned to: it is made of factors; load a state_dict of these instead")
        start, self._start = self._start, None
        return tuple(tensor.to(weight) for tensor in start)

    def forward(self, free: Tensor, subspaces: Tensor | None = None) -> Tensor:
        """The weight, shape ``(out_channels, in_channels / groups, *kernel_size)``.

        Args:
            free: Of the orthogonal matrix, shape ``(groups, C, min(T, S R^d))``; zero gives the start.
            subspaces: Of all factors, axis after axis, shape ``(groups * n, C - r, r)``.
        """
        with torch.autocast(free.device.type, enabled=False):
            exact = torch.promote_types(free.dtype, torch.float32)
            taps = paraunitary_kernel(self._q(free.to(exact)), self._projectors(subspaces, exact))
            if self.rows > self.columns:
                taps = taps.mT
            return polyphase_to_strided(taps, self.stride).to(free.dtype)

    def _q(self, free: Tensor) -> Tensor:
        """Orthonormal rows, shape ``(groups, min(T, S R^d), C)``."""
        above, below = free.split([self.kept, self.channels - self.kept], dim=1)
        q = orthonormal_columns(below, above - above.mT, self.chart)
        return polished(self.base.to(free.dtype).mT @ q).mT

    def _projectors(self, subspaces: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
        """Orthonormal columns of each axis' factors, shape ``(groups, K - 1, C, r)``."""
        if subspaces is None:
            return [self.base.new_empty(self.groups, 0, self.channels, self.rank) for _ in self.taps]
        u = polished(orthonormal_columns(subspaces.to(dtype), chart=self.chart))
        return list(u.unflatten(0, (self.groups, -1)).split([taps - 1 for taps in self.taps], dim=1))

    def extra_repr(self) -> str:
        return f"taps={self.taps}, stride={self.stride}, channels={self.channels}, rank={self.rank}"


def _base(init: Init, groups: int, channels: int) -> Tensor:
    if init == "uniform":
        return haar(groups, channels)
    if init == "torus":
        return block_rotations(groups, channels)
    eye = torch.eye(channels)
    if init == "permutation":
        return torch.stack([eye[torch.randperm(channels)] for _ in range(groups)])
    return (eye.flip(0) if init == "reverse" else eye).repeat(groups, 1, 1)


def _check(out_channels: int, in_channels: int, kernel_size: Sequence[int], stride: Sequence[int], groups: int) -> None:
    numbers = {"out_channels": out_channels, "in_channels": in_channels, "groups": groups}
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for name in ("out_channels", "in_channels"):
        if numbers[name] % groups:
            raise ValueError(f"{name} must be a multiple of groups {groups}, got {numbers[name]}")
    if len(stride) != len(kernel_size) or any(step < 1 for step in stride):
        raise ValueError(f"stride must be at least 1 for each of {len(kernel_size)} axes, got {tuple(stride)}")
    if any(size < 1 or size % step for size, step in zip(kernel_size, stride)):
        raise ValueError(f"kernel_size must be a multiple of the stride {tuple(stride)}, got {tuple(kernel_size)}")


def _check_init(init: str, taps: Sequence[int]) -> None:
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
    if init != "uniform" and any(number % 2 == 0 for number in taps):
        raise ValueError(
            f"init must be uniform unless kernel_size / stride is odd, got {init!r} with {tuple(taps)} taps"
        )
