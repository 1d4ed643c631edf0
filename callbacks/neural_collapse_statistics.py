"""What neural collapse is measured from: size, mean and scatter of each class."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

GlobalMean = Literal["sample", "class"]
GRAM_CONDITION = 1e-5  # eigenvalues of a Gram matrix above this share of the largest have about ten digits
SMALL = 200  # classes up to which a thin SVD costs nothing


@dataclass(frozen=True)
class ClassStatistics:
    """Sizes, means and scatter of K classes, in one floating-point dtype.

    Attributes:
        counts: Samples of each class, shape ``(K,)``.
        means: Mean of each class less ``shift``, shape ``(K, d)``.
        variances: Mean squared distance of each class's samples to its mean, shape ``(K,)``.
        shift: What has been subtracted from all features, ``(d,)``; ``None`` for nothing.
    """

    counts: Tensor
    means: Tensor
    variances: Tensor
    shift: Tensor | None = None

    def global_mean(self, kind: GlobalMean = "sample") -> Tensor:
        """The mean over samples or over classes, ``(d,)``, less ``shift``; the two differ where sizes do."""
        if kind == "class":
            return self.means.mean(dim=0)
        return self.counts @ self.means / self.counts.sum()

    def centred_means(self, kind: GlobalMean = "sample") -> Tensor:
        """Class means less the global mean, ``(K, d)``."""
        return self.means - self.global_mean(kind)

    def means_differ(self, kind: GlobalMean = "sample") -> bool:
        """Whether the class means differ by more than round-off."""
        round_off = 10 * torch.finfo(self.means.dtype).eps * self.means.norm()
        return bool(self.centred_means(kind).norm() > round_off)

    def unshifted(self, vectors: Tensor) -> Tensor:
        """Means as they are in the features' own coordinates."""
        return vectors if self.shift is None else vectors + self.shift

    def within_trace(self) -> Tensor:
        r"""Trace of :math:`\Sigma_W`: the mean squared distance of a sample to its class mean."""
        return self.counts @ self.variances / self.counts.sum()

    def select(self, classes: Tensor) -> "ClassStatistics":
        """Some of the classes, by a mask ``(K,)``."""
        return ClassStatistics(self.counts[classes], self.means[classes], self.variances[classes], self.shift)


def class_statistics(features: Tensor, target: Tensor, num_classes: int) -> ClassStatistics:
    """Statistics of features that are all in memory: means first, then the distances to them.

    Args:
        features: Shape ``(N, d)``, floating point; float64 is used inside.
        target: Class of each, shape ``(N,)``, int64.
        num_classes: Number of classes K.

    Returns:
        The statistics; means and variances of an absent class are NaN.

    Example:
        >>> statistics = class_statistics(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), num_classes=2)
        >>> statistics.means.flatten().tolist(), statistics.variances.tolist()
        ([2.0, 5.0], [1.0, 0.0])
    """
    features = widest(features)
    counts = class_sums(torch.ones_like(features[:, 0]), target, num_classes)
    means = class_sums(features, target, num_classes) / counts[:, None]
    variances = class_sums((features - means[target]).square().sum(dim=1), target, num_classes) / counts
    return ClassStatistics(counts, means, variances)


def class_sums(values: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Sum of the values ``(N, *)`` of each class, ``(K, *)``."""
    return values.new_zeros(num_classes, *values.shape[1:]).index_add_(0, target, values)


def widest(values: Tensor) -> Tensor:
    """The values in float64; on the CPU, if their device has none."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


def whitening(statistics: ClassStatistics, global_mean: GlobalMean = "sample", rtol: float = 1e-6) -> Tensor | None:
    r"""What maps deviations from class means to coordinates whose mean square is NC1.

    With the centred class means :math:`M = U S V^\top` (K x d) it is :math:`T = V S^{-1}`, so that
    :math:`K \, T T^\top = \Sigma_B^\dagger` and

    .. math:: \tfrac1K \operatorname{tr}(\Sigma_W \Sigma_B^\dagger)
              = \operatorname{tr}(T^\top \Sigma_W T) = \tfrac1N \sum_n \| T^\top (h_n - \mu_{y_n}) \|^2

    and no d x d matrix is inverted. :math:`\Sigma_B` has rank K - 1 at most, and singular values of M up to ``rtol``
    times the largest are round-off: their directions are left out.

    Args:
        statistics: Of the classes.
        global_mean: What the class means are centred by.
        rtol: Smallest singular value that counts, as a share of the largest.

    Returns:
        T, shape ``(d, min(K, d))``, zero in directions left out; ``None`` if all class means are equal.
    """
    if not statistics.means_differ(global_mean):
        return None
    means = statistics.centred_means(global_mean)
    if len(means) > SMALL and len(means) <= means.shape[1]:
        whitened = _whitening_by_gram(means, rtol)
        if whitened is not None:
            return whitened
    _, singular, right = torch.linalg.svd(means, full_matrices=False)
    keep = singular > rtol * singular[0]
    keep[len(means) - 1 :] = False
    return right.T * torch.where(keep, 1 / singular, 0)


def _whitening_by_gram(means: Tensor, rtol: float) -> Tensor | None:
    """The same from the Gram matrix, several times faster; ``None`` if its eigenvalues spread too far for that."""
    squared, left = torch.linalg.eigh(means @ means.T)
    squared, left = squared[1:], left[:, 1:]  # the smallest one is zero
    if squared[0] < max(GRAM_CONDITION, rtol**2) * squared[-1]:
        return None
    return means.T @ (left / squared)
