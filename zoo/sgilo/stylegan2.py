"""The generator of StyleGAN2, under the names that public checkpoints of it use, to be entered at any block."""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.sgilo.generator import SplitGenerator

SLOPE = 0.2  # of the leaky ReLUs
EPS = 1e-8
MAPPING_LR_MUL = 0.01  # the mapping network's weights are stored a hundred times larger than they act
FIR = (1.0, 3.0, 3.0, 1.0)


def channels_of(channel_multiplier: int = 2) -> dict[int, int]:
    """Channels by resolution, as in the published networks.

    Example:
        >>> channels_of()[64], channels_of()[1024]
        (512, 32)
    """
    return {4: 512, 8: 512, 16: 512, 32: 512} | {
        size: 16384 // size * channel_multiplier for size in (64, 128, 256, 512, 1024)
    }


class SynthesisState(NamedTuple):
    """Where the synthesis stands at a split.

    Attributes:
        feature: What the next block is given, ``(B, C, r, r)``; this is what solvers move.
        skip: The image so far, ``(B, 3, r, r)``; ``None`` starts it anew.
        styles: The style of every layer, ``(B, num_styles, style_dim)``.
        noises: The noise of every layer, ``(B, 1, r, r)``.
    """

    feature: Tensor
    skip: Tensor | None
    styles: Tensor
    noises: tuple[Tensor, ...]


