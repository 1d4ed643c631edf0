"""Forecasts without learning, by which every other is to be judged."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from zoo.temporal_graph.module import forecast_metrics, log_forecast, masked_mse

METHODS = ("last", "window_mean")


class NaiveForecast(LightningModule):
    """The last value, or the mean of the window. There is nothing to train; an epoch measures the training part.

    Logs what :class:`~zoo.temporal_graph.module.TemporalForecaster` logs. The first features of a node must be its
    targets at earlier steps.

    Args:
        method: ``"last"`` or ``"window_mean"``.
        out_channels: Targets of a node.
        target_range: By how much to multiply scaled errors for the unit of measurement, for each target.

    Raises:
        ValueError: If there is no such method.

    Example:
        >>> NaiveForecast("window_mean").method
        'window_mean'
    """

    main_metric = "val/mape"

    def __init__(
        self,
        method: Literal["last", "window_mean"] = "window_mean",
        out_channels: int = 1,
        target_range: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.method, self.out_channels = method, out_channels
        self.metrics = forecast_metrics(target_range)

    def forward(self, window: Any) -> Tensor:
        """Scaled forecasts, shape ``(N, targets)``."""
        past = window.x[:, :, : self.out_channels]
        return past[:, -1] if self.method == "last" else past.mean(dim=1)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self._measure("train", batch)
        self.optimizers().step()  # type: ignore[union-attr]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._measure("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._measure("test", batch)

    def _measure(self, part: str, batch: Any) -> None:
        forecast = self(batch)
        log_forecast(self, self.metrics, part, masked_mse(forecast, batch.y, batch.mask), forecast, batch)

    def configure_optimizers(self) -> Optimizer:
        """A counter: Lightning keeps checkpoints only where it counts."""
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.0)
