r"""Which interpolators are stable at a step size: sharpness, the weighted l1 norm, and both thresholds.

The loss is :math:`\|X \beta - y\|^2 / 2N` with :math:`\beta = u \odot v`, and the step is one on (u, v). Leading axes
of all arguments are independent problems.
"""

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

INFEASIBLE = 2  # status of SciPy's linprog


def tangent_kernel(u: Tensor, v: Tensor, x: Tensor) -> Tensor:
    r"""Inner products of the gradients of the predictions, divided by their number.

    .. math:: K = \tfrac 1N X \, \mathrm{diag}(u^2 + v^2) \, X^\top

    Args:
        u: Parameters, shape ``(..., d)``.
        v: Parameters, shape ``(..., d)``.
        x: Inputs, shape ``(..., N, d)``.

    Returns:
        Shape ``(..., N, N)``.

    Example:
        >>> tangent_kernel(torch.tensor([1.0]), torch.tensor([0.5]), torch.ones(1, 1))
        tensor([[1.2500]])
    """
    return (x * (u.square() + v.square()).unsqueeze(-2)) @ x.mT / x.shape[-2]


def sharpness(u: Tensor, v: Tensor, x: Tensor) -> Tensor:
    r"""Largest eigenvalue of the :func:`tangent_kernel`, which at an interpolator is that of the Hessian.

    Gradient descent of step :math:`\eta` can converge only to interpolators where it is at most :math:`2 / \eta`.

    Args:
        u: Parameters, shape ``(..., d)``.
        v: Parameters, shape ``(..., d)``.
        x: Inputs, shape ``(..., N, d)``.

    Returns:
        Shape ``(...)``.
    """
    return torch.linalg.eigvalsh(tangent_kernel(u, v, x))[..., -1]


def initial_stability_threshold(x: Tensor, init_scale: float | Tensor) -> Tensor:
    r"""The step size from which on the start is unstable, :math:`\eta_0 = 2 / \lambda_{\max}(K_0)`.

    .. math:: K_0 = \tfrac{4 \alpha^2}{N} X X^\top

    From a large start the loss between once and twice of it first rises, while the sharpness falls ("catapult"), and
    then converges; beyond, it diverges. From a small one it may diverge before.

    Args:
        x: Inputs, shape ``(..., N, d)``.
        init_scale: The scale alpha, > 0; a number or of a shape that broadcasts to ``(...)``.

    Returns:
        Shape ``(...)``.

    Source:
        Lewkowycz et al., *The Large Learning Rate Phase of Deep Learning*, 2020, for the catapult.

    Example:
        >>> initial_stability_threshold(torch.ones(1, 1), init_scale=0.5)
        tensor(2.)
    """
    largest = torch.linalg.matrix_norm(x, ord=2)
    return x.shape[-2] / (2 * init_scale**2 * largest.square())


def weighted_l1(beta: Tensor, x: Tensor) -> Tensor:
    r"""The norm that stability bounds, :math:`\sum_i \bar x_i^2 |\beta_i|`, with :math:`\bar x` the mean input.

    At an interpolator that is stable at step size :math:`\eta` it is at most :math:`1 / \eta`: the sharpness is at
    least :math:`\sum_i (u_i^2 + v_i^2) \bar x_i^2`, and :math:`u^2 + v^2 \ge 2 |\beta|`.

    Args:
        beta: Predictors, shape ``(..., d)``.
        x: Inputs, shape ``(..., N, d)``.

    Returns:
        Shape ``(...)``.

    Source:
        Nacson et al., ICML 2022: stability bounds a weighted l1 norm (the constants here are worked out for this loss).

    Example:
        >>> weighted_l1(torch.tensor([0.5, -1.0]), torch.tensor([[1.0, 3.0], [1.0, 1.0]]))
        tensor(4.5000)
    """
    return (x.mean(-2).square() * beta.abs()).sum(-1)


def minimum_l1(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """The interpolator of the smallest weighted l1 norm, by linear programming.

    Args:
        x: Inputs, shape ``(..., N, d)``.
        y: Targets, shape ``(..., N)``.
        weight: Weights of the coordinates, at least 0, shape ``(..., d)``; ``None`` for ones.

    Returns:
        Shape ``(..., d)``.

    Raises:
        ValueError: If nothing interpolates.

    Example:
        >>> minimum_l1(torch.tensor([[1.0, 2.0]]), torch.tensor([4.0]))
        tensor([0., 2.])
    """
    weight = torch.ones_like(x[..., 0, :]) if weight is None else weight.expand(x[..., 0, :].shape)
    num_samples, dim = x.shape[-2:]
    parts = (x.reshape(-1, num_samples, dim), y.reshape(-1, num_samples), weight.reshape(-1, dim))
    problems = zip(*(part.double().cpu().numpy() for part in parts))
    found = np.stack([_minimum_l1(*problem) for problem in problems])
    return torch.from_numpy(found).to(x).reshape(weight.shape)


def _minimum_l1(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    cost = weight / (weight.max() or 1.0)  # the solver's tolerance is absolute
    solution = linprog(np.concatenate([cost, cost]), A_eq=np.hstack([x, -x]), b_eq=y, bounds=(0, None))
    if solution.status == INFEASIBLE:
        raise ValueError(
            f"x and y must have an interpolator, got {len(x)} equations for {x.shape[1]} unknowns with none"
        )
    if not solution.success:
        raise RuntimeError(f"the linear program was not solved: {solution.message}")
    positive, negative = np.split(solution.x, 2)
    return positive - negative


def critical_step_size(x: Tensor, y: Tensor) -> Tensor:
    r"""The step size beyond which no interpolator is stable, :math:`\eta_c`.

    .. math:: \eta_c = 1 \big/ \min \big\{ \textstyle\sum_i \bar x_i^2 |\beta_i| : X \beta = y \big\}

    Just below it the stable ones are near the minimiser of that norm.

    Args:
        x: Inputs, shape ``(..., N, d)``.
        y: Targets, shape ``(..., N)``.

    Returns:
        Shape ``(...)``; infinite where an interpolator of norm 0 exists, as for ``y = 0``.

    Raises:
        ValueError: If nothing interpolates.

    Source:
        Worked out from the bound of Nacson et al., ICML 2022; see :func:`weighted_l1`.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> critical_step_size(x, torch.tensor([4.0])), critical_step_size(x, torch.tensor([0.0]))
        (tensor(0.2500), tensor(inf))
    """
    return 1 / weighted_l1(minimum_l1(x, y, x.mean(-2).square()), x)
