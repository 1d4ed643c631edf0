"""Two classes of images, of which some have lost most of their contrast to noise."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from datamodules.vision import Part, VisionDataModule


def weaken(x: Tensor, contrast: float, mean: Tensor, std: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Shrink images towards a colour and cover them with noise, so that their classes have a small margin.

    .. math:: x' = \bar x + \kappa (x - \bar x) + n, \qquad n \sim N(0, s^2), \text{ cut to bytes}

    Args:
        x: Images, ``(N, H, W, C)``, uint8.
        contrast: What is left of an image, kappa, in [0, 1].
        mean: The colour, ``(C,)``, of bytes.
        std: Standard deviation s of the noise of each channel, ``(C,)``, of bytes.
        generator: Source of randomness; the global one if ``None``.

    Returns:
        Images of the same shape, uint8.

    Example:
        >>> x = torch.full((1, 1, 2, 1), 200, dtype=torch.uint8)
        >>> weaken(x, 0.5, mean=torch.tensor([100.0]), std=torch.tensor([0.0])).flatten()
        tensor([150, 150], dtype=torch.uint8)
    """
    noise = std * torch.randn(x.shape, generator=generator)
    return (mean + contrast * (x - mean) + noise).round_().clamp_(0, 255).byte()


class SmallMarginVisionDataModule(VisionDataModule):
    """Two classes of a dataset; a small share of the training images, and half of the test's, are weakened.

    What the weakened ones lose in contrast they gain in noise that is fixed for each image, and so can be memorised:
    see :func:`weaken`. Labels are 0 and 1. ``groups`` tells the two kinds apart, 0 plain and 1 weak, and
    ``group_names`` names them, as ``callbacks.GroupMonitor`` wants it.

    Args:
        classes: The two classes, the first of which gets the label 0.
        small_margin_fraction: Share of the training and validation images that is weakened, in [0, 1].
        test_small_fraction: The same of the test images.
        contrast: What is left of the contrast of these, in [0, 1].
        **vision: Arguments of :class:`~datamodules.vision.VisionDataModule`.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        The construction is our own; Jelassi and Li, ICML 2022, alter images of CIFAR-10 to the same end.

    Example:
        >>> data = SmallMarginVisionDataModule(classes=(0, 1), name="digits", val_fraction=0.0, batch_size=32)
        >>> data.num_classes, data.num_train, data.groups["train"].sum()
        (2, 288, tensor(29))
    """

    group_names = ("plain", "weak")

    def __init__(
        self,
        classes: Sequence[int] = (0, 8),
        small_margin_fraction: float = 0.1,
        test_small_fraction: float = 0.5,
        contrast: float = 0.15,
        **vision: Any,
    ) -> None:
        super().__init__(**vision)
        if len(classes) != 2 or classes[0] == classes[1] or min(classes) < 0:
            raise ValueError(f"classes must be two different classes from 0 on, got {list(classes)}")
        shares = {"small_margin_fraction": small_margin_fraction, "test_small_fraction": test_small_fraction}
        for name, share in (shares | {"contrast": contrast}).items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        self.classes, self.contrast = tuple(classes), contrast
        self.shares = {"train": small_margin_fraction, "val": small_margin_fraction, "test": test_small_fraction}

    @property
    def num_classes(self) -> int:
        """Two."""
        return 2

    @cached_property
    def pairs(self) -> dict[str, Part]:
        """The images of the two classes, unaltered, labelled 0 and 1."""
        known = super().num_classes
        if max(self.classes) >= known:
            raise ValueError(f"classes must be in [0, {known}), got {list(self.classes)}")
        # Not super().parts, which would be kept in the place of our own.
        whole = VisionDataModule.parts.func(self)  # type: ignore[attr-defined]
        return {name: self._of_classes(part) for name, part in whole.items()}

    def _of_classes(self, part: Part) -> Part:
        chosen = part.select(torch.isin(part.clean_y, torch.tensor(self.classes)))
        y, clean_y = ((labels == self.classes[1]).long() for labels in (chosen.y, chosen.clean_y))
        return Part(chosen.x, y, clean_y)

    @cached_property
    def groups(self) -> dict[str, Tensor]:
        """1 where an image is weakened, else 0, ``(N,)``, for each part."""
        found = {}
        for number, (name, part) in enumerate(self.pairs.items()):
            order = torch.randperm(len(part), generator=torch.Generator().manual_seed(self.seed * 16 + 8 + number))
            found[name] = (order < round(self.shares[name] * len(part))).long()
        return found

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The images of training, validation and test, on the CPU."""
        pixels = self.pairs["train"].x.float().flatten(0, 2)
        mean, std = pixels.mean(dim=0), pixels.std(dim=0)
        generator = torch.Generator().manual_seed(self.seed * 16 + 11)
        found = {}
        for name, part in self.pairs.items():
            weak = self.groups[name].bool()
            x = part.x.clone()
            x[weak] = weaken(x[weak], self.contrast, mean, std, generator)
            found[name] = Part(x, part.y, part.clean_y)
        return found

    @property
    def description(self) -> str:
        """The data in one line, for tables."""
        return (
            f"{super().description.removesuffix(')')}; classes {self.classes[0]} and {self.classes[1]}, "
            f"{100 * self.shares['train']:g} % of the training images weakened to a contrast of {self.contrast:g})"
        )
