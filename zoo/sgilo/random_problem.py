"""Compressed sensing with random generators as priors: many networks and numbers of measurements at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.sgilo.random_generator import RandomReLUGenerator, WeightScale


class RandomProblems:
    r"""Codes that are to be found from Gaussian measurements of what random networks make of them.

    .. math:: f(z) = \tfrac12 |A \, (G(z) - G(z^*))|^2, \qquad z^* \sim N(0, I), \; A_{ij} \sim N(0, 1/m)

    Each of S networks has a code z* of its own, and one random matrix, of whose rows a setting uses the first m: M
    settings cost little more than the largest one. Codes are of shape ``(S, M, C, k)``, with C chains for each. All is
    in float64, and gradients are in closed form.

    Args:
        widths: Of the networks, see :class:`~zoo.sgilo.RandomReLUGenerator`.
        num_measurements: m of every setting; ``None`` for one in which all of G(z) is seen.
        num_nets: S.
        weight_scale: Of the networks' weights.
        seed: Of networks, codes and measurements.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        The setting of Hand and Voroninski, COLT 2018, and of the theory of Daras et al., ICML 2022.

    Example:
        >>> problems = RandomProblems((4, 20, 100), num_measurements=[10, 40], num_nets=3)
        >>> z = problems.truth.expand(3, 2, 5, 4)
        >>> problems.objective(z).shape, bool(problems.gradient(z).abs().max() < 1e-12)
        (torch.Size([3, 2, 5]), True)
    """

    def __init__(
        self,
        widths: Sequence[int] = (20, 120, 720),
        num_measurements: Sequence[int] | None = None,
        num_nets: int = 1,
        weight_scale: WeightScale = "he",
        seed: int = 0,
    ) -> None:
        if num_measurements is not None and not (num_measurements and min(num_measurements) >= 1):
            raise ValueError(f"num_measurements must be at least 1, got {num_measurements}")
        self.generator = RandomReLUGenerator(widths, weight_scale, num_nets, seed)
        rng = torch.Generator().manual_seed(seed ^ 0x5DEECE66D)  # another stream than that of the weights
        draws = [self._draw(num_measurements, rng) for _ in range(num_nets)]
        truth, matrix = (torch.stack(parts) for parts in zip(*draws))
        self.truth = truth.view(num_nets, 1, 1, -1)
        self.matrix: Tensor | None = None
        self.row_weight: Tensor | None = None
        if num_measurements is not None:
            counts = torch.tensor(list(num_measurements))
            self.matrix = matrix
            self.row_weight = (torch.arange(matrix.shape[1]) < counts[:, None]) / counts[:, None].double()
        self.target = self._seen(self.generator(self.truth[:, 0]))

    def _draw(self, num_measurements: Sequence[int] | None, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """A code, and as many rows of a matrix as the largest setting needs, N(0, 1)."""
        widths, rows = self.generator.widths, max(num_measurements or [0])
        return tuple(  # type: ignore[return-value]
            torch.randn(shape, dtype=torch.float64, generator=rng) for shape in ((widths[0],), (rows, widths[-1]))
        )

    def to(self, device: torch.device) -> "RandomProblems":
        """Move everything to a device."""
        self.generator.to(device)
        self.truth, self.target = self.truth.to(device), self.target.to(device)
        if self.matrix is not None and self.row_weight is not None:
            self.matrix, self.row_weight = self.matrix.to(device), self.row_weight.to(device)
        return self

    @property
    def num_settings(self) -> int:
        """Settings M."""
        return 1 if self.row_weight is None else len(self.row_weight)

    def gradient(self, z: Tensor) -> Tensor:
        """The gradient of f, ``(S, M, C, k)``."""
        layers = self.generator.layers(z.flatten(1, 2))
        residual = self._weighted(self._seen(layers[-1]).sub_(self.target), z)
        cotangent = residual if self.matrix is None else residual @ self.matrix
        return self.generator.pull_back(layers, cotangent).view_as(z)

    def objective(self, z: Tensor) -> Tensor:
        """f, ``(S, M, C)``."""
        residual = self._seen(self.generator(z.flatten(1, 2))).sub_(self.target)
        return (residual * self._weighted(residual, z)).sum(-1).view(z.shape[:3]) / 2

    def hessian(self) -> Tensor:
        """The Hessian of f at z*, ``(S, M, k, k)``."""
        jacobian = self.generator.active_jacobian(self.truth[:, 0])
        if self.matrix is None or self.row_weight is None:
            return jacobian.mT @ jacobian
        seen = (self.matrix.unsqueeze(1) @ jacobian).expand(-1, self.num_settings, -1, -1)
        return seen.mT @ (self.row_weight.unsqueeze(-1) * seen)

    def _seen(self, x: Tensor) -> Tensor:
        """What all rows measure of images ``(S, B, n)``."""
        return x.clone() if self.matrix is None else x @ self.matrix.mT

    def _weighted(self, residual: Tensor, z: Tensor) -> Tensor:
        """Without the rows that a setting does not use, and scaled by 1 / m."""
        if self.row_weight is None:
            return residual
        by_setting = residual.view(len(z), self.num_settings, -1, residual.shape[-1])
        return (by_setting * self.row_weight.unsqueeze(1)).view_as(residual)
