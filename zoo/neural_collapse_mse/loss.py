"""The rescaled mean squared error for classification."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Scale = Literal["mean", "half_sum"]
Reduction = Literal["mean", "sum", "none"]
SCALES, REDUCTIONS = ("mean", "half_sum"), ("mean", "sum", "none")


class RescaledMSELoss(nn.Module):
    r"""Squared error of logits z against M times the one-hot label, the true class weighted by alpha.

    .. math:: \ell(z, y) = s \, \Big( \alpha (z_y - M)^2 + \sum_{k \ne y} z_k^2 \Big)

    The factor s matters beside weight decay: with ``scale="mean"`` it is 1 / K, and the loss with alpha = M = 1 is
    ``nn.MSELoss``, as in the authors' code; with ``scale="half_sum"`` it is 1 / 2, as in the paper's equations. The
    latter with a decay :math:`\lambda` is the problem of the former with :math:`2 \lambda / K`, times K / 2.

    Args:
        num_classes: Number of classes K, against which logits are checked; ``None`` takes what comes.
        alpha: Weight of the true class's error, > 0.
        M: Target of the true class, > 0.
        scale: ``"mean"`` or ``"half_sum"``.
        reduction: Over the batch: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: If an argument is out of range; in the call, if the shapes do not fit.

    Source:
        Zhou et al., *On the Optimization Landscape of Neural Collapse under MSE Loss*, ICML 2022; before that Hui and
        Belkin, *Evaluation of Neural Architectures Trained with Square Loss vs Cross-Entropy*, ICLR 2021.

    Example:
        >>> import torch
        >>> loss = RescaledMSELoss(3, alpha=5.0, M=2.0, scale="half_sum")
        >>> loss(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([0]))  # (5 (1 - 2)^2 + 0 + 1) / 2
        tensor(3.)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        alpha: float = 1.0,
        M: float = 1.0,
        scale: Scale = "mean",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        for name, value in {"alpha": alpha, "M": M}.items():
            if not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.num_classes, self.alpha, self.M, self.scale, self.reduction = num_classes, alpha, M, scale, reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: Shape ``(B, K)``.
            target: Classes, int64 in ``[0, K)``, shape ``(B,)``.

        Returns:
            A scalar, or ``(B,)`` without reduction.
        """
        if logits.ndim != 2 or logits.shape[1] != (self.num_classes or logits.shape[1]):
            raise ValueError(f"logits must have shape (B, {self.num_classes or 'K'}), got {tuple(logits.shape)}")
        if target.shape != logits.shape[:1]:
            raise ValueError(f"target must have shape ({len(logits)},), got {tuple(target.shape)}")
        one_hot = F.one_hot(target, logits.shape[1]).to(logits)
        squares = (logits - self.M * one_hot).square()
        if self.alpha != 1:
            squares = squares * (1 + (self.alpha - 1) * one_hot)
        losses = squares.mean(dim=1) if self.scale == "mean" else squares.sum(dim=1) / 2
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, M={self.M}, scale={self.scale!r}, reduction={self.reduction!r}"
