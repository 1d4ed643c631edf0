"""The divergence on which the stability bound rests, exactly, and how it compares with squared distances."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.efld.noise import ExponentialFamilyNoise


class Triple(NamedTuple):
    """Natural parameters of three product distributions, each ``(*, d)``.

    Attributes:
        reference: That which divides.
        one: The first that is compared.
        other: The second.
    """

    reference: Tensor
    one: Tensor
    other: Tensor


def lecam_style_divergence(reference: Tensor, one: Tensor, other: Tensor, noise: ExponentialFamilyNoise) -> Tensor:
    r"""The squared difference of two densities over a third one, in closed form.

    .. math::
        I = \int \frac{(p_B - p_{B'})^2}{p_A} = F(B, B) + F(B', B') - 2 F(B, B'), \qquad
        \ln F(x, y) = \sum_j \psi(x_j + y_j - A_j) - \psi(x_j) - \psi(y_j) + \psi(A_j)

    Theorem 1 says that :math:`I \le 5 c_2 \|\theta_B - \theta_{B'}\|^2` where the three lie within
    :math:`1/\sqrt{8 c_2}` of each other.

    Args:
        reference: Parameters of :math:`p_A`, shape ``(*, d)``; float64 is advised.
        one: Parameters of :math:`p_B`, shape ``(*, d)``.
        other: Parameters of :math:`p_{B'}`, shape ``(*, d)``.
        noise: The family.

    Returns:
        Shape ``(*)``.

    Raises:
        ValueError: If the shapes differ.

    Source:
        Banerjee et al., ICML 2022, lemma 1 and theorem 1.

    Example:
        >>> from zoo.efld.noise import GaussianNoise
        >>> zero, step = torch.zeros(1).double(), torch.full((1,), 0.1).double()
        >>> lecam_style_divergence(zero, step, zero, GaussianNoise())  # exp(0.1 ** 2) - 1
        tensor(0.0101, dtype=torch.float64)
    """
    if not reference.shape == one.shape == other.shape:
        shapes = ", ".join(str(tuple(theta.shape)) for theta in (reference, one, other))
        raise ValueError(f"reference, one and other must have one shape, got {shapes}")

    def log_product(x: Tensor, y: Tensor) -> Tensor:
        psi = noise.log_partition
        return (psi(x + y - reference) - psi(x) - psi(y) + psi(reference)).sum(dim=-1)

    mixed = log_product(one, other)
    excess = torch.expm1(log_product(one, one) - mixed) + torch.expm1(log_product(other, other) - mixed)
    return mixed.exp() * excess


def random_triples(
    num_triples: int, dim: int, diameter: float, center_std: float = 0.0, generator: torch.Generator | None = None
) -> Triple:
    """Points in balls, each of random direction and of uniform distance from the centre.

    Args:
        num_triples: How many, N.
        dim: Dimension d.
        diameter: Of the balls, > 0.
        center_std: Standard deviation of the components of a ball's centre, >= 0; 0 puts all at the origin.
        generator: Source of randomness, on the CPU; the global one if ``None``.

    Returns:
        Three tensors ``(N, d)``, float64.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> triple = random_triples(5, dim=3, diameter=2.0)
        >>> bool((triple.one.norm(dim=1) <= 1).all())
        True
    """
    for name, number in {"num_triples": num_triples, "dim": dim}.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if not 0 < diameter < math.inf:
        raise ValueError(f"diameter must be > 0 and finite, got {diameter}")
    if not 0 <= center_std < math.inf:
        raise ValueError(f"center_std must be >= 0 and finite, got {center_std}")
    points = torch.randn(3, num_triples, dim, dtype=torch.float64, generator=generator)
    radii = torch.rand(3, num_triples, 1, dtype=torch.float64, generator=generator) * (diameter / 2)
    centers = center_std * torch.randn(num_triples, dim, dtype=torch.float64, generator=generator)
    return Triple(*(centers + points * (radii / points.norm(dim=-1, keepdim=True))))


def divergence_ratio(triple: Triple, noise: ExponentialFamilyNoise) -> Tensor:
    """The divergence over the squared distance of the two that are compared, ``(*)``: what theorem 1 says is at most 5.

    Example:
        >>> from zoo.efld.noise import SignNoise
        >>> ratio = divergence_ratio(random_triples(1000, dim=2, diameter=8**-0.5), SignNoise())
        >>> bool((ratio < 1.3).all())
        True
    """
    return lecam_style_divergence(*triple, noise) / (triple.one - triple.other).square().sum(dim=-1)
