"""Convolution with circular boundaries, whose gradients are as cheap as those of a plain one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.paraunitary_conv.padding import Pads, circular_pad

CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d}


def circular_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """A convolution of stride 1 of what :func:`circular_pad` makes of its input.

    The gradient of the input is a circular convolution too, with the adjoint kernel: it is not computed on the larger
    image that the padding has made, as the chain rule would have it.

    Args:
        x: Shape ``(B, S, N_1, ..., N_d)``, d of 1 or 2.
        weight: Shape ``(T, S / groups, K_1, ..., K_d)``.
        bias: Shape ``(T,)``, or ``None``.
        pads: Elements before and after each axis, ``dilation * (K - 1)`` together, so that lengths stay.
        dilation: Of each axis.
        groups: Blocks of channels.

    Returns:
        Shape ``(B, T, N_1, ..., N_d)``.

    Example:
        >>> delay = torch.tensor([[[1.0, 0.0]]])
        >>> circular_conv(torch.tensor([[[1.0, 2.0, 3.0]]]), delay, None, [(1, 0)], [1])
        tensor([[[3., 1., 2.]]])
    """
    if torch.is_autocast_enabled(x.device.type):  # a function of one's own is not cast by it
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = (None if part is None else _cast(part, dtype) for part in (x, weight, bias))  # type: ignore[assignment]
    return _apply(x, weight, bias, tuple(pads), tuple(dilation), groups)


def adjoint_kernel(weight: Tensor, groups: int = 1) -> Tensor:
    """The kernel of the adjoint circular convolution: mirrored, inputs and outputs of each group swapped.

    Args:
        weight: Shape ``(T, S / groups, K_1, ..., K_d)``.
        groups: Blocks of channels.

    Returns:
        Shape ``(S, T / groups, K_1, ..., K_d)``; its pads are swapped, too.

    Example:
        >>> adjoint_kernel(torch.tensor([[[1.0, 2.0, 3.0]]]))
        tensor([[[3., 2., 1.]]])
    """
    blocks = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return blocks.flip(tuple(range(2, weight.ndim)))


def swapped(pads: Sequence[tuple[int, int]]) -> Pads:
    """The pads of the adjoint."""
    return tuple((after, before) for before, after in pads)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x


def _apply(
    x: Tensor, weight: Tensor, bias: Tensor | None, pads: Pads, dilation: tuple[int, ...], groups: int
) -> Tensor:
    return _CircularConv.apply(x, circular_pad(x, pads), weight, bias, pads, dilation, groups)


class _CircularConv(torch.autograd.Function):
    """A function of the input, which its padded form, that it is given too, serves to compute.

    All of the input's gradient goes to the input itself, none to its padded form; of that only what differentiates the
    weight's gradient once more is passed through.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        padded: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pads: Pads,
        dilation: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        return CONV[len(pads)](padded, weight, bias, 1, 0, dilation, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, padded, weight, bias, *ctx.options = inputs
        ctx.save_for_backward(padded, weight)
        ctx.save_for_forward(padded, weight)
        ctx.bias_size = None if bias is None else [len(bias)]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        padded, weight = ctx.saved_tensors
        pads, dilation, groups = ctx.options
        of_x, _, of_weight, of_bias, *_ = ctx.needs_input_grad
        x_gradient = weight_gradient = bias_gradient = None
        if of_x:
            x_gradient = _apply(gradient, adjoint_kernel(weight, groups), None, swapped(pads), dilation, groups)
        if of_weight or of_bias:
            ones, zeros = [1] * len(pads), [0] * len(pads)
            _, weight_gradient, bias_gradient = torch.ops.aten.convolution_backward(
                gradient,
                padded,
                weight,
                ctx.bias_size,
                ones,
                zeros,
                dilation,
                False,
                zeros,
                groups,
                [False, of_weight, of_bias],
            )
        return x_gradient, None, weight_gradient, bias_gradient, None, None, None

    @staticmethod
    def jvp(ctx: Any, _: Any, padded: Tensor | None, weight: Tensor | None, bias: Tensor | None, *__: Any) -> Tensor:
        old_padded, old_weight = ctx.saved_tensors
        pads, dilation, groups = ctx.options
        conv = CONV[len(pads)]
        parts = []
        if padded is not None:
            parts.append(conv(padded, old_weight, None, 1, 0, dilation, groups))
        if weight is not None:
            parts.append(conv(old_padded, weight, None, 1, 0, dilation, groups))
        if bias is not None:
            lengths = [length - sum(pad) for length, pad in zip(old_padded.shape[2:], pads)]
            parts.append(bias.view(-1, *[1] * len(pads)).expand(len(old_padded), -1, *lengths))
        return sum(parts[1:], parts[0])
