"""The state of an optimizer that has stood at a minimum for a long time."""

import torch
from torch import Tensor
from torch.optim import Optimizer

LONG_AGO = 1e6  # steps: corrections of averages that began at zero are over
MOMENTA = ("exp_avg", "momentum_buffer")


@torch.no_grad()
def settle(optimizer: Optimizer, param: Tensor, variance: Tensor, where: Tensor | None = None) -> None:
    """Give an optimizer the states of long ago, for all elements of a parameter or some.

    Averages of gradients become zero, those of squared gradients the variance of the noise, and corrections for the
    first steps end. This holds for SGD, Adam, AdamW, Adai and others whose states have the same names.

    Args:
        optimizer: Holds the parameter; its states are made by a step of gradient zero, if there are none yet.
        param: The parameter.
        variance: Variance of the gradients, broadcasts to the shape of the parameter.
        where: Elements to settle, broadcasts to the shape of the parameter; ``None`` for all.

    Example:
        >>> x = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.Adam([x])
        >>> settle(optimizer, x, variance=torch.tensor([4.0, 9.0]))
        >>> optimizer.state[x]["exp_avg_sq"], x.data
        (tensor([4., 9.]), tensor([0., 0.]))
    """
    if not optimizer.state.get(param):
        _make_states(optimizer, param)
    state = optimizer.state[param]
    values: dict[str, Tensor] = {
        "exp_avg_sq": variance,
        "beta1_prod": torch.zeros_like(variance),
        **dict.fromkeys(MOMENTA, torch.zeros_like(variance)),
    }
    for name, value in values.items():
        if isinstance(state.get(name), Tensor):
            state[name].copy_(value if where is None else torch.where(where, value, state[name]))
    if where is None and isinstance(state.get("step"), Tensor):
        state["step"].fill_(LONG_AGO)


def _make_states(optimizer: Optimizer, param: Tensor) -> None:
    kept, grad = param.clone(), param.grad
    param.grad = torch.zeros_like(param)
    optimizer.step()
    param.grad = grad
    param.copy_(kept)
