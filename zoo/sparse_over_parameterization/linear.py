"""The linear model of the theory: a low-rank signal with a sparse corruption, told apart by gradient descent."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CorruptedSystem:
    r"""Instances of :math:`y = J \theta_* + s_*`, M in number.

    Attributes:
        design: The matrices J, shape ``(M, N, P)``.
        theta: The signals, shape ``(M, P)``, in the row spaces of J.
        s: The corruptions, shape ``(M, N)``.
    """

    design: Tensor
    theta: Tensor
    s: Tensor

    @property
    def y(self) -> Tensor:
        """What is observed, shape ``(M, N)``."""
        return matvec(self.design, self.theta) + self.s

    def relative_error(self, theta: Tensor) -> Tensor:
        """Distance of an estimate ``(M, P)`` from the signal, relative to the signal's length; shape ``(M,)``."""
        return (theta - self.theta).norm(dim=1) / self.theta.norm(dim=1)


def corrupted_system(
    num_instances: int,
    num_samples: int = 50,
    num_features: int = 70,
    rank: int = 4,
    num_corrupted: int = 4,
    generator: torch.Generator | None = None,
) -> CorruptedSystem:
    r"""Draw instances whose design is incoherent, :math:`J = \tfrac 1 2 \sqrt{N / r} \, Q R^\top`.

    Q and R have random orthonormal columns; the signal has length 2; corruptions are uniform in [1, 2], of random sign.

    Args:
        num_instances: Instances M.
        num_samples: Rows N.
        num_features: Columns P.
        rank: Rank r of the design, at most N and P.
        num_corrupted: Corrupted samples of each instance, in [0, N].
        generator: Source of randomness; the global one if ``None``.

    Returns:
        The instances, in float64.

    Raises:
        ValueError: If an argument is out of range.
    """
    sizes = {"num_instances": num_instances, "num_samples": num_samples, "num_features": num_features, "rank": rank}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if rank > min(num_samples, num_features):
        raise ValueError(f"rank must be at most {min(num_samples, num_features)}, got {rank}")
    if not 0 <= num_corrupted <= num_samples:
        raise ValueError(f"num_corrupted must be in [0, {num_samples}], got {num_corrupted}")

    def normal(*shape: int) -> Tensor:
        return torch.randn(num_instances, *shape, dtype=torch.float64, generator=generator)

    left, right = (torch.linalg.qr(normal(length, rank)).Q for length in (num_samples, num_features))
    theta = matvec(right, normal(rank))
    position = torch.rand(num_instances, num_samples, generator=generator).argsort(dim=1)
    magnitude = 1 + torch.rand(num_instances, num_samples, dtype=torch.float64, generator=generator)
    return CorruptedSystem(
        0.5 * (num_samples / rank) ** 0.5 * left @ right.mT,
        2 * theta / theta.norm(dim=1, keepdim=True),
        torch.where(position < num_corrupted, magnitude * normal(num_samples).sign(), 0.0),
    )


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """Products of matrices ``(M, N, P)`` and vectors ``(M, P)``, shape ``(M, N)``."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


class OverparamLinear(nn.Module):
    r"""Gradient descent on :math:`\tfrac 1 2 \|J\theta + u \circ u - v \circ v - y\|^2` from a tiny start.

    There are many solutions. With :math:`\theta = 0` and :math:`u = v = \gamma` at the start, and steps that are
    :math:`\alpha` times as long in u and v as in :math:`\theta`, descent goes to the one that solves

    .. math:: \min_{\theta, s} \tfrac 1 2 \|\theta\|^2 + \lambda \|s\|_1 \quad \text{s.t.} \quad y = J \theta + s,
        \qquad \lambda = -\frac{\log \gamma}{2 \alpha}

    as :math:`\gamma` goes to 0: the true signal and corruption, where the corruption is sparse, the design incoherent
    and :math:`\lambda` large. Instances are solved side by side.

    Args:
        design: The matrices J, shape ``(M, N, P)``.
        y: Shape ``(M, N)``.
        alpha: Step size of u and v in units of that of theta, > 0; one, or one for each instance.
        gamma: Where u and v start, in (0, 1); one, or one for each instance.
        lr: Step size of theta; ``None`` for 1/12, or ``0.05 / alpha`` where alpha is at least 1.

    Attributes:
        theta: The signal, shape ``(M, P)``.
        u: Shape ``(M, N)``.
        v: Shape ``(M, N)``.

    Raises:
        ValueError: If an argument has another shape or is out of range.

    Source:
        Liu et al., *Robust Training under Label Noise by Over-parameterization*, ICML 2022, section 4.

    Example:
        >>> system = corrupted_system(3, rank=2, generator=torch.Generator().manual_seed(0))
        >>> model = OverparamLinear(system.design, system.y, alpha=0.5, gamma=1e-6).fit(3000)
        >>> system.relative_error(model.theta) < 1e-3
        tensor([True, True, True])
    """

    design: Tensor
    y: Tensor
    alpha: Tensor
    gamma: Tensor
    lr: Tensor
    theta: Tensor
    u: Tensor
    v: Tensor

    def __init__(
        self,
        design: Tensor,
        y: Tensor,
        alpha: float | Tensor = 0.5,
        gamma: float | Tensor = 1e-8,
        lr: float | Tensor | None = None,
    ) -> None:
        super().__init__()
        _check_system(design, y)
        self.register_buffer("design", design)
        self.register_buffer("y", y)
        self.register_buffer("alpha", _for_each("alpha", alpha, y))
        self.register_buffer("gamma", _for_each("gamma", gamma, y))
        if (self.gamma >= 1).any():
            raise ValueError(f"gamma must be in (0, 1), got {gamma}")
        steps = torch.where(self.alpha < 1, 1 / 12, 0.05 / self.alpha) if lr is None else _for_each("lr", lr, y)
        self.register_buffer("lr", steps)
        self.register_buffer("theta", torch.zeros_like(design[:, 0]))
        self.register_buffer("u", self.gamma.expand_as(y).clone())
        self.register_buffer("v", self.u.clone())

    @property
    def lam(self) -> Tensor:
        """The weight of the L1 norm that descent from this start amounts to, shape ``(M,)``."""
        return (-self.gamma.log() / (2 * self.alpha)).flatten()

    @property
    def s(self) -> Tensor:
        """The corruption, shape ``(M, N)``."""
        return self.u.square() - self.v.square()

    def fit(self, num_steps: int) -> "OverparamLinear":
        """Descend.

        Args:
            num_steps: How many steps.

        Returns:
            The model itself.
        """
        transposed = self.design.mT.contiguous()
        rate = 2 * self.alpha * self.lr
        for _ in range(num_steps):
            error = matvec(self.design, self.theta) + self.s - self.y
            self.theta -= self.lr * matvec(transposed, error)
            growth = rate * error
            self.u *= 1 - growth
            self.v *= 1 + growth
        return self


def sparse_recovery(
    design: Tensor, y: Tensor, lam: float | Tensor, num_steps: int = 20_000, tol: float = 1e-13
) -> tuple[Tensor, Tensor]:
    r"""Solve the convex program that descent of :class:`OverparamLinear` amounts to.

    Projected accelerated ascent on the dual, with restarts:

    .. math:: \max_{\|w\|_\infty \le \lambda} \; y^\top w - \tfrac 1 2 \|J^\top w\|^2,
        \qquad \theta = J^\top w, \quad s = y - J \theta

    Args:
        design: The matrices J, shape ``(M, N, P)``.
        y: Shape ``(M, N)``.
        lam: Weight of the L1 norm, > 0; one, or one for each instance.
        num_steps: At most so many steps.
        tol: Stop when no step of the dual is longer, in units of ``lam``.

    Returns:
        The signal ``(M, P)`` and the corruption ``(M, N)``.

    Raises:
        ValueError: If an argument has another shape or is out of range.

    Source:
        Beck and Teboulle, *A Fast Iterative Shrinkage-Thresholding Algorithm*, 2009; restarts by O'Donoghue and Candès,
        *Adaptive Restart for Accelerated Gradient Schemes*, 2015.

    Example:
        >>> theta, s = sparse_recovery(torch.ones(1, 3, 1), torch.tensor([[1.0, 1.0, 5.0]]), lam=10.0)
        >>> theta, s  # the median, and the outlier
        (tensor([[1.]]), tensor([[0., 0., 4.]]))
    """
    _check_system(design, y)
    bound = _for_each("lam", lam, y)
    transposed = design.mT.contiguous()
    step = torch.linalg.matrix_norm(design, ord=2)[:, None].square().reciprocal()
    w = torch.zeros_like(y)
    ahead, momentum = w, torch.ones_like(bound)
    for _ in range(num_steps):
        gradient = y - matvec(design, matvec(transposed, ahead))
        new = torch.clamp(ahead + step * gradient, -bound, bound)
        uphill = ((new - ahead) * (new - w)).sum(dim=1, keepdim=True) >= 0
        momentum = torch.where(uphill, momentum, 1.0)
        following = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = new + torch.where(uphill, (momentum - 1) / following, 0.0) * (new - w)
        moved = ((new - w).abs() / bound).max()
        w, momentum = new, following
        if moved <= tol:
            break
    theta = matvec(transposed, w)
    return theta, y - matvec(design, theta)


def _check_system(design: Tensor, y: Tensor) -> None:
    if design.ndim != 3:
        raise ValueError(f"design must have the shape (M, N, P), got {tuple(design.shape)}")
    if y.shape != design.shape[:2]:
        raise ValueError(f"y must have the shape {tuple(design.shape[:2])}, got {tuple(y.shape)}")


def _for_each(name: str, value: float | Tensor, y: Tensor) -> Tensor:
    """One value for each instance, shape ``(M, 1)``; all must be > 0."""
    values = torch.as_tensor(value, dtype=y.dtype, device=y.device)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != len(y)):
        raise ValueError(f"{name} must be one value, or one for each of {len(y)} instances, got {tuple(values.shape)}")
    if not bool((values > 0).all()):
        raise ValueError(f"{name} must be > 0, got {value}")
    return values.expand(len(y)).unsqueeze(1).clone()
