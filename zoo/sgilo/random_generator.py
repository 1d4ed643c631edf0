"""Random expansive ReLU networks, the generators of the theory, and what is known of them in closed form."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zoo.sgilo.generator import SplitGenerator

WeightScale = Literal["he", "hand_voroninski"]
VARIANCES = {"he": 2.0, "hand_voroninski": 1.0}  # of a weight, times the width of its layer


class RandomReLUGenerator(SplitGenerator):
    r"""A generator with Gaussian weights and a ReLU after every layer, or a stack of such.

    .. math:: G(z) = \mathrm{relu}(W_d \dots \mathrm{relu}(W_1 z)), \qquad W_i \sim N(0, c / n_i)

    Every split is behind a ReLU. A stack of S networks takes codes ``(S, B, k)`` and makes ``(S, B, n)`` of them.

    Args:
        widths: k, the widths of the hidden layers, and n. The theory wants them to grow by a factor that is large
            enough.
        weight_scale: ``"he"``, c = 2, keeps the length of a vector on average; ``"hand_voroninski"``, c = 1, halves its
            square with every layer, and so divides gradients and curvatures by :math:`2^d`.
        num_nets: S; ``None`` for a single network, without the leading axis.
        seed: Of the weights. The networks of a seed are the same whatever their number.
        dtype: Of the weights.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Hand and Voroninski, *Global Guarantees for Enforcing Deep Generative Priors by Empirical Risk*, COLT 2018.

    Example:
        >>> net = RandomReLUGenerator((4, 20, 100))
        >>> z = torch.randn(3, 4, dtype=torch.float64)
        >>> net(z).shape, torch.equal(net.suffix(net.prefix(z, 1), 1), net(z))
        (torch.Size([3, 100]), True)
    """

    def __init__(
        self,
        widths: Sequence[int],
        weight_scale: WeightScale = "he",
        num_nets: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths must be at least 2 numbers, each at least 1, got {list(widths)}")
        check_weight_scale(weight_scale)
        if num_nets is not None and num_nets < 1:
            raise ValueError(f"num_nets must be at least 1, got {num_nets}")
        self.widths, self.weight_scale = tuple(widths), weight_scale
        self.depth = len(widths) - 1
        self.num_splits, self.latent_dim = self.depth - 1, widths[0]
        generator = torch.Generator().manual_seed(seed)
        nets = [self._draw(generator, dtype) for _ in range(num_nets or 1)]
        for i, layer in enumerate(zip(*nets)):
            self.register_buffer(f"weight{i}", layer[0] if num_nets is None else torch.stack(layer))

    def _draw(self, generator: torch.Generator, dtype: torch.dtype) -> list[Tensor]:
        return [
            math.sqrt(VARIANCES[self.weight_scale] / n) * torch.randn(n, before, dtype=dtype, generator=generator)
            for before, n in zip(self.widths, self.widths[1:])
        ]

    @property
    def weights(self) -> list[Tensor]:
        """The weights of every layer, ``(n_i, n_{i-1})`` each, or ``(S, n_i, n_{i-1})``."""
        return [self.get_buffer(f"weight{i}") for i in range(self.depth)]

    def latent_shape(self, split: int) -> tuple[int, ...]:
        self.check_split(split)
        return (self.widths[split],)

    def prefix(self, z: Tensor, split: int) -> Tensor:
        self.check_split(split)
        return self._run(z, self.weights[:split])

    def suffix(self, state: Tensor, split: int) -> Tensor:
        self.check_split(split)
        return self._run(state, self.weights[split:])

    def between(self, state: Tensor, split: int, later: int) -> Tensor:
        self.check_split(split)
        self.check_split(later)
        return self._run(state, self.weights[split:later])

    def forward(self, z: Tensor) -> Tensor:
        return self._run(z, self.weights)

    @staticmethod
    def _run(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        for weight in weights:
            x = (x @ weight.mT).relu_()
        return x

    def layers(self, z: Tensor) -> list[Tensor]:
        """The output of every layer, the last one G(z).

        Args:
            z: Codes, ``(B, k)`` or ``(S, B, k)``.
        """
        outputs: list[Tensor] = []
        for weight in self.weights:
            outputs.append(((outputs[-1] if outputs else z) @ weight.mT).relu_())
        return outputs

    def pull_back(self, layers: Sequence[Tensor], cotangent: Tensor) -> Tensor:
        r"""Multiply by the transposed Jacobian, :math:`J(z)^\top v`, in the price of one more pass.

        Args:
            layers: As :meth:`layers` returns them for z.
            cotangent: v, of the shape of G(z).

        Returns:
            Of the shape of z.

        Example:
            >>> net = RandomReLUGenerator((2, 6, 9))
            >>> z = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
            >>> x = net(z)
            >>> by_autograd = torch.autograd.grad(x.sum(), z)[0]
            >>> torch.allclose(net.pull_back(net.layers(z.detach()), torch.ones_like(x)), by_autograd)
            True
        """
        for output, weight in zip(reversed(layers), reversed(self.weights)):
            cotangent = torch.where(output > 0, cotangent, 0) @ weight
        return cotangent

    def active_jacobian(self, z: Tensor) -> Tensor:
        """The Jacobian of G: the product of the weights, with the rows of silent units set to 0.

        Args:
            z: Codes, ``(B, k)`` or ``(S, B, k)``.

        Returns:
            ``(B, n, k)`` or ``(S, B, n, k)``.

        Example:
            >>> net = RandomReLUGenerator((3, 12, 40))
            >>> z = torch.randn(1, 3, dtype=torch.float64)
            >>> torch.allclose(net.active_jacobian(z) @ z[0], net(z))  # G is linear along rays
            True
        """
        jacobian: Tensor | None = None
        for output, weight in zip(self.layers(z), self.weights):
            weight = weight.unsqueeze(-3)
            jacobian = (weight if jacobian is None else weight @ jacobian) * (output > 0).unsqueeze(-1)
        assert jacobian is not None
        return jacobian

    def hessian(self, z: Tensor, measurement: Tensor | None = None) -> Tensor:
        r"""The Hessian of :math:`\tfrac12 |A G(z) - y|^2` where the residual is 0: :math:`H = J^\top A^\top A J`.

        Args:
            z: Codes, ``(B, k)`` or ``(S, B, k)``.
            measurement: A, of a shape that broadcasts with ``(m, n)`` behind the axes before; the identity if ``None``.

        Returns:
            ``(B, k, k)`` or ``(S, B, k, k)``.
        """
        jacobian = self.active_jacobian(z)
        seen = jacobian if measurement is None else measurement @ jacobian
        return seen.mT @ seen


def expected_gradient(x: Tensor, x_star: Tensor, depth: int, weight_scale: WeightScale = "he") -> Tensor:
    r"""The gradient of :math:`\tfrac12 |G(x) - G(x^*)|^2` in the limit of wide layers, and on average.

    .. math::
        h(x) = (c/2)^d \Big( x - x^* \prod_{i<d} \tfrac{\pi - \theta_i}{\pi}
               - |x^*| \, \hat x \sum_{i<d} \tfrac{\sin \theta_i}{\pi} \prod_{i<j<d} \tfrac{\pi - \theta_j}{\pi} \Big)

    with :math:`\theta_0` the angle between the two and
    :math:`\cos \theta_{i+1} = ((\pi - \theta_i) \cos \theta_i + \sin \theta_i) / \pi`. It vanishes at :math:`x^*`, and
    at one other point, a saddle, on the opposite ray.

    Args:
        x: Codes, ``(*, k)``, other than 0.
        x_star: The code that is looked for, of a shape that broadcasts, other than 0.
        depth: Layers d, at least 1.
        weight_scale: Of the weights, see :class:`RandomReLUGenerator`.

    Returns:
        The gradient, ``(*, k)``.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Hand and Voroninski, COLT 2018; the field whose Langevin dynamics Daras et al., ICML 2022, analyse.

    Example:
        >>> expected_gradient(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.0]), depth=2)
        tensor([1., 0.])
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    check_weight_scale(weight_scale)
    size, size_star = (vector.norm(dim=-1, keepdim=True) for vector in (x, x_star))
    theta = ((x * x_star).sum(-1, keepdim=True) / (size * size_star)).clamp(-1, 1).acos()
    product, total = torch.ones_like(theta), torch.zeros_like(theta)
    for _ in range(depth):  # Horner's scheme: the later angles multiply what the earlier ones have added up to
        share = (math.pi - theta) / math.pi
        total = total * share + theta.sin() / math.pi
        product = product * share
        theta = (share * theta.cos() + theta.sin() / math.pi).clamp(-1, 1).acos()
    field = x - product * x_star - (size_star * total / size) * x
    return (VARIANCES[weight_scale] / 2) ** depth * field


