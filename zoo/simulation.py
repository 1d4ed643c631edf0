"""Simulations as LightningModules: an epoch is a number of steps of many replicas, measured at its end."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

Curve = tuple[list[float], list[float]]


class Simulation(LightningModule):
    r"""Takes many steps of all replicas in each epoch, then measures them.

    The epochs may grow, so that few of them show a fast beginning and a slow end: epoch e ends after
    :math:`n (1 + g + \dots + g^e)` steps, with :math:`n` the ``steps_per_epoch`` and :math:`g` the ``growth``. After
    every epoch the means over the replicas are logged, and ``steps``, their number so far; :class:`ReplicaHistory`
    keeps the measures of every replica from before the first step on.

    A subclass says what a step is, in :meth:`advance`, and what there is to see, in :meth:`measures`. An epoch has one
    training batch, all of the data; without data, return :func:`no_data` from ``train_dataloader``.

    Args:
        steps_per_epoch: Steps in the first epoch.
        growth: Factor of the steps from one epoch to the next, at least 1; 1 makes all epochs equal.

    Raises:
        ValueError: If an argument is out of range.
    """

    main_metric: str | None = None

    def __init__(self, steps_per_epoch: int, growth: float = 1.0) -> None:
        super().__init__()
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}")
        if not growth >= 1:
            raise ValueError(f"growth must be at least 1, got {growth}")
        self.automatic_optimization = False
        self.steps_per_epoch, self.growth = steps_per_epoch, growth
        self.found: dict[str, Tensor] = {}

    def advance(self, batch: Any, first_step: int, num_steps: int) -> None:
        """Take the steps ``first_step`` to ``first_step + num_steps - 1``, counted from 0.

        Args:
            batch: The training batch, on the device.
            first_step: Number of steps before.
            num_steps: Of this epoch.
        """
        raise NotImplementedError

    def measures(self, batch: Any) -> dict[str, Tensor]:
        """What there is to see now, by name, a value for each replica, ``(R,)``."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Whether further steps would change nothing: the training then ends after the epoch."""
        return False

    def steps_until(self, epoch: int) -> int:
        """Number of steps before an epoch."""
        sum_of_powers = epoch if self.growth == 1 else (self.growth**epoch - 1) / (self.growth - 1)
        return round(self.steps_per_epoch * sum_of_powers)

    def configure_callbacks(self) -> list[Callback]:
        return [ReplicaHistory()]

    def configure_optimizers(self) -> Optimizer:
        """A counter, for steps taken without an optimizer: Lightning keeps checkpoints only where it counts."""
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, after = (self.steps_until(self.current_epoch + i) for i in (0, 1))
        counted = self.trainer.global_step
        self.advance(batch, first, after - first)
        if self.trainer.global_step == counted:
            self.optimizers().step()  # type: ignore[union-attr]
        self.found = dict(self.measures(batch))
        means = {name: value.mean() for name, value in self.found.items()}
        self.log_dict(means | {"steps": float(after)}, on_step=False, on_epoch=True, batch_size=1)
        if self.finished:
            self.trainer.should_stop = True


def no_data() -> DataLoader:
    """One empty batch an epoch."""
    return DataLoader(torch.zeros(1))  # type: ignore[arg-type]


class ReplicaHistory(Callback):
    """Keeps what a :class:`Simulation` has measured of every replica, from before the first step on.

    That is what :meth:`Simulation.measures` returns, and what a ``validation_step`` may have added to ``found``.
    ``final_curves`` has every measure of every replica over the steps: ``"loss/0"`` is that of the first. Checkpoints
    keep it all.
    """

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = {}
        self.values: dict[str, list[list[float]]] = {}

    @property
    def final_curves(self) -> dict[str, Curve]:
        """Curves by name: x and y."""
        return {
            f"{name}/{i}": (self.steps[name], list(values))
            for name, rows in self.values.items()
            for i, values in enumerate(zip(*rows))
        }

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, Simulation)
        if not self.steps:
            self._record(0, pl_module.measures(batch))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Simulation)
        self._record(pl_module.steps_until(trainer.current_epoch + 1), pl_module.found)

    def _record(self, step: int, found: dict[str, Tensor]) -> None:
        for name, value in found.items():
            self.steps.setdefault(name, []).append(float(step))
            self.values.setdefault(name, []).append(value.tolist())

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.values = state_dict["steps"], state_dict["values"]
