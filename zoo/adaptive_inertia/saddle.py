"""How far an optimizer moves away from a saddle point in a number of steps."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.adaptive_inertia.escape import OptimizerFactory
from zoo.adaptive_inertia.stationary import settle

WARM_UP = 5000
Start = Literal["fresh", "at_rest", "moving"]


class SaddleSimulation(nn.Module):
    r"""Particles that start at a saddle point and are moved by gradient noise, of variance :math:`|H_i| / B`.

    Every particle is a model of its own, with one parameter for each axis.

    Args:
        curvatures: Second derivatives H along the axes, D in number, not 0.
        batch_size: The B of the noise, > 0.
        num_particles: Particles N.
        start: State of the optimizer in the beginning. ``"fresh"``: as it comes, and its first steps correct for it.
            ``"at_rest"``: it has stood there for long, its momentum is set to zero. ``"moving"``: its momentum has the
            variance that noise gives it in the long run (5,000 steps in which the position is held).

    Raises:
        ValueError: If a number or ``start`` is out of range.

    Source:
        Xie et al., *Adaptive Inertia*, ICML 2022: diffusion near a saddle point.

    Example:
        >>> simulation = SaddleSimulation([1.0, -0.1], batch_size=1.0, num_particles=4000)
        >>> optimizer = torch.optim.SGD(simulation.parameters(), lr=0.01)
        >>> simulation.run(optimizer, num_steps=10, generator=torch.Generator().manual_seed(0))
        >>> flat = simulation.mean_squared_displacement()[1].item()
        >>> abs(flat / (0.1 * 0.01**2 * 10) - 1) < 0.1  # |H| lr² T / B
        True
    """

    curvatures: Tensor
    variance: Tensor
    steps: Tensor

    def __init__(
        self,
        curvatures: Sequence[float] = (1.0, -0.1, -0.01, -0.001),
        batch_size: float = 1.0,
        num_particles: int = 2000,
        start: Start = "fresh",
    ) -> None:
        super().__init__()
        if not curvatures or any(not abs(h) > 0 for h in curvatures):
            raise ValueError(f"curvatures must hold numbers other than 0, got {curvatures}")
        if not batch_size > 0:
            raise ValueError(f"batch_size must be > 0, got {batch_size}")
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, got {num_particles}")
        if start not in get_args(Start):
            raise ValueError(f"start must be one of {', '.join(map(repr, get_args(Start)))}, got {start!r}")
        self.begin = start
        self.register_buffer("curvatures", torch.tensor(curvatures), persistent=False)
        self.register_buffer("variance", self.curvatures.abs() / batch_size, persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.position = nn.Parameter(torch.zeros(num_particles, len(curvatures)))

    @torch.no_grad()
    def run(self, optimizer: Optimizer, num_steps: int, generator: torch.Generator | None = None) -> None:
        """Simulate on.

        Args:
            optimizer: Holds this module's only parameter, ``(N, D)``, and has made no step besides ours.
            num_steps: How many.
            generator: Source of the noise; the global one if ``None``.
        """
        if self.steps == 0:
            self._prepare(optimizer, generator)
        for _ in range(num_steps):
            self._step(optimizer, generator)
        self.steps += num_steps

    def _prepare(self, optimizer: Optimizer, generator: torch.Generator | None) -> None:
        if self.begin == "at_rest":
            settle(optimizer, self.position, self.variance)
        if self.begin == "moving":
            for _ in range(WARM_UP):
                self._step(optimizer, generator)
                self.position.zero_()

    def _step(self, optimizer: Optimizer, generator: torch.Generator | None) -> None:
        noise = torch.empty_like(self.position).normal_(generator=generator)
        self.position.grad = torch.addcmul(noise * self.variance.sqrt(), self.curvatures, self.position)
        optimizer.step()

    def mean_squared_displacement(self) -> Tensor:
        """Mean over the particles of the squared distance along each axis, shape ``(D,)``."""
        return self.position.detach().square().mean(dim=0)


def saddle_displacement(
    optimizer_factory: OptimizerFactory,
    curvatures: Sequence[float] = (1.0, -0.1, -0.01, -0.001),
    batch_size: float = 1.0,
    num_particles: int = 2000,
    num_steps: int = 100,
    start: Start = "fresh",
    seed: int = 0,
) -> Tensor:
    """Mean squared displacement along each axis of a saddle; see :class:`SaddleSimulation`.

    Args:
        optimizer_factory: Makes the optimizer from a list of parameters, which holds one tensor ``(N, D)``.
        curvatures: Second derivatives along the axes, D in number, not 0.
        batch_size: The B of the noise, > 0.
        num_particles: Particles N.
        num_steps: Steps from the saddle point on.
        start: ``"fresh"``, ``"at_rest"`` or ``"moving"``.
        seed: Of the noise.

    Returns:
        The mean squares, shape ``(D,)``.

    Raises:
        ValueError: If a number or ``start`` is out of range.

    Example:
        >>> adam = lambda params: torch.optim.Adam(params, lr=0.001)
        >>> steep, flat = saddle_displacement(adam, [-0.1, -0.001])
        >>> bool(steep / flat < 1.3)
        True
    """
    simulation = SaddleSimulation(curvatures, batch_size, num_particles, start)
    optimizer = optimizer_factory([simulation.position])
    simulation.run(optimizer, num_steps, torch.Generator().manual_seed(seed))
    return simulation.mean_squared_displacement()
