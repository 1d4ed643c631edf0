"""Circular padding and its adjoint: few copies, and gradients in closed form."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Pads = tuple[tuple[int, int], ...]


def circular_pad(x: Tensor, pads: Sequence[tuple[int, int]]) -> Tensor:
    """Continue the last axes periodically; :func:`torch.nn.functional.pad` with a backward that is not in pieces.

    Args:
        x: Shape ``(*, N_1, ..., N_d)``.
        pads: Elements before and after each of the d last axes, at most its length.

    Returns:
        Shape ``(*, N_1 + before + after, ...)``.

    Example:
        >>> circular_pad(torch.tensor([1, 2, 3]), [(1, 2)])
        tensor([3, 1, 2, 3, 1, 2])
    """
    return _Wrap.apply(x, tuple(pads)) if any(map(any, pads)) else x


def circular_fold(y: Tensor, pads: Sequence[tuple[int, int]]) -> Tensor:
    """The adjoint of :func:`circular_pad`: what stands outside is added where it came from.

    Args:
        y: Shape ``(*, N_1 + before + after, ...)``.
        pads: Elements before and after each of the d last axes, at most its length N.

    Returns:
        Shape ``(*, N_1, ..., N_d)``.

    Example:
        >>> circular_fold(torch.tensor([1, 10, 20, 30, 2, 3]), [(1, 2)])
        tensor([12, 23, 31])
    """
    return _Fold.apply(y, tuple(pads)) if any(map(any, pads)) else y


def _wrap(x: Tensor, pads: Pads) -> Tensor:
    first = x.ndim - len(pads)
    lengths = x.shape[first:]
    size = [*x.shape[:first], *(length + sum(pad) for length, pad in zip(lengths, pads))]
    regions = [torch.empty(size, dtype=x.dtype, device=x.device, memory_format=_memory_format(x))]
    for axis, (length, (before, _)) in enumerate(zip(lengths, pads)):
        regions.append(regions[-1].narrow(first + axis, before, length))  # the axes up to this one without their edges
    regions[-1].copy_(x)
    for axis, region in reversed(list(enumerate(regions[:-1]))):
        (before, after), length = pads[axis], lengths[axis]
        region.narrow(first + axis, 0, before).copy_(region.narrow(first + axis, length, before))
        region.narrow(first + axis, before + length, after).copy_(region.narrow(first + axis, before, after))
    return regions[0]


def _fold(y: Tensor, pads: Pads) -> Tensor:
    y = y.clone()
    for axis, (before, after) in zip(range(-len(pads), 0), pads):
        length = y.shape[axis] - before - after
        inner = y.narrow(axis, before, length)
        inner.narrow(axis, length - before, before).add_(y.narrow(axis, 0, before))
        inner.narrow(axis, 0, after).add_(y.narrow(axis, before + length, after))
        y = inner
    return y


def _memory_format(x: Tensor) -> torch.memory_format:
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


class _Wrap(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, pads: Pads) -> Tensor:
        return _wrap(x, pads)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Pads], output: Tensor) -> None:
        ctx.pads = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return circular_fold(gradient, ctx.pads), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return circular_pad(tangent, ctx.pads)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], x: Tensor, pads: Pads) -> tuple[Tensor, int]:
        return circular_pad(x.movedim(in_dims[0], 0), pads), 0  # one more leading axis


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(y: Tensor, pads: Pads) -> Tensor:
        return _fold(y, pads)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Pads], output: Tensor) -> None:
        ctx.pads = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return circular_pad(gradient, ctx.pads), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return circular_fold(tangent, ctx.pads)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], y: Tensor, pads: Pads) -> tuple[Tensor, int]:
        return circular_fold(y.movedim(in_dims[0], 0), pads), 0
