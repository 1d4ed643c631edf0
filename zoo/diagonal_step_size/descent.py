"""The steps of gradient descent on many diagonal linear networks, in few kernels."""

import math

import torch
from torch import Tensor

LOOK = 100  # steps of a chunk
BUFFER = 2**28  # bytes that the gradients of a chunk may take


class Descent:
    r"""Steps of P problems by S settings, without a look at what becomes of them.

    A step of size :math:`\eta` from (u, v) towards y is one of size 1 from :math:`\sqrt\eta (u, v)` towards
    :math:`\eta y`, so that step sizes may differ at no cost. A step is five kernels: what the chunk leaves behind,
    residuals and gradients of every step, is summed up once.

    Args:
        x: Inputs, shape ``(P, N, d)``.
        y: Targets, shape ``(P, N)``.
        u: Parameters, shape ``(P, S, d)``.
        v: Parameters, shape ``(P, S, d)``.
        lr: Step sizes, shape ``(P, S)``.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> descent = Descent(x=one, y=one[0], u=one, v=0 * one, lr=0.5 * one[0])
        >>> losses, log_shrinkage = descent.advance(1)
        >>> losses, log_shrinkage.exp(), descent.u, descent.v
        (tensor([[[0.1250]]]), tensor([[[0.7500]]]), tensor([[[1.]]]), tensor([[[0.5000]]]))
    """

    def __init__(self, x: Tensor, y: Tensor, u: Tensor, v: Tensor, lr: Tensor) -> None:
        (num_problems, num_settings, dim), num_samples = u.shape, x.shape[1]
        self._lr, self._root = lr, lr.sqrt().unsqueeze(-1)
        self._x = (x / math.sqrt(num_samples)).contiguous()
        self._x_transposed = self._x.mT.contiguous()
        self._minus_y = -(y / math.sqrt(num_samples)).unsqueeze(1) * lr.unsqueeze(-1)
        self._u, self._v = u * self._root, v * self._root
        self._next_u, self._next_v, self._beta = (torch.empty_like(self._u) for _ in range(3))
        self.chunk = max(1, min(LOOK, BUFFER // (u.numel() * u.element_size())))
        self._residuals = u.new_empty(self.chunk + 1, num_problems, num_settings, num_samples)
        self._gradients = u.new_empty(self.chunk, num_problems, num_settings, dim)
        self._of_steps = list(zip(self._residuals, self._gradients, self._residuals[1:]))
        torch.baddbmm(self._minus_y, self._u * self._v, self._x_transposed, out=self._residuals[0])

    @property
    def u(self) -> Tensor:
        """Parameters, ``(P, S, d)``."""
        return self._u / self._root

    @property
    def v(self) -> Tensor:
        """Parameters, ``(P, S, d)``."""
        return self._v / self._root

    def advance(self, num_steps: int) -> tuple[Tensor, Tensor]:
        r"""Take some steps.

        Args:
            num_steps: At most ``chunk``.

        Returns:
            The losses after each step, ``(num_steps, P, S)``, and the sums of :math:`\log |1 - \eta^2 g^2|` over the
            steps, ``(P, S, d)``.
        """
        u, v, next_u, next_v, beta = self._u, self._v, self._next_u, self._next_v, self._beta
        for before, gradient, after in self._of_steps[:num_steps]:
            torch.bmm(before, self._x, out=gradient)  # that by beta, times the step size
            torch.addcmul(u, v, gradient, value=-1, out=next_u)
            torch.addcmul(v, u, gradient, value=-1, out=next_v)
            u, v, next_u, next_v = next_u, next_v, u, v
            torch.mul(u, v, out=beta)
            torch.baddbmm(self._minus_y, beta, self._x_transposed, out=after)
        self._u, self._v, self._next_u, self._next_v = u, v, next_u, next_v
        losses = torch.linalg.vector_norm(self._residuals[1 : num_steps + 1], dim=-1) / self._lr
        self._residuals[0].copy_(self._residuals[num_steps])
        shrinkage = self._gradients[:num_steps].square_().neg_().add_(1).prod(0).abs_().log_()
        return losses.square_().div_(2), shrinkage
