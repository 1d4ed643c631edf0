"""Linear regression on whitened inputs, where the squared error is a distance of matrices."""

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader


class RegressionBatch(NamedTuple):
    """All samples of P independent problems.

    Attributes:
        x: Inputs, ``(P, n, d_x)``.
        y: Targets, ``(P, n, d_y)``.
    """

    x: Tensor
    y: Tensor


def whitened(x: Tensor) -> Tensor:
    r"""The nearest matrix with orthonormal columns, :math:`X (X^\top X)^{-1/2}`.

    Args:
        x: Shape ``(*, n, d)`` with n >= d, of rank d.

    Example:
        >>> x = whitened(torch.randn(10, 3, dtype=torch.float64))
        >>> torch.allclose(x.mT @ x, torch.eye(3, dtype=torch.float64))
        True
    """
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    return left @ right


class WhitenedRegressionDataModule(pl.LightningDataModule):
    r"""Problems :math:`Y = X Z^\top + E` with :math:`X^\top X = I` and errors E orthogonal to the inputs.

    So :math:`\tfrac12 \|X W^\top - Y\|_F^2 = \tfrac12 \|W - Z\|_F^2 + \tfrac12 \|E\|_F^2` for every W. Every epoch
    has one batch, a :class:`RegressionBatch` of all samples of all problems, in float64.

    Attributes:
        target: The matrices Z, ``(P, d_y, d_x)``.

    Args:
        singular_values: Those of Z, descending, at most ``min(input_dim, output_dim)``; the rest are 0. A list of such
            lists makes a problem of each.
        input_dim: Number d_x of inputs.
        output_dim: Number d_y of outputs.
        num_samples: Number n of samples, at least ``input_dim``.
        noise_std: Standard deviation of errors before what the inputs explain is taken from them, >= 0.
        rotate: Whether Z has random singular vectors. Otherwise it is diagonal, and what is exactly zero along a
            singular vector stays so.
        seed: Of all that is random; ``None`` takes the one of ``seed_everything``, 0 if there is none.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> data = WhitenedRegressionDataModule([3.0, 2.0], input_dim=3, output_dim=2, num_samples=16)
        >>> batch = next(iter(data.train_dataloader()))
        >>> (batch.y.mT @ batch.x).abs().round(decimals=6)
        tensor([[[3., 0., 0.],
                 [0., 2., 0.]]], dtype=torch.float64)
    """

    def __init__(
        self,
        singular_values: Sequence[float] | Sequence[Sequence[float]] = (3.0, 2.0, 1.0, 0.5),
        input_dim: int = 5,
        output_dim: int = 4,
        num_samples: int = 64,
        noise_std: float = 0.0,
        rotate: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("input_dim", input_dim), ("output_dim", output_dim)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if num_samples < input_dim:
            raise ValueError(f"num_samples must be at least input_dim, {input_dim}, to be whitened, got {num_samples}")
        if not noise_std >= 0:
            raise ValueError(f"noise_std must be >= 0, got {noise_std}")
        if noise_std > 0 and num_samples == input_dim:
            raise ValueError(f"noise_std must be 0 where num_samples is input_dim, {input_dim}: the inputs explain all")
        nested = len(singular_values) > 0 and isinstance(singular_values[0], Sequence)
        spectra: Sequence[Sequence[float]] = singular_values if nested else [singular_values]  # type: ignore
        self.spectra = [check_spectrum(one, min(input_dim, output_dim)) for one in spectra]
        self.noise_std = noise_std
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(len(self.spectra), *size, dtype=torch.float64, generator=generator)

        self.target = torch.zeros(len(self.spectra), output_dim, input_dim, dtype=torch.float64)
        for matrix, spectrum in zip(self.target, self.spectra):
            matrix.diagonal()[: len(spectrum)] = torch.tensor(spectrum, dtype=torch.float64)
        if rotate:
            left, right = (torch.linalg.qr(normal(size, size)).Q for size in (output_dim, input_dim))
            self.target = left @ self.target @ right.mT
        x = whitened(normal(num_samples, input_dim))
        errors = noise_std * normal(num_samples, output_dim)
        self.batch = RegressionBatch(x, x @ self.target.mT + errors - x @ (x.mT @ errors))

    @property
    def num_problems(self) -> int:
        """Number P of problems."""
        return len(self.spectra)

    @property
    def description(self) -> str:
        """The data in one line, for tables."""
        _, num_samples, input_dim = self.batch.x.shape
        spectra = "; ".join(", ".join(f"{value:g}" for value in spectrum) for spectrum in self.spectra)
        noise = f", noise {self.noise_std:g}" if self.noise_std else ""
        return (
            f"whitened linear regression ({num_samples:,} samples, {input_dim} inputs, {self.batch.y.shape[2]} "
            f"outputs, singular values {spectra}{noise})"
        )

    def train_dataloader(self) -> DataLoader:
        """All samples as one batch."""
        return DataLoader([self.batch], batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]


def check_spectrum(values: Sequence[float], most: int) -> list[float]:
    """Singular values as given.

    Args:
        values: >= 0, descending.
        most: The largest number of them.

    Raises:
        ValueError: If there is none, there are too many, or they are out of order or range.
    """
    if not 1 <= len(values) <= most:
        raise ValueError(f"singular_values must be 1 to {most} numbers, got {list(values)}")
    if not all(value >= 0 for value in values):
        raise ValueError(f"singular_values must be >= 0, got {list(values)}")
    if any(after > before for before, after in pairwise(values)):
        raise ValueError(f"singular_values must descend, got {list(values)}")
    return list(values)
