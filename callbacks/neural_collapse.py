"""Neural collapse: how near features and classifier are to collapsing, as a function of both."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from callbacks.neural_collapse_frames import (
    distance_from_widest,
    equinorm,
    etf_gram_distance,
    orthogonal_frame_distance,
    orthogonal_gram_distance,
    pairwise_cosines,
    self_duality,
    simplex_etf_distance,
    spread,
)
from callbacks.neural_collapse_statistics import ClassStatistics, GlobalMean, class_statistics, whitening, widest

NanPolicy = Literal["nan", "skip"]
BiasTarget = float | Literal["1/K"]
OF_FEATURES = (
    "nc1",
    "trace_ratio",
    "cdnv",
    "nc2_features",
    "of_features",
    "equinorm_features",
    "equiangularity_features",
    "max_equiangularity_features",
)
OF_CLASSIFIER = (
    "nc2_classifier",
    "of_classifier",
    "equinorm_classifier",
    "equiangularity_classifier",
    "max_equiangularity_classifier",
    "nc3",
    "nc3_of",
    "self_duality",
    "self_duality_of",
    "nc4_bias",
)
ROUND_OFF = 1e-8  # a negative value up to this is a zero


def neural_collapse(
    features: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    num_classes: int | None = None,
    *,
    global_mean: GlobalMean = "sample",
    center_classifier: bool = True,
    bias_target: BiasTarget = 0.0,
    correction: int = 1,
    rtol: float = 1e-6,
    nan_policy: NanPolicy = "nan",
) -> dict[str, Tensor]:
    r"""Measures of neural collapse of features that are all in memory.

    :class:`~callbacks.neural_collapse_metric.NeuralCollapse` measures the same from batches and several processes.

    With features :math:`h_n` of classes :math:`y_n`, class means :math:`\mu_k`, the global mean :math:`\mu_G`, the rows
    :math:`\mu_k - \mu_G` of M, the rows :math:`\mu_k` of :math:`\bar H`, scatter within classes
    :math:`\Sigma_W = \frac1N \sum_n (h_n - \mu_{y_n})(h_n - \mu_{y_n})^\top` and between them
    :math:`\Sigma_B = \frac1K M^\top M`, and :math:`J = 11^\top / K`, the results are

    - ``nc1``: :math:`\operatorname{tr}(\Sigma_W \Sigma_B^\dagger) / K`. It does not see scatter outside the span of the
      class means; ``trace_ratio`` does.
    - ``trace_ratio``: :math:`\operatorname{tr} \Sigma_W / \operatorname{tr} \Sigma_B`.
    - ``cdnv``: the mean over pairs of classes of :math:`(v_i + v_j) / (2 \|\mu_i - \mu_j\|^2)`, where :math:`v_k` is
      the mean squared distance to :math:`\mu_k`.
    - ``nc2_features``: :func:`~callbacks.neural_collapse_frames.simplex_etf_distance` of M,
      :math:`\| M M^\top / \|M M^\top\|_F - (I - J)/\sqrt{K-1} \|_F`.
    - ``of_features``: :func:`~callbacks.neural_collapse_frames.orthogonal_frame_distance` of :math:`\bar H`,
      :math:`\| \bar H \bar H^\top / \|\bar H \bar H^\top\|_F - I/\sqrt K \|_F`.
    - ``equinorm_features``, ``equiangularity_features``, ``max_equiangularity_features``: of M, std over mean of the
      lengths; std of the cosines; mean distance of the cosines from :math:`-1/(K-1)`.

    and with a classifier W (K x d), b

    - ``nc2_classifier``, ``of_classifier``: the same two distances of W (centred over its rows for the first one),
    - ``equinorm_classifier``, ``equiangularity_classifier``, ``max_equiangularity_classifier``: of W as it is,
    - ``nc3``: :math:`\| W_c M^\top / \|W_c M^\top\|_F - (I - J)/\sqrt{K-1} \|_F` with the centred W,
    - ``nc3_of``: :math:`\| W \bar H^\top / \|W \bar H^\top\|_F - I/\sqrt K \|_F`,
    - ``self_duality``: :math:`\| W / \|W\|_F - M / \|M\|_F \|_F^2`; ``self_duality_of``: with :math:`\bar H` for M,
    - ``nc4_bias``: :math:`\| W \mu_G + b - t \|_2`. Under cross-entropy it vanishes with t = 0; under the squared loss
      with a free bias with t = 1/K, where t = 0 gives :math:`1/\sqrt K`,
    - ``ncc_agreement``: the share of samples whose class of the largest :math:`W h + b` is that of the nearest
      :math:`\mu_k`.

    Each is 0 at collapse, ``ncc_agreement`` 1, except that a simplex ETF is no orthogonal frame.

    Args:
        features: Shape ``(N, d)``, floating point; float64 is used inside.
        target: Class of each sample, shape ``(N,)``, int64 in ``[0, K)``.
        weight: Of the classifier, shape ``(K, d)``.
        bias: Of the classifier, shape ``(K,)``.
        num_classes: Number of classes K, at least 2; by default the rows of ``weight``, else the largest label + 1.
        global_mean: ``"sample"`` or ``"class"``: the mean of all samples or of the class means.
        center_classifier: Whether ``nc2_classifier`` and ``nc3`` subtract the mean of W's rows first.
        bias_target: t above, a number or ``"1/K"``.
        correction: What is subtracted from the number of values in the variances of ``equinorm`` and
            ``equiangularity``: 1 or 0.
        rtol: Singular values of M up to this share of the largest are left out of the inverse.
        nan_policy: Where a class has no sample: ``"nan"`` makes all results NaN, with a warning; ``"skip"`` measures
            the other classes, K being their number.

    Returns:
        Scalars by name.

    Raises:
        ValueError: If an argument is out of range, shapes do not fit, a label is no class, or a feature is not finite.

    Source:
        Papyan, Han and Donoho, PNAS 2020; Zhou et al., *On the Optimization Landscape of Neural Collapse under MSE
        Loss*, ICML 2022 (NC1 to NC3, centred W); Tirer and Bruna, ICML 2022 (orthogonal frames); Galanti et al., *On
        the Role of Neural Collapse in Transfer Learning*, ICLR 2022 (``cdnv``).

    Example:
        >>> features = torch.cat([2 * torch.eye(3), 4 * torch.eye(3)])
        >>> results = neural_collapse(features, torch.tensor([0, 1, 2, 0, 1, 2]), weight=torch.eye(3))
        >>> results["nc1"], results["max_equiangularity_classifier"]
        (tensor(0.0741, dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """
    if num_classes is None:
        num_classes = len(weight) if weight is not None else int(target.max()) + 1
    check_options(num_classes, features.shape[-1], global_mean, bias_target, correction, rtol, nan_policy)
    check_batch(features, target, num_classes, features.shape[-1])
    classifier = None if weight is None else checked_classifier(weight, bias, num_classes, features.shape[-1])
    features = widest(features)
    target = target.to(features.device)
    statistics = class_statistics(features, target, num_classes)
    present = classes_to_measure(statistics.counts, nan_policy)
    if present is None:
        return all_nan([*OF_FEATURES, *([*OF_CLASSIFIER, "ncc_agreement"] if classifier else [])], features)
    if not present.all():
        statistics = statistics.select(present)
        classifier = classifier and (classifier[0][present], classifier[1][present])
        target = (present.cumsum(0) - 1)[target]
    whitened = whitening(statistics, global_mean, rtol)
    deviations = features - statistics.means[target]
    results = collapse_of(statistics, classifier, global_mean, center_classifier, bias_target, correction)
    nc1 = results["trace_ratio"] if whitened is None else (deviations @ whitened).square().sum() / len(features)
    results = {"nc1": nc1, **results}
    if classifier:
        weight, bias = classifier
        agrees = (features @ weight.T + bias).argmax(dim=1) == nearest_class_center(features, statistics.means)
        results["ncc_agreement"] = agrees.to(features.dtype).mean()
    return results


def nearest_class_center(features: Tensor, class_means: Tensor) -> Tensor:
    r"""The class whose mean is nearest, :math:`\arg\min_k \|h - \mu_k\|`.

    Args:
        features: Shape ``(N, d)``.
        class_means: Shape ``(K, d)``; a row of NaN is nobody's nearest.

    Returns:
        Classes, shape ``(N,)``, int64.

    Example:
        >>> nearest_class_center(torch.tensor([[0.2], [0.9]]), torch.tensor([[0.0], [1.0]]))
        tensor([0, 1])
    """
    center = class_means.nanmean(dim=0)  # a common shift changes no distance, but its square would drown them
    means = class_means - center
    return (means.square().sum(dim=1) / 2 - (features - center) @ means.T).nan_to_num(nan=math.inf).argmin(dim=1)


def collapse_of(
    statistics: ClassStatistics,
    classifier: tuple[Tensor, Tensor] | None,
    global_mean: GlobalMean,
    center_classifier: bool,
    bias_target: BiasTarget,
    correction: int,
) -> dict[str, Tensor]:
    """The results of :func:`neural_collapse` that sizes, means and variances of the classes give: all but two."""
    means, uncentred = statistics.centred_means(global_mean), statistics.unshifted(statistics.means)
    if not statistics.means_differ(global_mean):
        rank_zero_warn("All class means are equal: neural collapse is not defined.")
        means = torch.zeros_like(means)
    within, between = statistics.within_trace(), means.square().sum() / len(means)
    results = {
        "trace_ratio": clamped("trace_ratio", within / between),
        "cdnv": class_distance_normalized_variance(means, statistics.variances.clamp_min(0)),
        "nc2_features": simplex_etf_distance(means, center=False),
        "of_features": orthogonal_frame_distance(uncentred),
        **_angles(means, correction, "features"),
    }
    if classifier is None:
        return results
    weight, bias = classifier
    rows = weight - weight.mean(dim=0) if center_classifier else weight
    target = 1 / len(weight) if bias_target == "1/K" else bias_target
    center = statistics.unshifted(statistics.global_mean(global_mean))
    return results | {
        "nc2_classifier": etf_gram_distance(rows @ rows.T),
        "of_classifier": orthogonal_frame_distance(weight),
        **_angles(weight, correction, "classifier"),
        "nc3": etf_gram_distance(rows @ means.T),
        "nc3_of": orthogonal_gram_distance(weight @ uncentred.T),
        "self_duality": self_duality(weight, means),
        "self_duality_of": self_duality(weight, uncentred),
        "nc4_bias": (weight @ center + bias - target).norm(),
    }


def class_distance_normalized_variance(means: Tensor, variances: Tensor) -> Tensor:
    r"""Mean over pairs of classes of :math:`(v_i + v_j) / (2 \|\mu_i - \mu_j\|^2)`.

    Args:
        means: Class means, shape ``(K, d)``.
        variances: Mean squared distance of each class's samples to its mean, shape ``(K,)``.

    Returns:
        The mean, scalar.

    Source:
        Galanti et al., ICLR 2022.

    Example:
        >>> class_distance_normalized_variance(3 * torch.eye(3), torch.ones(3))
        tensor(0.0556)
    """
    rows, columns = torch.triu_indices(len(means), len(means), offset=1, device=means.device)
    return ((variances[rows] + variances[columns]) / (2 * torch.pdist(means).square())).mean()


def classes_to_measure(counts: Tensor, nan_policy: NanPolicy) -> Tensor | None:
    """A mask ``(K,)`` of the classes that are measured; ``None`` if nothing can be."""
    present = counts > 0
    num_present = int(present.sum())
    if num_present < len(counts) and nan_policy == "nan":
        absent = (~present).nonzero().flatten().tolist()
        rank_zero_warn(
            f"Classes {_some(absent)} have no sample: the results are NaN (nan_policy='skip' leaves them out)."
        )
        return None
    if num_present < 2:
        rank_zero_warn(f"Neural collapse needs samples of at least 2 classes, got {num_present}: the results are NaN.")
        return None
    if counts.max() <= 1:
        rank_zero_warn("No class has more than one sample: there is no scatter, and NC1 is 0 whatever the network.")
    return present


def clamped(name: str, value: Tensor) -> Tensor:
    """The value, or 0 if round-off made it negative; more than round-off is told."""
    if value < -ROUND_OFF:
        rank_zero_warn(f"{name} came out as {float(value):.2g} and is set to 0: the statistics lack precision.")
    return torch.where(value < 0, torch.zeros_like(value), value)


def all_nan(names: Sequence[str], like: Tensor) -> dict[str, Tensor]:
    """NaN for every name."""
    return {name: like.new_tensor(math.nan) for name in names}


def checked_classifier(
    weight: Tensor, bias: Tensor | None, num_classes: int, num_features: int
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a classifier in float64, a missing bias as zeros.

    Raises:
        ValueError: If their shapes do not fit.
    """
    if weight.shape != (num_classes, num_features):
        raise ValueError(
            f"classifier weight must have shape ({num_classes}, {num_features}), got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != (num_classes,):
        raise ValueError(f"classifier bias must have shape ({num_classes},), got {tuple(bias.shape)}")
    weight = widest(weight.detach())
    return weight, weight.new_zeros(num_classes) if bias is None else widest(bias.detach())


def check_options(
    num_classes: int = 2,
    num_features: int = 1,
    global_mean: str = "sample",
    bias_target: float | str = 0.0,
    correction: int = 1,
    rtol: float = 1e-6,
    nan_policy: str = "nan",
) -> None:
    """Raise a ``ValueError`` that names the first argument out of range."""
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if num_features < 1:
        raise ValueError(f"num_features must be at least 1, got {num_features}")
    for name, value, allowed in (("global_mean", global_mean, GlobalMean), ("nan_policy", nan_policy, NanPolicy)):
        if value not in get_args(allowed):
            raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
    if bias_target != "1/K" and (isinstance(bias_target, str) or not math.isfinite(bias_target)):
        raise ValueError(f"bias_target must be a number or '1/K', got {bias_target!r}")
    if correction not in (0, 1):
        raise ValueError(f"correction must be 0 or 1, got {correction}")
    if not 0 <= rtol < 1:
        raise ValueError(f"rtol must be in [0, 1), got {rtol}")


def check_batch(features: Tensor, target: Tensor, num_classes: int, num_features: int) -> None:
    """Raise a ``ValueError`` that says what is wrong with a batch of features and labels, if anything is."""
    if features.ndim != 2:
        raise ValueError(f"features must have shape (N, d), got {tuple(features.shape)}; flatten(1) makes it so")
    if features.shape[1] != num_features:
        raise ValueError(f"features must have num_features={num_features} columns, got {features.shape[1]}")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, got {features.dtype}")
    if target.shape != features.shape[:1]:
        raise ValueError(f"target must have shape ({len(features)},), got {tuple(target.shape)}")
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"target must be integers, got {target.dtype}")
    if len(target) and (target.min() < 0 or target.max() >= num_classes):
        raise ValueError(f"target must lie in [0, {num_classes - 1}], got {int(target.min())} to {int(target.max())}")
    finite = features.isfinite()
    if not finite.all():
        raise ValueError(f"features must be finite, got {int((~finite).sum())} NaN or infinite values")


def _angles(vectors: Tensor, correction: int, of: str) -> dict[str, Tensor]:
    cosines = pairwise_cosines(vectors)
    return {
        f"equinorm_{of}": equinorm(vectors, correction),
        f"equiangularity_{of}": spread(cosines, correction),
        f"max_equiangularity_{of}": distance_from_widest(cosines, len(vectors)),
    }


def _some(classes: Sequence[int]) -> str:
    more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
    return ", ".join(map(str, classes[:5])) + more