class StyleGAN2(SplitGenerator):
    """StyleGAN2: a mapping network makes styles, which modulate the convolutions of a synthesis network.

    The names and shapes of its state dict are those of the PyTorch checkpoints that the repository
    ``rosinality/stylegan2-pytorch`` reads and writes; :func:`~zoo.sgilo.load_stylegan2` reads one. Split i is where
    block i begins, at a resolution of :math:`2^{i + 1}`; the state there is a :class:`SynthesisState`.

    Args:
        size: Side of the images in pixels, a power of two, at least 8.
        style_dim: Size of codes and styles.
        n_mlp: Layers of the mapping network.
        channel_multiplier: Of the published numbers of channels from 64 pixels on.
        channels: Channels by resolution, in place of the published ones.
        keep_skip: Hand the image so far over at a split. Without it the image begins anew there, as in the authors'
            solvers, and prefix and suffix no longer make up the whole.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Karras et al., *Analyzing and Improving the Image Quality of StyleGAN*, CVPR 2020.

    Example:
        >>> net = StyleGAN2(size=16, style_dim=8, n_mlp=2, channels={4: 6, 8: 5, 16: 4})
        >>> state = net.prefix(torch.randn(3, 8), 2)
        >>> state.feature.shape, net.suffix(state, 2).shape
        (torch.Size([3, 5, 8, 8]), torch.Size([3, 3, 16, 16]))
    """

    latent_avg: Tensor | None

    def __init__(
        self,
        size: int = 1024,
        style_dim: int = 512,
        n_mlp: int = 8,
        channel_multiplier: int = 2,
        channels: Mapping[int, int] | None = None,
        keep_skip: bool = True,
    ) -> None:
        super().__init__()
        if size < 8 or size & (size - 1):
            raise ValueError(f"size must be a power of two, at least 8, got {size}")
        for name, value in {"style_dim": style_dim, "n_mlp": n_mlp, "channel_multiplier": channel_multiplier}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        channels = channels_of(channel_multiplier) if channels is None else channels
        sizes = [2**i for i in range(2, size.bit_length())]
        if lacking := [one for one in sizes if channels.get(one, 0) < 1]:
            raise ValueError(f"channels must be at least 1 at every resolution, got none at {lacking}")
        self.size, self.keep_skip = size, keep_skip
        self.channels = {one: channels[one] for one in sizes}
        self.num_splits, self.latent_dim = len(sizes) - 1, style_dim
        self.num_styles = 2 * len(sizes)
        self.style = nn.Sequential(PixelNorm(), *(MappingLayer(style_dim, style_dim) for _ in range(n_mlp)))
        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], style_dim)
        self.to_rgb1 = ToRGB(channels[4], style_dim, upsample=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for before, after in pairwise(sizes):
            self.convs.append(StyledConv(channels[before], channels[after], style_dim, upsample=True))
            self.convs.append(StyledConv(channels[after], channels[after], style_dim))
            self.to_rgbs.append(ToRGB(channels[after], style_dim))
        self.noises = nn.Module()
        for layer in range(2 * len(sizes) - 1):
            side = 2 ** ((layer + 5) // 2)
            self.noises.register_buffer(f"noise_{layer}", torch.randn(1, 1, side, side))
        self.register_buffer("latent_avg", None, persistent=False)

    def styles(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """Styles of all layers from a code, the same for each.

        Args:
            z: Codes, ``(B, style_dim)``.
            truncation: How far from the mean style to go; less than 1 needs ``latent_avg``.

        Returns:
            ``(B, num_styles, style_dim)``.

        Raises:
            ValueError: If the mean style is needed and not known.
        """
        style = self.style(z)
        if truncation != 1:
            if self.latent_avg is None:
                raise ValueError(f"truncation must be 1 where latent_avg is not known, got {truncation}")
            style = torch.lerp(self.latent_avg, style, truncation)
        return style.unsqueeze(1).expand(-1, self.num_styles, -1)

    def enter(self, styles: Tensor, split: int, noises: tuple[Tensor, ...] | None = None) -> SynthesisState:
        """The synthesis up to a split, from styles and noises of the caller's own.

        Args:
            styles: ``(B, num_styles, style_dim)``.
            split: From 1 to ``num_splits``.
            noises: One for each layer, ``(1, 1, r, r)`` or ``(B, 1, r, r)``; ``None`` takes those of the network.

        Raises:
            ValueError: If styles or noises are not as many as there should be, or there is no such split.
        """
        self.check_split(split)
        if styles.ndim != 3 or tuple(styles.shape[1:]) != (self.num_styles, self.latent_dim):
            raise ValueError(f"styles must be (B, {self.num_styles}, {self.latent_dim}), got {tuple(styles.shape)}")
        noises = tuple(self.noises.buffers()) if noises is None else noises
        if len(noises) != self.num_styles - 1:
            raise ValueError(f"noises must be {self.num_styles - 1}, one for each layer, got {len(noises)}")
        noises = tuple(noise.expand(len(styles), -1, -1, -1) for noise in noises)
        feature = self.conv1(self.input(len(styles)), styles[:, 0], noises[0])
        state = SynthesisState(feature, self.to_rgb1(feature, styles[:, 1]), styles, noises)
        state = self._blocks(state, 1, split)
        return state if self.keep_skip else state._replace(skip=None)

    def latent_shape(self, split: int) -> tuple[int, ...]:
        self.check_split(split)
        side = 2 ** (split + 1)
        return (self.channels[side], side, side)

    def prefix(self, z: Tensor, split: int) -> SynthesisState:
        return self.enter(self.styles(z), split)

    def suffix(self, state: SynthesisState, split: int) -> Tensor:
        self.check_split(split)
        image = self._blocks(state, split, self.num_splits + 1).skip
        assert image is not None
        return image

    def between(self, state: SynthesisState, split: int, later: int) -> SynthesisState:
        self.check_split(split)
        self.check_split(later)
        state = self._blocks(state, split, later)
        return state if self.keep_skip else state._replace(skip=None)

    def forward(self, z: Tensor) -> Tensor:
        return self.suffix(self.enter(self.styles(z), 1), 1)

    def latent(self, state: SynthesisState) -> Tensor:
        return state.feature

    def with_latent(self, state: SynthesisState, latent: Tensor) -> SynthesisState:
        return state._replace(feature=latent)

    def _blocks(self, state: SynthesisState, first: int, after: int) -> SynthesisState:
        """Run the blocks from one split to the next."""
        feature, skip, styles, noises = state
        for i in range(2 * first - 1, 2 * after - 1, 2):  # the first layer of a block
            feature = self.convs[i - 1](feature, styles[:, i], noises[i])
            feature = self.convs[i](feature, styles[:, i + 1], noises[i + 1])
            skip = self.to_rgbs[(i - 1) // 2](feature, styles[:, i + 2], skip)  # this style serves the next layer too
        return SynthesisState(feature, skip, styles, noises)


class PixelNorm(nn.Module):
    """Divides codes ``(B, k)`` by the root of their mean square."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + EPS)


class EqualLinear(nn.Module):
    """A linear layer whose weights are stored with variance 1 and scaled when used.

    Args:
        in_features: Of the input.
        out_features: Of the output.
        bias_init: First value of the biases.
        lr_mul: How much smaller weights and biases act than the weights' scale says.
    """

    def __init__(self, in_features: int, out_features: int, bias_init: float = 0.0, lr_mul: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init))
        self.scale, self.lr_mul = lr_mul / math.sqrt(in_features), lr_mul

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)


class MappingLayer(EqualLinear):
    """A layer of the mapping network, with its leaky ReLU."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, lr_mul=MAPPING_LR_MUL)

    def forward(self, x: Tensor) -> Tensor:
        return math.sqrt(2) * F.leaky_relu(super().forward(x), SLOPE)


class ConstantInput(nn.Module):
    """What the synthesis begins with, the same for all images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, num_images: int) -> Tensor:
        return self.input.expand(num_images, -1, -1, -1)


class Resampler(nn.Module):
    """Holds the low-pass filter of a doubling of the resolution."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor(FIR) / sum(FIR)
        self.register_buffer("kernel", 4 * torch.outer(line, line))  # 4: three of four pixels are new


class Blur(Resampler):
    """Smooths the output of a transposed convolution, and cuts it to twice the side."""

    def forward(self, x: Tensor) -> Tensor:
        one_by_one = x.reshape(-1, 1, *x.shape[2:])
        smooth = F.conv2d(one_by_one, self.kernel.flip(0, 1).to(x.dtype)[None, None], padding=1)
        return smooth.view(*x.shape[:2], *smooth.shape[2:])


class Upsample(Resampler):
    """Doubles the side of an image: zeros between the pixels, then the filter, in one transposed convolution."""

    def forward(self, x: Tensor) -> Tensor:
        one_by_one = x.reshape(-1, 1, *x.shape[2:])
        large = F.conv_transpose2d(one_by_one, self.kernel.to(x.dtype)[None, None], stride=2, padding=1)
        return large.view(*x.shape[:2], *large.shape[2:])


class ModulatedConv2d(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose output has variance 1 again.

    The style scales the input in place of the weights, which is the same and spares a set of weights for each image.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel_size: Odd.
        style_dim: Size of the style.
        demodulate: Whether the scale of the output is undone.
        upsample: Whether the output has twice the side.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_dim: int,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_channels, in_channels, kernel_size, kernel_size))
        self.modulation = EqualLinear(style_dim, in_channels, bias_init=1.0)
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.demodulate = demodulate
        self.blur = Blur() if upsample else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        factor, weight = self.modulation(style), self.weight[0] * self.scale
        x = x * factor[:, :, None, None]
        if self.blur is not None:
            x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            size = F.linear(factor.square(), weight.square().sum((2, 3)))
            x = x * torch.rsqrt(size + EPS)[:, :, None, None]
        return x


class NoiseInjection(nn.Module):
    """Adds noise, as strongly as has been learned."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.weight * noise


class BiasedLeakyReLU(nn.Module):
    """Adds a bias to every channel, then a leaky ReLU that keeps the variance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return math.sqrt(2) * F.leaky_relu(x + self.bias[:, None, None], SLOPE)


class StyledConv(nn.Module):
    """A layer of the synthesis: modulated convolution, noise, bias and leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, style_dim, upsample=upsample)
        self.noise = NoiseInjection()
        self.activate = BiasedLeakyReLU(out_channels)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        return self.activate(self.noise(self.conv(x, style), noise))


class ToRGB(nn.Module):
    """What a block adds to the image so far, which is brought to its resolution."""

    def __init__(self, in_channels: int, style_dim: int, upsample: bool = True) -> None:
        super().__init__()
        self.upsample = Upsample() if upsample else None
        self.conv = ModulatedConv2d(in_channels, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor, skip: Tensor | None = None) -> Tensor:
        image = self.conv(x, style) + self.bias
        return image if skip is None or self.upsample is None else image + self.upsample(skip)


class MappingProxy(nn.Module):
    r"""Styles without the mapping network: a Gaussian before its last leaky ReLU.

    .. math:: w = \mathrm{LReLU}_{0.2}(\sigma \odot u + \mu), \qquad u \sim N(0, I)

    Args:
        mean: :math:`\mu`, ``(style_dim,)``.
        std: :math:`\sigma`, ``(style_dim,)``.

    Source:
        Menon et al., *PULSE*, CVPR 2020, from where the authors' solver has it.

    Example:
        >>> net = StyleGAN2(size=8, style_dim=8, n_mlp=2, channels={4: 4, 8: 4})
        >>> proxy = MappingProxy.fit(net.style, latent_dim=8, num_draws=1000)
        >>> proxy(torch.randn(5, net.num_styles, 8)).shape
        torch.Size([5, 4, 8])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        mapping: Callable[[Tensor], Tensor],
        latent_dim: int,
        num_draws: int = 100_000,
        generator: torch.Generator | None = None,
    ) -> "MappingProxy":
        """Take mean and standard deviation from draws of a mapping network.

        Args:
            mapping: The network, on the CPU.
            latent_dim: Size of its codes.
            num_draws: At least 2.
            generator: Source of randomness, on the CPU; the global one if ``None``.

        Raises:
            ValueError: If there are too few draws.
        """
        if num_draws < 2:
            raise ValueError(f"num_draws must be at least 2, got {num_draws}")
        before = F.leaky_relu(mapping(torch.randn(num_draws, latent_dim, generator=generator)), 1 / SLOPE)
        return cls(before.mean(0), before.std(0))

    def forward(self, u: Tensor) -> Tensor:
        return F.leaky_relu(torch.addcmul(self.mean, self.std, u), SLOPE)
