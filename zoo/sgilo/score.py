"""The score network of intermediate latents."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class ScoreMLP(nn.Module):
    """A residual network of flat latents and noise levels.

    Args:
        dim: Size p of a latent.
        hidden_dim: Width of the blocks.
        num_blocks: Residual blocks: layer norm, the noise level's embedding added, SiLU between two linear layers.
        embedding_dim: Sines and cosines of the logarithm of the noise level, an even number.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> ScoreMLP(6)(torch.zeros(2, 6), torch.zeros(2)).shape
        torch.Size([2, 6])
    """

    def __init__(self, dim: int, hidden_dim: int = 512, num_blocks: int = 3, embedding_dim: int = 64) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("hidden_dim", hidden_dim), ("num_blocks", num_blocks)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if embedding_dim < 2 or embedding_dim % 2:
            raise ValueError(f"embedding_dim must be even and at least 2, got {embedding_dim}")
        frequencies = torch.logspace(-1, 1, embedding_dim // 2) * math.pi / 2
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.first = nn.Linear(dim, hidden_dim)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(hidden_dim),
                    "level": nn.Linear(embedding_dim, hidden_dim),
                    "wide": nn.Linear(hidden_dim, hidden_dim),
                    "back": nn.Linear(hidden_dim, hidden_dim),
                }
            )
            for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.last = nn.Linear(hidden_dim, dim)
        nn.init.zeros_(self.last.weight)  # the untrained denoiser is then the Wiener filter
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        """Outputs ``(B, p)`` for inputs ``(B, p)`` and logarithms of noise levels ``(B,)`` or ``(1,)``."""
        assert isinstance(self.frequencies, Tensor)
        angles = log_sigma.unsqueeze(1) * self.frequencies
        embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
        h = self.first(x)
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            inner = nn.functional.silu(block["wide"](block["norm"](h)) + block["level"](embedding))
            h = h + block["back"](inner)
        return self.last(nn.functional.silu(self.norm(h)))


class LatentDenoiser(nn.Module):
    r"""Tells the mean of clean latents given noisy ones, and so the score of their smoothed density.

    In normalised units, :math:`u = (z - \mu) / s` with the mean of every coordinate and one scale for all,

    .. math:: D(u_\sigma) = \frac{u_\sigma}{1 + \sigma^2}
        + \frac{\sigma}{\sqrt{1 + \sigma^2}} F\Big(\frac{u_\sigma}{\sqrt{1 + \sigma^2}}, \log \sigma\Big), \qquad
        \nabla \log p_\sigma = \frac{D(u_\sigma) - u_\sigma}{\sigma^2}

    so that the network F is 0 for standard normal latents. Mean and scale are buffers: checkpoints keep them.

    Args:
        latent_shape: Of one latent.
        sigma_min: Smallest noise level, in units of the scale s, > 0.
        sigma_max: Largest noise level, > ``sigma_min``.
        **network: Further arguments of :class:`ScoreMLP`.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Daras et al., ICML 2022, train a variance-preserving score network on inverted latents; this variance-exploding
        form with its preconditioning is this room's, after Karras et al., NeurIPS 2022.

    Example:
        >>> denoiser = LatentDenoiser((4,)).fit(torch.randn(100, 4))
        >>> denoiser.denoise(torch.ones(2, 4), sigma=1.0).shape
        torch.Size([2, 4])
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, latent_shape: Sequence[int], sigma_min: float = 0.05, sigma_max: float = 8.0, **network: int
    ) -> None:
        super().__init__()
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"sigma_min and sigma_max must be 0 < sigma_min < sigma_max, got {sigma_min}, {sigma_max}")
        self.latent_shape = tuple(latent_shape)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.network = ScoreMLP(math.prod(self.latent_shape), **network)
        self.register_buffer("mean", torch.zeros(self.latent_shape))
        self.register_buffer("scale", torch.tensor(float("nan")))  # until it is fitted

    @torch.no_grad()
    def fit(self, latents: Tensor) -> "LatentDenoiser":
        """Take mean and scale from latents ``(N, *latent_shape)``.

        Raises:
            ValueError: If they have another shape, or no spread.
        """
        self._check_shape(latents)
        self.mean.copy_(latents.mean(0))
        self.scale.copy_((latents - latents.mean(0)).square().mean().sqrt())
        if not self.scale > 0:
            raise ValueError(f"latents must have a spread > 0, got {self.scale.item()}")
        return self

    def normalised(self, z: Tensor) -> Tensor:
        """Flat latents of mean 0 and scale 1, ``(B, p)``."""
        return ((z - self.mean) / self.scale).flatten(1)

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The mean of clean latents, in normalised units.

        Args:
            noisy: Flat latents, ``(B, p)``.
            sigma: Noise levels, ``(B,)``, or ``(1,)`` for all.
        """
        sigma = sigma.unsqueeze(1)
        width = (1 + sigma**2).sqrt()
        return noisy / width**2 + sigma / width * self.network(noisy / width, sigma.log().squeeze(1)).to(noisy.dtype)

    @torch.no_grad()
    def denoise(self, z: Tensor, sigma: float) -> Tensor:
        """The mean of clean latents given noisy ones; no gradient goes through.

        Args:
            z: Noisy latents, ``(B, *latent_shape)``.
            sigma: Standard deviation of their noise in units of the scale.

        Raises:
            ValueError: If the level is outside of those trained, or the shape is another.
        """
        self.check_level(sigma)
        self._check_shape(z)
        level = torch.full((1,), sigma, dtype=z.dtype, device=z.device)
        return torch.addcmul(self.mean, self.scale, self(self.normalised(z), level).view_as(z))

    def score(self, z: Tensor, sigma: float) -> Tensor:
        """Gradient of the logarithm of the density of latents with noise of that level, ``(B, *latent_shape)``."""
        return (self.denoise(z, sigma) - z) / (sigma * self.scale) ** 2

    def loss(self, z: Tensor, log_sigma: Tensor, noise: Tensor) -> Tensor:
        r"""Denoising score matching, weighted so that every noise level counts alike: one where nothing is learned.

        .. math:: \frac{1 + \sigma^2}{\sigma^2} \frac{|D(u + \sigma \epsilon) - u|^2}{p}

        Args:
            z: Clean latents, ``(B, *latent_shape)``.
            log_sigma: Logarithms of noise levels, ``(B,)``.
            noise: Standard normal, ``(B, p)``.

        Returns:
            The mean over the batch, scalar.
        """
        clean, sigma = self.normalised(z), log_sigma.exp()
        error = (self(clean + sigma.unsqueeze(1) * noise, sigma) - clean).square().mean(1)
        return ((1 + sigma**2) / sigma**2 * error).mean()

    @torch.no_grad()
    def sample(self, num: int, num_steps: int = 50, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents: noise is taken away in geometric steps, each with half of its noise put back.

        Args:
            num: How many.
            num_steps: From ``sigma_max`` to ``sigma_min``, at least 2.
            generator: Source of randomness, on the device of the network; the global one if ``None``.

        Returns:
            Latents, ``(num, *latent_shape)``.
        """
        if num_steps < 2:
            raise ValueError(f"num_steps must be at least 2, got {num_steps}")
        self.check_fitted()
        levels = torch.logspace(
            math.log10(self.sigma_max), math.log10(self.sigma_min), num_steps, device=self.scale.device
        )
        u = self._noise(num, generator) * levels[0]
        for level, lower in pairwise(levels):
            clean = self(u, level.view(1))
            kept = lower**2 / level**2  # ancestral: variance that is left of the noise, and fresh noise for the rest
            u = clean + kept * (u - clean) + lower * (1 - kept).sqrt() * self._noise(num, generator)
        return self.mean + self.scale * self(u, levels[-1:]).view(num, *self.latent_shape)

    def _noise(self, num: int, generator: torch.Generator | None) -> Tensor:
        return torch.randn(num, self.mean.numel(), device=self.scale.device, generator=generator)

    def check_level(self, sigma: float) -> None:
        """Raise a ``ValueError`` if a noise level was not trained."""
        if not self.sigma_min <= sigma <= self.sigma_max:
            raise ValueError(f"sigma must be in the trained range {self.sigma_min} to {self.sigma_max}, got {sigma}")

    def check_fitted(self) -> None:
        """Raise a ``ValueError`` if mean and scale are missing; waits for the device."""
        if not bool(self.scale > 0):
            raise ValueError("the denoiser must be fitted to latents before it is used; call fit, or load a checkpoint")

    def _check_shape(self, z: Tensor) -> None:
        if tuple(z.shape[1:]) != self.latent_shape:
            raise ValueError(f"latents must be of shape (B, *{self.latent_shape}), got {tuple(z.shape)}")
