"""The integrals in the closed form of the flow, in logarithms, as far in time as they are asked for."""

import numpy as np
import torch
from torch import Tensor

NODES = 10  # of the Gauss rule in each cell
CELLS, NUMBERS = 256, 2**22  # that are added at a time, at most; and how many numbers that may take
NEWTON_STEPS = 12


class FlowQuadrature:
    r"""Time t and singular value s of the flow against the rescaled time tau, for B starts.

    .. math:: G(\tau)^2 = \tfrac14 \sum_i q_i^2 e^{2 \lambda_i \tau}, \qquad
              \frac1{s(\tau)} = \frac{1 / s_0 + N \int_0^\tau G^N}{G(\tau)^N}, \qquad
              t(\tau) = \int_0^\tau s^{-(1 - 2/N)}

    Cells of tau are so short that neither G nor s changes by much more than a factor of e in one; within, the
    integrals up to each Gauss node are those of the polynomial through all nodes. What is known at the knots between
    cells is kept, and more cells are added when a later time is asked for.

    Args:
        coordinates: q, shape ``(B, K)``, with :math:`\tfrac14 \sum_i q_i^2 = 1`.
        eigenvalues: lambda, ``(B, K)``.
        s0: Singular values at time 0, > 0, ``(B,)``.
        depth: Number N of layers.

    Example:
        >>> one = torch.ones(1, 2, dtype=torch.float64)
        >>> flow = FlowQuadrature(2 * one[:, :1], 3 * one[:, :1], one[:, 0], depth=2)  # the logistic curve to 3
        >>> tau = one / 6
        >>> flow.reach(tau)
        >>> flow.at(tau)[0].exp()[0, 0], round(3 / (1 + 2 * float(np.exp(-1))), 4)
        (tensor(1.7284, dtype=torch.float64), 1.7284)
    """

    def __init__(self, coordinates: Tensor, eigenvalues: Tensor, s0: Tensor, depth: int) -> None:
        self.depth = depth
        self.log_weights = 2 * coordinates.abs().log() - np.log(4)
        self.coordinates, self.eigenvalues = coordinates, eigenvalues
        self.cell = 1 / (depth * torch.maximum(eigenvalues.amax(dim=1), s0))[:, None]
        self.log_y, self.t = -s0.log()[:, None], torch.zeros_like(s0)[:, None]  # y = 1 / s and t at the knots
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        upto = np.concatenate([_cumulative_weights(nodes), weights[None] / 2])  # every node, and the end
        self.nodes, self.weights, self.upto = (
            torch.from_numpy(value).to(s0.device) for value in ((nodes + 1) / 2, weights / 2, upto)
        )

    @property
    def tau(self) -> Tensor:
        """The knots, ``(B, n)``."""
        return self.cell * torch.arange(self.t.shape[1], dtype=self.t.dtype, device=self.t.device)

    def log_growth(self, tau: Tensor) -> Tensor:
        """Logarithm of G at times ``(B, *)``."""
        shape = (len(tau), *[1] * (tau.ndim - 1), -1)
        exponents = self.log_weights.view(shape) + 2 * self.eigenvalues.view(shape) * tau[..., None]
        return torch.logsumexp(exponents, dim=-1) / 2

    def rho(self, tau: Tensor) -> Tensor:
        """Derivative of ln G, which is rho, at times ``(B, T)``."""
        exponents = self.log_weights[:, None] + 2 * self.eigenvalues[:, None] * tau[..., None]
        return (exponents.softmax(dim=-1) * self.eigenvalues[:, None]).sum(dim=-1)

    def grown(self, tau: Tensor) -> Tensor:
        """The coordinates at times ``(B, T)``, shape ``(B, T, K)``."""
        growth = self.eigenvalues[:, None] * tau[..., None] - self.log_growth(tau)[..., None]
        return self.coordinates[:, None] * growth.exp()

    def reach(self, tau: Tensor) -> None:
        """Add cells until the last knot is after these times ``(B, T)``."""
        while bool((tau >= self.tau[:, -1:]).any()):
            self.extend()

    def reach_time(self, t: Tensor) -> None:
        """Add cells until the last knot is after these times t ``(B, T)`` of the flow."""
        while bool((t >= self.t[:, -1:]).any()):
            self.extend()

    def extend(self) -> None:
        """Add cells after the last knot."""
        first, number = self.t.shape[1] - 1, max(1, min(CELLS, NUMBERS // (self.coordinates.numel() * (NODES + 1))))
        begin = self.cell * torch.arange(first, first + number, dtype=self.t.dtype, device=self.t.device)
        length = self.cell.expand_as(begin)
        growth, integrals = self._over_cells(begin, length)
        # y G^N of the end of a cell is that of its beginning and the integral; all in units of the first one's G^N
        before = self.depth * torch.nn.functional.pad(growth[..., -1], (1, 0)).cumsum(dim=1)
        sums = torch.cat([self.log_y[:, -1:], before[:, :-1] + integrals[..., -1]], dim=1).logcumsumexp(dim=1)
        log_y = sums - before
        _, durations = self._across(log_y[:, :-1], length, growth, integrals)
        self.log_y = torch.cat([self.log_y, log_y[:, 1:]], dim=1)
        self.t = torch.cat([self.t, self.t[:, -1:] + durations.cumsum(dim=1)], dim=1)

    def at(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of s, and t, at times ``(B, T)`` up to the last knot."""
        cell = (tau / self.cell).floor().clamp(max=self.t.shape[1] - 1).long()
        begin = self.cell * cell
        length = (tau - begin).clamp(min=0.0)
        log_y, duration = self._across(self.log_y.gather(1, cell), length, *self._over_cells(begin, length))
        return -log_y, self.t.gather(1, cell) + duration

    def tau_of(self, t: Tensor) -> Tensor:
        """The rescaled times of times t ``(B, T)`` before the last knot, by Newton's method in the cell of each."""
        cell = torch.searchsorted(self.t, t, right=True).clamp(1, self.t.shape[1] - 1) - 1
        before, after = self.t.gather(1, cell), self.t.gather(1, cell + 1)
        low, high = self.cell * cell, self.cell * (cell + 1)
        tau = low + self.cell * (t - before) / (after - before)
        for _ in range(NEWTON_STEPS):
            log_s, found = self.at(tau)
            tau = (tau + (t - found) * (log_s * (1 - 2 / self.depth)).exp()).clamp(low, high)
        return tau

    def _over_cells(self, begin: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        r"""Growth of ln G, and ln of :math:`N \int G^N` over the beginning's :math:`G^N`, from the beginnings on.

        Args:
            begin: Beginnings of cells, ``(B, n)``.
            length: Their lengths, ``(B, n)``.

        Returns:
            Both up to every node and to the end, ``(B, n, NODES + 1)``.
        """
        places = torch.nn.functional.pad(self.nodes, (0, 1), value=1.0)
        growth = self.log_growth(begin[..., None] + length[..., None] * places)
        growth = growth - self.log_growth(begin)[..., None]
        integrals = (self.depth * growth[..., :-1]).exp() @ self.upto.mT
        return growth, (self.depth * length[..., None] * integrals).log()

    def _across(self, log_y: Tensor, length: Tensor, growth: Tensor, integrals: Tensor) -> tuple[Tensor, Tensor]:
        """From ln y at the beginnings of cells ``(B, n)``: that at their ends, and the time t that they take."""
        log_y = torch.logaddexp(log_y[..., None], integrals) - self.depth * growth
        return log_y[..., -1], length * (((1 - 2 / self.depth) * log_y[..., :-1]).exp() @ self.weights)


def _cumulative_weights(nodes: np.ndarray) -> np.ndarray:
    """Weights ``(K, K)`` of integrals over [0, x_i], for values at Gauss nodes, which are given on [-1, 1]."""
    legendre = np.polynomial.legendre
    primitives = [legendre.legint(unit, lbnd=-1) for unit in np.eye(len(nodes))]
    integrals = np.stack([legendre.legval(nodes, primitive) for primitive in primitives], axis=1)
    return integrals @ np.linalg.inv(legendre.legvander(nodes, len(nodes) - 1)) / 2
