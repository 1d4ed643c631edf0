"""Patches that hold one feature at a large or a small margin, among patches of noise."""

import os
from typing import Literal, NamedTuple

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from datamodules.full_batch import FullBatchDataModule


class MarginBatch(NamedTuple):
    """All samples of A independent problems.

    Attributes:
        x: Patches, ``(A, N, P, d)``.
        y: Labels, -1 or 1, floating point, ``(A, N)``.
        small_margin: Whether a sample holds the feature at the small margin, bool, ``(A, N)``.
        signal_patch: Which patch holds the feature, int64, ``(A, N)``.
        signal: The feature, a unit vector of each problem, ``(A, d)``.
    """

    x: Tensor
    y: Tensor
    small_margin: Tensor
    signal_patch: Tensor
    signal: Tensor


def margin_patches(
    signal: Tensor,
    small_margin: Tensor,
    num_patches: int = 4,
    alpha: float = 1.0,
    beta: float = 0.1,
    noise_std: float = 0.1,
    generator: torch.Generator | None = None,
) -> MarginBatch:
    r"""Draw one problem's samples: a patch holds the feature, the others noise that is orthogonal to it.

    .. math:: x_{P} = y \, c \, w_*, \quad c \in \{\alpha, \beta\}, \qquad
              x_j \sim N\big(0, \sigma^2 (I - w_* w_*^\top)\big), \; j \ne P

    with labels y and positions P drawn uniformly.

    Args:
        signal: The feature w*, a unit vector, ``(d,)``.
        small_margin: Which samples have the margin beta, bool, ``(N,)``.
        num_patches: Patches P of a sample.
        alpha: The large margin.
        beta: The small margin.
        noise_std: Standard deviation sigma of an entry of the noise.
        generator: Source of randomness; the global one if ``None``.

    Returns:
        The samples, with a leading axis of length 1.

    Source:
        Jelassi and Li, *Towards understanding how momentum improves generalization in deep learning*, ICML 2022.

    Example:
        >>> small = torch.tensor([True, False])
        >>> batch = margin_patches(torch.eye(3)[0], small, num_patches=2, generator=torch.Generator().manual_seed(0))
        >>> batch.x.shape, (batch.x @ batch.signal[0]).sum(dim=2) * batch.y  # the margins
        (torch.Size([1, 2, 2, 3]), tensor([[0.1000, 1.0000]]))
    """
    num_samples = len(small_margin)
    y = 2.0 * torch.randint(2, (num_samples,), generator=generator) - 1
    signal_patch = torch.randint(num_patches, (num_samples,), generator=generator)
    x = noise_std * torch.randn(num_samples, num_patches, len(signal), generator=generator)
    x -= (x @ signal).unsqueeze(-1) * signal
    margin = torch.where(small_margin, beta, alpha)
    x[torch.arange(num_samples), signal_patch] = (y * margin).unsqueeze(1) * signal
    return MarginBatch(*(part.unsqueeze(0) for part in (x, y, small_margin, signal_patch, signal)))


