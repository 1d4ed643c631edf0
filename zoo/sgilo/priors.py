"""Priors of intermediate latents behind one protocol: the learned score, and two controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from zoo.sgilo.score import LatentDenoiser


class LatentPrior(Protocol):
    """What a solver asks of a prior."""

    def centred(self, start: Tensor) -> "LatentPrior":
        """The prior for chains that begin at ``start``, ``(N, *)``; the place to look whether it can be used."""
        ...

    def gradient(self, latent: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
        """Gradient of the negative logarithm of the density, for every chain.

        Args:
            latent: Where the chains are, ``(N, *)``.
            sigma: Noise level of a prior that is learned at several of them, in units of the latents' scale.
            generator: Source of randomness of a prior that needs it.

        Returns:
            Of the shape of ``latent``.
        """
        ...


class ScorePrior(nn.Module):
    r"""The learned score, asked at a noisy copy of the latent, which is what it was trained on.

    .. math:: \frac{z - D(z + \sigma s \xi)}{(\sigma s)^2}, \qquad \xi \sim N(0, I)

    Args:
        denoiser: Fitted and trained.
        perturb: Whether the noise is added; without, it is exactly the score of the density smoothed by that noise.

    Source:
        Daras et al., ICML 2022; the noisy copy is this room's choice.

    Example:
        >>> denoiser = LatentDenoiser((4,)).fit(torch.randn(1000, 4))
        >>> ScorePrior(denoiser, perturb=False).gradient(torch.ones(2, 4), sigma=1.0).shape
        torch.Size([2, 4])
    """

    def __init__(self, denoiser: LatentDenoiser, perturb: bool = True) -> None:
        super().__init__()
        self.denoiser, self.perturb = denoiser, perturb

    def centred(self, start: Tensor) -> LatentPrior:
        self.denoiser.check_fitted()
        return self

    def gradient(self, latent: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
        width = sigma * self.denoiser.scale
        noisy = latent
        if self.perturb:
            noise = torch.empty_like(latent).normal_(generator=generator)
            noisy = torch.addcmul(latent, noise, width)
        return (latent - self.denoiser.denoise(noisy, sigma)) / width**2


class GaussianPrior(nn.Module):
    r"""A normal distribution with the mean and the whole covariance of some latents: the first control.

    .. math:: \Sigma^{-1} (z - \mu)

    Args:
        latent_shape: Of one latent.

    Example:
        >>> prior = GaussianPrior((3,)).fit(torch.randn(10_000, 3, generator=torch.Generator().manual_seed(0)))
        >>> prior.gradient(torch.ones(1, 3), sigma=0.0).round(decimals=1)
        tensor([[1., 1., 1.]])
    """

    mean: Tensor
    precision: Tensor

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        dim = torch.Size(self.latent_shape).numel()
        self.register_buffer("mean", torch.zeros(self.latent_shape))
        self.register_buffer("precision", torch.full((dim, dim), float("nan")))  # until it is fitted

    @torch.no_grad()
    def fit(self, latents: Tensor, ridge: float = 1e-4) -> "GaussianPrior":
        """Take mean and covariance from latents.

        Args:
            latents: Shape ``(N, *latent_shape)``.
            ridge: Added to every variance, in units of their mean; > 0, for latents that do not fill their space.

        Raises:
            ValueError: If the latents have another shape, or ``ridge`` is not positive.
        """
        if tuple(latents.shape[1:]) != self.latent_shape or len(latents) < 2:
            raise ValueError(f"latents must be of shape (N, *{self.latent_shape}), N > 1, got {tuple(latents.shape)}")
        if not ridge > 0:
            raise ValueError(f"ridge must be > 0, got {ridge}")
        covariance = torch.cov(latents.flatten(1).T.double()).reshape(self.precision.shape)
        covariance.diagonal().add_(ridge * covariance.diagonal().mean())
        self.mean.copy_(latents.mean(0))
        self.precision.copy_(torch.cholesky_inverse(torch.linalg.cholesky(covariance)))
        return self

    def centred(self, start: Tensor) -> LatentPrior:
        if not bool(self.precision[0, 0] > 0):
            raise ValueError("the prior must be fitted to latents before it is used; call fit, or load a checkpoint")
        return self

    def gradient(self, latent: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
        """As in :class:`LatentPrior`; ``sigma`` and ``generator`` are of no use here."""
        return ((latent - self.mean).flatten(1) @ self.precision).view_as(latent)


@dataclass(frozen=True, eq=False)
class ProximityPrior:
    r"""Holds each chain near the point where it began: the second control.

    .. math:: 2 w (z - z_0)

    Args:
        weight: Of the squared distance, w, > 0.
        center: Where the chains began, :math:`z_0`; :meth:`centred` puts it there.

    Raises:
        ValueError: If ``weight`` is not positive.

    Example:
        >>> ProximityPrior(0.5).centred(torch.zeros(1, 2)).gradient(torch.ones(1, 2), sigma=0.0)
        tensor([[1., 1.]])
    """

    weight: float
    center: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight must be > 0, got {self.weight}")

    def centred(self, start: Tensor) -> LatentPrior:
        return replace(self, center=start)

    def gradient(self, latent: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
        """As in :class:`LatentPrior`; ``sigma`` and ``generator`` are of no use here."""
        if self.center is None:
            raise ValueError("center must be given, or put there by centred, got None")
        return 2 * self.weight * (latent - self.center)


def find_prior(prior: LatentPrior | str, priors: Mapping[str, LatentPrior]) -> LatentPrior:
    """The prior itself, or the one of that name.

    Raises:
        ValueError: If there is none of that name.
    """
    if not isinstance(prior, str):
        return prior
    if prior not in priors:
        known = ", ".join(priors) or "those given (none)"
        raise ValueError(f"prior must be a prior, or one of {known}, got {prior!r}")
    return priors[prior]
