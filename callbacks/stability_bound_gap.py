"""The generalisation gap that bounds are set beside: error on validation data less error on training data."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from callbacks.evaluation_data import as_in_a_test, evaluation_loader, on_device
from callbacks.gradient_discrepancy import validation_loader
from callbacks.label_noise import Agreement
from callbacks.neural_collapse_capture import evaluating
from callbacks.stability_bound_history import StepHistory


class GeneralizationGap(StepHistory):
    """Measures the error on all training and on all validation samples, in evaluation mode, and how far they differ.

    Logs ``gap/train_error``, ``gap/val_error`` and ``gap/gap``, the second less the first. With label noise both are
    errors against labels as given: the bounds are about the distribution that training samples come from.

    Works on any LightningModule that gives logits ``(B, K)`` of ``batch[0]``; a batch is ``(x, y, ...)``. Nothing that
    the run draws at random changes by it.

    Args:
        every_n_epochs: Epochs between two measurements, at least 1; the last one of ``max_epochs`` is measured always.

    Attributes:
        history: What was logged, by step and name.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[GeneralizationGap(every_n_epochs=5)], logger=False)
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        super().__init__()
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.every_n_epochs = every_n_epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        validation_loader(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs and epoch != trainer.max_epochs:
            return
        train, val = (
            error(trainer, pl_module, loader) for loader in (evaluation_loader(trainer), validation_loader(trainer))
        )
        self.record(trainer, {"gap/train_error": train, "gap/val_error": val, "gap/gap": val - train})


@torch.no_grad()
def error(trainer: pl.Trainer, pl_module: pl.LightningModule, loader: Any) -> Tensor:
    """Share of a loader's samples whose label the network does not say, over all processes."""
    right = Agreement().to(pl_module.device)
    with as_in_a_test(trainer), evaluating(pl_module), isolate_rng(include_cuda=pl_module.device.type == "cuda"):
        for x, y, *_ in on_device(trainer, loader):
            with trainer.precision_plugin.forward_context():
                right.update(pl_module(x), y)
    return 1 - right.compute()
