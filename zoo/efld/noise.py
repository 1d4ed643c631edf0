"""Exponential families that a step of descent may be drawn from: Gaussian, signs, and levels of a grid."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor


class ExponentialFamilyNoise(ABC):
    r"""A one-dimensional exponential family in its natural parameter; every component of a step has one of its own.

    .. math:: p(\xi; \theta) = \exp\big(\xi \theta - \psi(\theta)\big) \, \pi_0(\xi), \qquad
        \mathbb E\, \xi = \psi'(\theta), \quad \mathrm{Var}\, \xi = \psi''(\theta) \le c_2

    Everything is elementwise, and tensors may have any shape.

    Source:
        Banerjee et al., *Stability Based Generalization Bounds for Exponential Family Langevin Dynamics*, ICML 2022.
    """

    @abstractmethod
    def log_partition(self, theta: Tensor) -> Tensor:
        r"""The log-partition function :math:`\psi(\theta)`."""

    @abstractmethod
    def mean(self, theta: Tensor) -> Tensor:
        r"""The expectation :math:`\psi'(\theta)`."""

    @abstractmethod
    def variance(self, theta: Tensor) -> Tensor:
        r"""The variance :math:`\psi''(\theta)`."""

    @abstractmethod
    def sample(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One draw for each element of ``theta``; NaN where it is NaN.

        Args:
            theta: Natural parameters, floating point.
            generator: Source of randomness, on the device of ``theta``; the global one if ``None``.
        """

    @property
    @abstractmethod
    def smoothness(self) -> float:
        r"""The constant :math:`c_2`, the largest variance."""

    @property
    def divergence_constant(self) -> float:
        r"""A k for which :math:`I \le k\,\|\theta_B - \theta_{B'}\|^2` in the theory's balls: 5 c2, for any family.

        See :func:`~zoo.efld.divergence.lecam_style_divergence` for I.
        """
        return 5 * self.smoothness

    def step_scale(self, lr: float, alpha: float) -> float:
        """By what a draw is multiplied to make a step: the learning rate."""
        return lr


class GaussianNoise(ExponentialFamilyNoise):
    r"""The normal distribution of mean theta and variance 1, which makes Langevin dynamics.

    The scale of a step is ``lr * alpha``, so that its mean is ``lr`` times the gradient.

    Example:
        >>> GaussianNoise().mean(torch.tensor([-1.0, 2.0]))
        tensor([-1.,  2.])
    """

    def log_partition(self, theta: Tensor) -> Tensor:
        return theta.square() / 2

    def mean(self, theta: Tensor) -> Tensor:
        return theta.clone()

    def variance(self, theta: Tensor) -> Tensor:
        return torch.ones_like(theta)

    def sample(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator).add_(theta)

    @property
    def smoothness(self) -> float:
        return 1.0

    @property
    def divergence_constant(self) -> float:
        r"""The k of :math:`I \le k\,\|\theta_B - \theta_{B'}\|^2` within :math:`1/\sqrt 8` of A: 9/8 exp(1/8).

        I is a squared distance in the feature space of the kernel :math:`e^{\langle a, b\rangle}`, whose metric at a
        has the largest eigenvalue :math:`e^{|a|^2} (1 + |a|^2)`.
        """
        return 9 / 8 * math.exp(1 / 8)

    def step_scale(self, lr: float, alpha: float) -> float:
        return lr * alpha


class SignNoise(ExponentialFamilyNoise):
    r"""A sign, +1 with probability :math:`1 / (1 + e^{-2\theta})`: a fair coin where theta is 0.

    Example:
        >>> SignNoise().sample(torch.tensor([100.0, -100.0]))
        tensor([ 1., -1.])
    """

    def log_partition(self, theta: Tensor) -> Tensor:
        size = theta.abs()
        return size + torch.log1p(torch.exp(-2 * size))

    def mean(self, theta: Tensor) -> Tensor:
        return torch.tanh(theta)

    def variance(self, theta: Tensor) -> Tensor:
        return 4 * torch.sigmoid(2 * theta) * torch.sigmoid(-2 * theta)

    def sample(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        up = torch.sigmoid(2 * theta)
        u = torch.rand(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator)
        signs = (u < up).to(theta.dtype).mul_(2).sub_(1)
        return signs.add_(up.sub_(up))  # adds 0, or NaN

    @property
    def smoothness(self) -> float:
        return 1.0


class QuantizedNoise(ExponentialFamilyNoise):
    r"""A level of a finite grid, :math:`P(q_k) \propto \pi_k e^{q_k \theta}`.

    Two levels -1 and 1 make :class:`SignNoise`.

    Args:
        levels: The grid :math:`q_1 < \dots < q_m`, at least two finite values.
        base: Weights :math:`\pi_k > 0`, one for each level; all equal if ``None``.

    Raises:
        ValueError: If levels or weights are not of that kind.

    Source:
        The natural member of the family on a grid; the paper names quantised SGD, and its grid is not known to us.

    Example:
        >>> QuantizedNoise([-1.0, 0.0, 1.0]).mean(torch.tensor([0.0, 50.0]))
        tensor([0., 1.])
    """

    def __init__(self, levels: Sequence[float], base: Sequence[float] | None = None) -> None:
        levels = [float(level) for level in levels]
        if len(levels) < 2 or not all(map(math.isfinite, levels)) or sorted(set(levels)) != levels:
            raise ValueError(f"levels must be at least two finite values in increasing order, got {levels}")
        base = [1.0] * len(levels) if base is None else [float(weight) for weight in base]
        if len(base) != len(levels) or not all(0 < weight < math.inf for weight in base):
            raise ValueError(f"base must be {len(levels)} finite weights > 0, one for each level, got {base}")
        self.levels = levels
        self.log_base = [math.log(weight / sum(base)) for weight in base]

    def log_partition(self, theta: Tensor) -> Tensor:
        return reduce(torch.logaddexp, self._exponents(theta))

    def mean(self, theta: Tensor) -> Tensor:
        return self._expectation(theta, [torch.full_like(theta, level) for level in self.levels])

    def variance(self, theta: Tensor) -> Tensor:
        mean = self.mean(theta)
        return self._expectation(theta, [(level - mean).square() for level in self.levels])

    def sample(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator)
        largest = reduce(torch.maximum, self._exponents(theta))
        weights = [exponent.sub_(largest).exp_() for exponent in self._exponents(theta)]
        u *= reduce(torch.add, weights)
        drawn = torch.full_like(theta, self.levels[0])
        below = torch.zeros_like(theta)  # weight of the levels so far
        for weight, level in zip(weights, self.levels[1:]):
            drawn.masked_fill_(u >= below.add_(weight), level)
        return drawn.masked_fill_(largest.isnan(), math.nan)

    def _exponents(self, theta: Tensor) -> list[Tensor]:
        largest = torch.finfo(theta.dtype).max / (2 * max(map(abs, self.levels)) + 2)  # beyond it products overflow
        theta = theta.clamp(-largest, largest)
        return [level * theta + weight for level, weight in zip(self.levels, self.log_base)]

    def _expectation(self, theta: Tensor, values: list[Tensor]) -> Tensor:
        log_partition = self.log_partition(theta)
        terms = [value * (one - log_partition).exp() for value, one in zip(values, self._exponents(theta))]
        return torch.stack(terms).sum(dim=0)

    @property
    def smoothness(self) -> float:
        """A quarter of the squared width of the grid, as for any bounded variable."""
        return ((self.levels[-1] - self.levels[0]) / 2) ** 2
