"""Image datasets as uint8 tensors in memory: MNIST, Fashion-MNIST, CIFAR, scikit-learn's digits and array files."""

import os
import tempfile
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import datasets

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Kind:
    """What is known of a dataset before it is read.

    Args:
        title: Its name in tables.
        shape: Height, width and channels.
        num_classes: Number of classes.
        mean: Of each channel, for pixels in [0, 1].
        std: Of each channel.
        reader: Torchvision's class; ``None`` where a package carries the data.
    """

    title: str
    shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reader: type[datasets.VisionDataset] | None


KINDS = {
    "mnist": Kind("MNIST", (28, 28, 1), 10, (0.1307,), (0.3081,), datasets.MNIST),
    "fashion_mnist": Kind("Fashion-MNIST", (28, 28, 1), 10, (0.2860,), (0.3530,), datasets.FashionMNIST),
    "cifar10": Kind("CIFAR-10", (32, 32, 3), 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), datasets.CIFAR10),
    "cifar100": Kind(
        "CIFAR-100", (32, 32, 3), 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), datasets.CIFAR100
    ),
    "digits": Kind("scikit-learn's handwritten digits", (8, 8, 1), 10, (0.3059,), (0.3763,), None),
}


@dataclass
class Images:
    """A dataset in memory.

    Args:
        x_train: Training images, uint8 ``(N, H, W, C)``.
        y_train: Their classes, int64 ``(N,)`` in ``[0, num_classes)``.
        x_test: Test images, uint8 ``(M, H, W, C)``.
        y_test: Their classes, int64 ``(M,)``.
        num_classes: Number of classes.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int


def read_images(name: str, root: Path) -> Images:
    """Read a dataset.

    ``<root>/<name>.npz`` is taken if it is there, else the files that torchvision knows below ``root``.

    Args:
        name: One of :data:`KINDS`, or the path of an array file (see :func:`read_arrays`), relative to ``root``.
        root: Folder of all data.

    Raises:
        FileNotFoundError: If the data is not there.
        ValueError: If a file is damaged.

    Example:
        >>> digits = read_images("digits", Path("data"))
        >>> digits.x_train.shape, len(digits.x_test)
        (torch.Size([1438, 8, 8, 1]), 359)
    """
    if name == "digits":
        return digits()
    path = array_file(name, root)
    if path.is_file():
        return read_arrays(path, KINDS.get(name))
    if name not in KINDS:
        raise FileNotFoundError(f"there is no file {path}")
    missing = missing_files(name, root)
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing in {root}")
    return _read_torchvision(KINDS[name], root)


def array_file(name: str, root: Path) -> Path:
    """Where the array file of a dataset would lie; a name that ends in ``.npz`` is a path itself."""
    return root / (name if name.endswith(".npz") else f"{name}.npz")


def missing_files(name: str, root: Path) -> list[str]:
    """The files of a dataset that torchvision would have to download, relative to ``root``; empty if there are none."""
    reader = KINDS[name].reader
    if reader is None:
        return []
    if hasattr(reader, "resources"):  # the MNIST family
        files = [f"{reader.__name__}/raw/{Path(archive).stem}" for archive, _ in reader.resources]
    else:
        listed = [*reader.train_list, *reader.test_list, [reader.meta["filename"]]]
        files = [f"{reader.base_folder}/{entry[0]}" for entry in listed]
    return [file for file in files if not (root / file).is_file()]


def download(name: str, root: Path) -> None:
    """Fetch a dataset through torchvision. Its files appear in ``root`` when all have come; else nothing changes.

    Args:
        name: One of :data:`KINDS`.
        root: Folder of all data, made if need be.

    Raises:
        OSError: If the server cannot be reached, or the folder cannot be written.
        RuntimeError: If what came is not the dataset.
    """
    reader = KINDS[name].reader
    assert reader is not None
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix="download-") as fresh:
        reader(fresh, download=True)
        for file in missing_files(name, root):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(fresh) / file, root / file)


def download_failure(name: str, root: Path) -> str | None:
    """Make sure of a dataset, by a download where files of it are missing.

    Args:
        name: One of :data:`KINDS`, or the path of an array file.
        root: Folder of all data.

    Returns:
        ``None`` if it is there now, else what is missing and why it could not be fetched.
    """
    path = array_file(name, root)
    if path.is_file() or (name in KINDS and not missing_files(name, root)):
        return None
    if name not in KINDS:
        return f"there is no file {path}"
    try:
        download(name, root)
    except (OSError, HTTPException, RuntimeError) as error:
        return f"its files are missing in {root}, and the download failed ({' '.join(str(error).split())})"
    return None


def digits() -> Images:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; every fifth one of each class is for the test."""
    data = load_digits()
    x = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)[..., None]
    y = torch.from_numpy(data.target).long()
    test = torch.zeros(len(y), dtype=torch.bool)
    test[y.argsort(stable=True)[4::5]] = True
    return Images(x[~test], y[~test], x[test], y[test], 10)


