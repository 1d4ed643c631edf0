"""Measure neural collapse of several layers in one or two passes over the samples."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from callbacks.neural_collapse_metric import NeuralCollapse
from callbacks.neural_collapse_second_pass import NearestClassCenterAgreement, WithinClassVariability


class Sample(NamedTuple):
    """What is measured of a batch.

    Attributes:
        features: Of each layer, ``(B, d)``.
        target: Labels, ``(B,)``.
        decisions: Classes that the network decides for, ``(B,)``.
    """

    features: dict[str, Tensor]
    target: Tensor
    decisions: Tensor


class Samples:
    """Batches that can be gone through again: from memory if they fit, else by asking for them once more.

    Args:
        ask: Gives the batches.
        cache_bytes: Size of features that may be kept.

    Example:
        >>> import torch
        >>> calls = []
        >>> def ask():
        ...     calls.append(1)
        ...     yield Sample({"features": torch.ones(2, 2)}, torch.zeros(2), torch.zeros(2))
        >>> for cache_bytes in (16, 15):
        ...     samples = Samples(ask, cache_bytes)
        ...     _ = [list(samples) for _ in range(2)]
        ...     print(len(calls))
        1
        3
    """

    def __init__(self, ask: Callable[[], Iterable[Sample]], cache_bytes: int) -> None:
        self.ask = ask
        self.cache_bytes = cache_bytes
        self._kept: list[Sample] | None = None

    def __iter__(self) -> Iterator[Sample]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Sample] = []
        size = 0
        for sample in self.ask():
            size += sum(features.nbytes for features in sample.features.values())
            if size <= self.cache_bytes:
                kept.append(sample)
            else:
                kept.clear()
            yield sample
        if size <= self.cache_bytes:
            self._kept = kept


def measure(
    samples: Iterable[Sample],
    metrics: dict[str, NeuralCollapse],
    metric_of: Callable[[str, Tensor], NeuralCollapse],
    two_pass: bool,
) -> dict[str, dict[str, Tensor]]:
    """Results by layer and name.

    Args:
        samples: Batches; gone through twice if ``two_pass``.
        metrics: The metric of each layer, of an earlier measurement; those that are lacking are put there.
        metric_of: Makes the metric of a layer, given its name and its features in the first batch.
        two_pass: Whether ``nc1`` and ``ncc_agreement`` are taken from a second pass.
    """
    for metric in metrics.values():
        metric.reset()
    for sample in samples:
        for layer, features in sample.features.items():
            if layer not in metrics:
                metrics[layer] = metric_of(layer, features)
            metrics[layer].update(features, sample.target)
    results = {layer: metric.compute() for layer, metric in metrics.items()}
    if not two_pass:
        return results
    agreements, variabilities = _second_metrics(metrics)
    for sample in samples:
        for layer, features in sample.features.items():
            agreements[layer].update(features, sample.decisions)
            if layer in variabilities:
                variabilities[layer].update(features, sample.target)
    for layer, of_layer in results.items():
        nc1 = variabilities[layer].compute() if layer in variabilities else of_layer["trace_ratio"]
        agreement = agreements[layer].compute().to(nc1)
        results[layer] = {"nc1": nc1.to(of_layer["trace_ratio"]), **of_layer, "ncc_agreement": agreement}
    return results


def _second_metrics(
    metrics: dict[str, NeuralCollapse],
) -> tuple[dict[str, NearestClassCenterAgreement], dict[str, WithinClassVariability]]:
    """The metrics of the second pass by layer; no variability where it is not defined."""
    agreements, variabilities = {}, {}
    for layer, metric in metrics.items():
        means, whitened = metric.class_means.to(metric.sums), metric.whitening()
        agreements[layer] = NearestClassCenterAgreement(means).to(metric.device)
        if whitened is not None:
            variabilities[layer] = WithinClassVariability(means, whitened.to(means)).to(metric.device)
    return agreements, variabilities
