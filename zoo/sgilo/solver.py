"""What the solvers of inverse problems share: the measurement error, what they find, and running several at once."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.sgilo.generator import SplitGenerator
from zoo.sgilo.priors import LatentPrior

Operator = Callable[[Tensor], Tensor]
Priors = Mapping[str, LatentPrior]


@dataclass(frozen=True)
class Reconstruction:
    """What a solver has found, image by image.

    Args:
        x: Images, ``(B, C, H, W)``.
        state: What the generator makes them of, as of its ``split``: of the best chain where there are several.
        split: Where the state stands; 0 for the generator's input.
        error: Squared measurement error of the state, ``(B,)``.
        history: Measures of every step by name, each ``(T, N)``, N chains (restart-major): ``"error"``, and
            ``"prior"``, the norm of the prior's gradient, where there is a prior.
        chains: Images of posterior samples, ``(S, B, C, H, W)``, where there are any.
        seconds: Processor time on a CPU, else wall time, that of the starts included; filled in by :func:`solve_all`.
    """

    x: Tensor
    state: Any
    split: int
    error: Tensor
    history: dict[str, Tensor] = field(default_factory=dict)
    chains: Tensor | None = None
    seconds: float = math.nan


class DataTerm:
    r"""Half of the squared measurement error of chains, and its gradient.

    .. math:: f(z) = \tfrac12 |A G(z) - y|^2

    Args:
        decode: The generator, or a part of it, G.
        operator: A: images ``(N, C, H, W)`` to measurements ``(N, m)``.
        y: Measurements, ``(B, m)``.
        num_chains: Chains of each image, R; they are stacked as N = R B, the images of the first chain first.

    Raises:
        ValueError: If the operator gives something of another shape than ``y``; at the first call.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor], operator: Operator, y: Tensor, num_chains: int = 1) -> None:
        self.decode, self.operator = decode, operator
        self.y = y.repeat(num_chains, *[1] * (y.ndim - 1))

    def difference(self, latent: Tensor) -> Tensor:
        """Predicted measurements minus those that were made."""
        predicted = self.operator(self.decode(latent))
        if predicted.shape != self.y.shape:
            raise ValueError(
                f"operator must give measurements of the shape of y, {tuple(self.y.shape)}, got "
                f"{tuple(predicted.shape)}"
            )
        return predicted - self.y

    def error(self, latent: Tensor) -> Tensor:
        """The squared error of every chain, ``(N,)``."""
        with torch.no_grad():
            return self.difference(latent).flatten(1).square().sum(1)

    def __call__(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The squared error of every chain, ``(N,)``, and the gradient of half of it, of the shape of ``latent``."""
        with torch.enable_grad():
            leaf = latent.detach().requires_grad_()
            error = self.difference(leaf).flatten(1).square().sum(1)
            (gradient,) = torch.autograd.grad(error.sum() / 2, leaf)
        return error.detach(), gradient


class Solver:
    """What all solvers share.

    Attributes:
        first: The solver whose outcome this one begins with; ``None`` if it needs none.
    """

    first: "Solver | None" = None

    def solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors | None = None,
        start: Reconstruction | None = None,
        rng: torch.Generator | None = None,
    ) -> Reconstruction:
        """Find images for measurements, all at once.

        Args:
            generator: In evaluation mode; no gradient reaches its parameters.
            operator: Images ``(N, C, H, W)`` to measurements ``(N, m)``, for N the number of images or a multiple,
                which stands for several chains of each.
            y: Measurements, ``(B, m)``.
            priors: Priors by the name that a solver may ask for.
            start: Outcome of another solver to begin with; that of :attr:`first`, which is then run, if ``None``.
            rng: Source of randomness, on the device of ``y``; the global one if ``None``.

        Raises:
            ValueError: If shapes do not fit, or a prior is missing.
            FloatingPointError: If a chain is no longer finite; it tells which, and after which step.
        """
        if start is None and self.first is not None:
            start = self.first.solve(generator, operator, y, priors, None, rng)
        return self._solve(generator, operator, y, priors or {}, start, rng)

    def _solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors,
        start: Reconstruction | None,
        rng: torch.Generator | None,
    ) -> Reconstruction:
        raise NotImplementedError


def solve_all(
    solvers: Mapping[str, Solver],
    generator: SplitGenerator,
    operator: Operator,
    y: Tensor,
    priors: Priors | None = None,
    seed: int = 0,
) -> dict[str, Reconstruction]:
    """The outcomes of several solvers on the same measurements; starts that they share are found once.

    Each solver has a source of randomness of its own, so that one does not change what another finds.

    Args:
        solvers: By name.
        generator: As for :meth:`Solver.solve`.
        operator: As there.
        y: As there.
        priors: As there.
        seed: Of every solver's randomness.
    """
    done: dict[Solver, Reconstruction] = {}

    def solved(solver: Solver) -> Reconstruction:
        if solver not in done:
            start = solved(solver.first) if solver.first else None
            begun = _clock(y.device)
            rng = torch.Generator(y.device).manual_seed(seed)
            found = solver.solve(generator, operator, y, priors, start, rng)
            seconds = _clock(y.device) - begun + (start.seconds if start else 0.0)
            done[solver] = replace(found, seconds=seconds)
        return done[solver]

    return {name: solved(solver) for name, solver in solvers.items()}


def _clock(device: torch.device) -> float:
    """Processor time on a CPU, where other programs may compute beside; else the time once the device has finished."""
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def check_at_least(lowest: int, **values: int) -> None:
    """Refuse numbers that are too small, by their names."""
    for name, value in values.items():
        if value < lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {value}")


def check_positive(**values: float) -> None:
    """Refuse numbers that are not positive and finite, by their names."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be > 0 and finite, got {value}")
