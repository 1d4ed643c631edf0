"""What a Lipschitz constant certifies: radii within which no perturbation changes a prediction."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def certified_radius(logits: Tensor, y: Tensor, lipschitz_constant: float | Tensor = 1.0) -> Tensor:
    r"""How far in the l2 norm an input can be moved without a wrong prediction, at least.

    .. math:: r = \frac{f_y - \max_{k \ne y} f_k}{\sqrt 2 \, L}

    A difference of two logits changes by at most :math:`\sqrt 2 L` times as much as the input.

    Args:
        logits: Shape ``(B, K)``, K >= 2.
        y: Labels, shape ``(B,)``.
        lipschitz_constant: L of the logits with respect to the input, in the l2 norm.

    Returns:
        Shape ``(B,)``; negative where the prediction is wrong.

    Source:
        Tsuzuku, Sato, Sugiyama, *Lipschitz-Margin Training*, NeurIPS 2018; as used by Su, Byeon, Huang, ICML 2022.

    Example:
        >>> certified_radius(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0]))
        tensor([1.4142])
    """
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -math.inf).amax(dim=1)
    return (own[:, 0] - others) / (math.sqrt(2) * lipschitz_constant)


class CertifiedAccuracy(Metric):
    """Share of samples that are classified rightly, certainly so whatever moves them by up to a radius.

    Args:
        eps: The radius, >= 0, or several.
        lipschitz_constant: Of the logits with respect to the input, in the l2 norm, > 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> certified = CertifiedAccuracy(eps=[0.0, 1.0, 2.0])
        >>> certified(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 0]))
        tensor([0.5000, 0.5000, 0.0000])
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    eps: Tensor
    certified: Tensor
    total: Tensor

    def __init__(self, eps: float | Sequence[float], lipschitz_constant: float = 1.0) -> None:
        super().__init__()
        radii = torch.as_tensor(eps, dtype=torch.float32)
        if not bool((radii >= 0).all()):
            raise ValueError(f"eps must be >= 0, got {eps}")
        if not lipschitz_constant > 0:
            raise ValueError(f"lipschitz_constant must be > 0, got {lipschitz_constant}")
        self.lipschitz_constant = lipschitz_constant
        self.register_buffer("eps", radii, persistent=False)
        self.add_state("certified", torch.zeros(radii.shape, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Add samples.

        Args:
            logits: Shape ``(B, K)``.
            y: Labels, shape ``(B,)``.
        """
        radius = certified_radius(logits, y, self.lipschitz_constant)
        self.certified += (radius > self.eps[..., None]).sum(-1)
        self.total += len(y)

    def compute(self) -> Tensor:
        """The shares, of the shape of ``eps``; NaN without samples."""
        return self.certified / self.total


class CertifiedRadius(Metric):
    """Mean certified radius, that of a wrong prediction counted as 0.

    Args:
        lipschitz_constant: Of the logits with respect to the input, in the l2 norm, > 0.

    Raises:
        ValueError: If the constant is not positive.

    Source:
        Zhai et al., *MACER*, ICLR 2020 (average certified radius).

    Example:
        >>> CertifiedRadius()(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 0]))
        tensor(0.7071)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    radii: Tensor
    total: Tensor

    def __init__(self, lipschitz_constant: float = 1.0) -> None:
        super().__init__()
        if not lipschitz_constant > 0:
            raise ValueError(f"lipschitz_constant must be > 0, got {lipschitz_constant}")
        self.lipschitz_constant = lipschitz_constant
        self.add_state("radii", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Add samples.

        Args:
            logits: Shape ``(B, K)``.
            y: Labels, shape ``(B,)``.
        """
        self.radii += certified_radius(logits, y, self.lipschitz_constant).clamp_min(0).sum()
        self.total += len(y)

    def compute(self) -> Tensor:
        """The mean; NaN without samples."""
        return self.radii / self.total
