"""Gradient descent with averaged momentum, for one model or for many with rates of their own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def heavy_ball_lr(lr: float, momentum: float) -> float:
    r"""The rate :math:`\eta (1 - \gamma)` of ``torch.optim.SGD`` that averaged momentum at the rate eta amounts to.

    Args:
        lr: The rate eta of averaged momentum.
        momentum: The momentum gamma of both, in [0, 1).

    Example:
        >>> round(heavy_ball_lr(1.0, momentum=0.99), 6)
        0.01
    """
    return lr * (1 - momentum)


class EMAMomentumSGD(Optimizer):
    r"""Steps along an exponential moving average of gradients, the form of momentum of the paper.

    .. math:: g \leftarrow \gamma g + (1 - \gamma) \nabla L(W), \qquad W \leftarrow W - \eta g, \qquad g_0 = 0

    A gradient moves the parameters by eta in all, whatever gamma is, so that one rate is a fair comparison of momenta.
    With momentum 0 it is gradient descent, bit for bit.

    It is ``torch.optim.SGD(lr=heavy_ball_lr(lr, momentum), momentum=momentum)`` up to rounding; and not the one with
    ``dampening=momentum``, which takes the first gradient whole.

    Many models at once: with ``lr`` or ``momentum`` a tensor of the shape ``(*)``, parameters have the shape
    ``(*, ...)``, and each model its own value.

    Args:
        params: Parameters, or groups of them.
        lr: The rate eta, > 0.
        momentum: The momentum gamma, in [0, 1).
        nesterov: Step along the average that one more of the present gradient would give,
            :math:`\gamma g + (1 - \gamma) \nabla L(W)`.
        weight_decay: Times the parameters, added to the gradient, >= 0.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Jelassi and Li, *Towards understanding how momentum improves generalization in deep learning*, ICML 2022.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))  # two models of one number
        >>> optimizer = EMAMomentumSGD([w], lr=1.0, momentum=torch.tensor([0.0, 0.75]))
        >>> w.grad = torch.tensor([0.5, 0.5])
        >>> optimizer.step()
        >>> w.data
        tensor([0.5000, 0.8750])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        momentum: float | Tensor = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        check_rates(lr, momentum)
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        for group in self.param_groups:
            check_rates(group["lr"], group["momentum"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Args:
            closure: Evaluates the loss anew and returns it.

        Returns:
            What the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._update(group, params)
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        grads: list[Tensor] = [param.grad for param in params]  # type: ignore[misc]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        averages = [self._average(param) for param in params]
        rest = 1 - group["momentum"]
        lerp_(averages, grads, rest)
        if group["nesterov"]:
            averages = [average.clone() for average in averages]
            lerp_(averages, grads, rest)
        lr = group["lr"]
        if isinstance(lr, Tensor):
            for param, average in zip(params, averages):
                param.addcmul_(average, leading(lr, param), value=-1)
        else:
            torch._foreach_add_(params, averages, alpha=-lr)

    def _average(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if not state:
            state["exp_avg"] = torch.zeros_like(param)
        return state["exp_avg"]

    def to_heavy_ball(self) -> torch.optim.SGD:
        """The optimizer of torch that goes on from here with the same steps, up to rounding.

        Raises:
            ValueError: If ``lr`` or ``momentum`` is a tensor.
        """
        groups = []
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            if isinstance(lr, Tensor) or isinstance(momentum, Tensor):
                raise ValueError(f"lr and momentum must be numbers for a heavy ball, got {lr} and {momentum}")
            groups.append({**group, "lr": heavy_ball_lr(lr, momentum), "nesterov": group["nesterov"] and momentum > 0})
        optimizer = torch.optim.SGD(groups)
        for group in self.param_groups:
            for param in group["params"] if group["momentum"] else []:
                if param in self.state:
                    average = self.state[param]["exp_avg"]
                    optimizer.state[param]["momentum_buffer"] = average / (1 - group["momentum"])
        return optimizer


def leading(values: Tensor, like: Tensor) -> Tensor:
    """Values ``(*)`` with axes of length 1 behind, so that they broadcast over a tensor ``(*, ...)``."""
    return values.view(*values.shape, *[1] * (like.ndim - values.ndim))


def lerp_(averages: list[Tensor], grads: list[Tensor], weight: float | Tensor) -> None:
    """Move averages to gradients by a share, in place."""
    if isinstance(weight, Tensor):
        for average, grad in zip(averages, grads):
            average.lerp_(grad, leading(weight, grad))
    else:
        torch._foreach_lerp_(averages, grads, weight)


def check_rates(lr: float | Tensor, momentum: float | Tensor) -> None:
    """Raise a ``ValueError`` that names what is out of range."""
    rates = torch.as_tensor(lr)
    if not bool(((rates > 0) & rates.isfinite()).all()):
        raise ValueError(f"lr must be > 0 and finite, got {lr}")
    momenta = torch.as_tensor(momentum)
    if not bool(((momenta >= 0) & (momenta < 1)).all()):
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
