"""Forecasts of some nodes over time, beside what came and beside what no learning would say."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor


class ForecastCurves(pl.Callback):
    """Keeps curves of the test: ``forecast/<node>``, ``truth/<node>`` and ``last_value/<node>`` over the steps.

    They are of the first target. A batch has ``x`` ``(N, T, F)`` with the targets first, ``y`` ``(N, targets)``,
    ``ptr`` ``(B + 1,)`` and ``time`` ``(B,)``, the step that is forecast, and its windows have equally many nodes; the
    module's ``predict_step(batch, batch_idx)`` gives ``(N, targets)``. Where the datamodule has ``to_raw(y)``, the
    curves are in the unit of measurement.

    Args:
        nodes: Which nodes; a number takes so many of the largest mean target in the test.

    Raises:
        ValueError: If there is no node.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ForecastCurves(nodes=[0, 5])], logger=False)
    """

    def __init__(self, nodes: int | Sequence[int] = 3) -> None:
        if (nodes if isinstance(nodes, int) else len(nodes)) < 1:
            raise ValueError(f"nodes must be at least 1, or name one, got {nodes}")
        self.nodes = nodes
        self.final_curves: dict[str, tuple[list[int], list[float]]] = {}
        self._parts: list[tuple[Tensor, Tensor]] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._parts = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        time = getattr(batch, "time", None)
        if time is None:
            raise MisconfigurationException("ForecastCurves needs batches with time, the step that is forecast")
        with trainer.precision_plugin.forward_context():
            forecast = pl_module.predict_step(batch, batch_idx)
        num_targets = batch.y.shape[1]
        values = torch.stack([forecast, batch.y, batch.x[:, -1, :num_targets]])  # (3, N, targets)
        to_raw = getattr(getattr(trainer, "datamodule", None), "to_raw", None)
        values = values if to_raw is None else to_raw(values)
        self._parts.append((time, values[..., 0].view(3, len(time), -1).cpu()))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        time = torch.cat([part.cpu() for part, _ in self._parts])
        order = time.argsort()
        values = torch.cat([part for _, part in self._parts], dim=1)[:, order].float()
        steps = time[order].tolist()
        chosen = self.nodes
        if isinstance(chosen, int):
            chosen = values[1].mean(0).topk(min(chosen, values.shape[2])).indices.tolist()
        self.final_curves = {
            f"{name}/{node}": (steps, values[i, :, node].tolist())
            for i, name in enumerate(("forecast", "truth", "last_value"))
            for node in chosen
        }
