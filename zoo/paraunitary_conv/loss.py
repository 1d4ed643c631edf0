"""The loss of networks whose margins are certificates."""

import math

import torch.nn.functional as F
from torch import Tensor, nn


class LipschitzMarginLoss(nn.Module):
    r"""The multi-margin loss: other logits must stay below the label's by a margin.

    .. math:: \frac1K \sum_{k \ne y} \max(0, \; m - f_y + f_k)

    A sample without loss is certified up to the radius :math:`m / (\sqrt 2 L)`, see :attr:`certified_eps`.

    Args:
        margin: The margin m, > 0, in units of the logits.
        lipschitz_constant: L of the logits with respect to the input, > 0; the margin grows with it.

    Raises:
        ValueError: If an argument is not positive.

    Source:
        The authors' code trains with the margin 0.5.

    Example:
        >>> import torch
        >>> LipschitzMarginLoss(margin=0.5)(torch.tensor([[1.0, 0.7]]), torch.tensor([0]))
        tensor(0.1000)
    """

    def __init__(self, margin: float = 0.5, lipschitz_constant: float = 1.0) -> None:
        super().__init__()
        for name, value in {"margin": margin, "lipschitz_constant": lipschitz_constant}.items():
            if not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        self.margin, self.lipschitz_constant = margin, lipschitz_constant

    @property
    def certified_eps(self) -> float:
        """The l2 radius up to which a sample without loss is certified."""
        return self.margin / math.sqrt(2)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean loss, scalar.

        Args:
            logits: Shape ``(B, K)``.
            y: Labels, shape ``(B,)``.
        """
        return F.multi_margin_loss(logits, y, margin=self.margin * self.lipschitz_constant)
