"""Activations whose derivative can be told from their value, which spares what autograd would keep and compute."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

ActivationName = Literal["linear", "relu", "tanh", "hardtanh"]
ACTIVATIONS: tuple[ActivationName, ...] = get_args(ActivationName)

IN_PLACE: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "linear": lambda h: h,
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "hardtanh": torch.nn.functional.hardtanh_,
}
SLOPE: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "linear": torch.ones_like,
    "relu": lambda value: (value > 0).to(value.dtype),
    "tanh": lambda value: 1 - value * value,
    "hardtanh": lambda value: (value.abs() < 1).to(value.dtype),
}


def check_activation(activation: str) -> None:
    """Raise a ``ValueError`` if there is no such activation."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
