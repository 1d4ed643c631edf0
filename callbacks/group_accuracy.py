"""Accuracy and loss of groups of samples, which a mean over all of them hides."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics import Metric

from callbacks.evaluation_data import evaluation_loader, on_device


class GroupMean(Metric):
    """Mean of a value over the samples of each group.

    Args:
        group_names: Names of the groups, each once.

    Raises:
        ValueError: If there are none, or a name comes twice.

    Example:
        >>> metric = GroupMean(["large", "small"])
        >>> metric.update(torch.tensor([1.0, 2.0, 6.0]), group=torch.tensor([0, 0, 0]))
        >>> metric.compute()
        {'large': tensor(3.), 'small': tensor(nan)}
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, group_names: Sequence[str]) -> None:
        super().__init__()
        self.group_names = list(group_names)
        if not self.group_names or len(set(self.group_names)) < len(self.group_names):
            raise ValueError(f"group_names must be different names, at least one, got {self.group_names}")
        self.add_state("total", torch.zeros(len(self.group_names)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(self.group_names), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, values: Tensor, group: Tensor) -> None:
        """Add samples.

        Args:
            values: Shape ``(B,)``.
            group: Number of each one's group, or whether it is in the second of two, ``(B,)``.
        """
        group = group.long()
        self.total.index_add_(0, group, values.to(self.total.dtype))
        self.count.index_add_(0, group, torch.ones_like(group))

    def compute(self) -> dict[str, Tensor]:
        """The mean of each group by its name; NaN where a group is empty."""
        return dict(zip(self.group_names, self.total / self.count))


class GroupAccuracy(GroupMean):
    """Accuracy in each group of samples.

    Args:
        group_names: Names of the groups, each once.

    Raises:
        ValueError: If there are none, or a name comes twice.

    Example:
        >>> metric = GroupAccuracy(["large", "small"])
        >>> metric.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), torch.tensor([False, False, True]))
        >>> metric.compute()
        {'large': tensor(1.), 'small': tensor(0.)}
    """

    higher_is_better = True

    def update(self, preds: Tensor, y: Tensor, group: Tensor) -> None:  # type: ignore[override]
        """Add samples.

        Args:
            preds: Predicted labels ``(B,)``, or logits ``(B, K)``.
            y: Labels, ``(B,)``.
            group: Number of each sample's group, or whether it is in the second of two, ``(B,)``.
        """
        labels = preds.argmax(dim=1) if preds.ndim == 2 else preds
        super().update((labels == y).float(), group)


class GroupMonitor(pl.Callback):
    """Logs accuracy and cross-entropy of each group of samples, as ``test/acc_small`` and ``test/loss_small``.

    In validation and test over their batches; for training, below ``train/``, over the training data as in an
    evaluation, after the first epoch and every ``every_n_epochs`` epochs.

    Works on any LightningModule that gives logits ``(B, K)`` of ``batch[0]``, with labels in ``batch[1]`` and positions
    of the samples in ``batch[2]``. The datamodule has ``group_names``, and ``groups``: for each of ``"train"``,
    ``"val"`` and ``"test"`` the number of the group of every sample, ``(N,)``.

    Args:
        every_n_epochs: Epochs between two looks at the training data, at least 1; ``None`` leaves it out.

    Raises:
        ValueError: If ``every_n_epochs`` is out of range.
        MisconfigurationException: If the datamodule has no groups.

    Example:
        >>> trainer = pl.Trainer(callbacks=[GroupMonitor(every_n_epochs=5)], logger=False)
    """

    def __init__(self, every_n_epochs: int | None = 10) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, or None, got {every_n_epochs}")
        self.every_n_epochs = every_n_epochs

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        datamodule = getattr(trainer, "datamodule", None)
        if not (hasattr(datamodule, "groups") and hasattr(datamodule, "group_names")):
            raise MisconfigurationException(
                f"GroupMonitor needs a datamodule with groups and group_names, got {type(datamodule).__name__}"
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._reset(trainer, pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._reset(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._add(trainer, pl_module, batch, "val")

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._add(trainer, pl_module, batch, "test")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log(pl_module, "test")

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch
        if self.every_n_epochs is None or (epoch and (epoch + 1) % self.every_n_epochs):
            return
        self._reset(trainer, pl_module)
        training = pl_module.training
        pl_module.eval()
        for batch in on_device(trainer, evaluation_loader(trainer)):
            self._add(trainer, pl_module, batch, "train")
        pl_module.train(training)
        self._log(pl_module, "train")

    def _reset(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        self.accuracy = GroupAccuracy(datamodule.group_names).to(pl_module.device)
        self.loss = GroupMean(datamodule.group_names).to(pl_module.device)

    def _add(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, part: str) -> None:
        x, y, positions = batch[:3]
        groups = trainer.datamodule.groups[part].to(positions.device)[positions]  # type: ignore[attr-defined]
        with trainer.precision_plugin.forward_context():
            logits = pl_module(x).float()
        self.accuracy.update(logits, y, groups)
        self.loss.update(F.cross_entropy(logits, y, reduction="none"), groups)

    def _log(self, pl_module: pl.LightningModule, part: str) -> None:
        for kind, metric in {"acc": self.accuracy, "loss": self.loss}.items():
            pl_module.log_dict({f"{part}/{kind}_{name}": value for name, value in metric.compute().items()})
