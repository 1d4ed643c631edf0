"""How an attack did over many images, as a metric."""

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.auto_conjugate_gradient.result import AttackResult


class AttackSuccess(Metric):
    """Successes of an attack on the images that the model had right, counted by the iteration of the first one.

    Args:
        n_iter: Iterations N of a run.

    Example:
        >>> metric = AttackSuccess(n_iter=2)
        >>> flags, zeros = torch.tensor([True, False]), torch.zeros(2)
        >>> first, gradients = torch.tensor([1, -1]), torch.tensor([3, 3])
        >>> metric.update(AttackResult(zeros, flags, zeros, zeros, first, gradients), num_wrong=2)
        >>> found = metric.compute()
        >>> found["success"], found["robust_acc"], found["curve"]
        (tensor(0.5000), tensor(0.2500), tensor([0.0000, 0.5000, 0.5000]))
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    at: Tensor
    attacked: Tensor
    wrong: Tensor
    margin: Tensor
    gradients: Tensor

    def __init__(self, n_iter: int) -> None:
        super().__init__()
        self.add_state("at", torch.zeros(n_iter + 1), dist_reduce_fx="sum")
        for name in ("attacked", "wrong", "margin", "gradients"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    def update(self, result: AttackResult, num_wrong: int) -> None:
        """Add a batch.

        Args:
            result: Of the images that the model has right.
            num_wrong: How many others there are, which count as broken in ``robust_acc``.
        """
        first = result.first_success[result.success]
        self.at += torch.bincount(first, minlength=len(self.at)).to(self.at.dtype)
        self.attacked += len(result.success)
        self.wrong += num_wrong
        self.margin += result.margin.sum()
        self.gradients += result.num_gradients.sum()

    def compute(self) -> dict[str, Tensor]:
        """Means over the attacked images: ``success``, ``margin`` (the mean of the largest), ``gradients``.

        Beside them ``robust_acc``, the share of all images that the model has right and the attack does not break;
        ``num_attacked`` and ``num_broken``; and ``curve``, the success after each number of iterations, ``(N + 1,)``.
        """
        curve = self.at.cumsum(0)
        broken = curve[-1]
        return {
            "success": broken / self.attacked,
            "robust_acc": (self.attacked - broken) / (self.attacked + self.wrong),
            "margin": self.margin / self.attacked,
            "gradients": self.gradients / self.attacked,
            "num_attacked": self.attacked,
            "num_broken": broken,
            "curve": curve / self.attacked,
        }


class AttackComparison(Metric):
    """Where two attacks on the same images differ: the counts that McNemar's test asks for.

    Example:
        >>> metric = AttackComparison()
        >>> zeros = torch.zeros(2)
        >>> first = AttackResult(zeros, torch.tensor([True, True]), zeros, torch.tensor([2.0, 1.0]), zeros, zeros)
        >>> second = AttackResult(zeros, torch.tensor([True, False]), zeros, torch.tensor([3.0, -1.0]), zeros, zeros)
        >>> metric.update(first, second)
        >>> metric.compute()
        {'only_first': tensor(1.), 'only_second': tensor(0.), 'higher_first': tensor(1.), 'higher_second': tensor(1.)}
    """

    is_differentiable = False
    full_state_update = False
    counts: Tensor
    NAMES = ("only_first", "only_second", "higher_first", "higher_second")

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(len(self.NAMES)), dist_reduce_fx="sum")

    def update(self, first: AttackResult, second: AttackResult) -> None:
        """Add the results of both attacks on the same images."""
        differs = (
            first.success & ~second.success,
            second.success & ~first.success,
            first.margin > second.margin,
            second.margin > first.margin,
        )
        self.counts += torch.stack([flags.sum() for flags in differs])

    def compute(self) -> dict[str, Tensor]:
        """Images that only one of them broke, and images where one reached a larger margin."""
        return dict(zip(self.NAMES, self.counts))
