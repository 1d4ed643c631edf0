"""Solvers of z = f(z) for many samples at once, which report for each of them how near they came."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from zoo.deep_equilibrium.acceleration import Anderson, Broyden, Iteration, Rule

Method = Literal["iteration", "anderson", "broyden"]
StopMode = Literal["rel", "abs"]

METHODS: tuple[Method, ...] = get_args(Method)
STOP_MODES: tuple[StopMode, ...] = get_args(StopMode)
HISTORY: dict[Method, int] = {"iteration": 0, "anderson": 6, "broyden": 30}


@dataclass(frozen=True)
class SolverStats:
    """How a solve went.

    Attributes:
        num_iterations: Evaluations of f after which each sample was left alone, int64, of the batch's shape.
        residual: Last residual of each sample, as the stop mode measures it; ``inf`` where none was measured or it is
            not finite.
        converged: Which samples came within the tolerance.
        num_evaluations: Evaluations of f, each on the whole batch.
        all_converged: Whether all samples did.
    """

    num_iterations: Tensor
    residual: Tensor
    converged: Tensor
    num_evaluations: int
    all_converged: bool


@dataclass(frozen=True)
class FixedPointSolver:
    r"""Settings of a solver; call it with a function and a start.

    A sample has converged when :math:`|f(z) - z|` (``"abs"``) or :math:`|f(z) - z| / |f(z)|` (``"rel"``), over all its
    numbers, is below ``tol``, and is then left alone: its solution is that f(z). So it does not depend on which other
    samples are solved with it. A sample that has not converged is left at its last f(z); one that is no longer finite,
    where that was seen.

    Args:
        method: ``"iteration"``, z <- f(z); ``"anderson"``, which mixes the last values of f so that their residuals
            cancel; or ``"broyden"``, a quasi-Newton method.
        max_iter: Most evaluations of f, >= 0.
        tol: Tolerance of the residual, > 0.
        stop_mode: ``"rel"`` or ``"abs"``. Where the solution is 0, only ``"abs"`` ends.
        damping: Share of a step that is taken, in (0, 1]; Anderson's mixing.
        history: What ``"anderson"`` and ``"broyden"`` remember, in steps: 6 and 30 by default.
        ridge: Of Anderson's least squares, relative to each squared residual; > 0.
        check_every: Look at residuals after so many steps; every look waits for the device.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> z, stats = FixedPointSolver(tol=1e-6)(torch.cos, torch.zeros(2, 1))
        >>> z[:, 0], stats.num_iterations, stats.all_converged
        (tensor([0.7391, 0.7391]), tensor([36, 36]), True)
    """

    method: Method = "iteration"
    max_iter: int = 40
    tol: float = 1e-4
    stop_mode: StopMode = "rel"
    damping: float = 1.0
    history: int | None = None
    ridge: float = 1e-5
    check_every: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.stop_mode not in STOP_MODES:
            raise ValueError(f"stop_mode must be one of {', '.join(STOP_MODES)}, got {self.stop_mode!r}")
        if self.max_iter < 0:
            raise ValueError(f"max_iter must be at least 0, got {self.max_iter}")
        if not self.tol > 0:
            raise ValueError(f"tol must be > 0, got {self.tol}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1], got {self.damping}")
        if self.history is not None and (self.method == "iteration" or self.history < 1):
            raise ValueError(f"history must be at least 1, and left out for iteration, got {self.history}")
        if not self.ridge > 0:
            raise ValueError(f"ridge must be > 0, got {self.ridge}")
        if self.check_every < 1:
            raise ValueError(f"check_every must be at least 1, got {self.check_every}")

    def rule(self) -> Rule:
        """The way from one state to the next; it has a memory, and serves for one solve."""
        history = self.history or HISTORY[self.method]
        if self.method == "anderson":
            return Anderson(history, self.damping, self.ridge)
        if self.method == "broyden":
            return Broyden(history, self.damping)
        return Iteration(self.damping)

    def __call__(self, f: Callable[[Tensor], Tensor], z0: Tensor, batch_dims: int = 1) -> tuple[Tensor, SolverStats]:
        """Solve z = f(z).

        Args:
            f: Maps states ``(B, *)`` to states, sample by sample. Plain iteration may be differentiated through.
            z0: Where to start.
            batch_dims: How many leading axes number the samples.

        Returns:
            The solutions and how the solve went.

        Raises:
            ValueError: If there are not so many axes, or f changes the shape.
        """
        if not 1 <= batch_dims <= z0.dim():
            raise ValueError(f"batch_dims must be in [1, {z0.dim()}], the axes of the state, got {batch_dims}")
        return _solve(self, f, z0, batch_dims)


def fixed_point_solve(
    f: Callable[[Tensor], Tensor], z0: Tensor, method: Method = "iteration", batch_dims: int = 1, **options
) -> tuple[Tensor, SolverStats]:
    """Solve z = f(z) for every sample of a batch.

    Args:
        f: Maps states ``(B, *)`` to states, sample by sample.
        z0: Where to start.
        method: ``"iteration"``, ``"anderson"`` or ``"broyden"``.
        batch_dims: How many leading axes number the samples.
        **options: Further arguments of :class:`FixedPointSolver`.

    Returns:
        The solutions and how the solve went.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> z, stats = fixed_point_solve(torch.cos, torch.zeros(2, 1), "broyden", tol=1e-6)
        >>> z[:, 0], stats.num_evaluations
        (tensor([0.7391, 0.7391]), 6)
    """
    return FixedPointSolver(method, **options)(f, z0, batch_dims)


def _solve(
    solver: FixedPointSolver, f: Callable[[Tensor], Tensor], z0: Tensor, batch_dims: int
) -> tuple[Tensor, SolverStats]:
    rule = solver.rule()
    progress = _Progress(solver, z0, batch_dims)
    z, count = z0, 0
    while count < solver.max_iter and progress.num_active:
        value = f(z)
        if value.shape != z0.shape:
            raise ValueError(f"f must keep the shape {tuple(z0.shape)} of the state, got {tuple(value.shape)}")
        count += 1
        if count % solver.check_every == 0 or count == solver.max_iter:
            progress.look(z, value, count)
            if not progress.num_active:
                break
        if count < solver.max_iter:
            z = rule.next_state(z, value, batch_dims)
    return progress.solution, progress.stats(count)


class _Progress:
    """The solution so far: samples are active until they converge, or are no longer finite."""

    def __init__(self, solver: FixedPointSolver, z0: Tensor, batch_dims: int) -> None:
        self.tol, self.relative, self.batch_dims = solver.tol, solver.stop_mode == "rel", batch_dims
        self.solution = z0
        batch, device = z0.shape[:batch_dims], z0.device
        self.size = self.num_active = batch.numel()
        self.active = torch.ones(batch, dtype=torch.bool, device=device)
        self.num_iterations = torch.zeros(batch, dtype=torch.long, device=device)
        self.residual = torch.full(batch, math.inf, dtype=torch.promote_types(z0.dtype, torch.float32), device=device)

    def look(self, z: Tensor, value: Tensor, count: int) -> None:
        """Take over the values of the samples that are active, and see which of them stay so."""
        residual = self._residual(z.detach(), value.detach())
        if self.num_active == self.size:
            self.solution, self.residual = value, residual
            self.num_iterations.fill_(count)
        else:
            axes = self.active.dim() * (slice(None),) + (value.dim() - self.batch_dims) * (None,)
            self.solution = torch.where(self.active[axes], value, self.solution)
            self.residual = torch.where(self.active, residual, self.residual)
            self.num_iterations.masked_fill_(self.active, count)
        self.active = (self.residual >= self.tol) & (self.residual < math.inf)
        self.num_active = int(self.active.sum())

    def _residual(self, z: Tensor, value: Tensor) -> Tensor:
        """In float32 at least; a difference of two infinities is infinite, not small."""
        dtype = self.residual.dtype
        axes = tuple(range(self.batch_dims, z.dim()))
        difference = (value - z) if axes else (value - z).abs()
        residual = torch.linalg.vector_norm(difference, dim=axes, dtype=dtype) if axes else difference.to(dtype)
        if self.relative:
            size = torch.linalg.vector_norm(value, dim=axes, dtype=dtype) if axes else value.abs().to(dtype)
            residual = residual / size.clamp_min(torch.finfo(dtype).tiny)  # 0 / 0 has converged
        return residual.nan_to_num_(math.inf, math.inf)

    def stats(self, num_evaluations: int) -> SolverStats:
        converged = self.residual < self.tol
        all_converged = self.size == 0 or (num_evaluations > 0 and self.num_active == 0 and bool(converged.all()))
        return SolverStats(self.num_iterations, self.residual, converged, num_evaluations, all_converged)
