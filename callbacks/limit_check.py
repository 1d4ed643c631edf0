"""Whether a deep linear network has come to where it should."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics import Metric

from callbacks.weight_matrices import product, weight_matrices


class ProductDistance(Metric):
    r"""Mean distance of products from a target, :math:`\|W_N \cdots W_1 - Z\|_F`, over replicas and updates.

    As input to ``forward`` and ``update`` the metric accepts

    - ``weights`` (list of :class:`~torch.Tensor`): the input's first, ``(*, d_j, d_{j-1})``

    As output of ``forward`` and ``compute`` it returns a scalar.

    Args:
        target: Z, shape ``(d_y, d_x)``, or one for each replica, ``(*, d_y, d_x)``.
        **kwargs: Arguments of :class:`torchmetrics.Metric`.

    Example:
        >>> metric = ProductDistance(torch.tensor([[10.0]]))
        >>> metric.update([torch.tensor([[2.0]]), torch.tensor([[3.0]])])
        >>> metric.compute()
        tensor(4., dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor
    target: Tensor

    def __init__(self, target: Tensor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("target", target.detach().clone())
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, weights: list[Tensor]) -> None:
        """Add the products of weights."""
        distances = torch.linalg.matrix_norm(product(weights) - self.target)
        self.total += distances.sum()
        self.count += distances.numel()

    def compute(self) -> Tensor:
        return self.total / self.count


class LimitCheck(pl.Callback):
    """Compares the products at the end of the training with their predicted limits.

    ``final_metrics`` has ``limit/distance``, the mean Frobenius distance over replicas, ``limit/largest_distance`` and
    ``limit/reached``, the share of the replicas within the tolerance.

    Works with any LightningModule that has ``weight_matrices()``, or whose linear layers are one chain, and
    ``predicted_limit``, ``(*, d_y, d_x)``.

    Args:
        tolerance: Largest distance that counts as there, > 0.
        must_reach: Raise an error at the end of the training if a replica is not there, as a test wants it.

    Raises:
        ValueError: If ``tolerance`` is not positive.

    Example:
        >>> trainer = pl.Trainer(callbacks=[LimitCheck(tolerance=1e-3)], logger=False)
    """

    def __init__(self, tolerance: float = 1e-3, must_reach: bool = False) -> None:
        if not tolerance > 0:
            raise ValueError(f"tolerance must be > 0, got {tolerance}")
        self.tolerance, self.must_reach = tolerance, must_reach
        self.final_metrics: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(getattr(pl_module, "predicted_limit", None), Tensor):
            raise MisconfigurationException(
                f"LimitCheck needs a module with predicted_limit, a tensor, got {type(pl_module).__name__}"
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        matrix = product(weight_matrices(pl_module))
        limit = torch.as_tensor(pl_module.predicted_limit).to(matrix)
        distances = torch.linalg.matrix_norm(matrix - limit).flatten()
        there = distances <= self.tolerance
        self.final_metrics = {
            "limit/distance": float(distances.mean()),
            "limit/largest_distance": float(distances.max()),
            "limit/reached": float(there.double().mean()),
        }
        if self.must_reach and not bool(there.all()):
            missing = (~there).nonzero().flatten().tolist()
            raise RuntimeError(
                f"replicas {missing} are not within {self.tolerance:g} of their limits, but "
                f"{[f'{distance:.2e}' for distance in distances[~there].tolist()]} away"
            )
