"""Random numbers that depend on an image and a seed alone, so that an attack is the same in whatever batch it comes."""

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 2 ** 64 / golden ratio, as a signed integer: steps of the sequence
FACTORS = (-4658895280553007687, -7723592293110705685)


def image_noise(x: Tensor, seed: int, restart: Tensor) -> Tensor:
    """Uniform random numbers for each image, from a counter that is hashed: no generator, no loop over images.

    Args:
        x: Images, shape ``(B, D)``, floating point; equal images have equal numbers.
        seed: Any integer.
        restart: Which of the restarts each row belongs to, shape ``(B,)``, int64.

    Returns:
        Numbers in (0, 1), shape ``(B, D)``, float64. They are the same on every device.

    Source:
        Steele, Lea, Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014 (SplitMix64).

    Example:
        >>> x, first = torch.rand(3, 5), torch.zeros(3, dtype=torch.long)
        >>> image_noise(x, 0, first)[1:].equal(image_noise(x[1:], 0, first[1:]))
        True
    """
    position = torch.arange(1, x.shape[1] + 1, device=x.device) * GOLDEN
    bits = x.contiguous().float().view(torch.int32).long()
    key = mix((bits * mix(position)).sum(dim=1) + mix(restart + mix(torch.full_like(restart, seed))))
    number = mix(key[:, None] + position)
    return ((number >> 12) & (2**52 - 1)).double().add_(0.5).mul_(2.0**-52)


def mix(z: Tensor) -> Tensor:
    """A bijection of 64 bit integers that looks random; int64 products wrap around."""
    z = (z ^ _shifted(z, 30)) * FACTORS[0]
    z = (z ^ _shifted(z, 27)) * FACTORS[1]
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts the sign in
