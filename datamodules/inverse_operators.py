"""Linear measurements of images, each with its exact adjoint."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = Sequence[int]

GRAY = (0.2989, 0.5870, 0.1140)  # share of red, green and blue in the luminance, ITU-R BT.601


class ForwardOperator(nn.Module):
    r"""A linear map A of images to measurements, one vector for each image.

    What is random about an operator lies in its buffers: it is drawn once, moves with the module, and is kept in its
    state dict. Some operators measure every image of a batch in its own way, with a mask for each; they then take whole
    batches, or several copies of the batch one after the other (``x.repeat(R, 1, 1, 1)``), as restarts and chains do.

    Args:
        input_shape: Channels, height and width of an image.
        num_measurements: m, numbers that are measured of an image.
        batch_size: Images of a batch, if each is measured in its own way; else ``None``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, input_shape: Shape, num_measurements: int, batch_size: int | None = None) -> None:
        super().__init__()
        self.input_shape = _checked_shape(input_shape)
        self.num_pixels = math.prod(self.input_shape)
        if not 1 <= num_measurements <= self.num_pixels:
            raise ValueError(
                f"num_measurements must be from 1 to {self.num_pixels}, the numbers of an image, got {num_measurements}"
            )
        self.num_measurements, self.batch_size = num_measurements, batch_size

    def forward(self, x: Tensor) -> Tensor:
        """Measure.

        Args:
            x: Images, ``(N, C, H, W)``.

        Returns:
            Measurements, ``(N, m)``.

        Raises:
            ValueError: If the images, or their number, do not fit the operator.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != self.input_shape:
            raise ValueError(f"x must be of shape (N, {_listed(self.input_shape)}), got {tuple(x.shape)}")
        self._check_batch("x", x)
        return self.measure(x)

    def adjoint(self, y: Tensor) -> Tensor:
        r"""The transpose: :math:`\langle A x, y \rangle = \langle x, A^\top y \rangle`.

        Args:
            y: Measurements, ``(N, m)``.

        Returns:
            Images, ``(N, C, H, W)``.

        Raises:
            ValueError: If the measurements, or their number, do not fit the operator.
        """
        if y.ndim != 2 or y.shape[1] != self.num_measurements:
            raise ValueError(f"y must be of shape (N, {self.num_measurements}), got {tuple(y.shape)}")
        self._check_batch("y", y)
        return self.back(y).view(-1, *self.input_shape)

    def measure(self, x: Tensor) -> Tensor:
        """What a subclass makes of images ``(N, C, H, W)``: measurements, ``(N, m)``."""
        raise NotImplementedError

    def back(self, y: Tensor) -> Tensor:
        """What a subclass makes of measurements ``(N, m)``: the numbers of images, of any shape."""
        raise NotImplementedError

    def _check_batch(self, name: str, value: Tensor) -> None:
        if self.batch_size is not None and len(value) % self.batch_size:
            raise ValueError(
                f"{name} must be a batch of {self.batch_size}, or several copies of it, as each image is measured in "
                f"its own way, got {len(value)}"
            )


class Identity(ForwardOperator):
    """Every pixel: with noise, denoising.

    Args:
        input_shape: Channels, height and width of an image.

    Example:
        >>> Identity((1, 2, 2))(torch.ones(3, 1, 2, 2)).shape
        torch.Size([3, 4])
    """

    def __init__(self, input_shape: Shape) -> None:
        super().__init__(input_shape, math.prod(_checked_shape(input_shape)))

    def measure(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def back(self, y: Tensor) -> Tensor:
        return y


class MaskInpainting(ForwardOperator):
    """The pixels that a mask shows, in all channels.

    Args:
        input_shape: Channels, height and width of an image.
        mask: True where a pixel is seen, boolean: one for all, ``(H, W)``, or one for each image of a batch,
            ``(B, H, W)``, which must all show equally many.

    Raises:
        ValueError: If the mask does not fit, shows nothing, or shows more of one image than of another.

    Example:
        >>> operator = MaskInpainting((1, 2, 2), torch.tensor([[True, False], [False, True]]))
        >>> operator(torch.arange(4.0).view(1, 1, 2, 2)), operator.adjoint(torch.ones(1, 2)).flatten()
        (tensor([[0., 3.]]), tensor([1., 0., 0., 1.]))
    """

    index: Tensor

    def __init__(self, input_shape: Shape, mask: Tensor) -> None:
        channels, height, width = _checked_shape(input_shape)
        if mask.dtype != torch.bool or mask.ndim not in (2, 3) or tuple(mask.shape[-2:]) != (height, width):
            raise ValueError(
                f"mask must be boolean, of shape ({height}, {width}) or (B, {height}, {width}), got {mask.dtype} of "
                f"shape {tuple(mask.shape)}"
            )
        rows = mask.view(-1, height * width).repeat(1, channels)
        seen = rows.sum(1)
        if seen.min() != seen.max() or seen.min() == 0:
            raise ValueError(
                f"mask must show the same number of pixels of every image, at least 1, got {seen.min().item()} to "
                f"{seen.max().item()}"
            )
        super().__init__(input_shape, int(seen[0]), len(mask) if mask.ndim == 3 else None)
        self.register_buffer("index", rows.nonzero()[:, 1].view(len(rows), -1))

    @property
    def mask(self) -> Tensor:
        """True where a pixel is seen, ``(B, H, W)``; B is 1 where one mask serves all images."""
        _, height, width = self.input_shape
        numbers = torch.zeros(len(self.index), self.num_pixels, dtype=torch.bool, device=self.index.device)
        return numbers.scatter_(1, self.index, True)[:, : height * width].view(-1, height, width)

    def measure(self, x: Tensor) -> Tensor:
        return x.flatten(1).gather(1, self._index_of(len(x)))

    def back(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), self.num_pixels).scatter(1, self._index_of(len(y)), y)

    def _index_of(self, num_images: int) -> Tensor:
        if self.batch_size is None:
            return self.index.expand(num_images, -1)
        return self.index if num_images == self.batch_size else self.index.repeat(num_images // self.batch_size, 1)


class RandomInpainting(MaskInpainting):
    """Pixels at random places, others for each image.

    Args:
        input_shape: Channels, height and width of an image.
        num_measurements: m, a multiple of the channels, all of which are seen at a place.
        batch_size: Images, each with places of its own; ``None`` gives all images the same ones.
        generator: Source of randomness, on the CPU; the global one if ``None``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> operator = RandomInpainting((1, 28, 28), num_measurements=80, batch_size=5)
        >>> operator(torch.rand(5, 1, 28, 28)).shape, operator.mask.sum((1, 2))
        (torch.Size([5, 80]), tensor([80, 80, 80, 80, 80]))
    """

    def __init__(
        self,
        input_shape: Shape,
        num_measurements: int,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        channels, height, width = _checked_shape(input_shape)
        places = height * width
        if num_measurements % channels or not channels <= num_measurements <= places * channels:
            raise ValueError(
                f"num_measurements must be a multiple of {channels}, the channels, from {channels} to "
                f"{places * channels}, got {num_measurements}"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        ranks = torch.rand(batch_size or 1, places, generator=generator).argsort(1).argsort(1)
        mask = (ranks < num_measurements // channels).view(-1, height, width)
        super().__init__(input_shape, mask if batch_size else mask[0])


class BoxInpainting(MaskInpainting):
    """All pixels but those in a square, at a random place of each image or in the middle.

    Args:
        input_shape: Channels, height and width of an image.
        box_size: Side of the square in pixels.
        batch_size: Images, each with a place of its own; ``None`` puts the square in the middle of all images.
        generator: Source of randomness, on the CPU; the global one if ``None``.

    Raises:
        ValueError: If the square does not fit, or hides the whole image.

    Example:
        >>> BoxInpainting((1, 4, 4), box_size=2).mask.long()
        tensor([[[1, 1, 1, 1],
                 [1, 0, 0, 1],
                 [1, 0, 0, 1],
                 [1, 1, 1, 1]]])
    """

    def __init__(
        self,
        input_shape: Shape,
        box_size: int,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        _, height, width = _checked_shape(input_shape)
        if not 1 <= box_size <= min(height, width) or box_size == height == width:
            raise ValueError(
                f"box_size must be from 1 to {min(height, width)} and leave a pixel to see, got {box_size} in "
                f"{height} x {width}"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        sides = []
        for length in (height, width):
            room = length - box_size
            first = torch.tensor([room // 2])
            if batch_size is not None:
                first = torch.randint(room + 1, (batch_size,), generator=generator)
            position = torch.arange(length) - first[:, None]
            sides.append((position >= 0) & (position < box_size))
        hidden = sides[0][:, :, None] & sides[1][:, None, :]
        super().__init__(input_shape, ~hidden if batch_size else ~hidden[0])


class Resampling(ForwardOperator):
    r"""A smaller image :math:`R_h X R_w^\top`, for a matrix for each axis.

    Args:
        input_shape: Channels, height and width of an image.
        rows: :math:`R_h`, ``(h, H)``.
        columns: :math:`R_w`, ``(w, W)``.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, input_shape: Shape, rows: Tensor, columns: Tensor) -> None:
        channels = _checked_shape(input_shape)[0]
        super().__init__(input_shape, channels * len(rows) * len(columns))
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the small image."""
        return self.input_shape[0], len(self.rows), len(self.columns)

    def measure(self, x: Tensor) -> Tensor:
        return (self.rows.to(x.dtype) @ x @ self.columns.to(x.dtype).mT).flatten(1)

    def back(self, y: Tensor) -> Tensor:
        return self.rows.to(y.dtype).mT @ y.view(-1, *self.output_shape) @ self.columns.to(y.dtype)


class AveragePooling(Resampling):
    """A smaller image of averages over squares: super-resolution is its inverse.

    Args:
        input_shape: Channels, height and width of an image.
        factor: Side of the squares in pixels; it must divide height and width.

    Raises:
        ValueError: If it does not.

    Example:
        >>> AveragePooling((1, 2, 4), factor=2)(torch.arange(8.0).view(1, 1, 2, 4))
        tensor([[2.5000, 4.5000]])
    """

    def __init__(self, input_shape: Shape, factor: int) -> None:
        sizes = _smaller(input_shape, factor)
        rows, columns = (torch.eye(size).repeat_interleave(factor, 1) / factor for size in sizes)
        super().__init__(input_shape, rows, columns)


class BicubicDownsampling(Resampling):
    """A smaller image by bicubic interpolation with antialiasing, as ``torch.nn.functional.interpolate`` makes it.

    Args:
        input_shape: Channels, height and width of an image.
        factor: How many times smaller; it must divide height and width.

    Raises:
        ValueError: If it does not.

    Example:
        >>> BicubicDownsampling((3, 8, 8), factor=4)(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 12])
    """

    def __init__(self, input_shape: Shape, factor: int) -> None:
        _, height, width = _checked_shape(input_shape)
        small_height, small_width = _smaller(input_shape, factor)
        rows, columns = _bicubic(height, small_height), _bicubic(width, small_width)
        super().__init__(input_shape, rows, columns)


class GaussianSensing(ForwardOperator):
    r"""Compressed sensing: inner products with Gaussian vectors, :math:`A_{ij} \sim N(0, 1/m)`.

    Args:
        input_shape: Channels, height and width of an image.
        num_measurements: m.
        generator: Source of randomness, on the CPU; the global one if ``None``.

    Raises:
        ValueError: If there are fewer than one measurement or more than numbers of an image.

    Source:
        Bora et al., *Compressed Sensing using Generative Models*, ICML 2017.

    Example:
        >>> GaussianSensing((1, 28, 28), num_measurements=40)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 40])
    """

    matrix: Tensor

    def __init__(self, input_shape: Shape, num_measurements: int, generator: torch.Generator | None = None) -> None:
        super().__init__(input_shape, num_measurements)
        matrix = torch.randn(num_measurements, self.num_pixels, generator=generator) / num_measurements**0.5
        self.register_buffer("matrix", matrix)

    def measure(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.matrix.to(x.dtype))

    def back(self, y: Tensor) -> Tensor:
        return y @ self.matrix.to(y.dtype)


class PartialCirculant(ForwardOperator):
    r"""Compressed sensing at the price of two Fourier transforms: random rows of a circulant matrix.

    .. math:: A x = P \, (g * (s \odot x)), \qquad g_i \sim N(0, 1/m), \; s_i = \pm 1

    with a circular convolution over all numbers of an image, and P picking m of them.

    Args:
        input_shape: Channels, height and width of an image.
        num_measurements: m.
        generator: Source of randomness, on the CPU; the global one if ``None``.

    Raises:
        ValueError: If there are fewer than one measurement or more than numbers of an image.

    Source:
        The measurement of Daras et al., ICML 2021 and 2022, and of Romberg, *SIAM J. Imaging Sciences* 2009.

    Example:
        >>> PartialCirculant((3, 8, 8), num_measurements=10)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    signs: Tensor
    filter: Tensor
    kept: Tensor

    def __init__(self, input_shape: Shape, num_measurements: int, generator: torch.Generator | None = None) -> None:
        super().__init__(input_shape, num_measurements)
        signs = 2.0 * torch.randint(2, (self.num_pixels,), generator=generator) - 1
        self.register_buffer("signs", signs)
        self.register_buffer("filter", torch.randn(self.num_pixels, generator=generator) / num_measurements**0.5)
        self.register_buffer("kept", torch.randperm(self.num_pixels, generator=generator)[:num_measurements])

    def measure(self, x: Tensor) -> Tensor:
        flipped = x.flatten(1) * self.signs.to(x.dtype)
        spectrum = torch.fft.rfft(flipped) * torch.fft.rfft(self.filter.to(x.dtype))
        return torch.fft.irfft(spectrum, self.num_pixels)[:, self.kept]

    def back(self, y: Tensor) -> Tensor:
        filled = y.new_zeros(len(y), self.num_pixels).index_copy(1, self.kept, y)
        spectrum = torch.fft.rfft(filled) * torch.fft.rfft(self.filter.to(y.dtype)).conj()
        return torch.fft.irfft(spectrum, self.num_pixels) * self.signs.to(y.dtype)


