"""Errors of forecasts: the paper's, and those in the unit of measurement."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class OffsetMAPE(Metric):
    r"""Mean absolute error relative to the target plus an offset, in percent.

    .. math:: \frac{100}{n} \sum_i \frac{|\hat y_i - y_i|}{|y_i| + c}

    On targets in [0, 1] and with c = 1 it is hardly more than a hundred times the mean absolute error, and not to be
    compared with the usual MAPE, whose c is 0 and whose targets are as measured.

    Args:
        offset: c, more than 0, so that targets of 0 count as well.

    Raises:
        ValueError: If ``offset`` is not positive.

    Source:
        Gao and Ribeiro, ICML 2022, in public copies of the authors' code.

    Example:
        >>> metric = OffsetMAPE()
        >>> metric.update(torch.tensor([[0.5]]), torch.tensor([[1.0]]), torch.tensor([True]))
        >>> metric.compute()
        tensor(25.)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, offset: float = 1.0) -> None:
        super().__init__()
        if not offset > 0:
            raise ValueError(f"offset must be > 0, got {offset}")
        self.offset = offset
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, forecast: Tensor, y: Tensor, mask: Tensor) -> None:
        """Add forecasts and targets ``(N, targets)`` of the nodes of a mask ``(N,)``."""
        error = (forecast - y).abs() / (y.abs() + self.offset) * mask[:, None]
        self.total += error.double().sum()
        self.count += mask.sum() * y.shape[1]

    def compute(self) -> Tensor:
        """The mean, scalar."""
        return (100 * self.total / self.count).float()


class RawError(Metric):
    """Mean absolute error, or root of the mean squared error, in the unit of measurement, averaged over targets.

    Args:
        scale: By how much to multiply scaled errors, for each target.
        power: 1 for the mean absolute error, 2 for the root of the mean squared one.

    Raises:
        ValueError: If ``power`` is neither, or a scale is not positive.

    Example:
        >>> metric = RawError(scale=[100.0], power=2)
        >>> metric.update(torch.tensor([[0.5]]), torch.tensor([[1.0]]), torch.tensor([True]))
        >>> metric.compute()
        tensor(50.)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor
    scale: Tensor

    def __init__(self, scale: Sequence[float], power: int = 1) -> None:
        super().__init__()
        if power not in (1, 2):
            raise ValueError(f"power must be 1 or 2, got {power}")
        if not scale or not all(value > 0 for value in scale):
            raise ValueError(f"scale must hold numbers > 0, got {list(scale)}")
        self.power = power
        self.register_buffer("scale", torch.tensor(list(scale), dtype=torch.float32), persistent=False)
        self.add_state("total", torch.zeros(len(scale), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, forecast: Tensor, y: Tensor, mask: Tensor) -> None:
        """Add forecasts and targets ``(N, targets)`` of the nodes of a mask ``(N,)``."""
        error = (forecast - y).abs() * self.scale * mask[:, None]
        self.total += error.double().pow(self.power).sum(0)
        self.count += mask.sum()

    def compute(self) -> Tensor:
        """The error, scalar."""
        return (self.total / self.count).pow(1 / self.power).mean().float()
