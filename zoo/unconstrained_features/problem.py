"""The landscape of unconstrained-features models: global minimisers and other critical points in closed form."""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from scipy.linalg import helmert
from torch import Tensor

from zoo.unconstrained_features.solution import (
    Structure,
    UFMSolution,
    stationary_value,
    symmetric,
)

Point = dict[str, Tensor]
BASIN = 4.0  # the factor by which a typical singular value must be larger than needed, so that the smallest is too


class UFMProblem:
    """Sizes and decays of S unconstrained-features models, and what is known of their landscapes.

    Args: as those of :class:`~zoo.unconstrained_features.UnconstrainedFeatures`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        samples_per_class: int,
        num_features: int,
        depth: int = 1,
        activation: Literal["relu"] | None = None,
        bias: bool = False,
        weight_decay: float | Sequence[float] | Sequence[Sequence[float]] = 5e-3,
        feature_decay: float | Sequence[float] = 1e-3,
        bias_decay: float | Sequence[float] = 0.0,
        alpha: float = 1.0,
        M: float = 1.0,
        num_replicas: int = 1,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        sizes = {"samples_per_class": samples_per_class, "num_features": num_features}
        for name, size in {**sizes, "depth": depth, "num_replicas": num_replicas}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if activation not in (None, "relu"):
            raise ValueError(f"activation must be None or 'relu', got {activation!r}")
        if activation and depth == 1:
            raise ValueError("depth must be at least 2 with an activation, which stands between weights, got 1")
        for name, value in {"alpha": alpha, "M": M}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be > 0, got {value}")
        self.num_classes, self.samples_per_class, self.num_features = num_classes, samples_per_class, num_features
        self.depth, self.activation, self.has_bias, self.alpha, self.M = depth, activation, bias, alpha, M
        self.num_replicas, self.dtype = num_replicas, dtype
        self.weight_decay = layer_decays(weight_decay, num_replicas, depth).to(dtype)
        self.feature_decay = per_replica("feature_decay", feature_decay, num_replicas).to(dtype)
        self.bias_decay = per_replica("bias_decay", bias_decay, num_replicas, zero=True).to(dtype)
        if not bias and self.bias_decay.any():
            raise ValueError(f"bias_decay must be 0 without a bias, got {bias_decay}")

    @property
    def kappa(self) -> Tensor:
        r"""The decays in one, :math:`\kappa = (n \lambda_H \lambda_1 \cdots \lambda_L)^{1 / (L + 1)}`, ``(S,)``."""
        product = self.samples_per_class * self.feature_decay * self.weight_decay.prod(dim=1)
        return product ** (1 / (self.depth + 1))

    @property
    def _strength(self) -> Tensor:
        return self.num_classes * self.kappa * self.M ** (-2 * self.depth / (self.depth + 1))

    @property
    def ones_share(self) -> Tensor:
        r"""Share q of the error along the all-ones direction that the best bias leaves to the weights, ``(S,)``.

        It is 1 without a bias and :math:`\lambda_b / (1 + \lambda_b)` with one, 0 if the bias is free.
        """
        if not self.has_bias:
            return torch.ones_like(self.bias_decay)
        return self.bias_decay / (1 + self.bias_decay)

    def _stationary(self, share: Tensor) -> Tensor:
        """The singular value off zero at which a direction with this share of the error is stationary, NaN if none."""
        return self.M * stationary_value(self._strength / share, self.depth)

    def _best(self, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best singular value of a direction, what it costs, and what 0 costs."""
        sigma = self._stationary(share).nan_to_num(0.0)
        cost = share * (sigma - self.M) ** 2 / (2 * self.num_classes) + (self.depth + 1) / 2 * self._weighted(sigma)
        cost_of_zero = share * self.M**2 / (2 * self.num_classes)
        return torch.where(cost < cost_of_zero, sigma, 0.0), torch.minimum(cost, cost_of_zero), cost_of_zero

    def closed_form(self) -> UFMSolution:
        r"""The global minimisers.

        Each of the K singular directions of Y decouples. One of singular value sigma costs

        .. math:: \frac{q}{2 K} (\sigma - M)^2 + \frac{L + 1}{2} \kappa \, \sigma^{2 / (L + 1)}

        with q = 1 (along the all-ones vector: :attr:`ones_share`), by the inequality of the arithmetic and the
        geometric mean over the factors, and von Neumann's and Horn's inequalities for singular values. The minimum is
        at zero or at the larger root of :math:`\sigma^{(L-1)/(L+1)} (M - \sigma) \propto K \kappa / q`. With ``alpha``
        other than 1 and L = 1 the problem is convex in the product and unchanged by permutations of the classes, so
        that a symmetric solution is optimal.

        With ReLU and L = 2 the linear model's minimum is attained by non-negative features; that nothing is below is
        not proved here. The Gram matrix of the first layer is then not determined, and NaN.

        Raises:
            NotImplementedError: With ReLU and a bias, or more than two layers, or fewer dimensions than classes; with
                ``alpha`` other than 1 and anything but L = 1, a free bias and at least K - 1 dimensions.

        Example:
            >>> problem = UFMProblem(2, 1, 2, depth=2, weight_decay=0.12195, feature_decay=0.12195)
            >>> solution = problem.closed_form()
            >>> solution.sigma, solution.objective, solution.structure
            (tensor([0.7290], dtype=torch.float64), tensor([0.3331], dtype=torch.float64), ('OF',))
        """
        self._check_solvable()
        if self.alpha != 1:
            return self._rescaled_closed_form()
        kept = min(self.num_features, self.num_classes - 1)
        sigma, cost, cost_of_zero = self._best(torch.ones_like(self.kappa))
        sigma_ones, cost_of_ones, cost_of_no_ones = self._best(self.ones_share)
        if self.num_features < self.num_classes:
            sigma_ones, cost_of_ones = torch.zeros_like(sigma), cost_of_no_ones
        objective = kept * cost + (self.num_classes - 1 - kept) * cost_of_zero + cost_of_ones
        return self._solution(sigma, sigma_ones, self._best_bias(sigma_ones), objective)

    def _check_solvable(self) -> None:
        if self.activation and self.has_bias:
            raise NotImplementedError("the minimisers with activation 'relu' and a bias are not known")
        if self.activation and self.depth > 2:
            raise NotImplementedError(f"with activation 'relu' depth must be 2, got {self.depth}: others are not known")
        if self.activation and self.num_features < self.num_classes:
            raise NotImplementedError(
                f"with activation 'relu' num_features must be at least {self.num_classes}, got {self.num_features}"
            )
        if self.alpha == 1:
            return
        if self.depth > 1 or not self.has_bias or self.bias_decay.any() or self.num_features < self.num_classes - 1:
            raise NotImplementedError(
                f"with alpha other than 1 the minimisers are known for depth 1, a bias without decay and num_features "
                f"of at least {self.num_classes - 1}, got alpha {self.alpha}"
            )

    def _best_bias(self, sigma_ones: Tensor) -> Tensor:
        if not self.has_bias:
            return torch.zeros_like(sigma_ones)
        return (self.M - sigma_ones) / (self.num_classes * (1 + self.bias_decay))

    def _rescaled_closed_form(self) -> UFMSolution:
        """Diagonal and off-diagonal output are stationary by themselves, since the bias is free."""
        others = self.num_classes - 1
        off = self.kappa
        diagonal = self.M - others * self.kappa / self.alpha
        flat = self.alpha * self.M / (self.alpha + others)  # the best bias alone
        zero = diagonal <= off
        diagonal, off = torch.where(zero, flat, diagonal), torch.where(zero, flat, off)
        sigma = diagonal - off
        objective = (self.alpha * (diagonal - self.M) ** 2 + others * off**2) / 2 + others * self.kappa * sigma
        return self._solution(sigma, torch.zeros_like(sigma), off + sigma / self.num_classes, objective)

    def _solution(self, sigma: Tensor, sigma_ones: Tensor, bias: Tensor, objective: Tensor) -> UFMSolution:
        low_rank = self.num_features < self.num_classes - self.has_bias
        squares = zip(self._squares(sigma), self._squares(sigma_ones))
        grams = torch.stack([symmetric(others, ones, self.num_classes) for others, ones in squares], dim=1)
        if low_rank:  # which directions are kept is free
            grams[sigma > 0] = torch.nan
        if self.activation:
            grams[sigma > 0, 0] = torch.nan
        structure = [self._structure(bool(s > 0), bool(ones > 0), low_rank) for s, ones in zip(sigma, sigma_ones)]
        return UFMSolution(sigma, sigma_ones, bias, objective, grams, sigma == 0, tuple(structure))

    def _squares(self, sigma: Tensor) -> Iterator[Tensor]:
        """Squared singular value of the class means in every layer, at balanced factors of a product with this one."""
        total = self._weighted(sigma)
        square = total / (self.samples_per_class * self.feature_decay)
        for decay in self.weight_decay.unbind(1):
            yield square
            square = square * total / decay

    def _weighted(self, sigma: Tensor) -> Tensor:
        r"""What every factor's squared singular value is, times its decay: :math:`\kappa \, \sigma^{2 / (L + 1)}`."""
        return self.kappa * sigma ** (2 / (self.depth + 1))

    def _structure(self, kept: bool, ones: bool, low_rank: bool) -> Structure:
        if not kept:
            return "zero"
        if low_rank:
            return "low rank"
        if not self.has_bias:
            return "OF"
        return "interpolated" if ones else "ETF"

    def minimiser(self, generator: torch.Generator | None = None) -> Point:
        """A global minimiser, randomly rotated in the feature space (as far as ReLU allows).

        Args:
            generator: Source of the rotations; the global one if ``None``.

        Returns:
            The parameters by name, for ``UnconstrainedFeatures.place``.

        Raises:
            NotImplementedError: As in :meth:`closed_form`.
        """
        solution = self.closed_form()
        values = solution.sigma.unsqueeze(1).repeat(1, self.num_classes)
        values[:, -1] = solution.sigma_ones
        return self._point(values, solution.bias, generator)

    def critical_point(self, rank: int | None = None, generator: torch.Generator | None = None) -> Point:
        """A critical point whose product of weights and features has this rank, randomly rotated in the feature space.

        Its directions are stationary off zero, whether or not zero would be better for them.

        Args:
            rank: Number of directions, those off the all-ones vector first; ``None`` for as many as there are.
            generator: Source of the rotations; the global one if ``None``.

        Returns:
            The parameters by name, for ``UnconstrainedFeatures.place``.

        Raises:
            ValueError: If there is no such point.
            NotImplementedError: With ReLU, where only the full rank is known, or as in :meth:`closed_form`; or with
                ``alpha`` other than 1.
        """
        self._check_solvable()
        if self.alpha != 1:
            raise NotImplementedError(f"with alpha other than 1 critical points are not known, got {self.alpha}")
        sigma, sigma_ones = (self._stationary(share) for share in (torch.ones_like(self.kappa), self.ones_share))
        if rank != 0 and sigma.isnan().any():
            raise ValueError(f"rank must be 0 with decays as large as these, got {rank}")
        directions = self.num_classes - bool(sigma_ones.isnan().any())
        highest = min(directions, self.num_features)
        rank = highest if rank is None else rank
        if not 0 <= rank <= highest:
            raise ValueError(f"rank must be in [0, {highest}], got {rank}")
        if self.activation and rank not in (0, self.num_classes):
            raise NotImplementedError(f"with activation 'relu' rank must be 0 or {self.num_classes}, got {rank}")
        values = torch.stack([sigma] * (self.num_classes - 1) + [sigma_ones], dim=1)
        values[:, rank:] = 0.0
        return self._point(values, self._best_bias(values[:, -1]), generator)

    def saddle(self, rank: int, generator: torch.Generator | None = None) -> Point:
        r"""A critical point of the plain model that is no minimum: all but ``rank`` directions are lost.

        Its smallest Hessian eigenvalue is
        :math:`(\lambda_W + \lambda_H) / 2 - \sqrt{(\lambda_W - \lambda_H)^2 / 4 + M^2 / (K^2 n)}`, whatever the rank.
        With d dimensions, d - rank eigenvalues are negative for each direction that is lost and that the minimum keeps.

        Args:
            rank: Directions that are kept, fewer than the minimum keeps.
            generator: Source of the rotations; the global one if ``None``.

        Returns:
            The parameters by name, for ``UnconstrainedFeatures.place``.

        Raises:
            ValueError: If there is no such saddle.
            NotImplementedError: With more than one layer, where such points may be local minima.
        """
        if self.depth > 1:
            raise NotImplementedError(f"saddles are known for depth 1, got {self.depth}: see critical_point")
        solution = self.closed_form()
        kept = torch.where(solution.sigma > 0, min(self.num_features, self.num_classes - 1), 0)
        kept += (solution.sigma_ones > 0).long()
        highest = int(kept.min()) - 1
        if not 0 <= rank <= highest:
            raise ValueError(f"rank must be in [0, {highest}], as the minimum keeps {highest + 1}, got {rank}")
        return self.critical_point(rank, generator)

    def _point(self, values: Tensor, bias: Tensor, generator: torch.Generator | None) -> Point:
        """Balanced factors of a product with these singular values ``(S, K)`` in the basis of classes' directions."""
        columns = min(self.num_classes, self.num_features)
        values = values[:, :columns]
        total = self._weighted(values.mT).mT
        classes = self._class_basis()[:, :columns]
        bases = [self._basis(columns, generator) for _ in range(self.depth)]
        if self.activation:  # one class, one dimension
            bases[1:] = [torch.eye(self.num_features, columns).to(values).expand_as(basis) for basis in bases[1:]]
        scale = (total / (self.samples_per_class * self.feature_decay.unsqueeze(1))).sqrt()
        means = (bases[0] * scale.unsqueeze(1)) @ classes.mT
        point = {"features": means.repeat_interleave(self.samples_per_class, dim=2)}
        for index, (left, right) in enumerate(zip([*bases[1:], classes], bases)):
            scale = (total / self.weight_decay[:, index, None]).sqrt()
            point[f"weights.{index}"] = (left * scale.unsqueeze(1)) @ right.mT
        if self.has_bias:
            point["bias"] = bias.unsqueeze(1).expand(-1, self.num_classes)
        return point

    def _class_basis(self) -> Tensor:
        """Orthonormal directions of the classes, the all-ones one last; those of single classes with an activation."""
        if self.activation:
            return torch.eye(self.num_classes).to(self.dtype)
        rows = torch.from_numpy(helmert(self.num_classes, full=True)).to(self.dtype)
        return rows.roll(-1, dims=0).mT

    def _basis(self, columns: int, generator: torch.Generator | None) -> Tensor:
        """Random orthonormal columns, ``(S, d, columns)``."""
        size = (self.num_replicas, self.num_features, columns)
        gaussian = torch.randn(size, dtype=self.dtype, generator=generator)
        return torch.linalg.qr(gaussian).Q

    def start_gain(self, init_std: Tensor) -> Tensor:
        """Typical singular value of a normal start's product, over the one from which gradient flow lets it grow.

        Args:
            init_std: Standard deviations of the start, ``(S,)``.
        """
        product = init_std ** (self.depth + 1) * self.num_features ** (self.depth / 2)
        typical = product * (self.num_classes / self.samples_per_class) ** 0.5
        return typical / (self.M * self._strength ** ((self.depth + 1) / (self.depth - 1)))

    def warn(self, init_std: Tensor) -> None:
        """Say if the minimum is zero, or if a normal start may lead there though the minimum is elsewhere."""
        if self.samples_per_class == 1:
            warnings.warn("with samples_per_class 1 features cannot vary within a class", stacklevel=3)
        if self.alpha == 1 and (self._best(torch.ones_like(self.kappa))[0] == 0).any():
            warnings.warn("the decays are so large that the global minimiser is zero", stacklevel=3)
        elif self.depth > 1 and (self.start_gain(init_std) < BASIN).any():
            warnings.warn(f"init_std may be too small to get away from zero, got {init_std.min():g}", stacklevel=3)


