"""What an attack maximises: losses of logits, one value for each image."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

LossName = Literal["cw", "dlr", "ce"]
Loss = Callable[[Tensor, Tensor], Tensor]
TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

TINY = 1e-12  # as in AutoAttack; ties of three logits are then no division by zero


def cw_loss(logits: Tensor, y: Tensor) -> Tensor:
    r"""The margin of Carlini and Wagner: the largest wrong logit above the right one.

    .. math:: L = \max_{i \ne y} z_i - z_y

    Positive exactly where the image is misclassified.

    Args:
        logits: Scores z, shape ``(B, K)``.
        y: Labels, shape ``(B,)``, int64.

    Returns:
        The margins, shape ``(B,)``.

    Source:
        Carlini and Wagner, *Towards Evaluating the Robustness of Neural Networks*, S&P 2017; the loss of the ACG paper.

    Example:
        >>> import torch
        >>> cw_loss(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]))
        tensor([-1.])
    """
    return _largest_other(logits, y) - _at(logits, y)


def dlr_loss(logits: Tensor, y: Tensor) -> Tensor:
    r"""Difference of logits ratio: the margin, divided so that the logits' scale does not matter.

    .. math:: L = \frac{\max_{i \ne y} z_i - z_y}{z_{\pi_1} - z_{\pi_3}}

    with the logits sorted downwards by :math:`\pi`.

    Args:
        logits: Scores z, shape ``(B, K)``, K >= 3.
        y: Labels, shape ``(B,)``, int64.

    Returns:
        The ratios, shape ``(B,)``, positive exactly where the image is misclassified.

    Raises:
        ValueError: If there are fewer than three classes.

    Source:
        Croce and Hein, *Reliable Evaluation of Adversarial Robustness*, ICML 2020, equation 6.

    Example:
        >>> import torch
        >>> dlr_loss(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]))
        tensor([-0.5000])
    """
    _check_classes(logits, 3, "loss dlr")
    top = logits.topk(3, dim=1).values
    return cw_loss(logits, y) / (top[:, 0] - top[:, 2] + TINY)


def ce_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats; its sign says nothing about success.

    Args:
        logits: Scores, shape ``(B, K)``.
        y: Labels, shape ``(B,)``, int64.

    Returns:
        The losses, shape ``(B,)``.

    Example:
        >>> import torch
        >>> ce_loss(torch.zeros(1, 4), torch.tensor([1]))
        tensor([1.3863])
    """
    return F.cross_entropy(logits, y, reduction="none")


def targeted_cw_loss(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    r"""How far one wrong logit lies above the right one, :math:`z_t - z_y`.

    Args:
        logits: Scores z, shape ``(B, K)``.
        y: Labels, shape ``(B,)``, int64.
        target: Wrong classes t, shape ``(B,)``, int64.

    Returns:
        The differences, shape ``(B,)``.
    """
    return _at(logits, target) - _at(logits, y)


def targeted_dlr_loss(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    r"""The targeted difference of logits ratio.

    .. math:: L = \frac{z_t - z_y}{z_{\pi_1} - \tfrac12 (z_{\pi_3} + z_{\pi_4})}

    Args:
        logits: Scores z, shape ``(B, K)``, K >= 4.
        y: Labels, shape ``(B,)``, int64.
        target: Wrong classes t, shape ``(B,)``, int64.

    Returns:
        The ratios, shape ``(B,)``.

    Raises:
        ValueError: If there are fewer than four classes.

    Source:
        Croce and Hein, ICML 2020, equation 7.
    """
    _check_classes(logits, 4, "loss dlr with targets")
    top = logits.topk(4, dim=1).values
    return targeted_cw_loss(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + TINY)


def targeted_ce_loss(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The log-probability of a wrong class, in nats.

    Args:
        logits: Scores, shape ``(B, K)``.
        y: Labels, which play no part, shape ``(B,)``.
        target: Wrong classes, shape ``(B,)``, int64.

    Returns:
        The log-probabilities, shape ``(B,)``.
    """
    return -F.cross_entropy(logits, target, reduction="none")


LOSSES: dict[str, Loss] = {"cw": cw_loss, "dlr": dlr_loss, "ce": ce_loss}
TARGETED_LOSSES: dict[str, TargetedLoss] = {
    "cw": targeted_cw_loss,
    "dlr": targeted_dlr_loss,
    "ce": targeted_ce_loss,
}


def success_margin(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """How far an attack has succeeded, whatever loss it maximises: positive where it has.

    Args:
        logits: Scores, shape ``(B, K)``.
        y: Labels, shape ``(B,)``.
        target: Classes that the images are to be taken for, shape ``(B,)``; any wrong one if ``None``.

    Returns:
        The margin of the wrong classes over the label, or of the target over all others, shape ``(B,)``.
    """
    return cw_loss(logits, y) if target is None else -cw_loss(logits, target)


def is_adversarial(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Whether the class of the largest logit is what the attack wants, shape ``(B,)``; arguments as above."""
    predicted = logits.argmax(dim=1)
    return predicted != y if target is None else predicted == target


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _largest_other(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.scatter(1, classes[:, None], -float("inf")).amax(dim=1)


def _check_classes(logits: Tensor, lowest: int, user: str) -> None:
    if logits.shape[1] < lowest:
        raise ValueError(f"{user} needs logits of at least {lowest} classes, got {logits.shape[1]}")
