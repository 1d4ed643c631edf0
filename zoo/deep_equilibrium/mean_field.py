"""Fixed points of wide nonlinear deep equilibrium networks, by a single number that all units share."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.deep_equilibrium.activation import IN_PLACE, SLOPE, ActivationName, check_activation
from zoo.deep_equilibrium.initialisation import Family, Normalization
from zoo.deep_equilibrium.theory import spectral_radius

MAX_SWEEPS, TOLERANCE, LARGEST = 20_000, 1e-12, 1e12
TAIL = 9.0  # of the Gaussian that is integrated: beyond, 1e-19 of it


class MeanField(NamedTuple):
    """What the theory says of a large network.

    Attributes:
        q: Mean squared state of a unit.
        r: Response of a unit to a small field on it.
        chi: Below 1 the fixed point is stable under direct iteration.
    """

    q: float
    r: float
    chi: float


def mean_field_fixed_point(
    activation: ActivationName,
    sigma_w: float,
    sigma_u: float,
    family: Family = "iid",
    normalization: Normalization = "spectral",
    num_quadrature: int = 10_000,
) -> MeanField:
    r"""The fixed point of :math:`z = \phi(W z + u)`, where u has Gaussian entries and N is large.

    For iid and orthogonal weights, :math:`h \sim N(0, \sigma_w^2 q + \sigma_u^2)` and

    .. math:: q = E \phi(h)^2, \qquad r = E \phi'(h), \qquad \chi = \sigma_w^2 \, E \phi'(h)^2 .

    In a symmetric matrix a unit feels the echo of its own state, the Onsager term: with :math:`s = R^2 / 4`,
    :math:`g \sim N(0, s q + \sigma_u^2)` and :math:`z = \phi(g + s r z)`

    .. math:: q = E z^2, \qquad r = E \gamma, \qquad \chi = s \, E \gamma^2, \qquad
              \gamma = \frac{\phi'}{1 - s r \phi'} .

    Args:
        activation: The phi: ``"linear"``, ``"relu"``, ``"tanh"`` or ``"hardtanh"``.
        sigma_w: Scale of the weights, >= 0.
        sigma_u: Standard deviation of the injection's entries, >= 0.
        family: ``"iid"``, ``"orthogonal"`` or ``"goe"``.
        normalization: What sigma_w means for ``goe``.
        num_quadrature: Points at which the Gaussian is integrated; an even number has none on the kink of ReLU.

    Returns:
        q, r and chi; all ``inf`` where the state grows beyond all bounds, or has not settled after 20,000 sweeps,
        which happens within 1e-3 of an edge.

    Raises:
        ValueError: If an argument is out of range.
        NotImplementedError: For symmetric orthogonal weights.

    Source:
        Derived for this room; the Onsager term is that of Thouless, Anderson and Palmer.

    Example:
        >>> [round(mean_field_fixed_point("tanh", 0.9, 1.0, family).q, 3) for family in ("iid", "goe")]
        [0.451, 0.446]
    """
    check_activation(activation)
    edge = spectral_radius(family, sigma_w, normalization)
    if family == "symmetric_orthogonal":
        raise NotImplementedError("the mean field of family 'symmetric_orthogonal' is not known")
    if not sigma_u >= 0:
        raise ValueError(f"sigma_u must be >= 0, got {sigma_u}")
    if num_quadrature < 3:
        raise ValueError(f"num_quadrature must be at least 3, got {num_quadrature}")
    standard = torch.linspace(-TAIL, TAIL, num_quadrature, dtype=torch.float64)
    weight = torch.softmax(-standard.square() / 2, dim=0)
    symmetric = family == "goe"
    variance = edge**2 / 4 if symmetric else edge**2
    q, r = 0.0, 0.0
    for _ in range(MAX_SWEEPS):
        echo = variance * r if symmetric else 0.0
        z, slope = _units(activation, standard * math.sqrt(variance * q + sigma_u**2), echo)
        response = slope / (1 - echo * slope)
        before = (q, r)
        q, r = float(weight @ z.square()), float(weight @ response)
        if not (q < LARGEST and echo < 1):
            break
        if abs(q - before[0]) + abs(r - before[1]) <= TOLERANCE * (q + abs(r)):
            return MeanField(q, r, variance * float(weight @ response.square()))
    return MeanField(math.inf, math.inf, math.inf)


def _units(activation: ActivationName, field: Tensor, echo: float) -> tuple[Tensor, Tensor]:
    r"""Solve :math:`z = \phi(g + e z)`, a contraction for an echo e below 1; returns z and :math:`\phi'` there."""
    z = torch.zeros_like(field)
    for _ in range(MAX_SWEEPS if 0 < echo < 1 else 1):
        before = z
        z = IN_PLACE[activation](field + echo * z)
        if torch.allclose(z, before, rtol=0, atol=TOLERANCE):
            break
    return z, SLOPE[activation](z)
