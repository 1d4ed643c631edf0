"""Gradient descent on diagonal linear networks, at many step sizes and on many problems at once."""

import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from zoo.diagonal_step_size.descent import Descent
from zoo.diagonal_step_size.network import check_init_scale
from zoo.diagonal_step_size.stability import critical_step_size, initial_stability_threshold, sharpness, weighted_l1

Relation = Literal["init_sharpness", "critical"]
OnDivergence = Literal["raise", "record"]


class Status(IntEnum):
    """What has become of a replica."""

    NOT_CONVERGED = 0
    CONVERGED = 1
    DIVERGED = 2


class DivergenceError(FloatingPointError):
    """A loss has grown beyond all bounds."""


class StepSizeSweep(nn.Module):
    r"""Full-batch gradient descent from :math:`u = 2 \alpha 1, v = 0` with :math:`\beta = u \odot v`, many at once.

    .. math:: u' = u - \eta \, v \odot g, \quad v' = v - \eta \, u \odot g, \qquad g = \tfrac 1N X^\top (X \beta - y)

    The replicas are a grid of P problems by S settings: every initial scale with every step size, all step sizes of the
    first scale first. A replica ends when its loss is below ``tol``, and when it diverges; the others go on without it.
    A loss that rises a thousandfold is no divergence here, but how a large step changes the outcome.

    A step multiplies :math:`u^2 - v^2` by :math:`1 - \eta^2 g^2`, exactly. Hence ``log_shrinkage``, the sum of the
    logarithms of the factors' sizes, tells from which scale gradient flow would have had to start.

    Args:
        num_problems: P.
        dim: Number of coordinates d.
        lr: Step sizes, > 0.
        init_scale: Scales alpha of the start, > 0.
        lr_relative_to: What the step sizes are multiples of: ``"init_sharpness"``, the step size from which on the
            start is unstable; ``"critical"``, the one beyond which no interpolator is stable, either of them each
            problem's own; ``None`` for absolute step sizes.
        tol: Loss below which a replica has converged; 0 never ends one.
        divergence_threshold: Loss above which a replica has diverged, > 0.
        on_divergence: ``"raise"``, or ``"record"`` to go on with the others; all values of the diverged replica are
            then those of the last look before (every 100 steps).
        dtype: Of all numbers.

    Attributes:
        u, v: Parameters, ``(P, S, d)``.
        lr: The absolute step sizes, ``(P, S)``; zero until the data is known.
        loss, peak_loss: The loss, and the highest one so far, ``(P, S)``.
        log_shrinkage: See above, ``(P, S, d)``.
        status: A :class:`Status` each, ``(P, S)``.
        last_step: After how many steps a replica ended: a converged one as seen at the next look, a diverged one
            exactly; -1 if it goes on. Shape ``(P, S)``.
        steps: Number of steps so far, scalar.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Nacson et al., *Implicit Bias of the Step Size in Linear Diagonal Neural Networks*, ICML 2022.

    Example:
        >>> x, y = torch.ones(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
        >>> sweep = StepSizeSweep(num_problems=1, dim=1, lr=[0.5], init_scale=[0.5])
        >>> sweep.run(x, y, num_steps=1)
        >>> sweep.u.item(), sweep.v.item(), sweep.log_shrinkage.exp().item()
        (1.0, 0.5, 0.75)
    """

    u: Tensor
    v: Tensor
    lr: Tensor
    loss: Tensor
    peak_loss: Tensor
    log_shrinkage: Tensor
    status: Tensor
    last_step: Tensor
    steps: Tensor
    given_lr: Tensor
    init_scale: Tensor

    def __init__(
        self,
        num_problems: int,
        dim: int,
        lr: Sequence[float],
        init_scale: Sequence[float] = (0.1,),
        lr_relative_to: Relation | None = None,
        tol: float = 1e-10,
        divergence_threshold: float = 1e8,
        on_divergence: OnDivergence = "raise",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        _check(num_problems, dim, lr, init_scale, lr_relative_to, tol, divergence_threshold, on_divergence)
        self.lr_relative_to, self.on_divergence = lr_relative_to, on_divergence
        self.tol, self.divergence_threshold = tol, divergence_threshold
        grid = (num_problems, len(init_scale) * len(lr))
        given_lr, scales = torch.tensor(lr, dtype=dtype), torch.tensor(init_scale, dtype=dtype)
        self.register_buffer("given_lr", given_lr.repeat(len(init_scale)), persistent=False)
        self.register_buffer("init_scale", scales.repeat_interleave(len(lr)), persistent=False)
        start = 2 * self.init_scale[:, None].expand(*grid, dim)
        states = {"u": start.clone(), "v": torch.zeros_like(start), "log_shrinkage": torch.zeros_like(start)}
        states |= {name: torch.zeros(grid, dtype=dtype) for name in ("lr", "loss", "peak_loss")}
        states |= {"status": torch.zeros(grid, dtype=torch.uint8), "last_step": torch.full(grid, -1)}
        states |= {"steps": torch.zeros((), dtype=torch.long)}
        for name, value in states.items():
            self.register_buffer(name, value)

    @property
    def beta(self) -> Tensor:
        """The predictors, ``(P, S, d)``."""
        return self.u * self.v

    @property
    def finished(self) -> bool:
        """Whether all replicas have ended."""
        return bool((self.status != Status.NOT_CONVERGED).all())

    @torch.no_grad()
    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Set the step sizes and the loss at the start, unless that is done.

        Args:
            x: Inputs, shape ``(P, N, d)``.
            y: Targets, shape ``(P, N)``.

        Raises:
            ValueError: If a shape is wrong, or there is nothing for a step size to be relative to.
        """
        num_problems, _, dim = self.u.shape
        if x.ndim != 3 or (x.shape[0], x.shape[2]) != (num_problems, dim) or y.shape != x.shape[:2]:
            raise ValueError(
                f"x and y must have shapes (P, N, d) and (P, N) with P = {num_problems} and d = {dim}, "
                f"got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        if bool((self.lr > 0).any()):
            return
        self.lr.copy_(self.given_lr * self._unit(x, y))
        self.loss.copy_(y.square().mean(-1, keepdim=True) / 2)
        self.peak_loss.copy_(self.loss)

    def _unit(self, x: Tensor, y: Tensor) -> Tensor:
        """What the step sizes are multiples of, of a shape that broadcasts to ``(P, S)``."""
        if self.lr_relative_to is None:
            return torch.ones_like(self.given_lr)
        if self.lr_relative_to == "critical":
            unit = critical_step_size(x, y)[:, None]
        else:
            unit = initial_stability_threshold(x, 1.0)[:, None] / self.init_scale.square()
        if not bool(unit.isfinite().all()):
            raise ValueError(
                f"lr_relative_to must be None where every step size is stable, as for targets or inputs of zero, "
                f"got {self.lr_relative_to!r}"
            )
        return unit

    @torch.no_grad()
    def run(self, x: Tensor, y: Tensor, num_steps: int) -> None:
        """Take steps, until there are so many more or all replicas have ended.

        Args:
            x: Inputs, shape ``(P, N, d)``.
            y: Targets, shape ``(P, N)``.
            num_steps: How many.

        Raises:
            ValueError: If a shape is wrong, or there is nothing for a step size to be relative to.
            DivergenceError: If a replica diverges and ``on_divergence`` is ``"raise"``.
        """
        x, y = x.to(self.u.dtype), y.to(self.u.dtype)
        self.prepare(x, y)
        done, until = 0, int(self.steps) + num_steps
        part: Descent | None = None
        while done < num_steps and not self.finished:
            if part is None:
                running = self.status == Status.NOT_CONVERGED
                problems, settings = running.any(1).nonzero()[:, 0], running.any(0).nonzero()[:, 0]
                where = (problems[:, None], settings)
                part = Descent(x[problems], y[problems], self.u[where], self.v[where], self.lr[where])
            chunk = min(part.chunk, num_steps - done)
            losses, log_shrinkage = part.advance(chunk)
            if self._keep(part, where, losses, log_shrinkage, until - num_steps + done):
                part = None  # what has ended is left out
            done += chunk
        self.steps.fill_(until)

    def _keep(
        self, part: Descent, where: tuple[Tensor, Tensor], losses: Tensor, log_shrinkage: Tensor, first_step: int
    ) -> bool:
        """Take over what a chunk has brought; returns whether a replica has ended."""
        running = self.status[where] == Status.NOT_CONVERGED
        too_large = ~(losses <= self.divergence_threshold)  # NaN is, too
        diverged = running & too_large.any(0)
        kept = running & ~diverged
        converged = kept & (losses[-1] < self.tol)
        news = {"u": part.u, "v": part.v, "log_shrinkage": self.log_shrinkage[where] + log_shrinkage}
        news |= {"loss": losses[-1], "peak_loss": torch.maximum(self.peak_loss[where], losses.amax(0))}
        for name, value in news.items():
            buffer = getattr(self, name)
            mask = kept.unsqueeze(-1) if value.ndim > kept.ndim else kept
            buffer[where] = torch.where(mask, value, buffer[where])
        ended = converged | diverged
        if not bool(ended.any()):
            return False
        last_step = torch.where(diverged, first_step + 1 + too_large.int().argmax(0), first_step + len(losses))
        self.last_step[where] = torch.where(ended, last_step, self.last_step[where])
        status = self.status[where].masked_fill(converged, Status.CONVERGED)
        self.status[where] = status.masked_fill(diverged, Status.DIVERGED)
        if self.on_divergence == "raise" and bool(diverged.any()):
            raise DivergenceError(self._complaint())
        return True

    def _complaint(self) -> str:
        """Which replica has diverged first, when, and at which step size."""
        diverged = self.status == Status.DIVERGED
        first = self.last_step.masked_fill(~diverged, torch.iinfo(torch.long).max).argmin()
        problem, setting = divmod(int(first), self.status.shape[1])
        lr, step = float(self.lr[problem, setting]), int(self.last_step[problem, setting])
        relative = f" ({float(self.given_lr[setting]):g} of {self.lr_relative_to})" if self.lr_relative_to else ""
        return (
            f"gradient descent diverged: at step {step} the loss is above {self.divergence_threshold:g}, lr {lr:.4g}"
            f"{relative}, init_scale {float(self.init_scale[setting]):g}, problem {problem} ({int(diverged.sum())} of "
            f"{diverged.numel()} replicas); take a smaller lr, or on_divergence 'record'"
        )

    def effective_init_scale(self) -> Tensor:
        """The scale from which gradient flow would have had to start, coordinate by coordinate, ``(P, S, d)``."""
        return self.init_scale[:, None] * (self.log_shrinkage / 2).exp()

    def balance_error(self) -> Tensor:
        r"""How far :math:`|u^2 - v^2|` is from what ``log_shrinkage`` says, over :math:`u^2 + v^2`; ``(P, S)``.

        Zero but for rounding, the largest of the coordinates.
        """
        expected = (2 * self.effective_init_scale()).square()
        found = ((self.u - self.v) * (self.u + self.v)).abs()
        size = self.u.square() + self.v.square()
        return torch.where(size > 0, (found - expected).abs() / size, 0.0).amax(-1)

    def sharpness(self, x: Tensor) -> Tensor:
        """Largest eigenvalues ``(P, S)`` of the tangent kernels at inputs ``(P, N, d)``, problem by problem."""
        return torch.stack([sharpness(*one) for one in zip(self.u, self.v, x.to(self.u.dtype))])

    @torch.no_grad()
    def measures(self, x: Tensor) -> dict[str, Tensor]:
        r"""What there is to see of the replicas now, each ``(P, S)``.

        ``loss``; ``peak_loss``, the highest so far; ``l1``, the l1 norm of the predictors; ``sharpness_ratio``,
        :math:`\eta \lambda_{\max}(K) / 2`, at most 1 where an interpolator is stable; ``bound_ratio``,
        :math:`\eta \sum_i \bar x_i^2 |\beta_i|`, which is then at most 1, too; ``effective_init_scale``, the median of
        the coordinates; ``balance_error``.

        Args:
            x: Inputs, shape ``(P, N, d)``.
        """
        x = x.to(self.u.dtype)
        return {
            "loss": self.loss,
            "peak_loss": self.peak_loss,
            "l1": self.beta.abs().sum(-1),
            "sharpness_ratio": self.lr * self.sharpness(x) / 2,
            "bound_ratio": self.lr * weighted_l1(self.beta, x.unsqueeze(1)),
            "effective_init_scale": self.effective_init_scale().median(-1).values,
            "balance_error": self.balance_error(),
        }

    def table(self, measures: Mapping[str, Tensor]) -> list[dict[str, Any]]:
        """A row for each replica, problem by problem.

        Args:
            measures: Further columns, each ``(P, S)``, such as :meth:`measures`.

        Returns:
            Dictionaries of ``problem``, ``init_scale``, ``lr``, ``relative_lr`` (as it was given), ``status``,
            ``last_step``, and the measures.
        """
        grid = self.status.shape
        columns = {"problem": torch.arange(grid[0])[:, None], "init_scale": self.init_scale, "lr": self.lr}
        columns |= {"relative_lr": self.given_lr, "status": self.status, "last_step": self.last_step, **measures}
        rows = zip(*(column.expand(grid).flatten().tolist() for column in columns.values()))
        table = [dict(zip(columns, row)) for row in rows]
        return [row | {"status": Status(row["status"]).name.lower()} for row in table]


def _check(
    num_problems: int,
    dim: int,
    lr: Sequence[float],
    init_scale: Sequence[float],
    lr_relative_to: str | None,
    tol: float,
    divergence_threshold: float,
    on_divergence: str,
) -> None:
    for name, size in (("num_problems", num_problems), ("dim", dim)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    for name, values in (("lr", lr), ("init_scale", init_scale)):
        if not len(values):
            raise ValueError(f"{name} must hold at least one number, got none")
    for one in lr:
        if not 0 < one < math.inf:
            raise ValueError(f"lr must be > 0, got {one}")
    for one in init_scale:
        check_init_scale(one)
    if lr_relative_to not in (None, *get_args(Relation)):
        allowed = ", ".join(map(repr, get_args(Relation)))
        raise ValueError(f"lr_relative_to must be {allowed} or None, got {lr_relative_to!r}")
    if not tol >= 0:
        raise ValueError(f"tol must be >= 0, got {tol}")
    if not divergence_threshold > 0:
        raise ValueError(f"divergence_threshold must be > 0, got {divergence_threshold}")
    if on_divergence not in get_args(OnDivergence):
        allowed = ", ".join(map(repr, get_args(OnDivergence)))
        raise ValueError(f"on_divergence must be one of {allowed}, got {on_divergence!r}")