class Grayscale(ForwardOperator):
    """The luminance of every pixel: colourisation is its inverse.

    Args:
        input_shape: Three channels, height and width of an image.

    Raises:
        ValueError: If there are not three channels.

    Example:
        >>> Grayscale((3, 1, 1))(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1))
        tensor([[0.2989]])
    """

    weight: Tensor

    def __init__(self, input_shape: Shape) -> None:
        channels, height, width = _checked_shape(input_shape)
        if channels != 3:
            raise ValueError(f"input_shape must have 3 channels to take the colour from, got {channels}")
        super().__init__(input_shape, height * width)
        self.register_buffer("weight", torch.tensor(GRAY).view(3, 1))

    def measure(self, x: Tensor) -> Tensor:
        return (x.flatten(2) * self.weight.to(x.dtype)).sum(1)

    def back(self, y: Tensor) -> Tensor:
        return y[:, None] * self.weight.to(y.dtype)


def _checked_shape(input_shape: Shape) -> tuple[int, int, int]:
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"input_shape must be channels, height and width, each at least 1, got {tuple(input_shape)}")
    channels, height, width = input_shape
    return channels, height, width


def _smaller(input_shape: Shape, factor: int) -> tuple[int, int]:
    _, height, width = _checked_shape(input_shape)
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"factor must be at least 1 and divide {height} and {width}, got {factor}")
    return height // factor, width // factor


def _bicubic(size: int, smaller: int) -> Tensor:
    """The matrix ``(smaller, size)`` of the interpolation along one axis: what it makes of the identity's columns."""
    identity = torch.eye(size, dtype=torch.float64)[None, None]
    return F.interpolate(identity, (smaller, size), mode="bicubic", antialias=True)[0, 0].float()


def _listed(shape: Shape) -> str:
    return ", ".join(map(str, shape))