def per_replica(name: str, value: float | Sequence[float], num_replicas: int, zero: bool = False) -> Tensor:
    """One value for each replica, ``(S,)``, all > 0 or, if ``zero``, >= 0.

    Raises:
        ValueError: If there are more or fewer, or one is out of range.
    """
    values = torch.as_tensor(value, dtype=torch.float64)
    if values.shape not in ((), (num_replicas,)):
        raise ValueError(f"{name} must be one value, or one for each of {num_replicas} replicas, got {value}")
    if not bool(((values >= 0) if zero else (values > 0)).all()):
        raise ValueError(f"{name} must be {'>= 0' if zero else '> 0'}, got {value}")
    return values.expand(num_replicas)


def layer_decays(value: float | Sequence[float] | Sequence[Sequence[float]], num_replicas: int, depth: int) -> Tensor:
    """Decays of the weights, ``(S, L)``, that of the first layer first; given with that of the last layer first.

    Raises:
        ValueError: If there are more or fewer, or one is out of range.
    """
    values = torch.as_tensor(value, dtype=torch.float64)
    if values.shape not in ((), (depth,), (num_replicas, depth)):
        raise ValueError(
            f"weight_decay must be one value, {depth} for the layers, or {num_replicas} times {depth}, got {value}"
        )
    if not bool((values > 0).all()):
        raise ValueError(f"weight_decay must be > 0, got {value}")
    return values.expand(num_replicas, depth).flip(1)