class MarginPatchDataModule(FullBatchDataModule):
    """Samples that share one feature, most at a large margin and a few at a small one: see :func:`margin_patches`.

    Every epoch has one batch, a :class:`MarginBatch` of all samples of all problems.

    Args:
        num_problems: Independent draws A of everything. The first ones are the same, however many there are.
        num_train: Training samples N of each problem.
        num_test: Held-out samples of each problem.
        dim: Dimensions d of a patch.
        num_patches: Patches P of a sample, at least 2.
        alpha: The large margin.
        beta: The small margin, in (0, alpha].
        small_margin_fraction: Share of the training samples with the small margin, in [0, 1].
        test_small_fraction: The same of the held-out samples.
        noise_norm: Root mean square length of a patch of noise but for the feature's direction, ``noise_std *
            sqrt(dim)``, >= 0; ``None`` where ``noise_std`` is given.
        noise_std: Standard deviation of an entry of the noise, >= 0; ``None`` where ``noise_norm`` is given.
        stratified: Whether exactly ``round(fraction * N)`` samples have the small margin; else each has it with this
            probability.
        signal: ``"basis"``, the first basis vector, or ``"random"``, a random direction for each problem.
        seed: Of all that is random; ``None`` takes the one of ``seed_everything``, 0 if there is none.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> data = MarginPatchDataModule(num_problems=3, num_train=50)
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.x.shape, batch.small_margin.sum(dim=1)
        (torch.Size([3, 50, 4, 200]), tensor([5, 5, 5]))
    """

    def __init__(
        self,
        num_problems: int = 1,
        num_train: int = 200,
        num_test: int = 2000,
        dim: int = 200,
        num_patches: int = 4,
        alpha: float = 1.0,
        beta: float = 0.1,
        small_margin_fraction: float = 0.1,
        test_small_fraction: float = 0.5,
        noise_norm: float | None = 1.5,
        noise_std: float | None = None,
        stratified: bool = True,
        signal: Literal["basis", "random"] = "basis",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"num_problems": num_problems, "num_train": num_train, "num_test": num_test}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, value in (("dim", dim), ("num_patches", num_patches)):
            if value < 2:
                raise ValueError(f"{name} must be at least 2, got {value}")
        if not 0 < alpha < float("inf"):
            raise ValueError(f"alpha must be > 0, got {alpha}")
        if not 0 < beta <= alpha:
            raise ValueError(f"beta must be in (0, alpha], with alpha {alpha}, got {beta}")
        shares = {"small_margin_fraction": small_margin_fraction, "test_small_fraction": test_small_fraction}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        if signal not in ("basis", "random"):
            raise ValueError(f"signal must be one of basis, random, got {signal!r}")
        self.noise_std = noise_std_of(noise_norm, noise_std, dim)
        self.num_problems, self.num_train, self.num_test, self.dim = num_problems, num_train, num_test, dim
        self.num_patches, self.alpha, self.beta = num_patches, alpha, beta
        self.small_margin_fraction, self.test_small_fraction = small_margin_fraction, test_small_fraction
        self.stratified, self.signal = stratified, signal
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.train, self.test = self._draw()
        if not self.train.small_margin.any(dim=1).all():
            rank_zero_warn(
                f"a problem has no small margin among its {num_train} training samples (small_margin_fraction "
                f"{small_margin_fraction:g}): what is measured of them will be NaN"
            )

    def _draw(self) -> tuple[MarginBatch, MarginBatch]:
        """Training and held-out samples of all problems."""
        drawn = [
            self._draw_problem(torch.Generator().manual_seed(self.seed * 2**20 + i)) for i in range(self.num_problems)
        ]
        train, test = (MarginBatch(*map(torch.cat, zip(*parts))) for parts in zip(*drawn))
        return train, test

    def _draw_problem(self, generator: torch.Generator) -> tuple[MarginBatch, MarginBatch]:
        signal = torch.zeros(self.dim)
        signal[0] = 1.0
        if self.signal == "random":
            signal = torch.nn.functional.normalize(torch.randn(self.dim, generator=generator), dim=0)
        parts = ((self.num_train, self.small_margin_fraction), (self.num_test, self.test_small_fraction))
        masks = [small_margins(size, share, self.stratified, generator) for size, share in parts]
        options = (self.num_patches, self.alpha, self.beta, self.noise_std, generator)
        train, test = (margin_patches(signal, mask, *options) for mask in masks)
        return train, test

    @property
    def description(self) -> str:
        """The data in one line, for tables."""
        return (
            f"patches of margin {self.alpha:g} and, {100 * self.small_margin_fraction:g} % of them, {self.beta:g} "
            f"({self.num_problems} problems of {self.num_train:,} training and {self.num_test:,} held-out samples, "
            f"{self.num_patches} patches of {self.dim} dimensions, noise {self.noise_std:.4g})"
        )


def noise_std_of(noise_norm: float | None, noise_std: float | None, dim: int) -> float:
    """Standard deviation of an entry of the noise, from whichever of the two is given.

    Raises:
        ValueError: If both or none are given, or the one is negative or infinite.
    """
    if (noise_norm is None) == (noise_std is None):
        raise ValueError(f"exactly one of noise_norm and noise_std must be given, got {noise_norm} and {noise_std}")
    name, value = ("noise_std", noise_std) if noise_norm is None else ("noise_norm", noise_norm)
    assert value is not None
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be >= 0, got {value}")
    return value if noise_norm is None else value / dim**0.5


def small_margins(num_samples: int, share: float, stratified: bool, generator: torch.Generator) -> Tensor:
    """Which samples have the small margin, bool, ``(N,)``."""
    if not stratified:
        return torch.rand(num_samples, generator=generator) < share
    return torch.randperm(num_samples, generator=generator) < round(share * num_samples)
