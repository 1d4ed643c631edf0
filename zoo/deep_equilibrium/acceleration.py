"""What a solver of z = f(z) does next: iterate, or use what it remembers of earlier steps."""

from typing import Protocol

import torch
from torch import Tensor


class Rule(Protocol):
    """From a state and the value of f there to the next state."""

    def next_state(self, z: Tensor, value: Tensor, batch_dims: int) -> Tensor:
        """The next state, of the shape of ``z``, whose leading ``batch_dims`` axes number the samples."""


class Iteration:
    r"""Damped iteration, :math:`z \leftarrow z + \tau (f(z) - z)`.

    Args:
        damping: The tau, in (0, 1].

    Example:
        >>> Iteration(0.5).next_state(torch.zeros(1, 1), torch.ones(1, 1), 1)
        tensor([[0.5000]])
    """

    def __init__(self, damping: float = 1.0) -> None:
        self.damping = damping

    def next_state(self, z: Tensor, value: Tensor, batch_dims: int) -> Tensor:
        return value if self.damping == 1 else torch.lerp(z, value, self.damping)


class Anderson:
    r"""Anderson acceleration: mix the last m values so that the same mixture of their residuals is smallest.

    .. math:: \min_\alpha \Big| \sum_i \alpha_i g_i \Big|^2 + \lambda \sum_i |\alpha_i g_i|^2, \;
              \sum_i \alpha_i = 1; \qquad z \leftarrow \sum_i \alpha_i (f_i - (1 - \beta) g_i), \qquad g_i = f_i - z_i

    Of the matrix of inner products one row is new in each step, and only that is computed. The ridge weighs each
    residual by its own length: an absolute one would flatten the mixture once residuals are small.

    Args:
        history: The m.
        mixing: The beta, in (0, 1].
        ridge: The lambda, > 0.
    """

    def __init__(self, history: int, mixing: float, ridge: float) -> None:
        self.history, self.mixing, self.ridge = history, mixing, ridge
        self.count = 0
        self.values = self.residuals = self.products = torch.empty(0)

    def next_state(self, z: Tensor, value: Tensor, batch_dims: int) -> Tensor:
        flat, residual = (part.reshape(z.shape[:batch_dims].numel(), -1) for part in (value, value - z))
        if self.count == 0:
            self.values, self.residuals = (flat.new_zeros(len(flat), self.history, flat.shape[1]) for _ in "fg")
            dtype = torch.promote_types(z.dtype, torch.float32)  # least squares know no half precision
            self.products = flat.new_zeros(len(flat), self.history, self.history, dtype=dtype)
        slot = self.count % self.history
        self.count += 1
        known = min(self.count, self.history)
        self.values[:, slot], self.residuals[:, slot] = flat, residual
        row = _dots(residual, self.residuals[:, :known]).to(self.products.dtype)
        self.products[:, slot, :known] = row
        self.products[:, :known, slot] = row
        weights = self._weights(self.products[:, :known, :known]).to(z.dtype).unsqueeze(1)
        state = torch.bmm(weights, self.values[:, :known])
        if self.mixing != 1:
            state = state.baddbmm(weights, self.residuals[:, :known], alpha=self.mixing - 1)
        return state.view(z.shape)

    def _weights(self, products: Tensor) -> Tensor:
        """The mixtures, ``(n, m)``, found for residuals of unit length, which are as well conditioned as can be."""
        inverse = products.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(products.dtype).tiny).rsqrt().unsqueeze(2)
        cosines = products * inverse * inverse.mT
        cosines.diagonal(dim1=1, dim2=2).add_(self.ridge)
        weights = (torch.linalg.solve_ex(cosines, inverse).result * inverse).squeeze(2)
        return weights / weights.sum(1, keepdim=True)


class Broyden:
    r"""Broyden's good method on :math:`g(z) = f(z) - z`, from the inverse Jacobian -I.

    .. math:: B = -I + \sum_i u_i v_i^\top, \qquad z \leftarrow z - \tau B g, \qquad
              v = B^\top p, \qquad u = \frac{p - B \, \Delta g}{v^\top \Delta g}

    for a step p that changed g by :math:`\Delta g`. As :math:`B \, \Delta g` is :math:`B g` plus the last step,
    undamped, B is applied once in each step, and its transpose once. It starts anew when the memory is full.

    Args:
        history: Pairs u, v that are kept.
        damping: The tau, in (0, 1].
    """

    def __init__(self, history: int, damping: float) -> None:
        self.history, self.damping = history, damping
        self.known = 0
        self.left = self.right = self.residual = self.direction = torch.empty(0)

    def next_state(self, z: Tensor, value: Tensor, batch_dims: int) -> Tensor:
        residual = (value - z).reshape(z.shape[:batch_dims].numel(), -1)
        if not self.residual.numel():
            self.left, self.right = (residual.new_empty(len(residual), self.history, residual.shape[1]) for _ in "uv")
            self.direction = residual
        elif self.known == self.history:
            self.known = 0
            self.direction = residual
        else:
            self.direction = self._updated(residual)
        self.residual = residual
        return z + self.damping * self.direction.view(z.shape)

    def _updated(self, residual: Tensor) -> Tensor:
        """Learn from the last step, and return the new -B g."""
        step, change = self.damping * self.direction, residual - self.residual
        applied = self._apply(residual, self.left, self.right)
        right = self._apply(step, self.right, self.left)
        slope = (right * change).sum(1, keepdim=True)
        smallest = torch.finfo(slope.dtype).eps * right.norm(dim=1, keepdim=True) * change.norm(dim=1, keepdim=True)
        inverse = torch.where(slope.abs() > smallest, 1 / slope, 0.0)  # a step that tells nothing is not learnt from
        left = (step - applied - self.direction) * inverse
        self.left[:, self.known], self.right[:, self.known] = left, right
        self.known += 1
        return -(applied + left * (right * residual).sum(1, keepdim=True))

    def _apply(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """B x, or its transpose's with the sides exchanged."""
        if not self.known:
            return -x
        coefficients = _dots(x, right[:, : self.known])
        return torch.bmm(coefficients.unsqueeze(1), left[:, : self.known]).squeeze(1) - x


def _dots(x: Tensor, vectors: Tensor) -> Tensor:
    """Inner products of a vector ``(n, d)`` with several, ``(n, k, d)``; a row from the left is the fast way."""
    return torch.bmm(x.unsqueeze(1), vectors.mT).squeeze(1)
