"""Gradient flow of the weights themselves, by Euler's method (gradient descent), Runge-Kutta, or adaptive steps."""

from typing import Literal

import torch
from torch import Tensor
from torchdiffeq import odeint

from zoo.deep_linear.network import DeepLinearNet, FlowGradient

Integrator = Literal["euler", "rk4", "dopri5", "dopri8"]


@torch.no_grad()
def euler_(net: DeepLinearNet, target: Tensor, step_size: Tensor, num_steps: int) -> None:
    """Take steps of gradient descent in place; each is that of ``torch.optim.SGD`` bit for bit.

    Args:
        net: The network, R replicas.
        target: Z, shape ``(R, d_N, d_0)``.
        step_size: Learning rates, ``(R, 1)``.
        num_steps: How many.

    Example:
        >>> net = DeepLinearNet([1, 1, 1])
        >>> net.flat.data = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
        >>> euler_(net, torch.ones(1, 1, 1, dtype=torch.float64), torch.tensor([[0.1]], dtype=torch.float64), 1)
        >>> net.flat.data  # the gradient is (15, 10)
        tensor([[0.5000, 2.0000]], dtype=torch.float64)
    """
    flat = net.flat.data
    gradient = FlowGradient(flat, target, net.dims)
    for _ in range(num_steps):
        flat.addcmul_(gradient(), step_size, value=-1)


@torch.no_grad()
def rk4_(net: DeepLinearNet, target: Tensor, step_size: Tensor, num_steps: int) -> None:
    """Take steps of the classical Runge-Kutta method of fourth order, in place.

    Args:
        net: The network, R replicas.
        target: Z, shape ``(R, d_N, d_0)``.
        step_size: Of every replica, ``(R, 1)``.
        num_steps: How many.
    """
    flat, stage = net.flat.data, net.flat.data.clone()
    gradient, total = FlowGradient(stage, target, net.dims), torch.empty_like(stage)
    half, sixth = step_size / 2, step_size / 6
    for _ in range(num_steps):
        total.copy_(gradient())
        for length, weight in ((half, 2), (half, 2), (step_size, 1)):
            torch.addcmul(flat, gradient.slope, length, value=-1, out=stage)
            total.add_(gradient(), alpha=weight)
        flat.addcmul_(total, sixth, value=-1)
        stage.copy_(flat)


FIXED = {"euler": euler_, "rk4": rk4_}


@torch.no_grad()
def adaptive(net: DeepLinearNet, target: Tensor, times: Tensor, method: Integrator, rtol: float, atol: float) -> Tensor:
    """Integrate from the first of some times to the last with steps that all replicas share.

    Steps are as short as the replica with the largest error asks, so that every one keeps the tolerances; and the last
    time is the end of a step, since what lies within is interpolated by a polynomial of a lower order.

    Args:
        net: The network, which is not changed.
        target: Z, shape ``(R, d_N, d_0)``.
        times: Ascending, ``(T,)``, on the network's device.
        method: ``"dopri5"`` or ``"dopri8"`` of torchdiffeq.
        rtol: Relative tolerance.
        atol: Absolute one; it must be well below the smallest weights of interest.

    Returns:
        The weights at these times, ``(T, R, P)``.
    """
    at = torch.empty_like(net.flat.data)
    gradient = FlowGradient(at, target, net.dims)

    def velocity(_: Tensor, flat: Tensor) -> Tensor:
        at.copy_(flat)
        return gradient().neg()

    options = {"norm": largest_replica, "step_t": times[-1:], "dtype": times.dtype}
    return odeint(velocity, net.flat.data, times, rtol=rtol, atol=atol, method=method, options=options)


def largest_replica(errors: Tensor) -> Tensor:
    """The largest root mean square of a replica, of ``(R, P)``; over all numbers, others would hide one that errs."""
    return errors.square().mean(dim=-1).amax().sqrt()
