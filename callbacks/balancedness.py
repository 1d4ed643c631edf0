"""What gradient flow on a deep linear network conserves, and how far it drifts."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics import Metric

from callbacks.weight_matrices import ReplicaMonitor, weight_matrices


def balancedness(weights: Sequence[Tensor]) -> list[Tensor]:
    r"""The matrices :math:`D_j = W_{j+1}^\top W_{j+1} - W_j W_j^\top`, which gradient flow of any loss conserves.

    Args:
        weights: The input's first, ``(*, d_j, d_{j-1})``.

    Returns:
        Shapes ``(*, d_j, d_j)``, one fewer than the weights; all zero where the layers are balanced.

    Source:
        Arora, Cohen and Hazan, *On the Optimization of Deep Networks*, ICML 2018.

    Example:
        >>> balancedness([torch.tensor([[2.0]]), torch.tensor([[3.0]])])
        [tensor([[5.]])]
    """
    return [after.mT @ after - before @ before.mT for before, after in pairwise(weights)]


def largest_norm(matrices: Sequence[Tensor]) -> Tensor:
    """The largest Frobenius norm of several matrices ``(*, d, d)``, shape ``(*)``."""
    return torch.stack([torch.linalg.matrix_norm(matrix) for matrix in matrices]).amax(dim=0)


class BalancednessDrift(Metric):
    r"""How far the conserved matrices have moved: the largest :math:`\max_j \|D_j(t) - D_j(0)\|_F` of all updates.

    As input to ``forward`` and ``update`` the metric accepts

    - ``weights`` (list of :class:`~torch.Tensor`): the input's first, ``(*, d_j, d_{j-1})``

    As output of ``forward`` and ``compute`` it returns a scalar, the largest of all replicas on leading axes.

    Args:
        reference: Weights at time 0; ``None`` for balanced ones, where all :math:`D_j(0) = 0`.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = BalancednessDrift()
        >>> metric.update([torch.tensor([[2.0]]), torch.tensor([[3.0]])])
        >>> metric.compute()
        tensor(5., dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    largest: Tensor

    def __init__(self, reference: Sequence[Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_references = 0 if reference is None else len(reference) - 1
        for j, matrix in enumerate(balancedness(reference or [])):
            self.register_buffer(f"reference_{j}", matrix.detach().clone())
        self.add_state("largest", torch.zeros((), dtype=torch.float64), dist_reduce_fx="max")

    def update(self, weights: Sequence[Tensor]) -> None:
        """Look at weights once."""
        matrices = balancedness(weights)
        if self.num_references:
            matrices = [matrix - getattr(self, f"reference_{j}") for j, matrix in enumerate(matrices)]
        self.largest = torch.maximum(self.largest, largest_norm(matrices).max().to(self.largest))

    def compute(self) -> Tensor:
        return self.largest


class BalancednessMonitor(ReplicaMonitor):
    r"""Logs ``balancedness``, :math:`\max_j \|D_j(t) - D_j(0)\|_F`, after every epoch.

    Gradient flow keeps it at 0, gradient descent with a small rate h at the order of h, and momentum, weight decay or
    clipped gradients do not.

    Works with any LightningModule that has ``weight_matrices()``, the weights from the input's on with replicas on
    leading axes, or whose linear layers are one chain.

    Args:
        tol: Warn once, by replica, where it is above this; ``None`` never warns.

    Raises:
        ValueError: If ``tol`` is negative.

    Example:
        >>> trainer = pl.Trainer(callbacks=[BalancednessMonitor(tol=1e-3)], logger=False)
    """

    def __init__(self, tol: float | None = None) -> None:
        super().__init__()
        if tol is not None and not tol >= 0:
            raise ValueError(f"tol must be >= 0, got {tol}")
        self.tol = tol
        self.initial: list[Tensor] | None = None
        self.warned = False

    def measure(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        matrices = balancedness(weight_matrices(pl_module))
        if self.initial is None:
            self.initial = [matrix.clone() for matrix in matrices]
        drift = largest_norm([now - then.to(now) for now, then in zip(matrices, self.initial)])
        if self.tol is not None and not self.warned and bool((drift > self.tol).any()):
            worst = drift.flatten().argmax()
            rank_zero_warn(f"balancedness of replica {int(worst)} has drifted by {float(drift.flatten()[worst]):.2e}")
            self.warned = True
        return {"balancedness": drift}

    def state_dict(self) -> dict[str, object]:
        return super().state_dict() | {"initial": self.initial, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        super().load_state_dict(state_dict)
        self.initial, self.warned = state_dict["initial"], state_dict["warned"]  # type: ignore[assignment]
