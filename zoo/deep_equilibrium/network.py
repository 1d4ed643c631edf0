"""A linear layer, a deep equilibrium layer and a linear layer, of many networks at once."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.deep_equilibrium.cell import InjectionCell
from zoo.deep_equilibrium.layer import DEQ


class DEQNetwork(nn.Module):
    r"""R independent networks :math:`o = V z^* + c`, where :math:`z^* = \phi(W z^* + U x + b)`.

    Every parameter has a leading axis of replicas, and every product is one of stacks. U and V start with Gaussian
    entries of variance one over their number of columns, b and c at 0.

    Args:
        in_features: Numbers in an input.
        num_classes: Outputs K.
        cell: The W and the activation, of R replicas.
        **layer: Arguments of :class:`~zoo.deep_equilibrium.DEQ`.

    Example:
        >>> network = DEQNetwork(784, 10, InjectionCell(32, "linear", num_replicas=3))
        >>> network(torch.randn(5, 1, 28, 28)).shape
        torch.Size([3, 5, 10])
    """

    def __init__(self, in_features: int, num_classes: int, cell: InjectionCell, **layer: Any) -> None:
        super().__init__()
        num_replicas, width = cell.weight.shape[:2]
        self.input_weight = nn.Parameter(torch.randn(num_replicas, width, in_features) / in_features**0.5)
        self.input_bias = nn.Parameter(torch.zeros(num_replicas, 1, width))
        self.cell = cell
        self.deq = DEQ(cell, batch_dims=2, **layer)
        self.head_weight = nn.Parameter(torch.randn(num_replicas, num_classes, width) / width**0.5)
        self.head_bias = nn.Parameter(torch.zeros(num_replicas, 1, num_classes))

    def inject(self, x: Tensor) -> Tensor:
        """The injections U x + b of inputs ``(B, *)``, shape ``(R, B, N)``."""
        rows = x.flatten(1).expand(len(self.input_weight), -1, -1)
        return torch.baddbmm(self.input_bias, rows, self.input_weight.mT)

    def readout(self, z: Tensor) -> Tensor:
        """The outputs of states ``(R, B, N)``, shape ``(R, B, K)``."""
        return torch.baddbmm(self.head_bias, z, self.head_weight.mT)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of inputs ``(B, *)``, shape ``(R, B, K)``."""
        return self.readout(self.deq(self.inject(x)))
