"""Gradient flow from balanced rank-one starts in closed form: where it goes, how fast, and when."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.deep_linear.predictions import FlowLimit, FlowRates, FlowState, Kind, StageTimes
from zoo.deep_linear.quadrature import FlowQuadrature

UNIT_TOLERANCE = 1e-8
TIE = 1e-12  # singular values that differ by less than this share of the largest one are one
NOISE = 1e-10  # relative, of s
BISECTIONS = 60


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
    integrals are Gauss quadrature (:class:`~zoo.deep_linear.quadrature.FlowQuadrature`), by which s is right to some
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
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        if not atol >= 0:
            raise ValueError(f"atol must be >= 0, got {atol}")
        self.depth = depth
        self.target, self.u0, self.v0, self.s0 = checked_starts(Z, u0, v0, s0)
        self.num_starts = len(self.s0)
        if bool((self.s0 == 0).any()):
            warnings.warn("a start with s0 = 0 is the origin, where the flow stays: its rates are NaN", stacklevel=2)
        self._decompose(atol)
        moving = torch.where(self.s0 > 0, self.s0, 1.0)  # what does not move is put right at the end
        self.quadrature = FlowQuadrature(self.coordinates, self.eigenvalues, moving, depth)

    def _decompose(self, atol: float) -> None:
        """Coordinates in a full singular basis; both sides are padded with zeros to its larger dimension."""
        left, values, right = torch.linalg.svd(self.target, full_matrices=True)
        size = max(self.target.shape[1:])

        def padded(tensor: Tensor) -> Tensor:
            return torch.nn.functional.pad(tensor, (0, size - tensor.shape[-1]))

        self.sigma = padded(values)
        self.left, self.right = padded(left), padded(right.mT)
        sides = (self.left, self.u0), (self.right, self.v0)
        a, b = ((basis.mT @ vector[..., None]).squeeze(-1) for basis, vector in sides)
        coordinates = torch.cat([a + b, a - b], dim=-1)
        self.coordinates = torch.where(coordinates.abs() > atol, coordinates, 0.0)
        self.eigenvalues = torch.cat([self.sigma, -self.sigma], dim=-1)  # of M, c_i's and then e_i's
        self.largest = self.sigma[:, 0]

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

    def _state(self, tau: Tensor, log_s: Tensor, t: Tensor) -> FlowState:
        moves = (self.s0 > 0)[:, None]
        moved = torch.where(moves, tau, 0.0)
        c, e = (self.quadrature.grown(moved) / 2).chunk(2, dim=-1)
        u, v = (c + e) @ self.left.mT, (c - e) @ self.right.mT
        return FlowState(tau, t, torch.where(moves, log_s.exp(), 0.0), self.quadrature.rho(moved), u, v)

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
        self.quadrature.reach(tau)
        log_s, t = self.quadrature.at(tau)
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
        self.quadrature.reach_time(t)
        tau = self.quadrature.tau_of(t)
        return self._state(tau, self.quadrature.at(tau)[0], t)

    # When something happens.

    def _first(self, happened: Callable[[Tensor, Tensor], Tensor], possible: Tensor) -> Tensor:
        """Time t at which something that stays has happened first.

        Args:
            happened: Whether it has, from tau and ln s, ``(B, T)`` each.
            possible: Whether it will ever, ``(B,)``.

        Returns:
            Shape ``(B,)``; infinite where it has not when the flow has come to its limit.
        """
        flow, possible, sigma = self.quadrature, possible & (self.s0 > 0), self.limit().sigma[:, None]
        while True:
            yes = happened(flow.tau, -flow.log_y)
            ends = torch.cat([flow.rho(flow.tau[:, -1:]), (-flow.log_y[:, -1:]).exp()], dim=1)
            there = ((ends - sigma).abs() <= NOISE * sigma).all(dim=1)
            if bool((yes.any(dim=1) | ~possible | there).all()):
                break
            flow.extend()
        found = yes.any(dim=1) & possible
        after = yes.to(torch.long).argmax(dim=1, keepdim=True)
        low, high = flow.cell * (after - 1).clamp(min=0), flow.cell * after
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            so = happened(middle, flow.at(middle)[0])
            low, high = torch.where(so, low, middle), torch.where(so, middle, high)
        return torch.where(found, flow.at(high)[1].squeeze(1), torch.inf)

    def _turned(self, tau: Tensor, log_s: Tensor) -> Tensor:
        s = log_s.exp()
        return self.quadrature.rho(tau) - s >= NOISE * s  # not that of an s that comes down to its limit

    def stage_times(self) -> StageTimes:
        """When every trajectory goes from shrinking to rising, and from there to its linear convergence."""
        rises = self.limit().sigma > 0
        rho = self.quadrature.rho(torch.zeros_like(self.s0)[:, None]).squeeze(1)
        alignment = self._first(lambda tau, _: self.quadrature.rho(tau) > 0, rises)
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


def checked_starts(Z: Tensor, u0: Tensor, v0: Tensor, s0: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Target, directions and singular value of every one of B starts, in float64.

    Returns:
        Shapes ``(B, d_y, d_x)``, ``(B, d_y)``, ``(B, d_x)`` and ``(B,)``.

    Raises:
        ValueError: If shapes do not fit, or a value is out of range.
    """
    Z = torch.as_tensor(Z, dtype=torch.float64)
    u0, v0, s0 = (torch.as_tensor(one, dtype=torch.float64, device=Z.device) for one in (u0, v0, s0))
    if Z.ndim not in (2, 3) or not bool(Z.isfinite().all()):
        raise ValueError(f"Z must be finite, a matrix or a batch of them, got {Z}")
    if not bool((s0 >= 0).all() & s0.isfinite().all()):
        raise ValueError(f"s0 must be >= 0 and finite, got {s0.tolist()}")
    d_y, d_x = Z.shape[-2:]
    for name, value, size in (("u0", u0, d_y), ("v0", v0, d_x)):
        if value.ndim not in (1, 2) or value.shape[-1] != size:
            raise ValueError(f"{name} must have the shape (B, {size}) or ({size},), got {tuple(value.shape)}")
        lengths = torch.linalg.vector_norm(value, dim=-1)
        if not bool(((lengths - 1).abs() <= UNIT_TOLERANCE).all()):
            raise ValueError(f"{name} must have length 1, got {lengths.tolist()}")
    shapes = Z.shape[:-2], u0.shape[:-1], v0.shape[:-1], s0.shape
    numbers = {tuple(shape) for shape in shapes if shape}
    if len(numbers) > 1 or s0.ndim > 1:
        raise ValueError(f"Z, u0, v0 and s0 must agree on the number of starts, got {sorted(numbers)}")
    batch = numbers.pop()[0] if numbers else 1
    return Z.expand(batch, d_y, d_x), u0.expand(batch, d_y), v0.expand(batch, d_x), s0.expand(batch)
