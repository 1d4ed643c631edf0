"""How long an optimizer stays in a minimum: many particles in double wells of several curvatures at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.adaptive_inertia.stationary import settle

MIN_EXITS = 30
OptimizerFactory = Callable[[list[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class DoubleWell:
    r"""Two minima with a barrier between them, whose height does not depend on their curvature.

    .. math:: L(x) = \Delta L \, (k x^2 - 1)^2, \qquad
              L''(\pm 1 / \sqrt k) = 8 k \Delta L, \qquad L''(0) = -4 k \Delta L

    Args:
        k: Sharpness, > 0.
        barrier: Height of the barrier, > 0.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> well = DoubleWell(k=4.0)
        >>> well.minimum, well.curvature, well.loss(torch.tensor([well.minimum, 0.0]))
        (-0.5, 32.0, tensor([0., 1.]))
    """

    k: float
    barrier: float = 1.0

    def __post_init__(self) -> None:
        for name in ("k", "barrier"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")

    @property
    def minimum(self) -> float:
        """The left one, where particles start."""
        return -(self.k**-0.5)

    @property
    def curvature(self) -> float:
        """Second derivative at the minima."""
        return 8 * self.k * self.barrier

    def loss(self, x: Tensor) -> Tensor:
        """The loss, of the shape of ``x``."""
        return self.barrier * (self.k * x**2 - 1) ** 2

    def gradient(self, x: Tensor) -> Tensor:
        """Its derivative, of the shape of ``x``."""
        return 4 * self.barrier * self.k * x * (self.k * x**2 - 1)


class EscapeSimulation(nn.Module):
    r"""Particles that leave the left minimum of a double well, each put back when it passes the barrier.

    Gradients have Gaussian noise of variance :math:`H / B`, where H is the curvature at the minimum: noise
    proportional to curvature, as in the theory, is put in by construction. A particle is a model of ``1 + C``
    parameters: its position, and C companions in quadratic bowls, which an optimizer that looks at each element alone
    does not notice and whose gradients Adai (with ``batched=True``) compares with that of the position.

    A particle starts at the bottom with an optimizer that has stood there for long
    (:func:`~zoo.adaptive_inertia.stationary.settle`).

    Args:
        wells: The double wells, W in number.
        batch_size: The B of the noise, > 0.
        num_particles: Particles N in each well.
        companions: Curvatures of the companions, in units of the well's ``k * barrier``, C in number.

    Raises:
        ValueError: If a number is out of range.

    Source:
        Xie et al., *Adaptive Inertia*, ICML 2022: the theory's setting, with this landscape of our own.

    Example:
        >>> simulation = EscapeSimulation([DoubleWell(1.0)], batch_size=0.1, num_particles=500)
        >>> optimizer = torch.optim.SGD(simulation.parameters(), lr=0.02)
        >>> simulation.run(optimizer, num_steps=100, generator=torch.Generator().manual_seed(0))
        >>> bool(simulation.exits > 30), simulation.mean_time().shape
        (True, torch.Size([1]))
    """

    bowls: Tensor
    variance: Tensor
    start: Tensor
    cubic: Tensor
    linear: Tensor
    exits: Tensor
    steps: Tensor

    def __init__(
        self,
        wells: Sequence[DoubleWell],
        batch_size: float,
        num_particles: int = 1000,
        companions: Sequence[float] = (1.0, 4.0, 16.0),
    ) -> None:
        super().__init__()
        if not wells:
            raise ValueError("wells must hold at least one DoubleWell, got none")
        if not batch_size > 0:
            raise ValueError(f"batch_size must be > 0, got {batch_size}")
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, got {num_particles}")
        if any(not h > 0 for h in companions):
            raise ValueError(f"companions must hold curvatures > 0, got {companions}")
        self.num_particles = num_particles
        unit = torch.tensor([well.k * well.barrier for well in wells])[:, None, None]
        bowls = torch.tensor([0.0, *companions])  # the position has none
        noise = torch.tensor([8.0, *companions])
        start = torch.zeros(len(wells), 1, 1 + len(companions))
        start[:, 0, 0] = torch.tensor([well.minimum for well in wells])
        for name, value in {"bowls": unit * bowls, "variance": unit * noise / batch_size, "start": start}.items():
            self.register_buffer(name, self._rows(value), persistent=False)
        k = torch.tensor([well.k for well in wells])[:, None, None]
        self.register_buffer("cubic", self._rows(4 * unit * k)[:, 0], persistent=False)  # gradient of the well:
        self.register_buffer("linear", self._rows(4 * unit)[:, 0], persistent=False)  # cubic x^3 - linear x
        self.register_buffer("exits", torch.zeros(len(wells), dtype=torch.long))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.position = nn.Parameter(self.start.clone())

    def _rows(self, value: Tensor) -> Tensor:
        """One row for each particle, those of the first well first."""
        return value.expand(-1, self.num_particles, -1).flatten(0, 1).contiguous()

    @torch.no_grad()
    def run(self, optimizer: Optimizer, num_steps: int, generator: torch.Generator | None = None) -> None:
        """Simulate on; exits and steps are counted in the buffers of these names.

        Args:
            optimizer: Holds this module's only parameter, ``(W * N, 1 + C)``, and has made no step besides ours.
            num_steps: How many.
            generator: Source of the noise; the global one if ``None``.
        """
        if self.steps == 0:
            settle(optimizer, self.position, self.variance)
        scale = self.variance.sqrt()
        gradient = torch.empty_like(self.position)
        x = self.position[:, 0]
        for _ in range(num_steps):
            gradient.normal_(generator=generator).mul_(scale).addcmul_(self.bowls, self.position)
            gradient[:, 0].add_(x * (self.cubic * x * x - self.linear))
            self.position.grad = gradient
            optimizer.step()
            passed = (x > 0)[:, None]
            self.exits += passed.view(len(self.exits), -1).sum(dim=1)
            self.position.copy_(torch.where(passed, self.start, self.position))
            settle(optimizer, self.position, self.variance, where=passed)
        self.steps += num_steps

    def mean_time(self) -> Tensor:
        """Mean steps to an exit, shape ``(W,)``; infinite where there was none."""
        return self.steps * self.num_particles / self.exits


@dataclass(frozen=True)
class EscapeTime:
    """What a simulation found.

    Args:
        mean_time: Mean steps to an exit of each well, shape ``(W,)``.
        exits: How many there were, shape ``(W,)``.
    """

    mean_time: Tensor
    exits: Tensor

    @property
    def rate(self) -> Tensor:
        """Exits of a particle in a step, shape ``(W,)``."""
        return 1 / self.mean_time

    @property
    def log_error(self) -> Tensor:
        """Standard error of the logarithm of the mean time, shape ``(W,)``: the exits are nearly Poisson."""
        return self.exits.float().rsqrt()


def mean_escape_time(
    optimizer_factory: OptimizerFactory,
    wells: DoubleWell | Sequence[DoubleWell],
    batch_size: float,
    num_particles: int = 1000,
    max_steps: int = 6000,
    seed: int = 0,
    companions: Sequence[float] = (1.0, 4.0, 16.0),
) -> EscapeTime:
    """Measure the mean escape time of an optimizer; see :class:`EscapeSimulation`.

    Args:
        optimizer_factory: Makes the optimizer from a list of parameters, which holds one tensor ``(W * N, 1 + C)``.
        wells: One or several double wells, simulated side by side.
        batch_size: The B of the noise, > 0.
        num_particles: Particles N in each well.
        max_steps: Steps.
        seed: Of the noise.
        companions: Curvatures of the companions.

    Raises:
        ValueError: If a number is out of range, or there were fewer than 30 exits from a well.

    Example:
        >>> sgd = lambda params: torch.optim.SGD(params, lr=0.02)
        >>> flat, sharp = mean_escape_time(sgd, [DoubleWell(1.0), DoubleWell(2.0)], 0.1, max_steps=200).mean_time
        >>> bool(flat > sharp)
        True
    """
    wells = [wells] if isinstance(wells, DoubleWell) else wells
    simulation = EscapeSimulation(wells, batch_size, num_particles, companions)
    optimizer = optimizer_factory([simulation.position])
    simulation.run(optimizer, max_steps, torch.Generator().manual_seed(seed))
    if simulation.exits.min() < MIN_EXITS:
        raise ValueError(
            f"max_steps must allow for {MIN_EXITS} exits from every well, got {max_steps} with "
            f"{simulation.exits.tolist()} exits"
        )
    return EscapeTime(simulation.mean_time(), simulation.exits)
