"""The small variational autoencoder whose decoder is the generator of the experiments on MNIST."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.sgilo.generator import SplitGenerator

SLOPE = 0.2  # of the leaky ReLU


class ConvDecoder(SplitGenerator):
    """A decoder that doubles its feature map twice, with a split before each doubling.

    There is no activation at a split, so that a latent may be any tensor: split 1 is the map of a quarter of the
    image's side that two linear layers make of z, split 2 the one of half its side.

    Args:
        latent_dim: Size k of z.
        input_shape: Channels, height and width of an image; both sides multiples of 4.
        hidden_dim: Units between the two linear layers.
        channels: Of the maps at the splits, and of the one before the image.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> decoder = ConvDecoder(latent_dim=6)
        >>> decoder(torch.zeros(2, 6)).shape, [decoder.latent_shape(split) for split in (1, 2)]
        (torch.Size([2, 1, 28, 28]), [(8, 7, 7), (32, 14, 14)])
    """

    num_splits = 2

    def __init__(
        self,
        latent_dim: int = 6,
        input_shape: Sequence[int] = (1, 28, 28),
        hidden_dim: int = 128,
        channels: Sequence[int] = (8, 32, 16),
    ) -> None:
        super().__init__()
        check_shape(input_shape)
        if len(channels) != 3 or min(channels) < 1:
            raise ValueError(f"channels must be three numbers of at least 1, got {list(channels)}")
        for name, value in (("latent_dim", latent_dim), ("hidden_dim", hidden_dim)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        image_channels, height, width = input_shape
        first, second, third = channels
        self.latent_dim = latent_dim
        self.shapes = ((first, height // 4, width // 4), (second, height // 2, width // 2))
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Linear(latent_dim, hidden_dim),
                    nn.ReLU(),
                    nn.Linear(hidden_dim, math.prod(self.shapes[0])),
                    nn.Unflatten(1, self.shapes[0]),
                ),
                nn.Sequential(nn.LeakyReLU(SLOPE), nn.ConvTranspose2d(first, second, 4, 2, 1)),
                nn.Sequential(
                    nn.LeakyReLU(SLOPE),
                    nn.ConvTranspose2d(second, third, 4, 2, 1),
                    nn.LeakyReLU(SLOPE),
                    nn.Conv2d(third, image_channels, 3, padding=1),
                ),
            ]
        )
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU

    def latent_shape(self, split: int) -> tuple[int, ...]:
        self.check_split(split)
        return self.shapes[split - 1]

    def prefix(self, z: Tensor, split: int) -> Tensor:
        self.check_split(split)
        return self.between(self.blocks[0](z), 1, split)

    def between(self, state: Tensor, split: int, later: int) -> Tensor:
        for block in self.blocks[split:later]:
            state = block(state)
        return state

    def suffix(self, state: Tensor, split: int) -> Tensor:
        return self.logits(state, split).sigmoid()

    def logits(self, state: Tensor, split: int) -> Tensor:
        """The images before the sigmoid.

        Args:
            state: Latents, ``(B, *latent_shape(split))``.
            split: From 1 to ``num_splits``.
        """
        self.check_split(split)
        if state.shape[1:] != self.latent_shape(split):
            raise ValueError(f"state must be of shape (B, *{self.latent_shape(split)}), got {tuple(state.shape)}")
        state = state.contiguous(memory_format=torch.channels_last)
        return self.between(state, split, len(self.blocks))


class VAE(nn.Module):
    r"""A variational autoencoder of images in [0, 1], with a standard normal prior and Bernoulli pixels.

    .. math:: -\log p(x) \le E_{q(z|x)}[-\log p(x|z)] + KL(q(z|x) \| N(0, I))

    Args:
        latent_dim: Size k of z.
        input_shape: Channels, height and width of an image; both sides multiples of 4.
        hidden_dim: Units of the layers between maps and z, of encoder and decoder.
        channels: Of the decoder's maps.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Kingma and Welling, ICLR 2014; as a prior Bora et al., *Compressed Sensing using Generative Models*, ICML 2017.

    Example:
        >>> vae = VAE(latent_dim=6)
        >>> vae.reconstruct(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        latent_dim: int = 6,
        input_shape: Sequence[int] = (1, 28, 28),
        hidden_dim: int = 128,
        channels: Sequence[int] = (8, 32, 16),
    ) -> None:
        super().__init__()
        self.decoder = ConvDecoder(latent_dim, input_shape, hidden_dim, channels)
        image_channels, height, width = input_shape
        self.encoder = nn.Sequential(
            nn.Conv2d(image_channels, 16, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 2 * latent_dim),
        ).to(memory_format=torch.channels_last)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of z, each ``(B, k)``."""
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        return mean, log_var

    def reconstruct(self, x: Tensor) -> Tensor:
        """The decoded mean of z."""
        return self.decoder(self.encode(x)[0])

    def loss(self, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The two parts of the bound, in nats per image.

        Args:
            x: Images, ``(B, C, H, W)``, in [0, 1].
            noise: Standard normal, ``(B, k)``.

        Returns:
            ``"rec"`` and ``"kl"``, scalars.
        """
        mean, log_var = self.encode(x)
        logits = self.decoder.logits(self.decoder.prefix(mean + (log_var / 2).exp() * noise, 1), 1)
        rec = F.binary_cross_entropy_with_logits(logits.float(), x, reduction="sum") / len(x)
        kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum() / len(x)
        return {"rec": rec, "kl": kl}


