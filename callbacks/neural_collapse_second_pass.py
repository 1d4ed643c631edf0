"""What needs the class means first and then the samples once more: the nearest class centre's decisions, and NC1."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from callbacks.neural_collapse import nearest_class_center
from callbacks.neural_collapse_metric import Shared, weights_of


class NearestClassCenterAgreement(Metric):
    r"""Share of samples for which the nearest class mean decides as the classifier does (NC4).

    .. math:: \frac1N \sum_n \mathbb 1\Big[\arg\max_k \, (w_k^\top h_n + b_k) = \arg\min_k \|h_n - \mu_k\|\Big]

    As input to ``forward`` and ``update`` the metric accepts

    - ``features`` (:class:`~torch.Tensor`): floating point, shape ``(N, d)``
    - ``decisions`` (:class:`~torch.Tensor`): classes that the network decides for, integers, shape ``(N,)``; by default
      those of ``classifier``

    As output of ``forward`` and ``compute`` the metric returns

    - ``agreement`` (:class:`~torch.Tensor`): scalar in [0, 1]; NaN without samples

    Args:
        class_means: Shape ``(K, d)``, as :attr:`NeuralCollapse.class_means
            <callbacks.neural_collapse_metric.NeuralCollapse.class_means>` gives them; a row of NaN is nobody's nearest.
        classifier: The linear layer on the features, its bias included; not needed where ``decisions`` are given.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If shapes do not fit; and by ``update``, if there are neither decisions nor a classifier.

    Source:
        Papyan, Han and Donoho, PNAS 2020 (NC4).

    Example:
        >>> metric = NearestClassCenterAgreement(class_means=torch.tensor([[0.0], [1.0]]))
        >>> metric(torch.tensor([[0.1], [0.8], [0.9], [2.0]]), decisions=torch.tensor([0, 0, 1, 1]))
        tensor(0.7500)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    class_means: Tensor
    agreeing: Tensor
    total: Tensor

    def __init__(self, class_means: Tensor, classifier: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_means(class_means)
        self._classifier = Shared(classifier)
        if classifier is not None:
            weights_of(classifier, *class_means.shape)
        self.register_buffer("class_means", class_means.detach().clone(), persistent=False)
        self.add_state("agreeing", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, features: Tensor, decisions: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            features: Floating point, shape ``(N, d)``.
            decisions: Classes that the network decides for, integers, shape ``(N,)``; those of the classifier if
                ``None``.
        """
        _check_features(features, self.class_means)
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            features = features.to(self.class_means.dtype)
            if decisions is None:
                if self._classifier.module is None:
                    raise ValueError("decisions must be given where there is no classifier, got none")
                weight, bias = weights_of(self._classifier.module, *self.class_means.shape)
                decisions = (features @ weight.to(features).T + bias.to(features)).argmax(dim=1)
            if decisions.shape != features.shape[:1]:
                raise ValueError(f"decisions must have shape ({len(features)},), got {tuple(decisions.shape)}")
            self.agreeing += (nearest_class_center(features, self.class_means) == decisions).sum()
            self.total += len(features)

    def compute(self) -> Tensor:
        """The share of all batches so far, a scalar in [0, 1]."""
        return self.agreeing / self.total


class WithinClassVariability(Metric):
    r"""NC1 from a second pass, without the second moment of the features.

    .. math:: \tfrac1K \operatorname{tr}(\Sigma_W \Sigma_B^\dagger) = \tfrac1N \sum_n \|T^\top (h_n - \mu_{y_n})\|^2

    with T of :func:`~callbacks.neural_collapse_statistics.whitening`, d x K at most: there is no d x d matrix, and no
    difference of large numbers.

    As input to ``forward`` and ``update`` the metric accepts

    - ``features`` (:class:`~torch.Tensor`): floating point, shape ``(N, d)``
    - ``target`` (:class:`~torch.Tensor`): class of each, integers in ``[0, K)``, shape ``(N,)``

    As output of ``forward`` and ``compute`` the metric returns

    - ``nc1`` (:class:`~torch.Tensor`): scalar; NaN without samples

    Args:
        class_means: Shape ``(K, d)``.
        whitened: T, shape ``(d, r)``.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If shapes do not fit.

    Source:
        Papyan, Han and Donoho, PNAS 2020 (NC1).

    Example:
        >>> from callbacks.neural_collapse_metric import NeuralCollapse
        >>> from callbacks.neural_collapse_statistics import whitening
        >>> first = NeuralCollapse(num_classes=3, num_features=3, second_moment=False)
        >>> batches = [(2 * torch.eye(3), torch.arange(3)), (4 * torch.eye(3), torch.arange(3))]
        >>> for batch in batches:
        ...     first.update(*batch)
        >>> second = WithinClassVariability(first.class_means, whitening(first.statistics()))
        >>> for batch in batches:
        ...     second.update(*batch)
        >>> second.compute()
        tensor(0.0741, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    class_means: Tensor
    whitened: Tensor
    sum_of_squares: Tensor
    total: Tensor

    def __init__(self, class_means: Tensor, whitened: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_means(class_means)
        if whitened.ndim != 2 or len(whitened) != class_means.shape[1]:
            raise ValueError(f"whitened must have shape ({class_means.shape[1]}, r), got {tuple(whitened.shape)}")
        self.register_buffer("class_means", class_means.detach().clone(), persistent=False)
        self.register_buffer("whitened", whitened.detach().clone(), persistent=False)
        self.add_state("sum_of_squares", whitened.new_zeros(()), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, features: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            features: Floating point, shape ``(N, d)``.
            target: Class of each, integers in ``[0, K)``, shape ``(N,)``.
        """
        _check_features(features, self.class_means)
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            deviations = features.to(self.class_means.dtype) - self.class_means[target]
            self.sum_of_squares += (deviations @ self.whitened).square().sum()
            self.total += len(features)

    def compute(self) -> Tensor:
        """NC1 of all batches so far, a scalar."""
        return self.sum_of_squares / self.total


def _check_means(class_means: Tensor) -> None:
    if class_means.ndim != 2 or len(class_means) < 2 or not class_means.is_floating_point():
        raise ValueError(
            f"class_means must have shape (K, d), K at least 2, and be floating point, got {tuple(class_means.shape)} "
            f"of {class_means.dtype}"
        )


def _check_features(features: Tensor, class_means: Tensor) -> None:
    if features.ndim != 2 or features.shape[1] != class_means.shape[1]:
        raise ValueError(f"features must have shape (N, {class_means.shape[1]}), got {tuple(features.shape)}")
