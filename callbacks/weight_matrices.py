"""The weights of deep linear networks, of one network or of many on leading axes."""

from collections.abc import Sequence
from itertools import pairwise

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn


def weight_matrices(module: nn.Module) -> list[Tensor]:
    """The layers' weights, the input's first: what ``module.weight_matrices()`` returns, or those of all linear layers.

    Args:
        module: Its linear layers, in the order of ``modules()``, are one chain.

    Returns:
        At least two matrices ``(*, d_j, d_{j-1})``, detached.

    Raises:
        MisconfigurationException: If there are fewer, or their sizes do not follow on each other.

    Example:
        >>> net = nn.Sequential(nn.Linear(5, 1, bias=False), nn.Linear(1, 4, bias=False))
        >>> [tuple(weight.shape) for weight in weight_matrices(net)]
        [(1, 5), (4, 1)]
    """
    if hasattr(module, "weight_matrices"):
        weights = list(module.weight_matrices())  # type: ignore[operator]
    else:
        weights = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    if len(weights) < 2 or any(after.shape[-1] != before.shape[-2] for before, after in pairwise(weights)):
        sizes = [tuple(weight.shape) for weight in weights]
        raise MisconfigurationException(
            f"weight_matrices() or linear layers must make a chain of two or more matrices, got {sizes}"
        )
    return [weight.detach() for weight in weights]


def product(weights: Sequence[Tensor]) -> Tensor:
    """The end-to-end matrix ``(*, d_N, d_0)`` of weights, the input's first."""
    result, *others = weights
    for weight in others:
        result = weight @ result
    return result


class ReplicaCurves:
    """What a callback has measured of every replica, epoch by epoch, from 0 for the start.

    Example:
        >>> import torch
        >>> curves = ReplicaCurves()
        >>> curves.record(0, {"s": torch.tensor([1.0, 2.0])})
        >>> curves.curves
        {'s/0': ([0.0], [1.0]), 's/1': ([0.0], [2.0])}
    """

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.values: dict[str, list[list[float]]] = {}

    @property
    def curves(self) -> dict[str, tuple[list[float], list[float]]]:
        """Epochs and values, by name and number of the replica."""
        return {
            f"{name}/{i}": (self.epochs, list(values))
            for name, rows in self.values.items()
            for i, values in enumerate(zip(*rows))
        }

    def record(self, epoch: int, found: dict[str, Tensor]) -> None:
        """Add an epoch's values, of any shape."""
        self.epochs.append(float(epoch))
        for name, value in found.items():
            self.values.setdefault(name, []).append(value.flatten().tolist())

    def state_dict(self) -> dict[str, object]:
        """For checkpoints."""
        return {"epochs": self.epochs, "values": self.values}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """From :meth:`state_dict`."""
        self.epochs, self.values = state["epochs"], state["values"]  # type: ignore[assignment]


class ReplicaMonitor(pl.Callback):
    """Measures before the first step and after every epoch; logs means over replicas and keeps every one's curve."""

    def __init__(self) -> None:
        self.history = ReplicaCurves()

    def measure(self, pl_module: pl.LightningModule) -> dict[str, Tensor]:
        """Values by name, one for each replica."""
        raise NotImplementedError

    @property
    def final_curves(self) -> dict[str, tuple[list[float], list[float]]]:
        """Epochs and values, by name and number of the replica."""
        return self.history.curves

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if not self.history.epochs:
            self.history.record(0, self.measure(pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = self.measure(pl_module)
        self.history.record(trainer.current_epoch + 1, found)
        pl_module.log_dict({name: value.mean() for name, value in found.items()})

    def state_dict(self) -> dict[str, object]:
        return self.history.state_dict()

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self.history.load_state_dict(state_dict)
