"""Where to go next: along the gradient with momentum (APGD), or along a conjugate direction (ACG)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.auto_conjugate_gradient.projection import Ball
from zoo.auto_conjugate_gradient.rows import Rows, pick

Beta = Literal["hs", "dy", "fr", "pr"]
BetaSign = Literal["official", "textbook"]


def conjugate_coefficient(
    gradient: Tensor,
    previous_gradient: Tensor,
    previous_direction: Tensor,
    beta: Beta = "hs",
    sign: BetaSign = "official",
    clamp: bool = False,
) -> Tensor:
    r"""The beta of :math:`s_k = G_k + \beta_k s_{k-1}`, for gradients G of a loss that is maximised.

    With :math:`\Delta = G_k - G_{k-1}` the textbook has

    .. math::
        \beta^{HS} = -\frac{\langle G_k, \Delta\rangle}{\langle s_{k-1}, \Delta\rangle}, \quad
        \beta^{DY} = -\frac{\|G_k\|^2}{\langle s_{k-1}, \Delta\rangle}, \quad
        \beta^{FR} = \frac{\|G_k\|^2}{\|G_{k-1}\|^2}, \quad
        \beta^{PR} = \frac{\langle G_k, \Delta\rangle}{\|G_{k-1}\|^2}

    The authors' code has the other sign in HS and DY, which is the one that shows the paper's effect.

    Args:
        gradient: G of this iteration, shape ``(B, D)``.
        previous_gradient: G of the one before, shape ``(B, D)``.
        previous_direction: s of the one before, shape ``(B, D)``.
        beta: Hestenes and Stiefel (the paper), Dai and Yuan, Fletcher and Reeves, or Polak and Ribiere.
        sign: ``"official"``, that of the authors' code, or ``"textbook"``.
        clamp: Take 0 in place of negative values.

    Returns:
        Beta, shape ``(B,)``; 0 where the ratio is not finite, which starts anew along the gradient.

    Source:
        Yamamura et al., ICML 2022, and their code (yamamura-k/ACG).

    Example:
        >>> gradient, previous = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
        >>> conjugate_coefficient(gradient, previous, previous, sign="textbook")  # -1 / -4
        tensor([0.2500])
        >>> conjugate_coefficient(gradient, previous, previous)
        tensor([-0.2500])
    """
    if beta in ("hs", "dy"):
        change = gradient - previous_gradient
        above = _dot(gradient, change) if beta == "hs" else _dot(gradient, gradient)
        ratio = above / _dot(previous_direction, change)
        ratio = ratio if sign == "official" else -ratio
    else:
        above = _dot(gradient, gradient)
        if beta == "pr":
            above = above - _dot(gradient, previous_gradient)
        ratio = above / _dot(previous_gradient, previous_gradient)
    ratio = torch.where(ratio.isfinite(), ratio, 0.0)
    return ratio.clamp_(min=0) if clamp else ratio


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b)


@dataclass
class MomentumMove(Rows):
    r"""The move of Auto-PGD: a step along the gradient, and a share of the move before.

    .. math:: z = P(x_k + \eta\, \mathrm{dir}(G_k)), \qquad
              x_{k+1} = P\big(x_k + \alpha (z - x_k) + (1 - \alpha)(x_k - x_{k-1})\big)

    Args:
        momentum: The alpha, 0.75 in the paper; 1 has no momentum.
        previous: :math:`x_{k-1}`, shape ``(B, D)``; ``None`` before the first move.

    Source:
        Croce and Hein, ICML 2020, algorithm 1.
    """

    momentum: float
    previous: Tensor | None = None

    def __call__(self, x: Tensor, gradient: Tensor, size: Tensor, ball: Ball) -> Tensor:
        """The next points.

        Args:
            x: The points, shape ``(B, D)``.
            gradient: Of the loss there, shape ``(B, D)``.
            size: Step sizes, shape ``(B,)``.
            ball: Where points may lie.
        """
        z = ball.project(torch.addcmul(x, ball.steepest(gradient), size[:, None]))
        if self.previous is not None and self.momentum < 1:
            z = torch.lerp(x, z, self.momentum).add_(x - self.previous, alpha=1 - self.momentum)
            z = ball.project(z)
        self.previous = x
        return z

    def keep(self, improved: Tensor) -> None:
        """Nothing: a search that goes on from its best point has the same move before."""

    def restore(self, halted: Tensor) -> None:
        """Nothing."""


@dataclass
class ConjugateMove(Rows):
    r"""The move of ACG: :math:`x_{k+1} = P(x_k + \eta\, \mathrm{dir}(s_k))` with :math:`s_k = G_k + \beta_k s_{k-1}`.

    Best points are kept with the gradient and the direction that led to them, so that a search which goes on from there
    computes its next beta from values that belong together.

    Args:
        beta: Rule, see :func:`conjugate_coefficient`.
        sign: Its sign.
        clamp: Whether negative values are left out.
        gradient: G of the last move, shape ``(B, D)``.
        direction: s of the last move, shape ``(B, D)``.
        best_gradient: G of the move that led to the best point.
        best_direction: s of the move that led to the best point.

    Source:
        Yamamura et al., ICML 2022, and their code (yamamura-k/ACG).
    """

    beta: Beta
    sign: BetaSign
    clamp: bool
    gradient: Tensor
    direction: Tensor
    best_gradient: Tensor
    best_direction: Tensor

    @classmethod
    def begin(cls, gradient: Tensor, beta: Beta, sign: BetaSign, clamp: bool) -> "ConjugateMove":
        """Before the first move, which goes along the gradient ``(B, D)``: no change of it yet, so that beta is 0."""
        return cls(beta, sign, clamp, gradient, torch.zeros_like(gradient), gradient, gradient)

    def __call__(self, x: Tensor, gradient: Tensor, size: Tensor, ball: Ball) -> Tensor:
        """The next points; arguments as those of :class:`MomentumMove`."""
        ratio = conjugate_coefficient(gradient, self.gradient, self.direction, self.beta, self.sign, self.clamp)
        self.gradient, self.direction = gradient, torch.addcmul(gradient, self.direction, ratio[:, None])
        return ball.project(torch.addcmul(x, ball.steepest(self.direction), size[:, None]))

    def keep(self, improved: Tensor) -> None:
        """Keep the last move's gradient and direction of images whose best point it found, ``(B,)``, bool."""
        self.best_gradient = pick(improved, self.gradient, self.best_gradient)
        self.best_direction = pick(improved, self.direction, self.best_direction)

    def restore(self, halted: Tensor) -> None:
        """Go back to what was kept, where a search goes on from its best point, ``(B,)``, bool."""
        self.gradient = pick(halted, self.best_gradient, self.gradient)
        self.direction = pick(halted, self.best_direction, self.direction)


Move = MomentumMove | ConjugateMove
