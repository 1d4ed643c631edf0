"""Linear predictors whose weights are products of parameters, coordinate by coordinate."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from zoo.diagonal_step_size.stability import tangent_kernel

Parametrization = Literal["uv", "w_pm"]


class DiagonalLinear(nn.Module):
    r"""A diagonal linear network, :math:`f(x) = \langle \beta, x \rangle`, that starts at :math:`\beta = 0`.

    .. math:: \beta = u \odot v, \quad u = 2 \alpha 1, \; v = 0
              \qquad\text{or}\qquad \beta = w_+^D - w_-^D, \quad w_\pm = \alpha 1

    At depth 2 both are the same network, by :math:`w_\pm = (u \pm v) / 2`, and a step of size :math:`\eta` on (u, v)
    is one of :math:`\eta / 2` on :math:`(w_+, w_-)`. Others write :math:`u = \sqrt 2 \alpha'`: then
    :math:`\alpha' = \sqrt 2 \alpha`.

    Args:
        in_features: Number of coordinates d.
        depth: D, at least 2.
        init_scale: The scale alpha of the start, > 0: at 0 the gradient is zero, and nothing ever moves.
        parametrization: ``"uv"``, which is of depth 2, or ``"w_pm"``.
        init_shape: Factors of the scale, coordinate by coordinate, > 0, shape ``(d,)``; ``None`` for ones.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Nacson et al., *Implicit Bias of the Step Size in Linear Diagonal Neural Networks*, ICML 2022; the scale is that
        of Woodworth et al., *Kernel and Rich Regimes in Overparametrized Models*, COLT 2020; the shape that of Azulay
        et al., *On the Implicit Bias of Initialization Shape*, ICML 2021.

    Example:
        >>> network = DiagonalLinear(3, init_scale=0.5)
        >>> network(torch.ones(2, 3))
        tensor([0., 0.], grad_fn=<MvBackward0>)
        >>> network.effective_init_scale().detach()
        tensor([0.5000, 0.5000, 0.5000])
    """

    def __init__(
        self,
        in_features: int,
        depth: int = 2,
        init_scale: float = 0.1,
        parametrization: Parametrization = "uv",
        init_shape: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1:
            raise ValueError(f"in_features must be at least 1, got {in_features}")
        if parametrization not in get_args(Parametrization):
            allowed = ", ".join(map(repr, get_args(Parametrization)))
            raise ValueError(f"parametrization must be one of {allowed}, got {parametrization!r}")
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        if depth > 2 and parametrization == "uv":
            raise ValueError(f"depth must be 2 with parametrization 'uv', got {depth}; 'w_pm' has more")
        shape = torch.ones(in_features) if init_shape is None else torch.as_tensor(init_shape)
        if shape.shape != (in_features,) or not bool((shape > 0).all()):
            raise ValueError(f"init_shape must be {in_features} numbers > 0, got {init_shape}")
        start = check_init_scale(init_scale) * shape.to(torch.get_default_dtype())
        self.in_features, self.depth, self.parametrization = in_features, depth, parametrization
        if parametrization == "uv":
            self.u, self.v = nn.Parameter(2 * start), nn.Parameter(torch.zeros_like(start))
        else:
            self.w_plus, self.w_minus = nn.Parameter(start.clone()), nn.Parameter(start.clone())

    @property
    def beta(self) -> Tensor:
        """The predictor, ``(d,)``."""
        if self.parametrization == "uv":
            return self.u * self.v
        return self.w_plus**self.depth - self.w_minus**self.depth

    def forward(self, x: Tensor) -> Tensor:
        """Predictions ``(...)`` for inputs ``(..., d)``."""
        return x @ self.beta

    def effective_init_scale(self) -> Tensor:
        r"""The scale of a start from which gradient flow could have come here, ``(d,)``.

        Gradient flow conserves it, as gradient descent in the limit of small steps; larger ones shrink it.

        .. math:: \alpha_{\mathrm{eff}} = \sqrt{|w_+ w_-|} = \tfrac 12 \sqrt{|u^2 - v^2|}, \qquad
                  D > 2: \; \Big( \frac{w_+^{2 - D} + w_-^{2 - D}}{2} \Big)^{1 / (2 - D)}
        """
        if self.parametrization == "uv":
            return ((self.u - self.v) * (self.u + self.v)).abs().sqrt() / 2
        if self.depth == 2:
            return (self.w_plus * self.w_minus).abs().sqrt()
        power = 2 - self.depth
        return ((self.w_plus.abs() ** power + self.w_minus.abs() ** power) / 2) ** (1 / power)

    def tangent_kernel(self, x: Tensor) -> Tensor:
        """Inner products ``(N, N)`` of the predictions' gradients at inputs ``(N, d)``, divided by N."""
        if self.parametrization == "uv":
            return tangent_kernel(self.u, self.v, x)
        power = self.depth - 1
        return tangent_kernel(self.depth * self.w_plus**power, self.depth * self.w_minus**power, x)

    def sharpness(self, x: Tensor) -> Tensor:
        r"""Largest eigenvalue of the tangent kernel: at an interpolator that of the Hessian of the loss.

        The loss is the mean square over 2. Gradient descent can stay at an interpolator if this is at most
        :math:`2 / \eta`.

        Args:
            x: Inputs, shape ``(N, d)``.

        Returns:
            A scalar.
        """
        return torch.linalg.eigvalsh(self.tangent_kernel(x))[-1]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, depth={self.depth}, parametrization={self.parametrization!r}"


class HadamardParametrization(nn.Module):
    r"""A weight as the product of two tensors, for ``torch.nn.utils.parametrize`` on any layer.

    A weight that is set becomes the pair whose effective scale is alpha: :math:`u^2 - v^2 = 4 \alpha^2`, u > 0.

    Args:
        init_scale: The scale alpha, > 0.

    Raises:
        ValueError: If ``init_scale`` is out of range.

    Source:
        Nacson et al., ICML 2022; see :class:`DiagonalLinear`.

    Example:
        >>> from torch.nn.utils import parametrize
        >>> layer = torch.nn.Linear(3, 2)
        >>> before = layer.weight.clone()
        >>> layer = parametrize.register_parametrization(layer, "weight", HadamardParametrization(0.1))
        >>> torch.allclose(layer.weight, before), [name for name, _ in layer.parametrizations.named_parameters()]
        (True, ['weight.original0', 'weight.original1'])
    """

    def __init__(self, init_scale: float = 0.1) -> None:
        super().__init__()
        self.init_scale = check_init_scale(init_scale)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """The weight, of the shape of both."""
        return u * v

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The balanced pair of a weight."""
        balance = 2 * self.init_scale**2
        u = (balance + torch.hypot(torch.full_like(weight, balance), weight)).sqrt()
        return u, weight / u


def check_init_scale(init_scale: float) -> float:
    """The scale of a start.

    Raises:
        ValueError: Unless it is positive and finite.
    """
    if not 0 < init_scale < math.inf:
        raise ValueError(f"init_scale must be > 0, got {init_scale}")
    return init_scale
