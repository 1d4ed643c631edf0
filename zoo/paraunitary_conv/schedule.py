"""A learning rate that rises and falls in straight lines, step by step."""

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

TIMES, HEIGHTS = (0.0, 0.4, 0.8, 1.0), (0.0, 1.0, 0.05, 0.0)


def rise_and_fall(optimizer: Optimizer, num_steps: int) -> LambdaLR:
    """From 0 up to the optimizer's rate at 2/5 of the steps, down to 1/20 of it at 4/5, and to 0 at the end.

    Args:
        optimizer: Its rates are the highest ones.
        num_steps: Steps of the whole training, at least 1.

    Returns:
        A scheduler to be stepped after every step of the optimizer.

    Raises:
        ValueError: If there is no step.

    Source:
        The authors' code, after Smith and Topin's super-convergence.

    Example:
        >>> import torch
        >>> schedule = rise_and_fall(torch.optim.SGD([torch.zeros(1)], lr=1.0), num_steps=10)
        >>> [round(float(schedule.lr_lambdas[0](step)), 3) for step in (0, 3, 7, 9)]
        [0.25, 1.0, 0.05, 0.0]
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return LambdaLR(optimizer, lambda step: float(np.interp((step + 1) / num_steps, TIMES, HEIGHTS)))
