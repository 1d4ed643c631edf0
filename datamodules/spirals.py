"""Interleaved spirals in the plane: a small task that is far from linear."""

import math
import os

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datamodules.batches import BatchOrder

PARTS = ("train", "val", "test")


def spirals(
    num_per_class: int,
    num_classes: int = 2,
    turns: float = 2.0,
    noise: float = 0.01,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Draw points on spirals that start at the origin, one for each class.

    .. math:: x = t \, \big(\cos\phi, \sin\phi\big) + \sigma\epsilon, \qquad
              \phi = 2\pi \big(\mathrm{turns} \cdot t + y / C\big), \qquad t \sim U(0, 1), \; \epsilon \sim N(0, I)

    Args:
        num_per_class: Points of each class.
        num_classes: Number of classes C.
        turns: How often each spiral goes around.
        noise: Standard deviation sigma.
        generator: Source of randomness; the global one if ``None``.

    Returns:
        The points ``(C * num_per_class, 2)`` and their classes, int64, class by class.

    Example:
        >>> x, y = spirals(3, noise=0.0, generator=torch.Generator().manual_seed(0))
        >>> x.shape, y
        (torch.Size([6, 2]), tensor([0, 0, 0, 1, 1, 1]))
    """
    y = torch.arange(num_classes).repeat_interleave(num_per_class)
    radius = torch.rand(len(y), generator=generator)
    angle = 2 * math.pi * (turns * radius + y / num_classes)
    x = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return x + noise * torch.randn(x.shape, generator=generator), y


class SpiralDataModule(pl.LightningDataModule):
    """Points on interleaved spirals, with as many for validation and for the test as for training.

    A batch is ``(x, y)``: points as images of two pixels, ``(B, 1, 1, 2)``, and classes ``(B,)``, int64.

    Args:
        num_per_class: Points of each class, in each of the three parts.
        num_classes: Number of spirals.
        turns: How often each spiral goes around.
        noise: Standard deviation of the points about their spiral, whose radius is 1.
        batch_size: Points of a training batch, on each device.
        seed: Of points and order; ``None`` takes the one of ``seed_everything``, 0 if there is none.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> x, y = next(iter(SpiralDataModule(num_per_class=100, batch_size=40).train_dataloader()))
        >>> x.shape, y.shape
        (torch.Size([40, 1, 1, 2]), torch.Size([40]))
    """

    def __init__(
        self,
        num_per_class: int = 500,
        num_classes: int = 2,
        turns: float = 2.0,
        noise: float = 0.01,
        batch_size: int = 100,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, lowest in (("num_per_class", num_per_class, 1), ("num_classes", num_classes, 2)):
            if value < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {value}")
        if not turns > 0:
            raise ValueError(f"turns must be > 0, got {turns}")
        if not noise >= 0:
            raise ValueError(f"noise must be 0 or more, got {noise}")
        num_points = num_per_class * num_classes
        if not 1 <= batch_size <= num_points:
            raise ValueError(f"batch_size must be from 1 to {num_points}, the training points, got {batch_size}")
        self.num_per_class, self.turns, self.noise, self.batch_size = num_per_class, turns, noise, batch_size
        self._num_classes = num_classes
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        generator = torch.Generator().manual_seed(self.seed)
        draws = {part: spirals(num_per_class, num_classes, turns, noise, generator) for part in PARTS}
        self.parts = {part: TensorDataset(x.view(-1, *self.input_shape), y) for part, (x, y) in draws.items()}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._num_classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a point as an image."""
        return (1, 1, 2)

    @property
    def num_train(self) -> int:
        """Training points."""
        return len(self.parts["train"])

    @property
    def description(self) -> str:
        """The data in one line, for tables."""
        return (
            f"{self.num_classes} spirals of {self.turns:g} turns ({self.num_per_class:,} points each in training, "
            f"validation and test; noise {self.noise:g})"
        )

    def train_dataloader(self) -> DataLoader:
        """Training batches in an order that the seed shuffles anew in every epoch."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """All validation points as one batch."""
        return self._loader("val", self.num_train)

    def test_dataloader(self) -> DataLoader:
        """All test points as one batch."""
        return self._loader("test", self.num_train)

    def predict_dataloader(self) -> DataLoader:
        """All test points as one batch."""
        return self.test_dataloader()

    def _loader(self, part: str, batch_size: int, shuffle: bool = False) -> DataLoader:
        order = BatchOrder(
            self.num_train,
            batch_size,
            shuffle,
            drop_last=shuffle,
            num_replicas=self.trainer.world_size if self.trainer else 1,
            rank=self.trainer.global_rank if self.trainer else 0,
            seed=self.seed,
        )
        # A loader draws a worker seed at every epoch; its own generator leaves the global stream to the model.
        return DataLoader(self.parts[part], batch_size=None, sampler=order, generator=torch.Generator())
