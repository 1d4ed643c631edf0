"""Makes figures and pictures of what solvers of inverse problems find in a test."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics import Metric

from callbacks.reconstruction import (
    ImageMean,
    MeasurementResidual,
    PairedWinRate,
    PosteriorCoverage,
    ReconstructionMSE,
    ReconstructionPSNR,
)

Curve = tuple[list[float], list[float]]


class ReconstructionMonitor(pl.Callback):
    """Logs errors of reconstructed images after a test, for every solver and every number of measurements m.

    ``test/mse/<solver>/<m>``, the mean squared error of a pixel, with ``test/mse_se/...``, its standard error over the
    images; ``test/psnr/...``; ``test/residual/...``, the root mean square of what the measurements are off by, over
    that of their noise, where there is noise; ``test/coverage/...``, the share of pixels in the central interval of
    posterior samples, where there are samples. With a ``reference``, for every other solver:
    ``test/difference/<reference>_<solver>/<m>``, the mean of the reference's error minus the other's on the same
    images, ``test/difference_se/...``, and ``test/win_rate/...``, the share of images on which the reference is better.

    ``final_curves`` has ``mse/<solver>/<m>``, the images' positions and errors, and of the first images
    ``image/<solver>/<m>/<i>``, the shape and the pixels, also for ``truth`` and ``measured``, the adjoint applied to
    the measurements.

    A batch has ``x``, ``y``, ``operator`` with ``adjoint``, ``index`` and ``noise_std``. The module's test step returns
    ``{"reconstructions": {solver: images}, "chains": {solver: samples}}``, the latter where there are any.

    Args:
        reference: Solver that the others are compared with, or ``None``.
        num_shown: How many of the first images are kept, at least 0.
        level: Of the posterior interval, in (0, 1).
        pixel_std: Standard deviation of what a pixel differs by from that of a sample; see
            :class:`~callbacks.PosteriorCoverage`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ReconstructionMonitor(reference="sgilo")], logger=False)
    """

    def __init__(
        self, reference: str | None = None, num_shown: int = 8, level: float = 0.9, pixel_std: float = 0.0
    ) -> None:
        if num_shown < 0:
            raise ValueError(f"num_shown must be at least 0, got {num_shown}")
        PosteriorCoverage(level, pixel_std)
        self.reference, self.num_shown, self.level, self.pixel_std = reference, num_shown, level, pixel_std
        self.final_curves: dict[str, Curve] = {}
        self._metrics: dict[tuple[str, str], Metric] = {}
        self._positions: dict[str, ImageMean] = {}

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.final_curves, self._metrics, self._positions = {}, {}, {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, dict) or "reconstructions" not in outputs:
            raise MisconfigurationException(
                "ReconstructionMonitor needs a test_step that returns a dict with reconstructions, got "
                f"{type(outputs).__name__}"
            )
        found: dict[str, Tensor] = outputs["reconstructions"]
        if self.reference is not None and self.reference not in found:
            raise MisconfigurationException(
                f"reference must be one of the solvers {', '.join(found)}, got {self.reference!r}"
            )
        group = str(batch.y[0].numel())
        is_first = group not in self._positions
        self._positions.setdefault(group, ImageMean().to(batch.x.device)).update(batch.index.to(batch.x.dtype))
        for name, image in found.items():
            self._add("mse", f"{name}/{group}", ReconstructionMSE(), image, batch.x)
            self._add("psnr", f"{name}/{group}", ReconstructionPSNR(), image, batch.x)
            if batch.noise_std > 0:
                residual = MeasurementResidual(batch.noise_std)
                self._add("residual", f"{name}/{group}", residual, batch.operator(image), batch.y)
        for name, samples in outputs.get("chains", {}).items():
            self._add("coverage", f"{name}/{group}", PosteriorCoverage(self.level, self.pixel_std), samples, batch.x)
        if self.reference is not None:
            error = ReconstructionMSE().image_values(found[self.reference], batch.x)
            for name in [name for name in found if name != self.reference]:
                other = ReconstructionMSE().image_values(found[name], batch.x)
                self._add("difference", f"{self.reference}_{name}/{group}", PairedWinRate(), error, other)
        if is_first:
            measured = batch.operator.adjoint(batch.y)
            self._show(group, {"truth": batch.x, "measured": measured} | found)

    def _add(self, kind: str, name: str, metric: Metric, *batch: Tensor) -> None:
        self._metrics.setdefault((kind, name), metric.to(batch[0].device)).update(*batch)

    def _show(self, group: str, images: dict[str, Tensor]) -> None:
        for name, of in images.items():
            shape = [float(size) for size in of.shape[1:]]
            for i, image in enumerate(of[: self.num_shown]):
                pixels = [round(value, 3) for value in image.flatten().tolist()]
                self.final_curves[f"image/{name}/{group}/{i}"] = (shape, pixels)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        positions = {group: metric.all_values().tolist() for group, metric in self._positions.items()}
        for (kind, name), metric in self._metrics.items():
            found = metric.compute()
            values = {f"test/{kind}/{name}": found["mean"]}
            if kind in ("mse", "difference"):
                values[f"test/{kind}_se/{name}"] = found["se"]
            if "win_rate" in found:
                values[f"test/win_rate/{name}"] = found["win_rate"]
            pl_module.log_dict(values)
            if kind == "mse":
                assert isinstance(metric, ReconstructionMSE)
                index = positions[name.rpartition("/")[2]]
                self.final_curves[f"mse/{name}"] = (index, metric.all_values().tolist())
