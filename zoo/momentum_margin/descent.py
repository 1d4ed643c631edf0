"""Descent of many networks at once: several settings of an optimizer on each of several problems."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from zoo.momentum_margin.optimizer import EMAMomentumSGD, leading
from zoo.momentum_margin.settings import Convention, Setting, settings_of, sweep_table
from zoo.momentum_margin.stacks import StackedPatchCNN, StackedPerceptron
from zoo.simulation import ReplicaHistory, Simulation


class DivergenceError(ArithmeticError):
    """A training has left the range of floating-point numbers."""


class StackedDescent(Simulation):
    """Full-batch descent on the logistic losses of stacked networks, several settings on each of several problems.

    Replica ``problem * S + setting`` is that problem's under that setting; all settings of a problem start at the same
    networks. A subclass makes the networks, as ``net``, and says what groups of samples there are.

    Attributes:
        running: Whether a replica still moves, ``(A, S)``.
        num_updates: Steps that it has made, ``(A, S)``.

    Args:
        num_problems: Problems A.
        lr: Step size, or one for each setting, > 0.
        momentum: Momentum, or one for each setting, in [0, 1).
        lr_convention: ``"ema"``: a gradient moves the parameters by ``lr`` in all, whatever the momentum. Or
            ``"heavy_ball"``, that of ``torch.optim.SGD``: by ``lr / (1 - momentum)``.
        nesterov: Look ahead, as Nesterov does.
        optimizer: Makes another optimizer, in place of ``lr``, ``momentum`` and ``nesterov``; it must treat every
            number by itself, as Adam does.
        stop_loss: A replica stops where the mean loss of each group is below this; ``None`` for never.
        steps_per_epoch: Steps in the first epoch.
        growth: Factor of the steps from one epoch to the next, at least 1.

    Raises:
        ValueError: If an argument is out of range, or (when training begins) a label is neither -1 nor 1.
        DivergenceError: At the end of an epoch in which a training has diverged.
    """

    running: Tensor
    num_updates: Tensor
    num_finite: Tensor
    net: StackedPatchCNN | StackedPerceptron

    def __init__(
        self,
        num_problems: int,
        lr: float | Sequence[float],
        momentum: float | Sequence[float],
        lr_convention: Convention,
        nesterov: bool,
        optimizer: OptimizerCallable | None,
        stop_loss: float | None,
        steps_per_epoch: int,
        growth: float,
    ) -> None:
        super().__init__(steps_per_epoch, growth)
        if stop_loss is not None and not stop_loss > 0:
            raise ValueError(f"stop_loss must be > 0, or None, got {stop_loss}")
        self.rates: list[Setting] = settings_of(lr, momentum, lr_convention)
        if optimizer is not None and len(self.rates) > 1:
            raise ValueError(f"lr and momentum must be one number each with an optimizer of your own, got {self.rates}")
        self.make_optimizer, self.nesterov, self.stop_loss = optimizer, nesterov, stop_loss
        shape = (num_problems, len(self.rates))
        self.register_buffer("running", torch.ones(shape, dtype=torch.bool))
        self.register_buffer("num_updates", torch.zeros(shape, dtype=torch.long))
        self.register_buffer("num_finite", torch.zeros(shape, dtype=torch.long))

    def groups(self, batch: Any) -> Tensor:
        """Which samples belong to each of G groups, bool, ``(A, G, N)``."""
        raise NotImplementedError

    @property
    def settings(self) -> list[str]:
        """What the replicas of a problem differ in, in words."""
        if self.make_optimizer is None:
            return [str(setting) for setting in self.rates]
        optimizer = self.make_optimizer(self.net.parameters())
        return [f"{type(optimizer).__name__}, lr {optimizer.param_groups[0]['lr']:g}"]

    @property
    def finished(self) -> bool:
        return not bool(self.running.any())

    def configure_callbacks(self) -> list[Callback]:
        return [SweepHistory()]

    def configure_optimizers(self) -> Optimizer:
        if self.make_optimizer is not None:
            return self.make_optimizer(self.net.parameters())
        if len(self.rates) == 1:
            return EMAMomentumSGD(self.net.parameters(), *self.rates[0], nesterov=self.nesterov)
        lr, momentum = (
            torch.tensor(values, device=self.device).repeat(len(self.running), 1) for values in zip(*self.rates)
        )
        return EMAMomentumSGD(self.net.parameters(), lr, momentum, nesterov=self.nesterov)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        with self._full_precision():
            super().training_step(batch, batch_idx)

    def _full_precision(self) -> torch.autocast:
        """Mixed precision would round cubes; the parameters' own precision decides."""
        return torch.autocast(self.device.type, enabled=False)

    @torch.no_grad()
    def advance(self, batch: Any, first_step: int, num_steps: int) -> None:
        check_labels(batch.y)
        counting = self.optimizers()
        weights = group_weights(self.groups(batch))
        inputs: Any = self.net.prepare(batch.x)
        for i in range(num_steps):
            logits = self.net.differentiate(inputs, batch.y)
            self.num_finite += logits.sum(dim=-1).isfinite()
            if self.stop_loss is not None:
                losses = logistic_losses(logits, batch.y) @ weights
                self.running &= (losses >= self.stop_loss).any(dim=-1)
            # One step goes through Lightning's wrapper, which counts it and is slow.
            self._step(counting if i + 1 == num_steps else counting.optimizer)  # type: ignore[union-attr]

    def _step(self, optimizer: Any) -> None:
        """Move the replicas that are still running."""
        params = list(self.net.parameters())
        before = [] if self.stop_loss is None else [param.clone() for param in params]
        optimizer.step()
        for param, kept in zip(params, before):
            torch.where(leading(self.running, param), param, kept, out=param)
        self.num_updates += self.running

    def logits(self, batch: Any) -> Tensor:
        """Of all replicas for a batch, ``(A, S, N)``.

        Raises:
            DivergenceError: If one of a replica is not finite.
        """
        with torch.no_grad():
            logits = self.net(batch.x)
        self.check(logits)
        return logits

    def check(self, logits: Tensor) -> None:
        """Raise a :class:`DivergenceError` that names step and setting if logits ``(A, S, N)`` are not finite."""
        diverged = ~logits.sum(dim=-1).isfinite()
        if not diverged.any():
            return
        first = torch.where(diverged, self.num_finite, self.num_finite.max() + 1).argmin()
        problem, setting = divmod(int(first), diverged.shape[1])
        raise DivergenceError(
            f"problem {problem} diverged after {int(self.num_finite[problem, setting])} steps with "
            f"{self.settings[setting]}: a smaller lr is needed"
        )

    def measures(self, batch: Any) -> dict[str, Tensor]:
        """Accuracy and loss on the training samples, and how many steps each replica has made."""
        logits = self.logits(batch)
        found = {
            "train/acc": accuracies(logits, batch.y).mean(dim=-1),
            "train/loss": logistic_losses(logits, batch.y).mean(dim=-1),
            "updates": self.num_updates.float(),
        }
        return {name: value.flatten() for name, value in found.items()}

    def held_out(self, batch: Any) -> dict[str, Tensor]:
        """What there is to see on held-out samples, by name, a value for each replica, ``(R,)``."""
        raise NotImplementedError

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.found |= self._log_held_out(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._log_held_out(batch)

    def _log_held_out(self, batch: Any) -> dict[str, Tensor]:
        with self._full_precision():
            found = self.held_out(batch)
        self.log_dict({name: value.mean() for name, value in found.items()}, on_epoch=True, batch_size=1)
        return found


class SweepHistory(ReplicaHistory):
    """Keeps what every replica has measured, and with several settings tells the means of each.

    ``final_metrics`` then has a mean over the problems for each measure and setting, as
    ``"test/acc (lr 1, momentum 0.9)"``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.settings: list[str] = []

    @property
    def final_metrics(self) -> dict[str, float]:
        """Means over the problems, where there are several settings."""
        if len(self.settings) < 2:
            return {}
        table = sweep_table(self.final_curves, self.settings)
        found: dict[str, float] = {}
        for setting in self.settings:
            rows = [row for row in table if row["setting"] == setting]
            for name in rows[0].keys() - {"problem", "setting"} if rows else ():
                found[f"{name} ({setting})"] = sum(row[name] for row in rows) / len(rows)
        return found

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, StackedDescent)
        self.settings = pl_module.settings


def logistic_losses(logits: Tensor, y: Tensor) -> Tensor:
    """Losses ``(A, S, N)`` of logits ``(A, S, N)`` for labels -1 or 1, ``(A, N)``."""
    return F.softplus(-y.unsqueeze(1) * logits)


def accuracies(logits: Tensor, y: Tensor) -> Tensor:
    """Whether logits ``(A, S, N)`` have the sign of the labels ``(A, N)``, 0 or 1."""
    return (logits * y.unsqueeze(1) > 0).to(logits.dtype)


def group_weights(groups: Tensor) -> Tensor:
    """Weights ``(A, N, G)`` that make means of groups ``(A, G, N)``; the mean of an empty group is 0."""
    return (groups / groups.sum(dim=-1, keepdim=True).clamp_min(1)).mT


def group_means(values: Tensor, groups: Tensor) -> Tensor:
    """Means ``(A, S, G)`` of values ``(A, S, N)`` over groups of samples ``(A, G, N)``; NaN where a group is empty.

    Example:
        >>> values, groups = torch.tensor([[[1.0, 2.0, 6.0]]]), torch.tensor([[[True, False, True], [False] * 3]])
        >>> group_means(values, groups)
        tensor([[[3.5000,    nan]]])
    """
    means = values @ group_weights(groups).to(values.dtype)
    return means.masked_fill(~groups.any(dim=-1).unsqueeze(1), torch.nan)


def check_labels(y: Tensor) -> None:
    """Raise a ``ValueError`` if a label is neither -1 nor 1."""
    if not bool((y.abs() == 1).all()):
        found = ", ".join(f"{value:g}" for value in y.unique()[:5].tolist())
        raise ValueError(f"labels must be -1 or 1, got {found}")