def laplace_covariance(hessian: Tensor, inverse_temperature: float, step_size: float = 0.0) -> Tensor:
    r"""Covariance of the Langevin algorithm in the well of a quadratic potential.

    .. math:: \tfrac1\beta H^{-1} (I - \tfrac\eta2 H)^{-1}

    Args:
        hessian: H, symmetric and positive definite, ``(*, k, k)``.
        inverse_temperature: :math:`\beta`, > 0.
        step_size: :math:`\eta`; 0 for the law :math:`\exp(-\beta f)` itself, which the algorithm tends to.

    Returns:
        ``(*, k, k)``.

    Raises:
        ValueError: If an argument is out of range, or the step size at least 2 over the largest eigenvalue, where the
            algorithm is not stable.

    Source:
        Solved for the fixed point of the covariance under one step.

    Example:
        >>> laplace_covariance(torch.tensor([[2.0]]), inverse_temperature=0.5, step_size=0.5)
        tensor([[2.]])
    """
    if not inverse_temperature > 0:
        raise ValueError(f"inverse_temperature must be > 0, got {inverse_temperature}")
    values, vectors = torch.linalg.eigh(hessian)
    check_stable(step_size, values.max())
    if not bool((values > 0).all()):
        raise ValueError(f"hessian must be positive definite, got an eigenvalue of {values.min().item():g}")
    variances = 1 / (inverse_temperature * values * (1 - step_size * values / 2))
    return (vectors * variances.unsqueeze(-2)) @ vectors.mT


def check_stable(step_size: float, curvature: Tensor) -> None:
    """Refuse a step size from which the Langevin algorithm, and descent, leave a well of this curvature.

    Raises:
        ValueError: If it is not below 2 over the curvature.
    """
    limit = 2 / curvature.item()
    if not 0 <= step_size < limit:
        raise ValueError(f"step_size must be below {limit:.4g}, 2 over the largest curvature, got {step_size}")


def check_weight_scale(weight_scale: str) -> None:
    """Refuse a scale that is not known.

    Raises:
        ValueError: If it is not.
    """
    if weight_scale not in VARIANCES:
        raise ValueError(f"weight_scale must be one of {', '.join(VARIANCES)}, got {weight_scale!r}")
