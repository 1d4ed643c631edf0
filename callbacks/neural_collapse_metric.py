"""Neural collapse of features that come in batches, in one process or several."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from callbacks.neural_collapse import (
    OF_CLASSIFIER,
    OF_FEATURES,
    BiasTarget,
    NanPolicy,
    all_nan,
    check_batch,
    check_options,
    checked_classifier,
    clamped,
    classes_to_measure,
    collapse_of,
)
from callbacks.neural_collapse_statistics import ClassStatistics, GlobalMean, class_sums, whitening, widest


class NeuralCollapse(Metric):
    r"""Measures of neural collapse (NC1 to NC4), by name.

    The names and their equations are those of :func:`~callbacks.neural_collapse.neural_collapse`, which takes all
    features at once: ``nc1``, ``trace_ratio``, ``cdnv``, ``nc2_features``, ``of_features``, ``equinorm_features``,
    ``equiangularity_features`` and ``max_equiangularity_features``, and with a classifier ``nc2_classifier``,
    ``of_classifier``, ``equinorm_classifier``, ``equiangularity_classifier``, ``max_equiangularity_classifier``,
    ``nc3``, ``nc3_of``, ``self_duality``, ``self_duality_of`` and ``nc4_bias``. The most used of them are

    .. math::
        \text{nc1} = \tfrac1K \operatorname{tr}(\Sigma_W \Sigma_B^\dagger), \quad
        \text{nc2} = \Big\| \tfrac{M M^\top}{\|M M^\top\|_F} - \tfrac{I - J}{\sqrt{K - 1}} \Big\|_F, \quad
        \text{nc3} = \Big\| \tfrac{W_c M^\top}{\|W_c M^\top\|_F} - \tfrac{I - J}{\sqrt{K - 1}} \Big\|_F

    The share of samples that the nearest class centre decides as the classifier does is not among them: it needs the
    class means first, and the samples once more. That is
    :class:`~callbacks.neural_collapse_second_pass.NearestClassCenterAgreement`, which is given :attr:`class_means`.

    The state is sums: the size of each class, the sum of its features :math:`S_k` and of their squared lengths, and the
    second moment :math:`Q = \sum_n h_n h_n^\top`, from which :math:`N \Sigma_W = Q - \sum_k n_k \mu_k \mu_k^\top`. So
    merging states, and processes, is exact. In float64 it takes :math:`8 (d^2 + K d + 2K)` bytes, 50 MB for d = 2048
    and K = 1000. Samples that a sampler has repeated to even out the processes count twice.

    As input to ``forward`` and ``update`` the metric accepts

    - ``features`` (:class:`~torch.Tensor`): what the classifier is given, floating point, shape ``(N, d)``
    - ``target`` (:class:`~torch.Tensor`): class of each, integers in ``[0, K)``, shape ``(N,)``

    As output of ``forward`` and ``compute`` the metric returns

    - ``results`` (:class:`dict`): scalar tensors by name, in float64

    Args:
        num_classes: Number of classes K, at least 2.
        num_features: Dimension d of the features.
        classifier: The linear layer on the features, with a ``weight`` ``(K, d)`` and perhaps a ``bias`` ``(K,)``; it
            is read at ``compute``, and stays the same one in copies of the metric.
        global_mean: ``"sample"`` or ``"class"``: the mean of all samples or of the class means.
        center_classifier: Whether ``nc2_classifier`` and ``nc3`` subtract the mean of W's rows first.
        bias_target: What :math:`W \mu_G + b` is compared with in ``nc4_bias``, a number or ``"1/K"``.
        second_moment: Whether Q is kept. Without it there is no ``nc1``, and the state takes d x d numbers less.
        correction: What is subtracted from the number of values in the variances of ``equinorm`` and
            ``equiangularity``: 1 or 0.
        rtol: Singular values of M up to this share of the largest are left out of the inverse.
        nan_policy: Where a class has no sample: ``"nan"`` makes all results NaN, with a warning; ``"skip"`` measures
            the other classes, K being their number.
        dtype: Of the state: ``torch.float64``, or ``torch.float32`` where there is no other.
        shift: Subtracted from all features before they are summed, ``(d,)``, and the same in every process; the mean of
            some batch serves. In float32 scatter that is small beside the features is lost without it.
        validate_args: Whether batches are checked; this waits for the device.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of range, or shapes do not fit; and by ``update``, if a label is no class or a
            feature is not finite.

    Source:
        Papyan, Han and Donoho, PNAS 2020; Zhou et al., ICML 2022; Tirer and Bruna, ICML 2022.

    Example:
        >>> metric = NeuralCollapse(num_classes=3, num_features=3, classifier=nn.Linear(3, 3))
        >>> metric.update(2 * torch.eye(3), torch.arange(3))
        >>> metric.update(4 * torch.eye(3), torch.arange(3))
        >>> metric.compute()["nc1"]
        tensor(0.0741, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    counts: Tensor
    sums: Tensor
    squared_norms: Tensor
    second_moment: Tensor
    shift: Tensor | None

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        *,
        classifier: nn.Module | None = None,
        global_mean: GlobalMean = "sample",
        center_classifier: bool = True,
        bias_target: BiasTarget = 0.0,
        second_moment: bool = True,
        correction: int = 1,
        rtol: float = 1e-6,
        nan_policy: NanPolicy = "nan",
        dtype: torch.dtype = torch.float64,
        shift: Tensor | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_options(num_classes, num_features, global_mean, bias_target, correction, rtol, nan_policy)
        if dtype not in (torch.float64, torch.float32):
            raise ValueError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
        if shift is not None and shift.shape != (num_features,):
            raise ValueError(f"shift must have shape ({num_features},), got {tuple(shift.shape)}")
        self.num_classes, self.num_features = num_classes, num_features
        self.global_mean, self.center_classifier, self.bias_target = global_mean, center_classifier, bias_target
        self.correction, self.rtol, self.nan_policy = correction, rtol, nan_policy
        self.validate_args = validate_args
        self._classifier = Shared(classifier)
        if classifier is not None:
            weights_of(classifier, num_classes, num_features)
        self.register_buffer("shift", None if shift is None else shift.detach().to(dtype), persistent=False)
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(num_classes, num_features, dtype=dtype), dist_reduce_fx="sum")
        self.add_state("squared_norms", torch.zeros(num_classes, dtype=dtype), dist_reduce_fx="sum")
        self.has_second_moment = second_moment
        if second_moment:
            zeros = torch.zeros(num_features, num_features, dtype=dtype)
            self.add_state("second_moment", zeros, dist_reduce_fx="sum")

    def update(self, features: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            features: Floating point, shape ``(N, d)``.
            target: Class of each, integers in ``[0, K)``, shape ``(N,)``.
        """
        if self.validate_args:
            check_batch(features, target, self.num_classes, self.num_features)
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            features = features.to(self.sums.dtype)
            features = features if self.shift is None else features - self.shift
            self.counts += class_sums(torch.ones_like(target), target, self.num_classes)
            self.sums += class_sums(features, target, self.num_classes)
            self.squared_norms += class_sums(features.square().sum(dim=1), target, self.num_classes)
            if self.has_second_moment:
                self.second_moment.addmm_(features.T, features)

    def compute(self) -> dict[str, Tensor]:
        """The results of all batches so far, scalars by name."""
        present = classes_to_measure(widest(self.counts), self.nan_policy)
        with torch.no_grad(), torch.autocast(self.sums.device.type, enabled=False):
            return self._all_nan() if present is None else self._results(present)

    def _all_nan(self) -> dict[str, Tensor]:
        names = OF_FEATURES if self.has_second_moment else OF_FEATURES[1:]
        return all_nan(names + (OF_CLASSIFIER if self._classifier.module is not None else ()), widest(self.sums))

    def _results(self, present: Tensor) -> dict[str, Tensor]:
        statistics = self.statistics().select(present)
        classifier = None
        if self._classifier.module is not None:
            weight, bias = self._weights()
            classifier = weight[present], bias[present]
        options = self.global_mean, self.center_classifier, self.bias_target, self.correction
        results = collapse_of(statistics, classifier, *options)
        if not self.has_second_moment:
            return results
        whitened = whitening(statistics, self.global_mean, self.rtol)
        nc1 = results["trace_ratio"] if whitened is None else self._nc1(statistics, whitened)
        return {"nc1": clamped("nc1", nc1), **results}

    def _nc1(self, statistics: ClassStatistics, whitened: Tensor) -> Tensor:
        total = ((widest(self.second_moment) @ whitened) * whitened).sum()
        of_means = statistics.counts @ (statistics.means @ whitened).square().sum(dim=1)
        return (total - of_means) / statistics.counts.sum()

    def whitening(self) -> Tensor | None:
        """What :func:`~callbacks.neural_collapse_statistics.whitening` gives for the classes that are measured.

        ``None`` if NC1 is not defined: a class has no sample (and none is skipped), or all class means are equal.
        """
        statistics = self.statistics()
        present = statistics.counts > 0
        if present.sum() < (self.num_classes if self.nan_policy == "nan" else 2):
            return None
        return whitening(statistics.select(present), self.global_mean, self.rtol)

    def statistics(self) -> ClassStatistics:
        """Size, mean and variance of each class over all processes, in float64; NaN where a class has no sample."""
        apart = not self._is_synced
        with self.sync_context(should_sync=apart, should_unsync=apart):
            counts, sums, squared_norms = (widest(state) for state in (self.counts, self.sums, self.squared_norms))
        means = sums / counts[:, None]
        variances = squared_norms / counts - means.square().sum(dim=1)
        return ClassStatistics(counts, means, variances, None if self.shift is None else widest(self.shift))

    @property
    def class_means(self) -> Tensor:
        """Mean features of each class over all processes, ``(K, d)``, in float64; NaN where a class has no sample."""
        statistics = self.statistics()
        return statistics.unshifted(statistics.means)

    def _weights(self) -> tuple[Tensor, Tensor]:
        assert self._classifier.module is not None
        weight, bias = weights_of(self._classifier.module, self.num_classes, self.num_features)
        device = widest(self.sums[:0]).device
        return weight.to(device), bias.to(device)


class Shared:
    """A module that belongs to somebody else: it is no part of a metric's state, and copies refer to the same one."""

    def __init__(self, module: nn.Module | None) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
        return self


def weights_of(classifier: nn.Module, num_classes: int, num_features: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer, in float64.

    Raises:
        ValueError: If it has no weight ``(K, d)``.
    """
    weight, bias = getattr(classifier, "weight", None), getattr(classifier, "bias", None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"classifier must be a layer with a weight, got {type(classifier).__name__}")
    return checked_classifier(weight, bias, num_classes, num_features)
