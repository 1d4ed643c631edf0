import struct
from pathlib import Path

import numpy as np
import pytest


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.tobytes())


def write_mnist(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        write_idx(root / f"MNIST/raw/{part}-images-idx3-ubyte", rng.integers(256, size=(12, 28, 28), dtype=np.uint8))
        write_idx(root / f"MNIST/raw/{part}-labels-idx1-ubyte", (np.arange(12) % 10).astype(np.uint8))


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A data root with twelve images in MNIST's files."""
    write_mnist(tmp_path)
    return tmp_path
