"""Forecasts and classes of windows of temporal graphs, by any of the models."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch_geometric.nn import global_mean_pool
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from zoo.temporal_graph.layers import activation_function
from zoo.temporal_graph.metrics import OffsetMAPE, RawError
from zoo.temporal_graph.presets import build_encoder
from zoo.temporal_graph.window import num_windows, window_of_node

ADAM: OptimizerCallable = partial(torch.optim.Adam, lr=1e-3, weight_decay=1e-5)


class Head(nn.Module):
    """A perceptron of one hidden layer on the representation.

    Args:
        in_channels: Width of the representation.
        hidden_channels: Width of the hidden layer.
        out_channels: Values that come out.
        activation: Of the representation and of the hidden layer.
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, activation: str) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        self.hidden = nn.Linear(in_channels, hidden_channels)
        self.out = nn.Linear(hidden_channels, out_channels)

    def forward(self, z: Tensor) -> Tensor:
        """From ``(*, in_channels)`` to ``(*, out_channels)``."""
        return self.out(self.activation(self.hidden(self.activation(z))))


class TemporalGraphModule(LightningModule):
    """An encoder of windows and a head; what both tasks share.

    A batch has the attributes of :class:`~zoo.temporal_graph.window.TemporalWindow`, and ``y`` and ``mask``.

    Args:
        out_channels: Values that the head gives.
        in_channels: Node features F.
        edge_channels: Edge features C.
        encoder: Name of a model (:data:`~zoo.temporal_graph.presets.ENCODERS`), or one of your own: called with a
            window, it gives ``(N, encoder.out_channels)``.
        encoder_args: Further arguments of a model that is given by name.
        hidden_channels: Width D of all its parts, and of the head.
        activation: ``"softplus"``, ``"tanh"``, ``"relu"`` or ``"identity"``.
        optimizer: Makes an optimizer of the parameters; Adam with lr 1e-3 and weight decay 1e-5 by default.

    Raises:
        ValueError: If an argument is out of range, or there is no such model.
    """

    def __init__(
        self,
        out_channels: int,
        in_channels: int,
        edge_channels: int,
        encoder: str | nn.Module,
        encoder_args: dict[str, Any] | None,
        hidden_channels: int,
        activation: str,
        optimizer: OptimizerCallable,
    ) -> None:
        super().__init__()
        if isinstance(encoder, str):
            built = build_encoder(encoder, in_channels, edge_channels, hidden_channels, activation, encoder_args)
        elif encoder_args:
            raise ValueError(f"encoder_args must be left out with an encoder of your own, got {encoder_args}")
        else:
            built = encoder
        self.encoder: nn.Module = built
        self.head = Head(built.out_channels, hidden_channels, out_channels, activation)  # type: ignore[arg-type]
        self.make_optimizer = optimizer

    def embed(self, window: Any) -> Tensor:
        """Represent the nodes of all windows, shape ``(N, encoder.out_channels)``."""
        return self.encoder(window)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.measure("train", batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.measure("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.measure("test", batch)

    def measure(self, part: str, batch: Any) -> Tensor:
        """The loss of a batch, logged with the metrics of ``part``."""
        raise NotImplementedError

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())


def own_arguments(encoder: str | nn.Module) -> list[str]:
    """Arguments that are not among the hyper-parameters of a checkpoint: give them again to load it."""
    return ["optimizer"] + ([] if isinstance(encoder, str) else ["encoder"])


class TemporalForecaster(TemporalGraphModule):
    """Forecasts of the next step at every node, trained on the squared error of scaled targets.

    Logs ``loss`` and, in validation and test, ``mape`` (:class:`~zoo.temporal_graph.metrics.OffsetMAPE` on scaled
    targets, percent), and ``mae`` and ``rmse`` in the unit of measurement.

    Args:
        in_channels: Node features F.
        out_channels: Targets of a node.
        edge_channels: Edge features C.
        target_range: By how much to multiply scaled errors for the unit of measurement, for each target.
        encoder: See :class:`TemporalGraphModule`.
        encoder_args: See there.
        hidden_channels: Width D of all parts.
        activation: See there.
        optimizer: See there.

    Example:
        >>> model = TemporalForecaster(encoder="dcrnn", in_channels=1, out_channels=1)
        >>> sum(p.numel() for p in model.parameters())
        3553
    """

    main_metric = "val/mape"

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        edge_channels: int = 1,
        target_range: Sequence[float] = (1.0,),
        encoder: str | nn.Module = "gru_gcn",
        encoder_args: dict[str, Any] | None = None,
        hidden_channels: int = 16,
        activation: Literal["softplus", "tanh", "relu", "identity"] = "softplus",
        optimizer: OptimizerCallable = ADAM,
    ) -> None:
        super().__init__(
            out_channels, in_channels, edge_channels, encoder, encoder_args, hidden_channels, activation, optimizer
        )
        self.save_hyperparameters(ignore=own_arguments(encoder))
        self.metrics = forecast_metrics(target_range)

    def forward(self, window: Any) -> Tensor:
        """Scaled forecasts, shape ``(N, targets)``."""
        return self.head(self.embed(window))

    def measure(self, part: str, batch: Any) -> Tensor:
        forecast = self(batch).float()
        loss = masked_mse(forecast, batch.y, batch.mask)
        log_forecast(self, self.metrics, part, loss, forecast, batch)
        return loss


