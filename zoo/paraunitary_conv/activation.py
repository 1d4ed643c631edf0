"""Activations that only permute: 1-Lipschitz, and they keep the norm of gradients."""

from typing import Any

import torch
from torch import Tensor, nn


class GroupSort(nn.Module):
    """Sorts channels within groups, the largest first.

    A group takes its members from equally long runs of channels: of C channels in pairs, i and i + C / 2.

    Args:
        group_size: Channels that are sorted together, at least 2.

    Raises:
        ValueError: If ``group_size`` is below 2, or, when called, the channels cannot be divided into groups.

    Source:
        Anil, Lucas, Grosse, *Sorting Out Lipschitz Function Approximation*, ICML 2019.

    Example:
        >>> GroupSort(2)(torch.tensor([[1.0, 5.0, 3.0, 4.0]]))
        tensor([[3., 5., 1., 4.]])
    """

    def __init__(self, group_size: int = 2) -> None:
        super().__init__()
        if group_size < 2:
            raise ValueError(f"group_size must be at least 2, got {group_size}")
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """Sort along axis 1, shape ``(B, C, *)``."""
        if x.shape[1] % self.group_size:
            raise ValueError(f"channels must be a multiple of group_size {self.group_size}, got {x.shape[1]}")
        if self.group_size == 2:
            a, b = x.detach().chunk(2, dim=1)
            return _Exchange.apply(x, a < b)
        return x.unflatten(1, (self.group_size, -1)).sort(dim=1, descending=True).values.flatten(1, 2)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}"


class MaxMin(GroupSort):
    """Sorts pairs of channels: the maxima, then the minima.

    Raises:
        ValueError: If, when called, the number of channels is odd.

    Example:
        >>> MaxMin()(torch.tensor([[1.0, 3.0]]))
        tensor([[3., 1.]])
    """

    def __init__(self) -> None:
        super().__init__(group_size=2)


class _Exchange(torch.autograd.Function):
    """Exchanges channels i and i + C / 2 where a mask says so, which is its own adjoint: no gradient is ever split."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, mask: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return torch.cat([torch.where(mask, b, a), torch.where(mask, a, b)], dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(gradient, *ctx.saved_tensors), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Exchange.apply(tangent, *ctx.saved_tensors)
