"""The plain supervised classifier that several papers vary."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR
from torchmetrics.classification import MulticlassAccuracy

from zoo.backbones import build_backbone

# Of a Trainer that a recipe's model makes itself, to train what it needs.
Precision = Literal["64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed", "64", "32", "16", "bf16"]
SCHEDULES = ("constant", "cosine", "step")
SGD: OptimizerCallable = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class Classifier(LightningModule):
    """A network, a criterion, an optimizer and a schedule.

    A batch is ``(x, y)``; what follows, if anything, is left to subclasses, except that a fourth part is taken as the
    labels without noise: the accuracies on these are logged beside those on the labels as given, as ``clean_acc``.

    Criterion, optimizer and a network of your own are not among the hyper-parameters that a checkpoint keeps: give them
    again to ``load_from_checkpoint``.

    A subclass says what differs: :meth:`loss` for another objective, ``training_step`` for another step.

    Args:
        num_classes: Number of classes K.
        input_shape: Channels, height and width of an image.
        backbone: Name of a network (:data:`zoo.backbones.BACKBONES`), or a network of your own, which has
            ``features(x)`` and a linear ``head`` if probes are to look into it.
        backbone_args: Further arguments of a network that is given by name.
        criterion: Loss of logits ``(B, K)`` and labels ``(B,)``; ``None`` means cross-entropy.
        optimizer: Makes an optimizer of the parameters; SGD with lr 0.1 and momentum 0.9 by default.
        lr_schedule: ``"constant"``; ``"cosine"``, over all epochs of the Trainer; or ``"step"``, at milestones.
        milestones: Epochs at which the step size is multiplied by ``gamma``.
        gamma: Factor at each milestone.
        min_lr_ratio: Where the cosine ends, as a share of the first step size.
        channels_last: Keep weights of convolutions in the memory format channels-last.

    Raises:
        ValueError: If an argument is out of range, or there is no such network.

    Example:
        >>> model = Classifier(10, (1, 28, 28), backbone="cnn", optimizer=partial(torch.optim.Adam, lr=1e-3))
        >>> model(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    main_metric = "val/acc"

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        backbone: str | nn.Module = "resnet18",
        backbone_args: dict[str, Any] | None = None,
        criterion: nn.Module | None = None,
        optimizer: OptimizerCallable = SGD,
        lr_schedule: Literal["constant", "cosine", "step"] = "constant",
        milestones: Sequence[int] = (),
        gamma: float = 0.1,
        min_lr_ratio: float = 0.0,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        own = ["optimizer", "criterion"] + ([] if isinstance(backbone, str) else ["backbone"])
        self.save_hyperparameters(ignore=own)
        check_schedule(lr_schedule, milestones, gamma, min_lr_ratio)
        if isinstance(backbone, str):
            self.net: nn.Module = build_backbone(backbone, num_classes, input_shape, backbone_args)
        elif backbone_args:
            raise ValueError(f"backbone_args must be left out with a network of your own, got {backbone_args}")
        else:
            self.net = backbone
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        self.criterion = nn.CrossEntropyLoss() if criterion is None else criterion
        self.make_optimizer = optimizer
        self.accuracies = nn.ModuleDict(
            {
                f"{part}_{labels}": MulticlassAccuracy(num_classes, average="micro", validate_args=False)
                for part in ("train", "val", "test")
                for labels in ("acc", "clean_acc")
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape ``(B, K)``."""
        return self.net(x)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer is given, shape ``(B, d)``."""
        return self.net.features(x)  # type: ignore[operator]

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        return self.net.head  # type: ignore[return-value]

    def loss(self, logits: Tensor, batch: Sequence[Tensor]) -> Tensor:
        """The training loss, scalar; also called in validation and test, where ``self.training`` is false.

        Args:
            logits: Shape ``(B, K)``, at least float32, whatever the Trainer's precision.
            batch: The whole batch.
        """
        return self.criterion(logits, batch[1])

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        logits = full_precision(self(batch[0]))
        loss = self.loss(logits, batch)
        self.log_step("train", loss, logits, batch)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._evaluate("test", batch)

    def predict_step(self, batch: Sequence[Tensor] | Tensor, batch_idx: int) -> Tensor:
        return self(batch if isinstance(batch, Tensor) else batch[0])

    def _evaluate(self, part: str, batch: Sequence[Tensor]) -> None:
        logits = full_precision(self(batch[0]))
        self.log_step(part, self.loss(logits, batch), logits, batch)

    def log_step(self, part: str, loss: Tensor, logits: Tensor, batch: Sequence[Tensor]) -> None:
        """Log loss and accuracies of a batch, for the epoch's mean.

        Args:
            part: ``"train"``, ``"val"`` or ``"test"``.
            loss: Of the batch, scalar.
            logits: Shape ``(B, K)``.
            batch: The whole batch.
        """
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(logits)}
        self.log(f"{part}/loss", loss.detach(), prog_bar=True, sync_dist=True, **options)  # at the epoch's end
        self._log_accuracy(part, "acc", logits, batch[1], prog_bar=True, **options)
        if len(batch) > 3 and part != "test":
            self._log_accuracy(part, "clean_acc", logits, batch[3], **options)

    def _log_accuracy(self, part: str, name: str, logits: Tensor, y: Tensor, **options: Any) -> None:
        metric = self.accuracies[f"{part}_{name}"]
        assert isinstance(metric, MulticlassAccuracy)
        metric.update(logits.detach(), y)
        self.log(f"{part}/{name}", metric, **options)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        scheduler = self.scheduler(optimizer)
        return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    def scheduler(self, optimizer: Optimizer) -> LRScheduler | None:
        """The schedule of an optimizer, stepped once an epoch; ``None`` if its step size is constant."""
        schedule = self.hparams["lr_schedule"]
        if schedule == "step":
            return MultiStepLR(optimizer, list(self.hparams["milestones"]), self.hparams["gamma"])
        if schedule == "cosine":
            epochs = self.trainer.max_epochs
            if epochs is None or epochs < 1:
                raise ValueError(f"lr_schedule cosine needs --trainer.max_epochs of at least 1, got {epochs}")
            last = optimizer.param_groups[0]["lr"] * self.hparams["min_lr_ratio"]
            return CosineAnnealingLR(optimizer, epochs, last)
        return None


def full_precision(logits: Tensor) -> Tensor:
    """The logits in float32 where they have less, so that a loss is as exact under mixed precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def check_schedule(lr_schedule: str, milestones: Sequence[int], gamma: float, min_lr_ratio: float) -> None:
    """Raise a ``ValueError`` that names the first argument of a schedule that is out of range."""
    if lr_schedule not in SCHEDULES:
        raise ValueError(f"lr_schedule must be one of {', '.join(SCHEDULES)}, got {lr_schedule!r}")
    if lr_schedule == "step" and not milestones:
        raise ValueError("milestones must name at least one epoch where lr_schedule is step, got none")
    if lr_schedule != "step" and milestones:
        raise ValueError(f"milestones need lr_schedule step, got {list(milestones)} with {lr_schedule}")
    if list(milestones) != sorted(set(milestones)) or any(epoch < 1 for epoch in milestones):
        raise ValueError(f"milestones must be increasing epochs of at least 1, got {list(milestones)}")
    if not gamma > 0:
        raise ValueError(f"gamma must be > 0, got {gamma}")
    if not 0 <= min_lr_ratio <= 1:
        raise ValueError(f"min_lr_ratio must be in [0, 1], got {min_lr_ratio}")
