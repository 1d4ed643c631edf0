"""How much a network has learnt of a feature, and how much it has memorised of noise."""

import torch
from torch import Tensor
from torchmetrics import Metric


def feature_alignment(weight: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
    r"""The largest coefficient of a feature in a filter, and the cosine of the two.

    .. math:: \max_r \langle w_r, w_* \rangle

    Not the largest magnitude: where the activation is odd, only positive coefficients grow.

    Args:
        weight: Filters, ``(*, m, d)``.
        signal: The feature, a unit vector, ``(*, d)``.

    Returns:
        The coefficient and the cosine, both ``(*)``.

    Example:
        >>> feature_alignment(torch.tensor([[3.0, 4.0], [-9.0, 0.0]]), torch.tensor([1.0, 0.0]))
        (tensor(3.), tensor(0.6000))
    """
    coefficients = (weight @ signal.unsqueeze(-1)).squeeze(-1)
    largest, winner = coefficients.max(dim=-1)
    lengths = weight.norm(dim=-1).gather(-1, winner.unsqueeze(-1)).squeeze(-1)
    return largest, largest / lengths


def noise_memorization(correlations: Tensor, signal_patch: Tensor) -> Tensor:
    r"""The largest magnitude of a filter's product with a noise patch of each sample.

    .. math:: \max_{r, \, j \ne P(X_i)} |\langle w_r, X_{ij} \rangle|

    Args:
        correlations: Products of filters and patches, ``(*, N, P, m)``.
        signal_patch: Which patch holds the feature, and is left out, ``(*, N)``, int64.

    Returns:
        Shape ``(*, N)``.

    Example:
        >>> correlations = torch.tensor([[[5.0, 1.0], [0.5, -2.0]]])  # one sample, two patches, two filters
        >>> noise_memorization(correlations, torch.tensor([0]))
        tensor([2.])
    """
    largest = correlations.abs().amax(dim=-1)
    is_signal = torch.nn.functional.one_hot(signal_patch, largest.shape[-1]).bool()
    return largest.masked_fill(is_signal, 0.0).amax(dim=-1)


class FeatureAlignment(Metric):
    """:func:`feature_alignment` of the network that was seen last: ``"max"`` and ``"cosine"``.

    Example:
        >>> metric = FeatureAlignment()
        >>> metric.update(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 0.0]))
        >>> metric.compute()
        {'max': tensor(3.), 'cosine': tensor(0.6000)}
    """

    is_differentiable = False
    full_state_update = False
    coefficient: Tensor
    cosine: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("coefficient", torch.tensor(torch.nan), dist_reduce_fx="mean")
        self.add_state("cosine", torch.tensor(torch.nan), dist_reduce_fx="mean")

    def update(self, weight: Tensor, signal: Tensor) -> None:
        """Take the filters ``(m, d)`` and the feature ``(d,)``."""
        self.coefficient, self.cosine = feature_alignment(weight.detach(), signal)

    def compute(self) -> dict[str, Tensor]:
        """The largest coefficient and its filter's cosine, scalars; NaN before an update."""
        return {"max": self.coefficient, "cosine": self.cosine}


class NoiseMemorization(Metric):
    """Mean of :func:`noise_memorization` over the samples of each group, large margins and small ones.

    Example:
        >>> metric = NoiseMemorization()
        >>> metric.update(torch.tensor([[[5.0], [-2.0]]]), torch.tensor([0]), torch.tensor([True]))
        >>> metric.compute()
        {'large': tensor(nan), 'small': tensor(2.)}
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(2), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, correlations: Tensor, signal_patch: Tensor, small_margin: Tensor) -> None:
        """Add samples.

        Args:
            correlations: Products of filters and patches, ``(N, P, m)``.
            signal_patch: Which patch holds the feature, ``(N,)``, int64.
            small_margin: Whether a sample has the small margin, ``(N,)``, bool.
        """
        memorized = noise_memorization(correlations.detach(), signal_patch)
        self.total += torch.stack([memorized[~small_margin].sum(), memorized[small_margin].sum()])
        self.count += torch.stack([(~small_margin).sum(), small_margin.sum()])

    def compute(self) -> dict[str, Tensor]:
        """The mean of each group, scalars; NaN where a group is empty."""
        large, small = self.total / self.count
        return {"large": large, "small": small}
