"""Where gradient flow goes, without following it: the limit of small steps."""

import torch
from torch import Tensor

MAX_ITERATIONS, MAX_HALVINGS = 200, 60
TOL = 1e-12  # of the residual, in the units of the targets


def flow_potential(beta: Tensor, init_scale: float | Tensor) -> Tensor:
    r"""What gradient flow minimises among the interpolators, when it starts at scale alpha.

    .. math:: Q_\alpha(\beta) = \sum_i \alpha^2 q(\beta_i / \alpha^2), \qquad
              q(z) = 2 - \sqrt{4 + z^2} + z \, \mathrm{arcsinh}(z / 2)

    For large alpha it is :math:`\|\beta\|^2 / 4 \alpha^2` (the kernel regime), for small alpha
    :math:`\log(1 / \alpha^2) \|\beta\|_1` to leading order (the rich one).

    Args:
        beta: Predictors, shape ``(..., d)``.
        init_scale: The scale alpha, > 0; a number or of a shape that broadcasts to ``(...)``.

    Returns:
        Shape ``(...)``.

    Source:
        Woodworth et al., *Kernel and Rich Regimes in Overparametrized Models*, COLT 2020, theorem 1.

    Example:
        >>> flow_potential(torch.tensor([2.0]), init_scale=100.0) * 4e4  # 2^2
        tensor(4.)
    """
    square = torch.as_tensor(init_scale, dtype=beta.dtype, device=beta.device).square().unsqueeze(-1)
    z = beta / square
    root = torch.hypot(z, torch.full_like(z, 2.0))
    return (square * z * (torch.asinh(z / 2) - z / (2 + root))).sum(-1)  # 2 - root without cancellation


def gradient_flow_limit(x: Tensor, y: Tensor, init_scale: float | Tensor) -> Tensor:
    r"""The interpolator to which gradient flow converges: the minimiser of :func:`flow_potential`.

    It is :math:`\beta = 2 \alpha^2 \sinh(X^\top \nu)`, with multipliers that Newton's method finds. Where nothing
    interpolates, the predictors of least squares take the interpolators' place.

    Args:
        x: Inputs, shape ``(..., N, d)``.
        y: Targets, shape ``(..., N)``.
        init_scale: The scale alpha, > 0; a number or of a shape that broadcasts to ``(...)``.

    Returns:
        Shape ``(..., d)``, accurate as float64.

    Raises:
        ValueError: If ``init_scale`` is not positive.
        RuntimeError: If Newton's method did not converge.

    Source:
        Woodworth et al., COLT 2020, theorem 1; the multipliers are worked out from it.

    Example:
        >>> gradient_flow_limit(torch.tensor([[1.0, 1.0]]), torch.tensor([3.0]), init_scale=0.1)
        tensor([1.5000, 1.5000])
    """
    scale = torch.as_tensor(init_scale, dtype=torch.float64, device=x.device)
    if not bool((scale > 0).all()):
        raise ValueError(f"init_scale must be > 0, got {init_scale}")
    leading = torch.broadcast_shapes(x.shape[:-2], y.shape[:-1], scale.shape)
    problems = zip(
        x.double().expand(*leading, *x.shape[-2:]).reshape(-1, *x.shape[-2:]),
        y.double().expand(*leading, y.shape[-1]).reshape(-1, y.shape[-1]),
        scale.expand(leading).reshape(-1),
    )
    found = torch.stack([_limit(*problem) for problem in problems])
    return found.reshape(*leading, x.shape[-1]).to(x.dtype)


def _limit(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """The limit of one problem, ``(d,)``."""
    rows, targets = _orthonormal(x, y)
    balance = 2 * scale.square()
    size = max(1.0, float(targets.norm()))
    nu = torch.zeros_like(targets)
    for _ in range(MAX_ITERATIONS):
        s = nu @ rows
        residual = rows @ (balance * s.sinh()) - targets
        error = residual.norm()
        if error <= TOL * size:
            return balance * s.sinh()
        jacobian = (rows * (balance * s.cosh())) @ rows.T
        step = torch.linalg.solve(jacobian, residual)
        for _ in range(MAX_HALVINGS):  # sinh overflows after a step that is too long
            ahead = (rows @ (balance * ((nu - step) @ rows).sinh()) - targets).norm()
            if ahead < error:
                break
            step = step / 2
        nu = nu - step
    raise RuntimeError(f"Newton's method did not converge: residual {float(error):.1e} at init_scale {float(scale):g}")


def _orthonormal(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The same equations, in the sense of least squares, with orthonormal rows and none that repeats others."""
    left, values, rows = torch.linalg.svd(x, full_matrices=False)
    kept = values > values[0] * max(x.shape) * torch.finfo(x.dtype).eps
    left, values, rows = left[:, kept], values[kept], rows[kept]
    return rows, left.T @ y / values
