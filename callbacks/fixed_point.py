"""How well fixed points are found and how stable they are: functions and metrics for deep equilibrium layers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric


def jacobian_spectral_radius(
    f: Callable[[Tensor], Tensor],
    z: Tensor,
    num_steps: int = 100,
    batch_dims: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Largest modulus of the eigenvalues of the Jacobian of f at each state: iteration converges near it if below 1.

    It is the growth :math:`(|v J^k| / |v J^{k/2}|)^{2/k}` of a random vector v, which also finds a pair of complex
    eigenvalues, where a Rayleigh quotient turns for ever. Where many eigenvalues lie close to the largest, it comes out
    low, by a percent or so.

    Args:
        f: Maps states ``(B, *)`` to states, sample by sample.
        z: The states.
        num_steps: The k, products with the Jacobian, at least 2.
        batch_dims: How many leading axes number the samples.
        generator: Source of v; the global one if ``None``.

    Returns:
        One radius for each sample.

    Raises:
        ValueError: If ``num_steps`` is out of range.

    Example:
        >>> turn = 0.5 * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> jacobian_spectral_radius(lambda z: z @ turn, torch.zeros(1, 2))
        tensor([0.5000])
    """
    if num_steps < 2:
        raise ValueError(f"num_steps must be at least 2, got {num_steps}")
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = f(z)
    axes = tuple(range(batch_dims, z.dim()))
    v = torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=generator)
    logarithms = torch.zeros(z.shape[:batch_dims], dtype=z.dtype, device=z.device)
    for step in range(num_steps):
        v = v / _norm(v, axes).clamp_min(torch.finfo(z.dtype).tiny)
        (v,) = torch.autograd.grad(value, z, v, retain_graph=step < num_steps - 1)
        if step >= num_steps // 2:
            logarithms += _norm(v, axes).log().view(logarithms.shape)
    return (logarithms / (num_steps - num_steps // 2)).exp()


def _norm(v: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(v, dim=axes, keepdim=True) if axes else v.abs()


def non_normality(weight: Tensor) -> Tensor:
    r"""How far matrices are from commuting with their transposes, :math:`\|W W^\top - W^\top W\|_F / \|W\|_F^2`.

    It is 0 for orthogonal and for symmetric matrices. Others may let a state grow before it shrinks.

    Args:
        weight: Matrices, shape ``(*, N, N)``.

    Returns:
        One number for each, shape ``(*,)``.

    Example:
        >>> non_normality(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor(1.4142)
    """
    commutator = weight @ weight.mT - weight.mT @ weight
    return torch.linalg.matrix_norm(commutator) / weight.square().sum((-2, -1))


class FixedPointResidual(Metric):
    """Residuals of a solver over batches and processes: their mean, the largest, and the share that has converged.

    Example:
        >>> metric = FixedPointResidual()
        >>> metric.update(torch.tensor([1e-5, 0.5]), converged=torch.tensor([True, False]))
        >>> {name: round(value.item(), 2) for name, value in metric.compute().items()}
        {'residual': 0.25, 'max_residual': 0.5, 'converged': 0.5}
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    largest: Tensor
    num_converged: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("largest", torch.zeros(()), dist_reduce_fx="max")
        self.add_state("num_converged", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, residual: Tensor, converged: Tensor) -> None:
        """Add samples.

        Args:
            residual: Of each sample, >= 0, of any shape; NaN counts as ``inf``.
            converged: Whether that is good enough, of the same shape.
        """
        if not residual.numel():
            return
        residual = residual.nan_to_num(math.inf, math.inf)
        self.total += residual.sum()
        self.largest = torch.maximum(self.largest, residual.max())
        self.num_converged += converged.sum()
        self.count += residual.numel()

    def compute(self) -> dict[str, Tensor]:
        """Mean and maximum of the residuals, and the share of samples that have converged."""
        return {
            "residual": self.total / self.count,
            "max_residual": self.largest,
            "converged": self.num_converged / self.count,
        }


class SolverIterations(Metric):
    """Iterations of a solver over batches and processes: their mean and the largest number.

    Example:
        >>> metric = SolverIterations()
        >>> metric.update(torch.tensor([3, 5]))
        >>> metric.compute()
        {'iterations': tensor(4.), 'max_iterations': tensor(5.)}
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    largest: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("largest", torch.zeros(()), dist_reduce_fx="max")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, num_iterations: Tensor) -> None:
        """Add samples.

        Args:
            num_iterations: Of each sample, of any shape.
        """
        if num_iterations.numel():
            self.total += num_iterations.sum()
            self.largest = torch.maximum(self.largest, num_iterations.max().to(self.largest.dtype))
            self.count += num_iterations.numel()

    def compute(self) -> dict[str, Tensor]:
        """Mean and maximum."""
        return {"iterations": self.total / self.count, "max_iterations": self.largest}


class LengthMap(Metric):
    r"""Squared length of states over that of their injections, :math:`|z|^2 / |u|^2`: its mean and relative spread.

    Example:
        >>> metric = LengthMap()
        >>> metric.update(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.ones(2, 2))
        >>> metric.compute()
        {'length_map': tensor(2.5000), 'length_fluctuation': tensor(0.8000)}
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "squares", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, z: Tensor, u: Tensor) -> None:
        """Add samples.

        Args:
            z: States, the last axis being that of their numbers, shape ``(*, N)``.
            u: Injections, of the same shape.
        """
        ratios = (z.detach().square().sum(-1) / u.detach().square().sum(-1)).double()
        self.total += ratios.sum()
        self.squares += ratios.square().sum()
        self.count += ratios.numel()

    def compute(self) -> dict[str, Tensor]:
        """Mean ratio, and its standard deviation over the samples divided by the mean."""
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp_min(0)
        return {"length_map": mean.float(), "length_fluctuation": (variance.sqrt() / mean).float()}
