"""Global minimisers of unconstrained-features models, one scalar problem for each singular direction."""

from dataclasses import dataclass
from typing import Literal

import torch
from scipy.optimize import brentq
from torch import Tensor

Structure = Literal["OF", "ETF", "interpolated", "low rank", "zero"]


@dataclass(frozen=True)
class UFMSolution:
    r"""What all global minimisers have in common, for each of S replicas.

    With the all-ones vector as one direction, the network's outputs for the class means are

    .. math:: \bar Z + b 1^\top = \sigma (I - J) + \sigma_1 J + \beta 1 1^\top, \qquad J = 1 1^\top / K

    where of the K - 1 directions of I - J only ``rank`` are kept if the features have fewer dimensions.

    Attributes:
        sigma: Singular value of the product of the weights and the class means, off the all-ones direction, ``(S,)``.
        sigma_ones: Its singular value along the all-ones direction, ``(S,)``.
        bias: The value of every entry of the bias, ``(S,)``; 0 without bias.
        objective: The smallest value of the objective, ``(S,)``.
        grams: Inner products of the class means in every layer, ``(S, L, K, K)``; NaN where minimisers differ.
        collapsed: Whether all weights and features are zero, ``(S,)``.
        structure: Of the class means, for each replica: ``"OF"``, an orthogonal frame; ``"ETF"``, a simplex equiangular
            tight frame; ``"interpolated"``, between the two; ``"low rank"``, a projection of one of them; ``"zero"``.
    """

    sigma: Tensor
    sigma_ones: Tensor
    bias: Tensor
    objective: Tensor
    grams: Tensor
    collapsed: Tensor
    structure: tuple[Structure, ...]

    def outputs(self) -> Tensor:
        """Logits of the class means, ``(S, K, K)``, where every direction is kept."""
        num_classes = self.grams.shape[-1]
        frame = symmetric(self.sigma, self.sigma_ones, num_classes)
        return frame + self.bias[:, None, None]


def symmetric(others: Tensor, ones: Tensor, num_classes: int) -> Tensor:
    """The matrices ``others (I - J) + ones J``, shape ``(*, K, K)``, of values ``(*)``."""
    mean = torch.full((num_classes, num_classes), 1 / num_classes, dtype=others.dtype, device=others.device)
    eye = torch.eye(num_classes, dtype=others.dtype, device=others.device)
    return others[..., None, None] * (eye - mean) + ones[..., None, None] * mean


def stationary_value(strength: Tensor, depth: int) -> Tensor:
    r"""The larger root of :math:`\sigma^{(L-1)/(L+1)} (1 - \sigma) = x`, NaN where there is none above zero.

    It is where :math:`(\sigma - 1)^2 / 2 + \tfrac{L + 1}{2} x \, \sigma^{2 / (L + 1)}` has its minimum away from zero.

    Args:
        strength: The values x, > 0, any shape.
        depth: Number L of weight matrices.

    Example:
        >>> stationary_value(torch.tensor([0.2439, 0.9], dtype=torch.float64), depth=2)
        tensor([0.7290,    nan], dtype=torch.float64)
    """
    power = (depth - 1) / (depth + 1)
    top = power / (1 + power)  # where the left-hand side is largest

    def root(x: float) -> float:
        if not x < top**power * (1 - top):
            return torch.nan
        return brentq(lambda sigma: sigma**power * (1 - sigma) - x, top, 1.0, xtol=1e-16)

    roots = [root(x) for x in strength.flatten().tolist()]
    return torch.tensor(roots, dtype=strength.dtype, device=strength.device).view(strength.shape)
