"""A classifier with a certificate."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.classifier import Classifier
from zoo.paraunitary_conv.certificate import CertifiedAccuracy, CertifiedRadius
from zoo.paraunitary_conv.loss import LipschitzMarginLoss
from zoo.paraunitary_conv.network import LipConvNet
from zoo.paraunitary_conv.orthogonal import Chart
from zoo.paraunitary_conv.parametrization import Init
from zoo.paraunitary_conv.schedule import rise_and_fall


class LipschitzClassifier(Classifier):
    """A :class:`LipConvNet` that logs, beside its accuracy, how much of it is certified.

    In validation and test ``certified_36`` and so on are the shares of images that no perturbation of an l2 norm of
    36/255 makes it err on, ``certified_radius`` is the mean radius, and ``lipschitz_bound`` the constant that these
    rest on: 1 for orthogonal layers, else the product of the layers' largest singular values. Pixels must come in
    [0, 1] and not normalised: with ``VisionDataModule(normalize=False)``.

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image.
        depth: Number of convolutions, a multiple of 5.
        base_channels: The first stage has twice as many channels, the last one 32 times as many.
        constraint: ``"orthogonal"``, or ``"none"`` for the same network of plain convolutions.
        parametrization: ``"cayley"`` or ``"exp"``.
        init: Of the orthogonal convolutions; see :class:`~zoo.paraunitary_conv.SeparableParaunitary`.
        mean: Subtracted from the pixels: one number, or one for each channel.
        radii: Radii of the certified accuracies, whole numbers >= 0 of 255ths.
        criterion: Loss of logits and labels; ``None`` is :class:`LipschitzMarginLoss`.
        lr_schedule: ``"rise_and_fall"`` (:func:`rise_and_fall`, over all steps), or one of
            :class:`~zoo.classifier.Classifier`.
        **classifier: Further arguments of :class:`~zoo.classifier.Classifier`.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Su, Byeon, Huang, ICML 2022.

    Example:
        >>> model = LipschitzClassifier(10, depth=5, base_channels=4)
        >>> model(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    lipschitz_bound: Tensor

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        depth: int = 5,
        base_channels: int = 32,
        constraint: Literal["orthogonal", "none"] = "orthogonal",
        parametrization: Chart = "cayley",
        init: Init = "permutation",
        mean: float | Sequence[float] = 0.5,
        radii: Sequence[int] = (36, 72, 108),
        criterion: nn.Module | None = None,
        lr_schedule: Literal["rise_and_fall", "constant", "cosine", "step"] = "rise_and_fall",
        **classifier: Any,
    ) -> None:
        if not radii or any(radius < 0 or radius != int(radius) for radius in radii):
            raise ValueError(f"radii must be whole numbers >= 0, at least one, got {list(radii)}")
        super().__init__(
            num_classes,
            input_shape,
            backbone=LipConvNet(
                num_classes, input_shape, depth, base_channels, constraint, parametrization, init, mean
            ),
            criterion=LipschitzMarginLoss() if criterion is None else criterion,
            lr_schedule="constant" if lr_schedule == "rise_and_fall" else lr_schedule,
            **classifier,
        )
        self.lr_schedule = lr_schedule
        self.radii = tuple(map(int, radii))
        self.certified_accuracies, self.certified_radii = (
            nn.ModuleDict({part: make() for part in ("val", "test")})
            for make in (lambda: CertifiedAccuracy([radius / 255 for radius in self.radii]), CertifiedRadius)
        )
        self.register_buffer("lipschitz_bound", torch.ones(()), persistent=False)

    def configure_optimizers(self) -> Any:
        if self.lr_schedule != "rise_and_fall":
            return super().configure_optimizers()
        num_steps = self.trainer.estimated_stepping_batches
        if num_steps == math.inf:
            raise ValueError(
                "lr_schedule rise_and_fall needs a last step: --trainer.max_epochs or max_steps, got neither"
            )
        optimizer = self.make_optimizer(self.parameters())
        schedule = rise_and_fall(optimizer, int(num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_validation_epoch_start(self) -> None:
        self.lipschitz_bound = self.net.lipschitz_bound()  # type: ignore[operator]

    on_test_epoch_start = on_validation_epoch_start

    def log_step(self, part: str, loss: Tensor, logits: Tensor, batch: Sequence[Tensor]) -> None:
        """Log loss and accuracies of a batch, and count what is certified of it.

        Args:
            part: ``"train"``, ``"val"`` or ``"test"``.
            loss: Of the batch, scalar.
            logits: Shape ``(B, K)``.
            batch: The whole batch.
        """
        super().log_step(part, loss, logits, batch)
        if part != "train":
            scaled = logits / self.lipschitz_bound
            for metrics in (self.certified_accuracies, self.certified_radii):
                metrics[part].update(scaled, batch[1])  # type: ignore[operator]

    def on_validation_epoch_end(self) -> None:
        self._log_certificates("val")

    def on_test_epoch_end(self) -> None:
        self._log_certificates("test")

    def _log_certificates(self, part: str) -> None:
        accuracy, radius = self.certified_accuracies[part], self.certified_radii[part]
        shares: Tensor = accuracy.compute().reshape(-1)  # type: ignore[operator]  # a single one comes without axis
        found = {f"certified_{name}": share for name, share in zip(self.radii, shares)}
        found |= {"certified_radius": radius.compute(), "lipschitz_bound": self.lipschitz_bound}  # type: ignore[operator]
        self.log_dict({f"{part}/{name}": value for name, value in found.items()}, sync_dist=True)
        for metric in (accuracy, radius):
            metric.reset()  # type: ignore[operator]