def forecast_metrics(target_range: Sequence[float]) -> nn.ModuleDict:
    """The metrics of forecasts in validation and test."""
    return nn.ModuleDict(
        {
            f"of_{part}": MetricCollection(
                {"mape": OffsetMAPE(), "mae": RawError(target_range), "rmse": RawError(target_range, power=2)},
                compute_groups=False,
                prefix=f"{part}/",
            )
            for part in ("val", "test")
        }
    )


def log_forecast(
    module: LightningModule, metrics: nn.ModuleDict, part: str, loss: Tensor, forecast: Tensor, batch: Any
) -> None:
    """Log the loss of a batch of forecasts and, but for the training, the metrics of the epoch."""
    options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": num_windows(batch)}
    module.log(f"{part}/loss", loss.detach(), prog_bar=True, sync_dist=True, **options)
    if part == "train":
        return
    collection = metrics[f"of_{part}"]
    assert isinstance(collection, MetricCollection)
    collection.update(forecast.detach(), batch.y, batch.mask)
    module.log_dict(collection, **options)


def masked_mse(forecast: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of forecasts and targets ``(N, targets)`` over the nodes of a mask ``(N,)``, scalar."""
    weight = mask[:, None].to(forecast.dtype)
    return ((forecast - y).square() * weight).sum() / (weight.sum() * y.shape[1]).clamp(min=1)


class TemporalGraphClassifier(TemporalGraphModule):
    """The class of each window, from the mean of its nodes' representations; trained on the cross-entropy.

    Args:
        in_channels: Node features F.
        num_classes: Number of classes.
        edge_channels: Edge features C.
        encoder: See :class:`TemporalGraphModule`.
        encoder_args: See there.
        hidden_channels: Width D of all parts.
        activation: See there.
        optimizer: See there.

    Example:
        >>> model = TemporalGraphClassifier(encoder="gru_gcn", in_channels=1, num_classes=4)
        >>> sum(p.numel() for p in model.parameters())
        2981
    """

    main_metric = "val/acc"

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        edge_channels: int = 1,
        encoder: str | nn.Module = "gru_gcn",
        encoder_args: dict[str, Any] | None = None,
        hidden_channels: int = 16,
        activation: Literal["softplus", "tanh", "relu", "identity"] = "tanh",
        optimizer: OptimizerCallable = ADAM,
    ) -> None:
        super().__init__(
            num_classes, in_channels, edge_channels, encoder, encoder_args, hidden_channels, activation, optimizer
        )
        self.save_hyperparameters(ignore=own_arguments(encoder))
        self.accuracies = nn.ModuleDict(
            {  # "of_", as a ModuleDict has an attribute "train"
                f"of_{part}": MulticlassAccuracy(num_classes, average="micro", validate_args=False)
                for part in ("train", "val", "test")
            }
        )

    def forward(self, window: Any) -> Tensor:
        """Logits, shape ``(B, num_classes)``."""
        return self.head(global_mean_pool(self.embed(window), window_of_node(window), num_windows(window)))

    def measure(self, part: str, batch: Any) -> Tensor:
        logits = self(batch).float()
        loss = F.cross_entropy(logits, batch.y)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": num_windows(batch)}
        self.log(f"{part}/loss", loss.detach(), prog_bar=True, sync_dist=True, **options)
        accuracy = self.accuracies[f"of_{part}"]
        assert isinstance(accuracy, MulticlassAccuracy)
        accuracy.update(logits.detach(), batch.y)
        self.log(f"{part}/acc", accuracy, prog_bar=True, **options)
        return loss
