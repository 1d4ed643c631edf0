"""Gradient flow from balanced rank-one starts in closed form: where it goes, how fast, and when."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

UNIT_TOLERANCE = 1e-8
TIE = 1e-12  # singular values that differ by less than this share of the largest one are one
NOISE = 1e-10  # relative, of s
NODES = 10  # of the quadrature in each cell
CELLS = 256  # that are added at a time
NEWTON_STEPS, BISECTIONS = 12, 60

Kind = Literal["global", "saddle", "origin"]


@dataclass(frozen=True)
class FlowLimit:
    r"""Where trajectories end.

    Attributes:
        kind: ``"global"``, the best approximation of rank one; ``"saddle"``, a worse singular value; ``"origin"``.
        index: Number k of the first singular value of the limit, from 0; -1 for the origin. Shape ``(B,)``.
        sigma: The singular value, 0 for the origin. Shape ``(B,)``.
        W: The product :math:`\sigma_k u_k v_k^\top`, shape ``(B, d_y, d_x)``.
    """

    kind: tuple[Kind, ...]
    index: Tensor
    sigma: Tensor
    W: Tensor


@dataclass(frozen=True)
class FlowRates:
    r"""How trajectories end; NaN where something does not apply. All have the shape ``(B,)``.

    Attributes:
        runner_up: :math:`\lambda_2`, the largest eigenvalue below the limit's among those that the start takes part in,
            of :math:`\pm\sigma_i` and zeros; -inf if there is none. At the origin the largest one of all, <= 0.
        product: Rate r of :math:`\|W - W_\infty\|_F \sim e^{-r t}`; 0 where the decay is a power of t.
        loss: Rate of :math:`|L - L_\infty|` in the same way.
        power: Exponent p, where :math:`s \approx (c t)^{-p}`, on the way to the origin.
        slope: Its c, which is what :math:`s^{-1/p}` gains in a unit of time.
    """

    runner_up: Tensor
    product: Tensor
    loss: Tensor
    power: Tensor
    slope: Tensor


@dataclass(frozen=True)
class FlowState:
    r"""Trajectories at some times.

    Attributes:
        tau: Rescaled time, :math:`d\tau = s^{1 - 2/N} dt`, shape ``(B, T)``.
        t: Time of the gradient flow, ``(B, T)``.
        s: Singular value of the product, ``(B, T)``.
        rho: :math:`\rho = u^\top Z v`, ``(B, T)``, which never decreases.
        u: Left singular vector, ``(B, T, d_y)``.
        v: Right singular vector, ``(B, T, d_x)``.
    """

    tau: Tensor
    t: Tensor
    s: Tensor
    rho: Tensor
    u: Tensor
    v: Tensor

    @property
    def W(self) -> Tensor:
        r"""The products :math:`s \, u v^\top`, shape ``(B, T, d_y, d_x)``."""
        return self.s[..., None, None] * self.u[..., :, None] * self.v[..., None, :]


@dataclass(frozen=True)
class StageTimes:
    r"""When stages end, shape ``(B,)``; 0 if a trajectory begins later, infinite if it never comes there.

    Attributes:
        alignment: When :math:`\rho` becomes positive.
        turn: When s has its minimum, where :math:`\rho = s`: it shrinks before and rises after.
        half: When s reaches half of its limit for good; the linear convergence begins thereabouts.
    """

    alignment: Tensor
    turn: Tensor
    half: Tensor


class RankOneFlow:
    r"""Gradient flow of :math:`\tfrac12\|W_N \cdots W_1 - Z\|_F^2` from balanced layers of rank one, of any widths.

    The product keeps the form :math:`W = s \, u v^\top`. With :math:`\rho = u^\top Z v` and
    :math:`\kappa = s^{1 - 2/N}`

    .. math:: \dot s = N s^{2 - 2/N} (\rho - s), \qquad \dot u = \kappa (I - u u^\top) Z v, \qquad
              \dot v = \kappa (I - v v^\top) Z^\top u

    In the time :math:`\tau` with :math:`d\tau = \kappa \, dt`, the vector :math:`(u; v)` follows the flow of Rayleigh
    quotients of :math:`M = \begin{pmatrix} 0 & Z \\ Z^\top & 0 \end{pmatrix}`. So in coordinates
    :math:`a_i = u_i^\top u`, :math:`b_i = v_i^\top v`, :math:`c_i = a_i + b_i` and :math:`e_i = a_i - b_i` in the
    singular basis of Z

    .. math:: c_i(\tau) = c_i e^{\sigma_i \tau} / G, \quad e_i(\tau) = e_i e^{-\sigma_i \tau} / G, \quad
              G(\tau)^2 = \tfrac14 \sum_i (c_i^2 e^{2 \sigma_i \tau} + e_i^2 e^{-2 \sigma_i \tau}), \quad
              s(\tau) = \frac{G(\tau)^N}{1 / s_0 + N \int_0^\tau G^N}

    The signs and zeros of all :math:`c_i` and :math:`e_i` are those of the start, and tell where it goes. The
    integrals are Gauss quadrature on cells that are short against what changes, in logarithms: s is right to some
    1e-11. For N = 2, :math:`t = \tau`.

    Args:
        Z: Target, shape ``(d_y, d_x)``, or ``(B, d_y, d_x)``, one for each start.
        depth: Number N of layers, at least 2.
        u0: Left singular vectors of the start, ``(B, d_y)`` or ``(d_y,)``.
        v0: Right ones, ``(B, d_x)`` or ``(d_x,)``.
        s0: Singular values, >= 0, ``(B,)`` or one for all. From 0 there is no way: the trajectory stays.
        atol: Coordinates :math:`c_i` and :math:`e_i` up to this size are zero, exactly, for the whole flow. With 0, the
            default, rounding in the singular basis of a Z that is not diagonal counts as a direction.

    Raises:
        ValueError: If shapes do not fit, a vector's length is not 1 within 1e-8, or a number is out of range.

    Source:
        Setting and classification: Chen, Lin and Zhang, *On Non-local Convergence Analysis of Deep Linear Networks*,
        ICML 2022. The closed form is derived here, and checked against the integrated parameters.

    Example:
        >>> Z = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
        >>> u, v = torch.tensor([[0.6, 0.8], [0.6, -0.8]], dtype=torch.float64)
        >>> flow = RankOneFlow(Z, depth=3, u0=u, v0=v, s0=0.5)
        >>> flow.limit().kind, flow.rates().product.round(decimals=4)  # (3 + 1) times the cubic root of 3
        (('global',), tensor([5.7690], dtype=torch.float64))
        >>> flow.solve_time([0.0, 10.0]).s
        tensor([[0.5000, 3.0000]], dtype=torch.float64)
    """

    def __init__(self, Z: Tensor, depth: int, u0: Tensor, v0: Tensor, s0: Tensor | float, atol: float = 0.0) -> None:
        Z = torch.as_tensor(Z, dtype=torch.float64)
        u0, v0, s0 = (torch.as_tensor(one, dtype=torch.float64, device=Z.device) for one in (u0, v0, s0))
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        if Z.ndim not in (2, 3) or not bool(Z.isfinite().all()):
            raise ValueError(f"Z must be finite, a matrix or a batch of them, got {Z}")
        if not atol >= 0:
            raise ValueError(f"atol must be >= 0, got {atol}")
        if not bool((s0 >= 0).all() & s0.isfinite().all()):
            raise ValueError(f"s0 must be >= 0 and finite, got {s0.tolist()}")
        d_y, d_x = Z.shape[-2:]
        for name, value, size in (("u0", u0, d_y), ("v0", v0, d_x)):
            if value.ndim not in (1, 2) or value.shape[-1] != size:
                raise ValueError(f"{name} must have the shape (B, {size}) or ({size},), got {tuple(value.shape)}")
            lengths = torch.linalg.vector_norm(value, dim=-1)
            if not bool(((lengths - 1).abs() <= UNIT_TOLERANCE).all()):
                raise ValueError(f"{name} must have length 1, got {lengths.tolist()}")
        sizes = {tuple(one.shape[: one.ndim - kept]) for one, kept in ((Z, 2), (u0, 1), (v0, 1), (s0, 0))} - {()}
        if len(sizes) > 1 or any(len(size) > 1 for size in sizes):
            raise ValueError(f"Z, u0, v0 and s0 must agree on the number of starts, got {sorted(sizes)}")
        (batch,) = sizes.pop() if sizes else (1,)
        self.depth, self.num_starts = depth, batch
        self.target = Z.expand(batch, d_y, d_x)
        self.u0, self.v0, self.s0 = u0.expand(batch, d_y), v0.expand(batch, d_x), s0.expand(batch)
        if bool((self.s0 == 0).any()):
            warnings.warn("a start with s0 = 0 is the origin, where the flow stays: its rates are NaN", stacklevel=2)
        self._decompose(atol)
        self._begin()

    def _decompose(self, atol: float) -> None:
        """Coordinates in a full singular basis; both sides are padded with zeros to its larger dimension."""
        left, values, right = torch.linalg.svd(self.target, full_matrices=True)
        size = max(self.target.shape[1:])

        def padded(tensor: Tensor) -> Tensor:
            return torch.nn.functional.pad(tensor, (0, size - tensor.shape[-1]))

        self.sigma = padded(values)
        self.left, self.right = padded(left), padded(right.mT)
        a, b = ((basis.mT @ vector[..., None]).squeeze(-1) for basis, vector in self._sides())
        coordinates = torch.cat([a + b, a - b], dim=-1)
        self.coordinates = torch.where(coordinates.abs() > atol, coordinates, 0.0)
        self.eigenvalues = torch.cat([self.sigma, -self.sigma], dim=-1)  # of M, c_i's and then e_i's
        self.largest = self.sigma[:, 0]

    def _sides(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return (self.left, self.u0), (self.right, self.v0)

    # Where it goes and how fast, from the start alone.

    def _leading(self) -> Tensor:
        """What rho tends to, the largest eigenvalue that the start takes part in, ``(B,)``."""
        taking_part = self.eigenvalues.masked_fill(self.coordinates == 0, -torch.inf)
        leading = taking_part.amax(dim=-1)
        return torch.where(leading > self._tie, leading, leading.clamp(max=0.0))

    @property
    def _tie(self) -> Tensor:
        return TIE * self.largest

    def limit(self) -> FlowLimit:
        """Where every start ends, from its coordinates alone; where singular values are equal, at their mixture."""
        leading = self._leading()
        sigma = torch.where(self.s0 > 0, leading.clamp(min=0.0), 0.0)
        size = self.sigma.shape[-1]
        c = self.coordinates[:, :size]
        members = ((self.sigma - sigma[:, None]).abs() <= self._tie[:, None]) & (sigma > 0)[:, None]
        weights = torch.nn.functional.normalize(torch.where(members, c, 0.0), dim=-1, eps=1e-300)
        u, v = ((basis @ weights[..., None]).squeeze(-1) for basis in (self.left, self.right))
        index = torch.where(sigma > 0, members.to(torch.long).argmax(dim=-1), -1)
        is_global = (sigma > 0) & (self.largest - sigma <= self._tie)
        kinds: list[Kind] = [
            "global" if top else "saddle" if positive else "origin"
            for top, positive in zip(is_global.tolist(), (sigma > 0).tolist())
        ]
        return FlowLimit(tuple(kinds), index, sigma, sigma[:, None, None] * u[:, :, None] * v[:, None, :])

    def rates(self) -> FlowRates:
        """How fast every start comes to its limit in the end."""
        N, leading = self.depth, self._leading()
        below = (self.eigenvalues < (leading - self._tie)[:, None]) & (self.coordinates != 0)
        second = self.eigenvalues.masked_fill(~below, -torch.inf).amax(dim=-1)
        sigma = leading.clamp(min=torch.finfo(leading.dtype).tiny)
        direction = (sigma - second) * sigma ** (1 - 2 / N)
        radial = N * sigma ** (2 - 2 / N)
        product = torch.minimum(direction, radial)  # the direction is slower, if it has to turn at all
        rising, decaying = leading > 0, leading < 0
        nan = torch.full_like(leading, torch.nan)
        at_origin = torch.where(decaying, -2 * leading, 0.0) if N == 2 else torch.zeros_like(leading)
        power, slope = torch.full_like(leading, N / (2 * N - 2)), torch.full_like(leading, 2 * N - 2)
        power[decaying] = torch.nan if N == 2 else N / (N - 2)
        slope[decaying] = torch.nan if N == 2 else (2 - N) * leading[decaying]
        moves = self.s0 > 0
        return FlowRates(
            *(
                torch.where(moves, value, nan)
                for value in (
                    torch.where(rising, second, leading),
                    torch.where(rising, product, at_origin),
                    torch.where(rising, 2 * product, at_origin),
                    torch.where(rising, nan, power),
                    torch.where(rising, nan, slope),
                )
            )
        )

    # The trajectory.

    def _begin(self) -> None:
        """The first knot: a cell is so short that neither s nor G changes by much more than a factor of e in it."""
        self._start = torch.where(self.s0 > 0, self.s0, 1.0)  # what does not move is put right at the end
        self._cell = 1 / (self.depth * torch.maximum(self.largest, self._start))
        zero = torch.zeros(self.num_starts, 1, dtype=torch.float64, device=self.s0.device)
        self._log_y, self._t = -self._start.log()[:, None], zero  # y = 1 / s and t at the knots, the cells' beginnings
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        cumulative = _cumulative_weights(nodes)
        self._nodes, self._weights, self._cumulative = (
            torch.from_numpy(value).to(zero.device) for value in ((nodes + 1) / 2, weights / 2, cumulative)
        )

    def _log_growth(self, tau: Tensor) -> Tensor:
        """Ln G at times of the shape ``(B, *)``."""
        logs = 2 * self.coordinates.abs().log() - np.log(4)
        shape = (self.num_starts, *[1] * (tau.ndim - 1), -1)
        return torch.logsumexp(logs.view(shape) + 2 * self.eigenvalues.view(shape) * tau[..., None], dim=-1) / 2

    def _integrals(self, begin: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""On cells ``(B, n)``: ln G at their beginnings, ends and nodes less that at their beginnings; and ln of
        :math:`N \int G^N`, in the same unit, from the beginning to every node and to the end, ``(B, n, K + 1)``.
        """
        at_begin = self._log_growth(begin)
        at_end = self._log_growth(begin + length)
        at_nodes = self._log_growth(begin[..., None] + length[..., None] * self._nodes) - at_begin[..., None]
        powers = (self.depth * at_nodes).exp()
        parts = powers @ torch.cat([self._cumulative, self._weights[None]]).mT
        return at_begin, at_end, at_nodes, (self.depth * length[..., None] * parts).log()

    def _across(self, log_y: Tensor, begin: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """From ln y at the beginnings of cells ``(B, n)``: ln y at their ends, and the time t that they take."""
        at_begin, at_end, at_nodes, integrals = self._integrals(begin, length)
        sums = torch.logaddexp(log_y[..., None], integrals)
        at_end = sums[..., -1] - self.depth * (at_end - at_begin)
        log_y_nodes = sums[..., :-1] - self.depth * at_nodes
        return at_end, length * (((1 - 2 / self.depth) * log_y_nodes).exp() @ self._weights)

    def _extend(self) -> None:
        """Add cells after the last knot."""
        first = self._t.shape[1] - 1
        numbers = torch.arange(first, first + CELLS, dtype=torch.float64, device=self._t.device)
        begin = self._cell[:, None] * numbers
        length = self._cell[:, None].expand_as(begin)
        at_begin, at_end, _, integrals = self._integrals(begin, length)
        growth = self.depth * (torch.cat([at_begin, at_end[:, -1:]], dim=1) - at_begin[:, :1])
        sums = torch.cat([self._log_y[:, -1:], growth[:, :-1] + integrals[..., -1]], dim=1).logcumsumexp(dim=1)
        log_y = sums - growth
        _, durations = self._across(log_y[:, :-1], begin, length)
        self._log_y = torch.cat([self._log_y, log_y[:, 1:]], dim=1)
        self._t = torch.cat([self._t, self._t[:, -1:] + durations.cumsum(dim=1)], dim=1)

    @property
    def _tau(self) -> Tensor:
        """The knots, ``(B, n)``."""
        return self._cell[:, None] * torch.arange(self._t.shape[1], dtype=torch.float64, device=self._t.device)

    def _at(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Ln s and t at times ``(B, T)`` before the last knot."""
        last = self._t.shape[1] - 1
        cell = (tau / self._cell[:, None]).floor().clamp(0, last).long()
        begin = self._cell[:, None] * cell
        log_y, duration = self._across(self._log_y.gather(1, cell), begin, (tau - begin).clamp(min=0.0))
        return -log_y, self._t.gather(1, cell) + duration

    def _rho(self, tau: Tensor) -> Tensor:
        """Rho at times ``(B, T)``."""
        logs = 2 * self.coordinates.abs().log()[:, None] + 2 * self.eigenvalues[:, None] * tau[..., None]
        return (logs.softmax(dim=-1) * self.eigenvalues[:, None]).sum(dim=-1)

    def _vectors(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        growth = self.eigenvalues[:, None] * tau[..., None] - self._log_growth(tau)[..., None]
        c, e = (self.coordinates[:, None] * growth.exp() / 2).chunk(2, dim=-1)
        return (c + e) @ self.left.mT, (c - e) @ self.right.mT

    def _state(self, tau: Tensor, log_s: Tensor, t: Tensor) -> FlowState:
        moves = (self.s0 > 0)[:, None]
        u, v = self._vectors(torch.where(moves, tau, 0.0))
        return FlowState(tau, t, torch.where(moves, log_s.exp(), 0.0), self._rho(torch.where(moves, tau, 0.0)), u, v)

    def _times(self, name: str, times: Tensor) -> Tensor:
        times = torch.as_tensor(times, dtype=torch.float64, device=self.s0.device)
        if times.ndim == 1:
            times = times.repeat(self.num_starts, 1)
        if times.ndim != 2 or len(times) != self.num_starts:
            raise ValueError(f"{name} must have the shape ({self.num_starts}, T) or (T,), got {tuple(times.shape)}")
        if not bool(((times >= 0) & times.isfinite()).all()):
            raise ValueError(f"{name} must be >= 0 and finite, got {times.tolist()}")
        return times

    def solve(self, tau: Tensor) -> FlowState:
        r"""The trajectories at rescaled times.

        Args:
            tau: Shape ``(T,)`` or ``(B, T)``, >= 0, in any order.

        Raises:
            ValueError: If the shape does not fit, or a time is out of range.
        """
        tau = self._times("tau", tau)
        while bool((tau > self._cell[:, None] * (self._t.shape[1] - 1)).any()):
            self._extend()
        log_s, t = self._at(tau)
        if self.depth > 2:  # at the origin tau stands still
            t = torch.where((self.s0 > 0)[:, None] | (tau == 0), t, torch.inf)
        return self._state(tau, log_s, t)

    def solve_time(self, t: Tensor) -> FlowState:
        """The trajectories at times of the gradient flow; t(tau) is inverted by Newton's method in its cell.

        Args:
            t: Shape ``(T,)`` or ``(B, T)``, >= 0, in any order.

        Raises:
            ValueError: If the shape does not fit, or a time is out of range.
        """
        t = self._times("t", t)
        while bool((t >= self._t[:, -1:]).any()):
            self._extend()
        cell = torch.searchsorted(self._t, t, right=True).clamp(1, self._t.shape[1] - 1) - 1
        before, after = self._t.gather(1, cell), self._t.gather(1, cell + 1)
        low = self._cell[:, None] * cell
        high = low + self._cell[:, None]
        tau = low + (high - low) * (t - before) / (after - before)
        log_s, found = self._at(tau)
        for _ in range(NEWTON_STEPS):
            tau = (tau + (t - found) * (log_s * (1 - 2 / self.depth)).exp()).clamp(low, high)
            log_s, found = self._at(tau)
        return self._state(tau, log_s, t)

    # When something happens.

    def _first(self, happened: Callable[[Tensor, Tensor], Tensor], possible: Tensor) -> Tensor:
        """Time t at which something that stays has happened first.

        Args:
            happened: Whether it has, from tau and ln s, ``(B, T)`` each.
            possible: Whether it will ever, ``(B,)``.

        Returns:
            Shape ``(B,)``; infinite where it has not when the flow has come to its limit.
        """
        possible = possible & (self.s0 > 0)
        sigma = self.limit().sigma[:, None]
        while True:
            log_s = -self._log_y
            yes = happened(self._tau, log_s)
            ends = torch.cat([self._rho(self._tau[:, -1:]), log_s[:, -1:].exp()], dim=1)
            there = ((ends - sigma).abs() <= NOISE * sigma).all(dim=1)
            if bool((yes.any(dim=1) | ~possible | there).all()):
                break
            self._extend()
        found = yes.any(dim=1) & possible
        after = yes.to(torch.long).argmax(dim=1, keepdim=True)
        high = self._cell[:, None] * after
        low = self._cell[:, None] * (after - 1).clamp(min=0)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            so = happened(middle, self._at(middle)[0])
            low, high = torch.where(so, low, middle), torch.where(so, middle, high)
        return torch.where(found, self._at(high)[1].squeeze(1), torch.inf)

    def _turned(self, tau: Tensor, log_s: Tensor) -> Tensor:
        s = log_s.exp()
        return self._rho(tau) - s >= NOISE * s  # not that of an s that comes down to its limit

    def stage_times(self) -> StageTimes:
        """When every trajectory goes from shrinking to rising, and from there to its linear convergence."""
        rises = self.limit().sigma > 0
        rho = self._rho(torch.zeros_like(self.s0)[:, None]).squeeze(1)
        alignment = self._first(lambda tau, _: self._rho(tau) > 0, rises)
        turn = self._first(self._turned, rises)
        return StageTimes(
            torch.where((rho > 0) & (self.s0 > 0), 0.0, alignment),
            torch.where((rho >= self.s0) & (self.s0 > 0), 0.0, turn),
            self.stuck_time(self.limit().sigma / 2),
        )

    def stuck_time(self, level: Tensor | float) -> Tensor:
        """Time after which s stays above a level.

        Args:
            level: > 0, ``(B,)`` or one for all; 0 is taken for a start that goes to the origin, and never reached.

        Returns:
            Shape ``(B,)``: 0 if s is never below the level, infinite if it does not come above it for good.

        Raises:
            ValueError: If a level is negative or the shape does not fit.
        """
        level = torch.as_tensor(level, dtype=torch.float64, device=self.s0.device)
        if level.shape not in ((), (self.num_starts,)):
            raise ValueError(f"level must be one value, or one for each of {self.num_starts} starts, got {level}")
        if not bool((level >= 0).all()):
            raise ValueError(f"level must be >= 0, got {level.tolist()}")
        level = level.expand(self.num_starts)
        sigma = self.limit().sigma
        possible = (level < sigma) & (level > 0)
        above = level.log()[:, None]
        time = self._first(lambda tau, log_s: (log_s >= above) & self._turned(tau, log_s), possible)
        lowest = self._lowest()
        return torch.where(possible & (lowest >= level), 0.0, time)

    def _lowest(self) -> Tensor:
        """The smallest s of every trajectory, ``(B,)``."""
        sigma = self.limit().sigma
        turn = self._first(self._turned, sigma > 0)
        reached = self.solve_time(torch.where(turn.isfinite(), turn, 0.0)[:, None]).s.squeeze(1)
        return torch.where(turn.isfinite(), torch.minimum(reached, self.s0), torch.minimum(sigma, self.s0))


def _cumulative_weights(nodes: np.ndarray) -> np.ndarray:
    """Weights ``(K, K)`` of integrals over [0, x_i], for values at Gauss nodes, which are given on [-1, 1]."""
    legendre = np.polynomial.legendre
    primitives = [legendre.legint(unit, lbnd=-1) for unit in np.eye(len(nodes))]
    integrals = np.stack([legendre.legval(nodes, primitive) for primitive in primitives], axis=1)
    return integrals @ np.linalg.inv(legendre.legvander(nodes, len(nodes) - 1)) / 2