class Inverter(nn.Module):
    r"""Finds the latent of an image at a split in one pass: what the range of the prefix lacks is predicted.

    .. math:: r = G_1(\mu(x)), \qquad z_1 = r + \Delta(x, G_2(r))

    Args:
        vae: Encodes and decodes; is left as it is.
        split: Of its decoder.
        channels: Of the hidden maps.
        range_only: Leave the correction out: the latents are those of the range of the prefix.

    Raises:
        ValueError: If there is no such split.

    Example:
        >>> Inverter(VAE(latent_dim=6)).invert(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 8, 7, 7])
    """

    def __init__(self, vae: VAE, split: int = 1, channels: int = 32, range_only: bool = False) -> None:
        super().__init__()
        shape = vae.decoder.latent_shape(split)
        self.vae, self.split, self.range_only = vae.requires_grad_(False), split, range_only
        image_channels = vae.decoder.blocks[-1][-1].out_channels  # type: ignore[index]
        layers: list[nn.Module] = [nn.Conv2d(2 * image_channels, channels, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        if split == 1:
            layers += [nn.Conv2d(channels, channels, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        layers += [nn.Conv2d(channels, shape[0], 3, padding=1)]
        self.correction = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def start(self, x: Tensor) -> Tensor:
        """Latents within the range of the prefix, ``(B, *latent_shape)``."""
        return self.vae.decoder.prefix(self.vae.encode(x)[0], self.split)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of images ``(B, C, H, W)``, and how far they are from the range of the prefix, of the same shape."""
        with torch.no_grad():
            start = self.start(x)
            decoded = self.vae.decoder.suffix(start, self.split)
        delta = self.correction(torch.cat([x - decoded, decoded], dim=1))
        return start + delta, delta

    @torch.no_grad()
    def invert(self, x: Tensor) -> Tensor:
        """Latents of images, ``(B, *latent_shape)``, without gradients."""
        return self.start(x) if self.range_only else self(x)[0]

    def loss(self, x: Tensor, weight: float) -> dict[str, Tensor]:
        """Squared error of the decoded images, and squared deviation, in sums over an image.

        Args:
            x: Images, ``(B, C, H, W)``.
            weight: Of the deviation.

        Returns:
            ``"error"`` and ``"deviation"``, scalars, the latter weighted.
        """
        latent, delta = self(x)
        error = (self.vae.decoder.suffix(latent, self.split) - x).square().sum() / len(x)
        return {"error": error, "deviation": weight * delta.square().sum() / len(x)}


def check_shape(input_shape: Sequence[int]) -> None:
    """Raise a ``ValueError`` if the sides of an image cannot be halved twice."""
    if len(input_shape) != 3 or min(input_shape) < 1 or any(side % 4 for side in input_shape[1:]):
        raise ValueError(
            f"input_shape must be channels, height and width with sides that are multiples of 4, got {input_shape}"
        )
