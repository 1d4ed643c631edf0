"""The loss that asks several stochastic passes to agree on a sharpened common answer."""

import torch.nn.functional as F
from torch import Tensor, nn


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    r"""Sharpen distributions: :math:`p_c^{1/T} / \sum_{c'} p_{c'}^{1/T}`.

    Args:
        probs: Probabilities, shape ``(*, C)``.
        temperature: T > 0; below 1 sharpens, 1 changes nothing, above 1 flattens.

    Returns:
        Probabilities, shape ``(*, C)``.

    Raises:
        ValueError: If ``temperature`` is not positive.

    Example:
        >>> import torch
        >>> sharpen(torch.tensor([0.25, 0.75]), temperature=0.5)
        tensor([0.1000, 0.9000])
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    return F.softmax(probs.clamp_min(1e-38).log() / temperature, dim=-1)  # in logs: p^(1/T) underflows for small T


def sharpened_consistency_loss(log_probs: Tensor, temperature: float = 0.5, reduction: str = "mean") -> Tensor:
    r"""Squared distance of every pass to the sharpened mean of all passes.

    .. math:: \frac1K \sum_k \frac1N \sum_n \lVert p^{(k)}_n - \bar p'_n \rVert_2^2, \qquad
              \bar p' = \mathrm{sharpen}\Big(\tfrac1K \textstyle\sum_k p^{(k)}\Big)

    No gradient flows through the target. Probabilities are averaged, not their logarithms.

    Args:
        log_probs: Log-probabilities of K passes, shape ``(*, K, N, C)``.
        temperature: Of :func:`sharpen`.
        reduction: Over the nodes: ``"mean"`` (the authors' code), ``"sum"`` (the paper's equation) or ``"none"``.

    Returns:
        The loss, shape ``(*)``; with ``reduction="none"``, ``(*, N)``.

    Raises:
        ValueError: If ``temperature`` is not positive or ``reduction`` is none of the above.

    Source:
        Liu et al., ICML 2022, section 3.2, equations 8-9; sharpening as in GRAND (Feng et al., NeurIPS 2020).
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    probs = log_probs.exp()
    target = sharpen(probs.detach().mean(dim=-3, keepdim=True), temperature)
    distance = (probs - target).square().sum(dim=-1).mean(dim=-2)
    if reduction == "none":
        return distance
    return distance.mean(dim=-1) if reduction == "mean" else distance.sum(dim=-1)


class SharpenedConsistencyLoss(nn.Module):
    """:func:`sharpened_consistency_loss` as a module.

    Args:
        temperature: Of :func:`sharpen`, > 0.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over the nodes.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> log_probs = torch.log_softmax(torch.randn(4, 10, 3), dim=-1)  # 4 passes, 10 nodes, 3 classes
        >>> bool(SharpenedConsistencyLoss(temperature=0.5)(log_probs) > 0)
        True
    """

    def __init__(self, temperature: float = 0.5, reduction: str = "mean") -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        self.temperature = temperature
        self.reduction = reduction

    def forward(self, log_probs: Tensor) -> Tensor:
        return sharpened_consistency_loss(log_probs, self.temperature, self.reduction)
