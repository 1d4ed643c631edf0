r"""How long the state of a linear deep equilibrium network is, and how much that varies, for wide networks.

With :math:`z = W z + u` and :math:`M = (I - W)^{-1}` the length of the state is :math:`|z|^2 = |M u|^2`.
"""

import math

from zoo.deep_equilibrium.initialisation import Family, Normalization, check_family


def length_map(family: Family, sigma_w: float, normalization: Normalization = "spectral") -> float:
    r"""Squared length of the state over that of its injection.

    .. math:: m_1 = \lim_N \tfrac1N \operatorname{tr} M^\top M =
        \begin{cases}
            1 / (1 - \sigma^2) & \text{iid, orthogonal} \\
            2 / (s + s^2), \; s = \sqrt{1 - R^2} & \text{GOE} \\
            (1 + \sigma^2) / (1 - \sigma^2)^2 & \text{symmetric orthogonal}
        \end{cases}

    Over finite iid or GOE matrices the *mean* is infinite, as :math:`I - W` may come arbitrarily near to a singular
    matrix; this is what the median tends to.

    Args:
        family: Of the weights; see :func:`~zoo.deep_equilibrium.deq_init_`.
        sigma_w: Their scale, >= 0.
        normalization: What the scale means for ``goe``.

    Returns:
        The ratio; ``inf`` at the edge of stability and beyond.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Derived for this room from the circular law, the Haar measure and the semicircle law.

    Example:
        >>> [round(length_map(family, 0.8), 3) for family in ("iid", "orthogonal", "goe")]
        [2.778, 2.778, 2.083]
    """
    edge = spectral_radius(family, sigma_w, normalization)
    if edge >= 1:
        return math.inf
    gap = 1 - edge**2
    if family == "goe":
        root = math.sqrt(gap)
        return 2 / (root + gap)
    if family == "symmetric_orthogonal":
        return (1 + edge**2) / gap**2
    return 1 / gap


def length_second_moment(family: Family, sigma_w: float, normalization: Normalization = "spectral") -> float:
    r"""Second moment of the squared singular values of M, where the families part.

    .. math:: m_2 = \lim_N \tfrac1N \operatorname{tr} (M^\top M)^2 =
        \begin{cases}
            1 / (1 - \sigma^2)^4 & \text{iid} \\
            (1 + \sigma^2) / (1 - \sigma^2)^3 & \text{orthogonal} \\
            (1 - R^2)^{-5/2} & \text{GOE} \\
            \tfrac12 (1 - \sigma)^{-4} + \tfrac12 (1 + \sigma)^{-4} & \text{symmetric orthogonal}
        \end{cases}

    Args:
        family: Of the weights.
        sigma_w: Their scale, >= 0.
        normalization: What the scale means for ``goe``.

    Returns:
        The moment; ``inf`` at the edge of stability and beyond.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Derived for this room; iid by Hermitisation, see :func:`length_map`.

    Example:
        >>> [round(length_second_moment(family, 0.8), 1) for family in ("iid", "orthogonal", "goe")]
        [59.5, 35.2, 12.9]
    """
    edge = spectral_radius(family, sigma_w, normalization)
    if edge >= 1:
        return math.inf
    gap = 1 - edge**2
    if family == "iid":
        return gap**-4
    if family == "orthogonal":
        return (1 + edge**2) / gap**3
    if family == "goe":
        return gap**-2.5
    return ((1 - edge) ** -4 + (1 + edge) ** -4) / 2


def norm_fluctuation(family: Family, sigma_w: float, width: int, normalization: Normalization = "spectral") -> float:
    r"""Relative standard deviation of :math:`|z|^2` over random directions of the injection, for one matrix.

    .. math:: \sqrt{\tfrac2N (m_2 / m_1^2 - 1)}

    Args:
        family: Of the weights.
        sigma_w: Their scale, >= 0.
        width: Dimension N of the state.
        normalization: What the scale means for ``goe``.

    Returns:
        The deviation; ``inf`` at the edge of stability and beyond.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Derived for this room: variance of a quadratic form on the sphere.

    Example:
        >>> [round(norm_fluctuation(family, 0.95, width=256), 2) for family in ("iid", "orthogonal", "goe")]
        [0.9, 0.38, 0.32]
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    m1, m2 = (moment(family, sigma_w, normalization) for moment in (length_map, length_second_moment))
    return math.inf if math.isinf(m1) else math.sqrt(2 / width * max(0.0, m2 / m1**2 - 1))


def spectral_radius(family: Family, sigma_w: float, normalization: Normalization = "spectral") -> float:
    """Where the spectrum of a large matrix ends; a linear network is stable below 1.

    Args:
        family: Of the weights.
        sigma_w: Their scale, >= 0.
        normalization: What the scale means for ``goe``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> spectral_radius("goe", 0.4), spectral_radius("goe", 0.4, "variance")
        (0.4, 0.8)
    """
    check_family(family, normalization)
    if not sigma_w >= 0:
        raise ValueError(f"sigma_w must be >= 0, got {sigma_w}")
    return 2 * sigma_w if family == "goe" and normalization == "variance" else sigma_w
