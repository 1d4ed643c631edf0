"""What the closed form says of trajectories of the flow."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

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
