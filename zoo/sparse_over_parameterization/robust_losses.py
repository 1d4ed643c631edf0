"""Losses that bear wrong labels, to compare with: each is a ``criterion`` of a classifier."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class GeneralizedCrossEntropy(nn.Module):
    r"""Between cross-entropy (q to 0) and the mean absolute error (q = 1), which bears wrong labels but learns slowly.

    .. math:: L = \frac 1 B \sum_i \frac{1 - p_{i, y_i}^q}{q}

    Args:
        q: In (0, 1].

    Raises:
        ValueError: If ``q`` is out of range.

    Source:
        Zhang and Sabuncu, *Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels*,
        NeurIPS 2018, equation 6.

    Example:
        >>> import torch
        >>> GeneralizedCrossEntropy(q=1.0)(torch.zeros(1, 4), torch.tensor([2]))
        tensor(0.7500)
    """

    def __init__(self, q: float = 0.7) -> None:
        super().__init__()
        if not 0 < q <= 1:
            raise ValueError(f"q must be in (0, 1], got {q}")
        self.q = q

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean over a batch of logits ``(B, K)`` and labels ``(B,)``, scalar."""
        log_p = -F.cross_entropy(logits, y, reduction="none")
        return -(self.q * log_p).expm1().mean() / self.q


class SymmetricCrossEntropy(nn.Module):
    r"""Cross-entropy, and that of the label to the prediction with a finite logarithm of zero.

    .. math:: L = \alpha \, \mathrm{CE}(y, p) + \beta \, (-A) \frac 1 B \sum_i (1 - p_{i, y_i})

    Args:
        alpha: Weight of cross-entropy, >= 0.
        beta: Weight of the reverse term, >= 0.
        log_zero: The A that stands for log 0, < 0.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Wang et al., *Symmetric Cross Entropy for Robust Learning with Noisy Labels*, ICCV 2019, section 4.

    Example:
        >>> import torch
        >>> SymmetricCrossEntropy(alpha=0.0, beta=1.0)(torch.zeros(1, 4), torch.tensor([2]))
        tensor(3.)
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0) -> None:
        super().__init__()
        for name, weight in {"alpha": alpha, "beta": beta}.items():
            if not weight >= 0:
                raise ValueError(f"{name} must be >= 0, got {weight}")
        if not log_zero < 0:
            raise ValueError(f"log_zero must be < 0, got {log_zero}")
        self.alpha, self.beta, self.log_zero = alpha, beta, log_zero

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean over a batch of logits ``(B, K)`` and labels ``(B,)``, scalar."""
        nats = F.cross_entropy(logits, y, reduction="none")
        return self.alpha * nats.mean() + self.beta * self.log_zero * (-nats).expm1().mean()


class BootstrapCrossEntropy(nn.Module):
    r"""Cross-entropy to a mixture of the label and the network's own prediction.

    .. math:: L = -\frac 1 B \sum_i \big(\beta y_i + (1 - \beta) z_i\big)^\top \log p_i

    Args:
        beta: Share of the label, in [0, 1].
        kind: ``"soft"``, z is the prediction p; or ``"hard"``, its one-hot argmax.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Reed et al., *Training Deep Neural Networks on Noisy Labels with Bootstrapping*, ICLR 2015 (workshop),
        section 3; beta is 0.95 for the soft and 0.8 for the hard kind there.

    Example:
        >>> import torch
        >>> BootstrapCrossEntropy(beta=0.0, kind="hard")(torch.tensor([[0.0, 100.0]]), torch.tensor([0]))
        tensor(0.)
    """

    def __init__(self, beta: float = 0.8, kind: Literal["soft", "hard"] = "hard") -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be in [0, 1], got {beta}")
        if kind not in ("soft", "hard"):
            raise ValueError(f"kind must be one of soft, hard, got {kind!r}")
        self.beta, self.kind = beta, kind

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean over a batch of logits ``(B, K)`` and labels ``(B,)``, scalar."""
        own = logits.softmax(dim=1) if self.kind == "soft" else logits.argmax(dim=1)
        return self.beta * F.cross_entropy(logits, y) + (1 - self.beta) * F.cross_entropy(logits, own)
