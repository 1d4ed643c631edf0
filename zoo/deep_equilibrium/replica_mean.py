"""The mean of a measure over an epoch, replica by replica."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class ReplicaMean(Metric):
    """Means of the finite values of each replica, over batches and processes.

    A replica without any has the mean ``inf``; which replicas had a value that is not finite, ``compute`` tells.

    Args:
        num_replicas: Replicas R.

    Example:
        >>> metric = ReplicaMean(2)
        >>> metric.update(torch.tensor([[1.0, 2.0], [3.0, math.nan]]))
        >>> metric.compute()
        (tensor([1.5000, 3.0000]), tensor([False,  True]))
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    total: Tensor
    finite: Tensor
    seen: Tensor

    def __init__(self, num_replicas: int) -> None:
        super().__init__()
        for name in ("total", "finite", "seen"):
            self.add_state(name, torch.zeros(num_replicas), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add values, shape ``(R, n)``."""
        finite = values.isfinite()
        self.total += torch.where(finite, values, 0.0).sum(1)
        self.finite += finite.sum(1)
        self.seen += values.shape[1]

    def compute(self) -> tuple[Tensor, Tensor]:
        """The means and whether a value was left out, ``(R,)`` each; of one replica scalars, as in torchmetrics."""
        means = torch.where(self.finite > 0, self.total / self.finite, math.inf)
        return means, self.finite < self.seen
