"""Wrong labels on purpose: symmetric, asymmetric, by a transition matrix, by humans, or at random altogether."""

import _codecs
import os
import tempfile
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.root import data_root

Flips = Mapping[int, int]

FLIPS: dict[str, Flips] = {
    # truck to automobile, bird to airplane, deer to horse, cat and dog to each other
    "cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
    # 7 to 1, 2 to 7, 3 to 8, 5 and 6 to each other
    "mnist": {7: 1, 2: 7, 3: 8, 5: 6, 6: 5},
}
HUMAN_LABELS = {  # names in the file
    "aggre": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worse": "worse_label",
}
HUMAN_RATES = {"aggre": 0.09, "random1": 0.17, "random2": 0.18, "random3": 0.18, "worse": 0.40}
HUMAN_FILE = "CIFAR-10_human.pt"
HUMAN_URL = "https://github.com/UCSC-REAL/cifar-10-100n/raw/main/data/CIFAR-10_human.pt"
TIMEOUT = 10.0  # seconds of silence from the server


class LabelNoise(ABC):
    """Changes labels."""

    @abstractmethod
    def __call__(self, y: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """Noisy labels in place of clean ones.

        Args:
            y: Clean labels, shape ``(N,)``, int64 in ``[0, num_classes)``.
            num_classes: Number of classes K.
            generator: Source of randomness.

        Returns:
            New labels, shape ``(N,)``, int64.
        """

    @property
    @abstractmethod
    def description(self) -> str:
        """The noise in a few words."""


def check_rate(rate: float) -> None:
    """Raise a ``ValueError`` if a noise rate lies outside [0, 1)."""
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")


@dataclass
class SymmetricNoise(LabelNoise):
    """A random share of the samples gets a label drawn uniformly.

    Args:
        rate: Share of the samples that are drawn anew, in [0, 1).
        inclusive: Whether the true class may be drawn, as is usual in the literature; the true rate of wrong labels is
            then ``rate * (1 - 1 / K)``.

    Raises:
        ValueError: If the rate is out of range.

    Example:
        >>> y = torch.arange(10).repeat(1000)
        >>> noisy = SymmetricNoise(0.5)(y, 10, torch.Generator().manual_seed(0))
        >>> round((noisy != y).float().mean().item(), 1)
        0.5
    """

    rate: float
    inclusive: bool = True

    def __post_init__(self) -> None:
        check_rate(self.rate)

    def __call__(self, y: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """See :class:`LabelNoise`."""
        chosen = torch.randperm(len(y), generator=generator)[: int(self.rate * len(y))]
        noisy = y.clone()
        if self.inclusive:
            noisy[chosen] = torch.randint(num_classes, (len(chosen),), generator=generator)
        else:
            shift = torch.randint(1, num_classes, (len(chosen),), generator=generator)
            noisy[chosen] = (y[chosen] + shift) % num_classes
        return noisy

    @property
    def description(self) -> str:
        """The noise in a few words."""
        return f"symmetric noise {self.rate:g}"


@dataclass
class AsymmetricNoise(LabelNoise):
    """In some classes a share of the samples gets the label of a class that looks alike.

    Flips start from the clean labels. (Rewriting class by class in place, as the authors of SOP do, flips some labels
    back where two classes change places.)

    Args:
        rate: Share of each such class, in [0, 1).
        flips: ``"cifar10"`` or ``"mnist"``, the literature's; ``"next_class"``, every class to the one after it;
            ``"cifar100_superclass"``, to the next fine class of the same superclass; ``"cifar100_blocks"``, two random
            classes of each block of five consecutive ids change places, as in the authors' code of SOP; or a mapping
            from class to class.

    Raises:
        ValueError: If the rate is out of range, or there are no such flips.
    """

    rate: float
    flips: str | dict[int, int] = "cifar10"

    def __post_init__(self) -> None:
        check_rate(self.rate)
        names = (*FLIPS, "next_class", "cifar100_superclass", "cifar100_blocks")
        if isinstance(self.flips, str) and self.flips not in names:
            raise ValueError(f"flips must be a mapping or one of {', '.join(names)}, got {self.flips!r}")

    def __call__(self, y: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """See :class:`LabelNoise`."""
        target = torch.arange(num_classes)
        for source, goal in self._mapping(num_classes, generator).items():
            if not (0 <= source < num_classes and 0 <= goal < num_classes):
                raise ValueError(f"flips must map classes in [0, {num_classes}), got {source}: {goal}")
            target[source] = goal
        noisy = y.clone()
        for label in (target != torch.arange(num_classes)).nonzero().flatten():
            members = (y == label).nonzero().flatten()
            chosen = torch.randperm(len(members), generator=generator)[: round(self.rate * len(members))]
            noisy[members[chosen]] = target[label]
        return noisy

    def _mapping(self, num_classes: int, generator: torch.Generator) -> Flips:
        if not isinstance(self.flips, str):
            return self.flips
        if self.flips == "next_class":
            return {label: (label + 1) % num_classes for label in range(num_classes)}
        if self.flips == "cifar100_superclass":
            return {fine: members[(i + 1) % 5] for members in SUPERCLASSES for i, fine in enumerate(members)}
        if self.flips == "cifar100_blocks":
            pairs = [start + torch.randperm(5, generator=generator)[:2] for start in range(0, num_classes, 5)]
            return {int(a): int(b) for pair in pairs for a, b in (pair, pair.flip(0))}
        return FLIPS[self.flips]

    @property
    def description(self) -> str:
        """The noise in a few words."""
        return f"asymmetric noise {self.rate:g}"


@dataclass
class TransitionMatrixNoise(LabelNoise):
    """Labels are drawn from the row of a transition matrix that belongs to the true class.

    Args:
        matrix: Probabilities of the noisy class given the true one, ``(K, K)``; rows sum to one.

    Raises:
        ValueError: If it is no such matrix.
    """

    matrix: list[list[float]]

    def __post_init__(self) -> None:
        matrix = torch.tensor(self.matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix must be square, got the shape {tuple(matrix.shape)}")
        if (matrix < 0).any() or not torch.allclose(matrix.sum(dim=1), torch.ones(len(matrix))):
            raise ValueError("matrix must have rows of probabilities that sum to one")

    def __call__(self, y: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """See :class:`LabelNoise`."""
        if len(self.matrix) != num_classes:
            raise ValueError(f"matrix must have {num_classes} rows, got {len(self.matrix)}")
        return torch.multinomial(torch.tensor(self.matrix)[y], 1, generator=generator).flatten()

    @property
    def description(self) -> str:
        """The noise in a few words."""
        return "noise by a transition matrix"


@dataclass
class RandomLabels(LabelNoise):
    """Every label is drawn uniformly: there is nothing left to learn but the samples themselves."""

    def __call__(self, y: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """See :class:`LabelNoise`."""
        return torch.randint(num_classes, y.shape, generator=generator)

    @property
    def description(self) -> str:
        """The noise in a few words."""
        return "random labels"


@dataclass
class HumanNoise(LabelNoise):
    """The labels that people gave to CIFAR-10's 50,000 training images (CIFAR-10N); no randomness is left.

    Args:
        kind: ``"aggre"`` (majority of three people, 9 % wrong), ``"random1"`` to ``"random3"`` (one of them, 17 to
            18 %), or ``"worse"`` (a wrong one of the three if there is any, 40 %).
        root: Folder that holds ``CIFAR-10_human.pt``; ``None`` means ``ZOO_DATA``, else ``data/``.

    Raises:
        ValueError: If there is no such kind.

    Source:
        Wei et al., *Learning with Noisy Labels Revisited: A Study Using Real-World Human Annotations*, ICLR 2022.
    """

    kind: Literal["aggre", "random1", "random2", "random3", "worse"] = "worse"
    root: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in HUMAN_LABELS:
            raise ValueError(f"kind must be one of {', '.join(HUMAN_LABELS)}, got {self.kind!r}")

    @property
    def file(self) -> Path:
        """The file of labels."""
        return data_root(self.root) / HUMAN_FILE

    def __call__(self, y: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """See :class:`LabelNoise`.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If its clean labels are not those of the dataset, in its order.
        """
        labels = read_human_labels(self.file)
        clean = labels.get("clean_label", torch.empty(0))
        if clean.shape != y.shape or not torch.equal(clean, y):
            raise ValueError(
                "HumanNoise fits CIFAR-10's 50,000 training images in their original order; the clean labels of "
                f"{self.file} are not those of the {len(y):,} images here"
            )
        return labels[HUMAN_LABELS[self.kind]]

    @property
    def stand_in(self) -> SymmetricNoise:
        """As much noise without people, for where their labels are out of reach."""
        return SymmetricNoise(HUMAN_RATES[self.kind], inclusive=False)

    @property
    def description(self) -> str:
        """The noise in a few words."""
        return f"human labels {self.kind!r}"


def human_labels_failure(path: Path) -> str | None:
    """Make sure of CIFAR-10N's file, by a download where it is missing.

    Args:
        path: The file.

    Returns:
        ``None`` if it is there now, else why it is not.
    """
    if path.is_file():
        return None
    try:
        with urllib.request.urlopen(HUMAN_URL, timeout=TIMEOUT) as response:
            content = response.read()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="download-") as folder:
            fresh = Path(folder) / path.name
            fresh.write_bytes(content)
            read_human_labels(fresh)
            os.replace(fresh, path)
    except (OSError, HTTPException, ValueError) as error:
        return f"{path} is missing, and the download from {HUMAN_URL} failed ({error})"
    return None


def read_human_labels(path: Path) -> dict[str, Tensor]:
    """Read CIFAR-N's file of NumPy arrays; nothing but arrays is unpickled.

    Args:
        path: The ``.pt`` file.

    Returns:
        Labels by name, each int64 ``(N,)``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"CIFAR-10N is not available: {path} is missing; it can be had from {HUMAN_URL}")
    reconstruct = np.empty(0).__reduce__()[0]
    arrays_only: list[Any] = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
        _codecs.encode,
    ]
    try:
        with torch.serialization.safe_globals(arrays_only):
            content = torch.load(path, weights_only=True)
        return {name: torch.from_numpy(np.asarray(value)).long() for name, value in content.items()}
    except Exception as error:  # a broken file raises what it likes
        raise ValueError(f"{path} cannot be read as CIFAR-N's labels: {error}") from error


def noise_rate(noisy: Tensor, clean: Tensor) -> float:
    """Share of labels that differ.

    Example:
        >>> noise_rate(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 2, 3]))
        0.5
    """
    return (noisy != clean).float().mean().item()


# Fine classes of each of CIFAR-100's twenty superclasses, from aquatic mammals to vehicles 2.
SUPERCLASSES: Sequence[Sequence[int]] = (
    (4, 30, 55, 72, 95),
    (1, 32, 67, 73, 91),
    (54, 62, 70, 82, 92),
    (9, 10, 16, 28, 61),
    (0, 51, 53, 57, 83),
    (22, 39, 40, 86, 87),
    (5, 20, 25, 84, 94),
    (6, 7, 14, 18, 24),
    (3, 42, 43, 88, 97),
    (12, 17, 37, 68, 76),
    (23, 33, 49, 60, 71),
    (15, 19, 21, 31, 38),
    (34, 63, 64, 66, 75),
    (26, 45, 77, 79, 99),
    (2, 11, 35, 46, 98),
    (27, 29, 44, 78, 93),
    (36, 50, 65, 74, 80),
    (47, 52, 56, 59, 96),
    (8, 13, 48, 58, 90),
    (41, 69, 81, 85, 89),
)
