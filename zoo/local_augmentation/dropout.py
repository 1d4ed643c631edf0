"""Dropout whose masks come from random bits: on a CPU the mask, not the multiplication, is the cost of dropout."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=4)
def _bits_of_every_byte(dtype: torch.dtype) -> Tensor:
    return ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).to(dtype)


def _random_words(count: int, generator: torch.Generator | None) -> Tensor:
    return torch.empty(count, dtype=torch.int64).random_(-(2**63), None, generator=generator)


def bernoulli_mask(
    shape: tuple[int, ...],
    keep: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw independent zeros and ones; on a CPU from 1 random bit an element (``keep=0.5``) or 16 (any other).

    Args:
        shape: Shape of the mask.
        keep: Probability of a one, in [0, 1]. On a CPU it is rounded to a multiple of 2^-16.
        dtype: Floating-point type of the mask.
        device: Where to draw. Other devices than the CPU use their own Bernoulli kernel.
        generator: Source of randomness, on ``device``; the global one if ``None``.

    Returns:
        The mask, of the given shape.

    Example:
        >>> bernoulli_mask((1000, 1000), keep=0.5).mean().round(decimals=2)
        tensor(0.5000)
    """
    if torch.device(device).type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device).bernoulli_(keep, generator=generator)
    size = math.prod(shape)
    if keep == 0.5:
        packed = _random_words(-(-size // 64), generator).view(torch.uint8)
        mask = F.embedding(packed.int(), _bits_of_every_byte(dtype)).view(-1)
    else:
        levels = _random_words(-(-size // 4), generator).view(torch.int16)
        threshold = round(keep * 2**16) - 2**15
        mask = (levels < threshold if threshold < 2**15 else torch.ones_like(levels)).to(dtype)
    return mask[:size].view(shape)


def dropout(x: Tensor, p: float, training: bool = True, generator: torch.Generator | None = None) -> Tensor:
    r"""Zero each element with probability ``p`` and scale the rest by :math:`1/(1-p)`.

    The law is that of :func:`torch.nn.functional.dropout`. An ``x`` that needs no gradient and is not used elsewhere
    may be dropped in place with :func:`dropout_`.

    Args:
        x: Any floating-point tensor.
        p: Probability of a zero, in [0, 1).
        training: Return ``x`` itself if ``False``.
        generator: Source of randomness; the global one if ``None``.

    Returns:
        A tensor like ``x``.

    Example:
        >>> dropout(torch.ones(4), p=0.5, training=False)
        tensor([1., 1., 1., 1.])
    """
    if not training or p == 0:
        return x
    return x * bernoulli_mask(x.shape, 1 - p, x.dtype, x.device, generator).mul_(1 / (1 - p))


def dropout_(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Drop out in place, a leading slice at a time so that a mask is never larger than one slice.

    Args:
        x: Floating-point tensor with at least two dimensions that needs no gradient.
        p: Probability of a zero, in [0, 1).
        generator: Source of randomness; the global one if ``None``.

    Returns:
        ``x``, changed.
    """
    if p > 0:
        for part in x.view(-1, *x.shape[-2:]):
            part.mul_(bernoulli_mask(part.shape, 1 - p, x.dtype, x.device, generator)).mul_(1 / (1 - p))
    return x
