"""Circular padding and its adjoint: few copies, and gradients in closed form."""

from collections.abc import Sequence
from itertools import product
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
    y = _empty_like(x, [n + before + after for n, (before, after) in zip(x.shape[-len(pads) :], pads)])
    for inner, outer in _regions(x.shape[-len(pads) :], pads):
        y[outer].copy_(x[inner])
    return y


def _fold(y: Tensor, pads: Pads) -> Tensor:
    lengths = [n - before - after for n, (before, after) in zip(y.shape[-len(pads) :], pads)]
    x = _empty_like(y, lengths)
    (_, middle), *edges = _regions(lengths, pads)
    x.copy_(y[middle])
    for inner, outer in edges:
        x[inner].add_(y[outer])
    return x


def _regions(lengths: Sequence[int], pads: Pads) -> list[tuple[Any, Any]]:
    """Parts of a tensor and those of the padded one that equal them, the whole first, then edges and corners."""
    axes = []
    for length, (before, after) in zip(lengths, pads):
        end = before + length
        parts = [(slice(0, length), slice(before, end))]
        parts += [(slice(length - before, length), slice(0, before))] if before else []
        parts += [(slice(0, after), slice(end, end + after))] if after else []
        axes.append(parts)
    return [((..., *(inner for inner, _ in parts)), (..., *(outer for _, outer in parts))) for parts in product(*axes)]


def _empty_like(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """With other lengths of the last axes, and the memory format of images."""
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    size = [*x.shape[: x.ndim - len(lengths)], *lengths]
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format)


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
