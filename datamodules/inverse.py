"""Inverse problems over images: to be solved from few or coarse measurements with noise."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules import inverse_operators as operators
from datamodules.augmentation import normalize as normalized
from datamodules.batches import BatchOrder
from datamodules.inverse_operators import ForwardOperator
from datamodules.vision import VisionDataModule

Task = Literal[
    "random_inpainting",
    "box_inpainting",
    "gaussian",
    "circulant",
    "average_pooling",
    "bicubic",
    "grayscale",
    "identity",
]
COUNTED = ("random_inpainting", "gaussian", "circulant")  # the tasks whose number of measurements is a choice


class InverseBatch(NamedTuple):
    """A problem: images measured by one operator.

    Attributes:
        x: The images to find, ``(B, C, H, W)``, in [0, 1] unless the data are normalised.
        y: Their measurements with noise, ``(B, m)``.
        operator: What measured them.
        index: Position of each image in its part of the data, ``(B,)``, int64.
        noise_std: Standard deviation of the noise.
    """

    x: Tensor
    y: Tensor
    operator: ForwardOperator
    index: Tensor  # type: ignore[assignment]  # tuples have a method of this name
    noise_std: float


def measured(
    x: Tensor, operator: ForwardOperator, noise_std: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    r"""Measure images with noise: :math:`y = A x + \sigma \epsilon`.

    Args:
        x: Images, ``(B, C, H, W)``.
        operator: A.
        noise_std: Standard deviation of the noise, >= 0.
        generator: Source of randomness, on the device of ``x``; the global one if ``None``.

    Returns:
        Measurements, ``(B, m)``.

    Example:
        >>> measured(torch.ones(1, 1, 1, 2), operators.Identity((1, 1, 2)))
        tensor([[1., 1.]])
    """
    y = operator(x)
    return y + noise_std * torch.randn(y.shape, dtype=y.dtype, device=y.device, generator=generator)


class InverseProblemDataModule(VisionDataModule):
    """Images to learn from, and inverse problems of other images to solve.

    Batches of training and validation are images, as in :class:`~datamodules.vision.VisionDataModule`, but with pixels
    in [0, 1]. A batch of the test is a problem, an :class:`InverseBatch`: for every number of measurements there are as
    many as draws, each with images and an operator of its own. The images of a draw are the same for all numbers of
    measurements, and the problems of a seed the same however many they are.

    Args:
        task: What is measured: pixels at ``random_inpainting`` or outside of a square (``box_inpainting``); inner
            products with random vectors (``gaussian``) or rows of a ``circulant`` matrix; a smaller image by
            ``average_pooling`` or ``bicubic`` interpolation; the luminance (``grayscale``); every pixel (``identity``).
        num_measurements: m, or several, for random inpainting, Gaussian and circulant measurements.
        measurement_ratio: The same as a share of the numbers of an image, in (0, 1].
        factor: How many times smaller the image is, for average pooling and bicubic interpolation.
        box_size: Side of the square in pixels, for box inpainting.
        noise_std: Standard deviation of the noise of a measurement, >= 0.
        num_images: Images of a draw.
        num_draws: Draws.
        problems_from: Which images are to be found: those of the ``"test"``, or those of the validation, ``"val"``, on
            which to choose the settings of a solver.
        normalize: Scale channels to mean 0 and standard deviation 1, else to [0, 1].
        **vision: Arguments of :class:`~datamodules.vision.VisionDataModule`.

    Raises:
        ValueError: If an argument is out of range, or missing for the task, or of no use to it.

    Source:
        The tasks of Daras et al., ICML 2022, and of Bora et al., ICML 2017.

    Example:
        >>> data = InverseProblemDataModule("random_inpainting", [8, 16], num_images=5, num_draws=2, name="digits")
        >>> [tuple(batch.y.shape) for batch in data.test_dataloader()]
        [(5, 8), (5, 8), (5, 16), (5, 16)]
    """

    def __init__(
        self,
        task: Task = "random_inpainting",
        num_measurements: int | Sequence[int] | None = None,
        measurement_ratio: float | Sequence[float] | None = None,
        factor: int | None = None,
        box_size: int | None = None,
        noise_std: float = 0.05,
        num_images: int = 64,
        num_draws: int = 1,
        problems_from: Literal["test", "val"] = "test",
        normalize: bool = False,
        **vision: Any,
    ) -> None:
        super().__init__(normalize=normalize, **vision)
        if task not in get_args(Task):
            raise ValueError(f"task must be one of {', '.join(get_args(Task))}, got {task!r}")
        wanted = {
            "factor": (factor, task in ("average_pooling", "bicubic")),
            "box_size": (box_size, task == "box_inpainting"),
        }
        for name, (value, needed) in wanted.items():
            if needed != (value is not None):
                raise ValueError(f"{name} must {'be given' if needed else 'not be given'} for {task}, got {value}")
        given = [value for value in (num_measurements, measurement_ratio) if value is not None]
        if len(given) != (task in COUNTED):
            rule = "exactly one of them must be given" if task in COUNTED else "neither must be given"
            raise ValueError(
                f"num_measurements or measurement_ratio: {rule} for {task}, got {num_measurements} and "
                f"{measurement_ratio}"
            )
        if not 0 <= noise_std < math.inf:
            raise ValueError(f"noise_std must be >= 0, got {noise_std}")
        for name, size in {"num_images": num_images, "num_draws": num_draws}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if problems_from not in ("test", "val"):
            raise ValueError(f"problems_from must be test or val, got {problems_from!r}")
        self.counts = _listed(num_measurements)
        self.ratios = _listed(measurement_ratio)
        for count in self.counts:
            if count < 1:
                raise ValueError(f"num_measurements must be at least 1, got {count}")
        for ratio in self.ratios:
            if not 0 < ratio <= 1:
                raise ValueError(f"measurement_ratio must be in (0, 1], got {ratio}")
        self.task, self.factor, self.box_size = task, factor, box_size
        self.noise_std, self.num_images, self.num_draws = noise_std, num_images, num_draws
        self.problems_from = problems_from

    @property
    def measurement_counts(self) -> list[int | None]:
        """The numbers of measurements m; a single ``None`` where the task fixes it."""
        if self.ratios:
            channels, height, width = self.input_shape
            step = channels if self.task == "random_inpainting" else 1
            return [step * max(1, round(ratio * channels * height * width / step)) for ratio in self.ratios]
        return list(self.counts) or [None]

    @property
    def description(self) -> str:
        """The data in one line, for tables."""
        counts = [str(count) for count in self.measurement_counts if count is not None]
        kind = self.task.replace("_", " ") + (f" of {', '.join(counts)}" if counts else "")
        number = f"{self.num_draws} x {self.images_per_draw} {self.problems_from} images"
        return f"{super().description.removesuffix(')')}; {kind}, noise {self.noise_std:g}, {number})"

    def setup(self, stage: str) -> None:
        """Read the images.

        Raises:
            ValueError: If there are fewer images than asked for.
        """
        super().setup(stage)
        self._chosen(0)

    def test_dataloader(self) -> DataLoader:
        """The problems, one a batch, shared among the processes."""
        problems, (num_replicas, rank) = _Problems(self), self._world()
        order = BatchOrder(len(problems), batch_size=1, num_replicas=num_replicas, rank=rank)
        return DataLoader(problems, batch_size=None, sampler=order, generator=torch.Generator())

    def problem(self, count: int | None, draw: int) -> InverseBatch:
        """One of them.

        Args:
            count: Number of measurements; ``None`` where the task fixes it.
            draw: Which draw, from 0.
        """
        index = self._chosen(draw)
        x = normalized(self.parts[self.problems_from].x[index], *self.statistics)
        generator = torch.Generator().manual_seed(_mixed(self.seed, draw, count or 0))
        operator = self._operator(count, generator)
        return InverseBatch(x, measured(x, operator, self.noise_std, generator), operator, index, self.noise_std)

    def _operator(self, count: int | None, generator: torch.Generator) -> ForwardOperator:
        counted = {"num_measurements": count, "generator": generator}
        of_each = {"batch_size": self.images_per_draw, "generator": generator}
        kinds: dict[str, tuple[type[ForwardOperator], dict[str, Any]]] = {
            "random_inpainting": (operators.RandomInpainting, counted | of_each),
            "box_inpainting": (operators.BoxInpainting, {"box_size": self.box_size} | of_each),
            "gaussian": (operators.GaussianSensing, counted),
            "circulant": (operators.PartialCirculant, counted),
            "average_pooling": (operators.AveragePooling, {"factor": self.factor}),
            "bicubic": (operators.BicubicDownsampling, {"factor": self.factor}),
            "grayscale": (operators.Grayscale, {}),
            "identity": (operators.Identity, {}),
        }
        kind, options = kinds[self.task]
        return kind(self.input_shape, **options)

    @property
    def images_per_draw(self) -> int:
        """Images of a draw: as many as asked for, but a stand-in gives what it has."""
        available = len(self.parts[self.problems_from]) // self.num_draws
        return min(self.num_images, max(1, available)) if self.is_stand_in else self.num_images

    def _chosen(self, draw: int) -> Tensor:
        """Positions of the images of a draw: no image is in two of them."""
        number, size = len(self.parts[self.problems_from]), self.images_per_draw
        if size * self.num_draws > number:
            raise ValueError(
                f"num_images times num_draws must be at most {number}, the {self.problems_from} images, got "
                f"{size} x {self.num_draws}"
            )
        order = torch.randperm(number, generator=torch.Generator().manual_seed(_mixed(self.seed)))
        return order[draw * size : (draw + 1) * size]


class _Problems(Dataset[InverseBatch]):
    """The problems of a datamodule, each made when it is asked for, by number of measurements and draw."""

    def __init__(self, data: InverseProblemDataModule) -> None:
        self.data = data
        self.kinds = [(count, draw) for count in data.measurement_counts for draw in range(data.num_draws)]

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, index: Tensor) -> InverseBatch:
        return self.data.problem(*self.kinds[int(index)])


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) else [value]


def _mixed(*numbers: int) -> int:
    """A seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
