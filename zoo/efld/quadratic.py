"""Noisy sign-SGD on quadratics, on which its convergence theorem can be checked to the last constant."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zoo.efld.noise import SignNoise


class NoisySignQuadratics(nn.Module):
    r"""Descends on :math:`L(w) = \frac12 \sum_j K_j w_j^2` from a vector of ones, for all horizons and noises at once.

    A run of T steps has the learning rate :math:`1 / \sqrt T` and
    :math:`\alpha_t = \max(\sqrt 2 \kappa,\; 4 \|\nabla L(w_0)\|_\infty,\; 4 \|\nabla L(w_{t-1})\|_\infty)`, the last
    one's maximum taken over the replicas; batch gradients have Gaussian noise of standard deviation kappa in every
    component. The theorem then says, with c the largest alpha,

    .. math:: \frac1T \sum_{t=1}^T \mathbb E\, \|\nabla L(w_{t-1})\|^2 \le
        \frac{4 c}{\sqrt T} \Big(L(w_0) - L(w^*) + \tfrac12 \sum_j K_j\Big)

    Args:
        curvatures: The :math:`K_j > 0`.
        horizons: Numbers of steps T, at least 1.
        noise_std: The kappa >= 0; each is combined with each horizon.
        num_replicas: Runs of each combination.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Banerjee et al., *Stability Based Generalization Bounds for Exponential Family Langevin Dynamics*, ICML 2022,
        the theorem on noisy sign-SGD.

    Example:
        >>> runs = NoisySignQuadratics([0.5, 2.0], horizons=[100], noise_std=[0.0])
        >>> runs.run(100)
        >>> bool((runs.mean_squared_gradient() <= runs.bound()).all())
        True
    """

    curvatures: Tensor
    horizons: Tensor
    noise_std: Tensor
    least_alpha: Tensor
    w: Tensor
    squares: Tensor
    largest_alpha: Tensor
    steps: Tensor

    def __init__(
        self,
        curvatures: Sequence[float],
        horizons: Sequence[int],
        noise_std: Sequence[float] = (0.0,),
        num_replicas: int = 64,
    ) -> None:
        super().__init__()
        check_values("curvatures", curvatures, lambda k: 0 < k < math.inf, "finite and > 0")
        check_values("horizons", horizons, lambda t: t >= 1, "at least 1")
        check_values("noise_std", noise_std, lambda std: 0 <= std < math.inf, "finite and >= 0")
        if num_replicas < 1:
            raise ValueError(f"num_replicas must be at least 1, got {num_replicas}")
        settings = [(t, std) for std in noise_std for t in horizons]
        number = len(settings)
        self.noise = SignNoise()
        self.register_buffer("curvatures", torch.tensor(curvatures, dtype=torch.float64))
        self.register_buffer("horizons", torch.tensor([t for t, _ in settings]))
        self.register_buffer("noise_std", torch.tensor([std for _, std in settings], dtype=torch.float64))
        self.register_buffer("w", torch.ones(number, num_replicas, len(curvatures), dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(number, dtype=torch.float64))
        start = torch.full_like(self.noise_std, 4 * max(curvatures))
        self.register_buffer("least_alpha", torch.maximum(start, math.sqrt(2) * self.noise_std))
        self.register_buffer("largest_alpha", self.least_alpha.clone())
        self.register_buffer("steps", torch.tensor(0))

    def run(self, num_steps: int) -> None:
        """Take steps; a combination that has had its T of them stays where it is."""
        rates = self.horizons.rsqrt().double()
        for _ in range(num_steps):
            active = (self.steps < self.horizons).double()
            gradient = self.curvatures * self.w
            alpha = torch.maximum(self.least_alpha, 4 * gradient.abs().amax(dim=(1, 2)))
            self.largest_alpha = torch.maximum(self.largest_alpha, alpha * active)
            self.squares += active * gradient.square().sum(dim=2).mean(dim=1)
            batch = gradient + self.noise_std[:, None, None] * torch.randn_like(gradient)
            signs = self.noise.sample(batch / alpha[:, None, None])
            self.w -= (rates * active)[:, None, None] * signs
            self.steps += 1

    def mean_squared_gradient(self) -> Tensor:
        """The left side, over the steps so far; a value for each combination, horizons varying fastest."""
        return self.squares / torch.minimum(self.steps, self.horizons).clamp_min(1)

    def bound(self) -> Tensor:
        """The right side for the whole run, with the largest alpha so far."""
        total = self.curvatures.sum()  # twice the loss at the start, whose minimum is 0
        return 4 * self.largest_alpha / self.horizons.sqrt() * total


def check_values(name: str, values: Sequence[float], allowed: Callable[[float], bool], words: str) -> None:
    """Raise a ``ValueError`` if there are no values, or one is not allowed."""
    wrong = [value for value in values if not allowed(value)]
    if wrong or not values:
        raise ValueError(f"{name} must be one or more values that are {words}, got {list(values)}")
