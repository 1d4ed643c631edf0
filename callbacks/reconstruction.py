"""Metrics of reconstructed images: errors with their standard errors, paired comparisons, coverage of intervals."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class ImageMean(Metric):
    """The mean over images of a value for each of them, with its standard error.

    ``compute`` gives ``"mean"`` and ``"se"``, NaN for a single image. A subclass defines :meth:`image_values`, or the
    values themselves are given to ``update``.

    Example:
        >>> metric = ImageMean()
        >>> metric.update(torch.tensor([1.0, 2.0, 3.0]))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'mean': 2.0, 'se': 0.577}
    """

    full_state_update = False
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def image_values(self, *batch: Tensor) -> Tensor:
        """A value for each image of a batch, ``(B,)``."""
        (values,) = batch
        return values

    def update(self, *batch: Tensor) -> None:
        """Count the images of a batch."""
        self.values.append(self.image_values(*batch).detach())

    def all_values(self) -> Tensor:
        """The values of all images so far, ``(N,)``."""
        return dim_zero_cat(self.values)

    def compute(self) -> dict[str, Tensor]:
        values = self.all_values()
        spread = values.std() if len(values) > 1 else values.new_tensor(math.nan)
        return {"mean": values.mean(), "se": spread / math.sqrt(len(values))}


class ReconstructionMSE(ImageMean):
    """Mean squared error of a pixel, ``update(found, x)`` with images ``(B, *)``.

    Example:
        >>> metric = ReconstructionMSE()
        >>> metric.update(torch.zeros(2, 4), torch.ones(2, 4))
        >>> metric.compute()["mean"]
        tensor(1.)
    """

    def image_values(self, *batch: Tensor) -> Tensor:
        found, x = batch
        if found.shape != x.shape:
            raise ValueError(f"found must have the shape of x, {tuple(x.shape)}, got {tuple(found.shape)}")
        return (found - x).flatten(1).square().mean(1)


class ReconstructionPSNR(ReconstructionMSE):
    r"""Peak signal-to-noise ratio of an image in decibels, :math:`10 \log_{10}(L^2 / \mathrm{MSE})`.

    Args:
        data_range: Largest minus smallest value of a pixel, L, > 0.

    Raises:
        ValueError: If ``data_range`` is not positive.

    Example:
        >>> metric = ReconstructionPSNR()
        >>> metric.update(torch.zeros(1, 4), torch.full((1, 4), 0.1))
        >>> round(metric.compute()["mean"].item(), 3)
        20.0
    """

    def __init__(self, data_range: float = 1.0) -> None:
        if not data_range > 0:
            raise ValueError(f"data_range must be > 0, got {data_range}")
        super().__init__()
        self.data_range = data_range

    def image_values(self, *batch: Tensor) -> Tensor:
        return 20 * math.log10(self.data_range) - 10 * super().image_values(*batch).log10()


class MeasurementResidual(ImageMean):
    r"""Root mean square of :math:`A \hat x - y` over the noise's: near 1 where an image explains what was measured.

    ``update(predicted, y)`` with measurements ``(B, m)``.

    Args:
        noise_std: Standard deviation of the noise, > 0.

    Raises:
        ValueError: If ``noise_std`` is not positive.

    Example:
        >>> metric = MeasurementResidual(noise_std=0.5)
        >>> metric.update(torch.zeros(2, 3), torch.full((2, 3), 0.5))
        >>> metric.compute()["mean"]
        tensor(1.)
    """

    def __init__(self, noise_std: float) -> None:
        if not noise_std > 0:
            raise ValueError(f"noise_std must be > 0, got {noise_std}")
        super().__init__()
        self.noise_std = noise_std

    def image_values(self, *batch: Tensor) -> Tensor:
        predicted, y = batch
        return (predicted - y).flatten(1).square().mean(1).sqrt() / self.noise_std


class PairedWinRate(ImageMean):
    """Compares two errors of the same images, ``update(one, other)`` with values ``(B,)``.

    ``compute`` gives the ``"mean"`` of one minus other with its ``"se"``, and ``"win_rate"``, the share of images on
    which the one is smaller; a tie counts half.

    Example:
        >>> metric = PairedWinRate()
        >>> metric.update(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 2.0, 4.0, 5.0]))
        >>> metric.compute()["mean"], metric.compute()["win_rate"]
        (tensor(-0.7500), tensor(0.8750))
    """

    def image_values(self, *batch: Tensor) -> Tensor:
        one, other = batch
        return one - other

    def compute(self) -> dict[str, Tensor]:
        difference = self.all_values()
        wins = (difference < 0).double() + 0.5 * (difference == 0).double()
        return super().compute() | {"win_rate": wins.mean().to(difference.dtype)}


class PosteriorCoverage(ImageMean):
    r"""Share of an image's pixels that lie within the central interval of posterior samples.

    A pixel x is within it if :math:`\frac1S \sum_s \Phi((x - x_s) / \sigma)` is between both tails, with
    :math:`\sigma` the ``pixel_std``: images that a generator makes are never quite the true ones.

    ``update(samples, x)`` with samples ``(S, B, *)`` and images ``(B, *)``. The mean is near ``level`` where the
    samples are of the posterior, and smaller where their spread is too small.

    Args:
        level: Of the interval, in (0, 1).
        pixel_std: Standard deviation of what a pixel differs by from that of a sample, >= 0; 0 takes the samples' own
            quantiles.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> metric = PosteriorCoverage(level=0.8)
        >>> metric.update(torch.linspace(0, 1, 101).view(-1, 1, 1).expand(-1, 1, 2), torch.tensor([[0.5, 0.95]]))
        >>> metric.compute()["mean"]
        tensor(0.5000)
    """

    def __init__(self, level: float = 0.9, pixel_std: float = 0.0) -> None:
        if not 0 < level < 1:
            raise ValueError(f"level must be in (0, 1), got {level}")
        if not 0 <= pixel_std < math.inf:
            raise ValueError(f"pixel_std must be >= 0 and finite, got {pixel_std}")
        super().__init__()
        self.level, self.pixel_std = level, pixel_std

    def image_values(self, *batch: Tensor) -> Tensor:
        samples, x = batch
        if samples.shape[1:] != x.shape:
            raise ValueError(f"samples must be of shape (S, *{tuple(x.shape)}), got {tuple(samples.shape)}")
        tail = (1 - self.level) / 2
        if self.pixel_std:
            share_below = torch.special.ndtr((x - samples) / self.pixel_std).mean(0)
            return ((share_below - 0.5).abs() <= 0.5 - tail).to(x.dtype).flatten(1).mean(1)
        low, high = torch.quantile(samples, torch.tensor([tail, 1 - tail], dtype=x.dtype, device=x.device), dim=0)
        return ((low <= x) & (x <= high)).to(x.dtype).flatten(1).mean(1)