def digits_like(kind: Kind) -> Images:
    """The digits in the size and channels of another dataset, to stand in for it."""
    images = digits()
    height, width, channels = kind.shape
    for part in ("x_train", "x_test"):
        x = resize_images(getattr(images, part), (height, width))
        setattr(images, part, x.expand(-1, -1, -1, channels).contiguous())
    return images


def resize_images(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images ``(N, H, W, C)``, uint8: averaged when they get smaller by whole factors, else bilinear."""
    floats = x.permute(0, 3, 1, 2).float()
    if x.shape[1] % size[0] == x.shape[2] % size[1] == 0:
        floats = F.adaptive_avg_pool2d(floats, size)
    else:
        floats = F.interpolate(floats, size, mode="bilinear", antialias=True)
    return floats.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def read_arrays(path: Path, kind: Kind | None = None) -> Images:
    """Read an array file: ``x_train``, ``y_train``, ``x_test``, ``y_test``; images are uint8 ``(N, H, W[, C])``.

    Args:
        path: The ``.npz`` file.
        kind: What it must hold; ``None`` takes any size and counts the classes.

    Raises:
        ValueError: If the file is damaged, or keys, types or shapes are not as described.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file.files]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}; it has {', '.join(sorted(file.files)) or 'nothing'}")
            arrays = {name: file[name] for name in ARRAYS}
        return _checked(arrays, kind)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def _checked(arrays: dict[str, np.ndarray], kind: Kind | None) -> Images:
    tensors = {}
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8:
            raise ValueError(f"x_{part} must be uint8, got {x.dtype}")
        if x.ndim not in (3, 4):
            raise ValueError(f"x_{part} must have the shape (N, H, W) or (N, H, W, C), got {x.shape}")
        x = x if x.ndim == 4 else x[..., None]
        if kind and x.shape[1:] != kind.shape:
            raise ValueError(f"x_{part} must have images of {kind.shape}, got {x.shape[1:]}")
        if not np.issubdtype(y.dtype, np.integer):
            raise ValueError(f"y_{part} must hold integers, got {y.dtype}")
        if y.reshape(-1).shape != x.shape[:1]:
            raise ValueError(f"y_{part} must have one label for each of {len(x)} images, got the shape {y.shape}")
        tensors[f"x_{part}"] = torch.from_numpy(np.ascontiguousarray(x))
        tensors[f"y_{part}"] = torch.from_numpy(y.reshape(-1).astype(np.int64))
    num_classes = kind.num_classes if kind else int(tensors["y_train"].max()) + 1
    return check_labels(Images(**tensors, num_classes=num_classes))


def check_labels(images: Images) -> Images:
    """Raise a ``ValueError`` if a label is out of range or a part is empty; returns the images."""
    for part in ("train", "test"):
        y = getattr(images, f"y_{part}")
        if len(y) == 0:
            raise ValueError(f"x_{part} holds no image")
        if y.min() < 0 or y.max() >= images.num_classes:
            raise ValueError(
                f"y_{part} must lie in [0, {images.num_classes}), got values from {int(y.min())} to {int(y.max())}"
            )
    return images


def _read_torchvision(kind: Kind, root: Path) -> Images:
    assert kind.reader is not None
    try:
        parts = [kind.reader(str(root), train=train) for train in (True, False)]
    except Exception as error:  # a broken file raises what it likes
        raise ValueError(f"the files of {kind.title} in {root} are damaged: {error}; delete them") from error
    tensors = [(torch.as_tensor(part.data), torch.as_tensor(part.targets).long()) for part in parts]
    x_train, x_test = (x if x.ndim == 4 else x[..., None] for x, _ in tensors)
    return check_labels(Images(x_train, tensors[0][1], x_test, tensors[1][1], kind.num_classes))
