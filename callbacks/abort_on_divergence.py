"""Ends a training whose loss has diverged, and says where."""

import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor


class DivergenceError(RuntimeError):
    """The training loss is not finite any more, or beyond what is allowed."""


class AbortOnDivergence(pl.Callback):
    """Raises an error that names loss, step and learning rate once the training loss is NaN, infinite or too large.

    The losses stay on the device and are looked at together, so that steps need not wait.

    Works with any LightningModule whose ``training_step`` returns the loss, or ``{"loss": loss}``.

    Args:
        max_loss: The largest loss that is allowed.
        every_n_steps: Look after so many batches, and at the end of every epoch.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[AbortOnDivergence(max_loss=1e4)], logger=False)
    """

    def __init__(self, max_loss: float = math.inf, every_n_steps: int = 50) -> None:
        if math.isnan(max_loss):
            raise ValueError(f"max_loss must be a number, got {max_loss}")
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.max_loss, self.every_n_steps = max_loss, every_n_steps
        self._losses: list[Tensor] = []
        self._rates: list[float | Tensor] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            return
        self._losses.append(loss.detach())
        self._rates.append(trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else math.nan)
        if len(self._losses) >= self.every_n_steps:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        losses = torch.stack(self._losses).float() if self._losses else torch.zeros(0)
        rates, self._losses, self._rates = self._rates, [], []
        bad = (~(losses.isfinite() & (losses <= self.max_loss))).nonzero().flatten().tolist()
        if not trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            return
        if not bad:
            raise DivergenceError("training has diverged in another process")
        first = bad[0]
        batches = trainer.fit_loop.total_batch_idx + 1 - len(losses)
        raise DivergenceError(
            f"training has diverged: loss {float(losses[first]):.3g} in batch {batches + first} of the training "
            f"(counted from 0), lr {float(rates[first]):g}, largest loss allowed {self.max_loss:g}"
        )
