"""Sparse linear regression with fewer samples than unknowns, drawn at random."""

import math
import os
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader


class SparseRegressionBatch(NamedTuple):
    """Linear regression problems; ``x, y, *_ = batch`` serves where the rest is of no use.

    Attributes:
        x: Inputs, shape ``(P, N, d)``, float64.
        y: Targets, shape ``(P, N)``.
        beta: The true predictors, shape ``(P, d)``.
        mean: Mean input, shape ``(d,)``; the covariance is the identity.
    """

    x: Tensor
    y: Tensor
    beta: Tensor
    mean: Tensor


def sparse_regression(
    num_samples: int,
    mean: Tensor,
    sparsity: int,
    amplitude: float = 1.0,
    noise_std: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Draw a linear regression problem whose solution is sparse.

    .. math:: x_n = m + z_n, \quad y_n = \langle \beta^*, x_n \rangle + \sigma \epsilon_n, \qquad
              z_n \sim N(0, I), \; \epsilon_n \sim N(0, 1)

    Args:
        num_samples: N.
        mean: Mean input m, shape ``(d,)``.
        sparsity: How many coordinates of the solution are not zero; which, is drawn.
        amplitude: Their value.
        noise_std: Standard deviation sigma of the targets' noise.
        generator: Source of randomness; the global one if ``None``.

    Returns:
        Inputs ``(N, d)``, targets ``(N,)`` and solution ``(d,)``, float64.

    Example:
        >>> x, y, beta = sparse_regression(4, torch.full((6,), 5.0), sparsity=2)
        >>> x.shape, torch.allclose(x @ beta, y), beta.sum()
        (torch.Size([4, 6]), True, tensor(2., dtype=torch.float64))
    """
    dim = len(mean)
    x = mean + torch.randn(num_samples, dim, dtype=torch.float64, generator=generator)
    beta = torch.zeros(dim, dtype=torch.float64)
    beta[torch.randperm(dim, generator=generator)[:sparsity]] = amplitude
    noise = noise_std * torch.randn(num_samples, dtype=torch.float64, generator=generator)
    return x, x @ beta + noise, beta


class SparseRegressionDataModule(pl.LightningDataModule):
    r"""Independent draws of :func:`sparse_regression`, as one batch: an epoch is a :class:`SparseRegressionBatch`.

    There is nothing to test on: the error on fresh inputs is known in closed form, by ``beta`` and ``mean``. The draws
    of a seed are the same whatever their number.

    Args:
        num_problems: Draws P.
        num_samples: Samples N of each.
        num_features: Coordinates d. With no more of them than samples there is one interpolator at most.
        sparsity: Coordinates of each solution that are not zero.
        feature_mean: Mean input, one for all coordinates or one for each.
        noise_std: Standard deviation of the targets' noise.
        amplitude: Value of the coordinates that are not zero; ``"unit_norm"`` for solutions of norm 1.
        seed: Of the draws; ``None`` takes the one of ``seed_everything``, 0 if there is none.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Woodworth et al., *Kernel and Rich Regimes in Overparametrized Models*, COLT 2020: the problem with centred
        inputs; Nacson et al., ICML 2022, for others.

    Example:
        >>> data = SparseRegressionDataModule(num_problems=2, num_samples=10, num_features=20)
        >>> x, y, beta, mean = next(iter(data.train_dataloader()))
        >>> x.shape, y.shape, beta.norm(dim=1)
        (torch.Size([2, 10, 20]), torch.Size([2, 10]), tensor([1., 1.], dtype=torch.float64))
    """

    def __init__(
        self,
        num_problems: int = 1,
        num_samples: int = 60,
        num_features: int = 100,
        sparsity: int = 3,
        feature_mean: float | Sequence[float] = 5.0,
        noise_std: float = 0.0,
        amplitude: Literal["unit_norm"] | float = "unit_norm",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"num_problems": num_problems, "num_samples": num_samples, "num_features": num_features}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not 1 <= sparsity <= num_features:
            raise ValueError(f"sparsity must be from 1 to {num_features}, the features, got {sparsity}")
        mean = torch.as_tensor(feature_mean, dtype=torch.float64)
        if mean.shape not in ((), (num_features,)) or not bool(mean.isfinite().all()):
            raise ValueError(f"feature_mean must be a number, or {num_features} of them, got {feature_mean}")
        if not 0 <= noise_std < math.inf:
            raise ValueError(f"noise_std must be >= 0, got {noise_std}")
        if amplitude != "unit_norm" and not (isinstance(amplitude, (int, float)) and 0 < abs(amplitude) < math.inf):
            raise ValueError(f"amplitude must be 'unit_norm' or a number other than 0, got {amplitude!r}")
        if num_samples >= num_features:
            warnings.warn(
                f"a determined problem, where implicit bias plays no role: num_samples {num_samples} is not below "
                f"num_features {num_features}",
                stacklevel=2,
            )
        self.num_problems, self.num_samples, self.dim = num_problems, num_samples, num_features
        self.sparsity, self.noise_std = sparsity, noise_std
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        value = sparsity**-0.5 if amplitude == "unit_norm" else float(amplitude)
        mean = mean.expand(num_features).contiguous()
        generator = torch.Generator().manual_seed(self.seed)
        draws = [
            sparse_regression(num_samples, mean, sparsity, value, noise_std, generator) for _ in range(num_problems)
        ]
        x, y, beta = (torch.stack(parts) for parts in zip(*draws))
        self.batch = SparseRegressionBatch(x, y, beta, mean)

    @property
    def num_features(self) -> int:
        """Number of coordinates."""
        return self.dim

    @property
    def description(self) -> str:
        """The data in one line, for tables."""
        mean = self.batch.mean
        of_mean = f"{mean[0]:g}" if bool((mean == mean[0]).all()) else f"{mean.min():g} to {mean.max():g}"
        return (
            f"{self.num_problems} sparse regression problems ({self.num_samples} samples, {self.dim} features of mean "
            f"{of_mean}, {self.sparsity} relevant, noise {self.noise_std:g})"
        )

    def train_dataloader(self) -> DataLoader:
        """All problems as one batch."""
        return DataLoader([self.batch], batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]
