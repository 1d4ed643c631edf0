"""A linear layer that keeps the norm."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo.paraunitary_conv.cached_weight import CachedWeight
from zoo.paraunitary_conv.orthogonal import Chart
from zoo.paraunitary_conv.parametrization import Init, SeparableParaunitary


class OrthogonalLinear(CachedWeight, nn.Linear):
    """A linear layer whose weight has orthonormal rows, or orthonormal columns if it has more rows than columns.

    Args:
        in_features: Size of the input.
        out_features: Size of the output.
        bias: Whether a bias is added.
        parametrization: ``"cayley"`` or ``"exp"``.
        init: ``"uniform"``, ``"permutation"``, ``"identity"``, ``"reverse"`` or ``"torus"``.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Trockman and Kolter, ICLR 2021, for the Cayley transform; used as the last layers by Su, Byeon, Huang.

    Example:
        >>> weight = OrthogonalLinear(5, 3).weight
        >>> torch.allclose(weight @ weight.mT, torch.eye(3), atol=1e-6)
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        parametrization: Chart = "cayley",
        init: Init = "uniform",
    ) -> None:
        super().__init__(in_features, out_features, bias)
        if bias:
            nn.init.zeros_(self.bias)
        factors = SeparableParaunitary(out_features, in_features, (), parametrization=parametrization, init=init)
        parametrize.register_parametrization(self, "weight", factors)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` times the transposed weight, shape ``(*, out_features)``."""
        return F.linear(x, self.current_weight(), self.bias)

    def singular_values(self) -> Tensor:
        """All singular values, in descending order; they are 1 up to rounding."""
        return torch.linalg.svdvals(self.current_weight())
