"""The scale of a start from which gradient flow would have come where gradient descent is."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer

PAIRS = (("u", "v"), ("original0", "original1"))  # the latter are torch's names of a parametrised weight


def log_shrinkage(u: Tensor, v: Tensor, u_grad: Tensor, v_grad: Tensor, lr: float | Tensor) -> Tensor:
    r"""Logarithm of the factor by which a step of gradient descent shrinks :math:`|u^2 - v^2|`.

    For a loss of the product :math:`\beta = u \odot v` alone, whose gradient is g, :math:`u' = u - \eta v g` and
    :math:`v' = v - \eta u g` have :math:`u'^2 - v'^2 = (u^2 - v^2)(1 - \eta^2 g^2)`.

    Args:
        u: Parameters before the step.
        v: Parameters before the step, of the same shape.
        u_grad: Gradient of u.
        v_grad: Gradient of v.
        lr: Step size.

    Returns:
        Of the same shape, at coordinates where u = v = 0, which never move, 0.

    Example:
        >>> log_shrinkage(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(0.0), torch.tensor(-1.0), lr=0.5).exp()
        tensor(0.7500)
    """
    size = u.square() + v.square()
    gradient = torch.where(size > 0, (v * u_grad + u * v_grad) / size, 0.0)
    return (1 - (lr * gradient).square()).abs().log()


class EffectiveInitTracker(pl.Callback):
    r"""Follows how gradient descent shrinks the effective initial scale of weights that are products of two tensors.

    At the end of epochs it logs ``effective_init/scale``, the median over the coordinates of
    :math:`\sqrt{|u_0^2 - v_0^2|} / 2` times what all steps since have left of it, and ``effective_init/error``, how far
    :math:`|u^2 - v^2|` is from what this says, over :math:`u^2 + v^2`. The error is rounding for plain gradient
    descent; momentum, weight decay, or a loss with other parts break the identity, and then it shows by how much.

    Works with any module that trains a pair of parameters ``u`` and ``v`` of one shape, such as
    :class:`~zoo.diagonal_step_size.network.DiagonalLinear`, or a weight parametrised as their product by
    ``torch.nn.utils.parametrize``; several pairs are taken together.

    Raises:
        MisconfigurationException: When the training starts, if the module has no such pair.

    Example:
        >>> trainer = pl.Trainer(callbacks=[EffectiveInitTracker()], logger=False)
    """

    def __init__(self) -> None:
        self.start: list[Tensor] = []
        self.shrinkage: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = pairs(pl_module)
        if not found:
            raise MisconfigurationException(
                "EffectiveInitTracker needs a module with parameters u and v of one shape, or a weight parametrised as "
                f"the product of two tensors, got {type(pl_module).__name__} with none"
            )
        if not self.start:
            self.start = [_difference(u, v) for u, v in found]
            self.shrinkage = [torch.zeros_like(start) for start in self.start]
        devices = [u.device for u, _ in found]
        self.start = [one.to(device) for one, device in zip(self.start, devices)]  # from a checkpoint
        self.shrinkage = [one.to(device) for one, device in zip(self.shrinkage, devices)]

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        for (u, v), shrinkage in zip(pairs(pl_module), self.shrinkage):
            if u in rates and u.grad is not None and v.grad is not None:
                shrinkage += log_shrinkage(u, v, u.grad, v.grad, rates[u])

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log_dict(
            {"effective_init/scale": self.scale().median(), "effective_init/error": self.error(pl_module)}
        )

    def scale(self) -> Tensor:
        """The effective initial scale of all coordinates of all pairs, one after the other."""
        return torch.cat([(left.sqrt() / 2).flatten() for left in self._left()])

    def error(self, pl_module: nn.Module) -> Tensor:
        """The largest relative error of the identity."""
        errors = []
        for (u, v), left in zip(pairs(pl_module), self._left()):
            size = u.square() + v.square()
            errors.append(torch.where(size > 0, (_difference(u, v) - left).abs() / size, 0.0).amax())
        return torch.stack(errors).amax()

    def _left(self) -> list[Tensor]:
        return [start * shrinkage.exp() for start, shrinkage in zip(self.start, self.shrinkage)]

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "shrinkage": self.shrinkage}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start, self.shrinkage = state_dict["start"], state_dict["shrinkage"]


def pairs(module: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """All pairs of parameters of one shape whose product is a weight, by their names."""
    found = []
    for part in module.modules():
        own = dict(part.named_parameters(recurse=False))
        for first, second in PAIRS:
            if first in own and second in own and own[first].shape == own[second].shape:
                found.append((own[first], own[second]))
    return found


def _difference(u: Tensor, v: Tensor) -> Tensor:
    """The size of the difference of the squares, without cancellation."""
    return ((u - v) * (u + v)).abs().detach()
