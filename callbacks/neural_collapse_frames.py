"""Simplex ETFs and orthogonal frames, and how far given vectors are from them."""

import math

import torch
from scipy.linalg import helmert
from torch import Tensor


def simplex_etf(
    num_classes: int,
    num_features: int,
    scale: float = 1.0,
    rotation: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""A simplex equiangular tight frame: K vectors of equal length, each pair at the widest common angle.

    .. math:: m_j^\top m_k = \mathrm{scale}^2 \, \Big(\tfrac{K}{K-1} \delta_{jk} - \tfrac{1}{K-1}\Big)

    With d >= K it lies on the first K coordinates, :math:`\sqrt{K/(K-1)} \, (I - J)` with :math:`J = 11^\top / K`,
    which non-negative features can be aligned with; with d = K - 1 it is in Helmert's basis of what is orthogonal to 1.

    Args:
        num_classes: Number of vectors K, at least 2.
        num_features: Their dimension d, at least K - 1.
        scale: Length of each vector, > 0.
        rotation: Orthogonal matrix ``(d, d)`` that is applied on the right; none if ``None``.
        generator: Draws a rotation uniformly instead; not together with ``rotation``.

    Returns:
        The vectors as rows, ``(K, d)``, in the default dtype (that of ``rotation``, if there is one).

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Papyan, Han and Donoho, *Prevalence of neural collapse during the terminal phase of deep learning training*,
        PNAS 2020, definition 1.

    Example:
        >>> simplex_etf(3, 3) @ simplex_etf(3, 3).T
        tensor([[ 1.0000, -0.5000, -0.5000],
                [-0.5000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]])
    """
    _check_frame(num_classes, num_features, scale, lowest=num_classes - 1)
    if num_features == num_classes - 1:
        frame = torch.from_numpy(helmert(num_classes)).T * math.sqrt(num_classes / (num_classes - 1))
    else:
        frame = _centred(torch.eye(num_classes, num_features, dtype=torch.float64))
        frame *= math.sqrt(num_classes / (num_classes - 1))
    return _placed(frame * scale, rotation, generator)


def orthogonal_frame(
    num_classes: int,
    num_features: int,
    scale: float = 1.0,
    rotation: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""An orthogonal frame: K vectors of equal length at right angles, :math:`m_j^\top m_k = scale^2 \delta_{jk}`.

    Args:
        num_classes: Number of vectors K, at least 2.
        num_features: Their dimension d, at least K.
        scale: Length of each vector, > 0.
        rotation: Orthogonal matrix ``(d, d)`` that is applied on the right; none if ``None``.
        generator: Draws a rotation uniformly instead; not together with ``rotation``.

    Returns:
        The vectors as rows, ``(K, d)``, in the default dtype (that of ``rotation``, if there is one).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> orthogonal_frame(2, 3, scale=2.0)
        tensor([[2., 0., 0.],
                [0., 2., 0.]])
    """
    _check_frame(num_classes, num_features, scale, lowest=num_classes)
    return _placed(scale * torch.eye(num_classes, num_features, dtype=torch.float64), rotation, generator)


def nonnegative_orthogonal_frame(
    num_classes: int, num_features: int, scale: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """An orthogonal frame without negative entries, as features after a ReLU form it: the supports are disjoint.

    Feature j belongs to class j modulo K.

    Args:
        num_classes: Number of vectors K, at least 2.
        num_features: Their dimension d, at least K.
        scale: Length of each vector, > 0.
        generator: Draws the entries (and makes them differ); equal within a vector if ``None``.

    Returns:
        The vectors as rows, ``(K, d)``, in the default dtype.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> nonnegative_orthogonal_frame(2, 4).round(decimals=2)
        tensor([[0.7100, 0.0000, 0.7100, 0.0000],
                [0.0000, 0.7100, 0.0000, 0.7100]])
    """
    _check_frame(num_classes, num_features, scale, lowest=num_classes)
    owner = torch.arange(num_features) % num_classes
    entries = torch.ones(num_features, dtype=torch.float64)
    if generator is not None:
        entries = 1 - torch.rand(num_features, dtype=torch.float64, generator=generator, device=generator.device)
    frame = torch.zeros(num_classes, num_features, dtype=torch.float64, device=entries.device)
    frame[owner, torch.arange(num_features)] = entries
    return (scale * frame / frame.norm(dim=1, keepdim=True)).to(torch.get_default_dtype())


def simplex_etf_distance(vectors: Tensor, center: bool = True) -> Tensor:
    r"""Distance of K vectors from a simplex ETF, up to scale and rotation.

    .. math:: \Big\| \frac{M M^\top}{\|M M^\top\|_F} - \frac{I - J}{\sqrt{K - 1}} \Big\|_F

    with the vectors as rows of M and :math:`J = 11^\top / K`. An orthogonal frame that is not centred has
    :math:`\sqrt{2 - 2 \sqrt{(K-1)/K}}`, and one that is centred has 0.

    Args:
        vectors: Shape ``(K, d)``.
        center: Whether the mean of the vectors is subtracted first.

    Returns:
        The distance, scalar; NaN for vectors that are all zero.

    Source:
        Zhou et al., *On the Optimization Landscape of Neural Collapse under MSE Loss*, ICML 2022 (NC2).

    Example:
        >>> simplex_etf_distance(torch.eye(3), center=False)
        tensor(0.6058)
        >>> bool(simplex_etf_distance(torch.eye(3)) < 1e-6)
        True
    """
    vectors = _centred(vectors) if center else vectors
    return etf_gram_distance(vectors @ vectors.T)


def orthogonal_frame_distance(vectors: Tensor) -> Tensor:
    r"""Distance of K vectors from an orthogonal frame, up to scale and rotation; the vectors are not centred.

    .. math:: \Big\| \frac{M M^\top}{\|M M^\top\|_F} - \frac{I}{\sqrt K} \Big\|_F

    Args:
        vectors: Shape ``(K, d)``.

    Returns:
        The distance, scalar; NaN for vectors that are all zero.

    Source:
        Tirer and Bruna, *Extended Unconstrained Features Model for Exploring Deep Neural Collapse*, ICML 2022 (NC2 of
        models without a bias).

    Example:
        >>> orthogonal_frame_distance(simplex_etf(4, 4)).round(decimals=3)
        tensor(0.5180)
    """
    return orthogonal_gram_distance(vectors @ vectors.T)


def etf_gram_distance(gram: Tensor) -> Tensor:
    r"""Distance of a ``(K, K)`` matrix, :math:`M M^\top` or :math:`W M^\top`, from a simplex ETF's, up to scale."""
    num_classes = len(gram)
    target = _centred(torch.eye(num_classes, dtype=gram.dtype, device=gram.device)) / math.sqrt(num_classes - 1)
    return (gram / gram.norm() - target).norm()


def orthogonal_gram_distance(gram: Tensor) -> Tensor:
    r"""Distance of a ``(K, K)`` matrix, :math:`M M^\top` or :math:`W M^\top`, from the identity's, up to scale."""
    target = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) / math.sqrt(len(gram))
    return (gram / gram.norm() - target).norm()


def self_duality(weight: Tensor, means: Tensor) -> Tensor:
    r"""Squared distance of a classifier's rows from the class means, each divided by its norm.

    .. math:: \Big\| \frac{W}{\|W\|_F} - \frac{M}{\|M\|_F} \Big\|_F^2

    Args:
        weight: Shape ``(K, d)``.
        means: Shape ``(K, d)``; less the global mean for a simplex ETF, as they are for an orthogonal frame.

    Returns:
        The distance, scalar in [0, 4]; NaN if one of them is zero.

    Source:
        Papyan et al., PNAS 2020 (NC3).

    Example:
        >>> self_duality(torch.eye(2), 5 * torch.eye(2))
        tensor(0.)
    """
    return (weight / weight.norm() - means / means.norm()).square().sum()


def equinorm(vectors: Tensor, correction: int = 1) -> Tensor:
    """Standard deviation of the lengths of K vectors, divided by their mean.

    Args:
        vectors: Shape ``(K, d)``.
        correction: What is subtracted from K in the variance: 1 or 0.

    Returns:
        The ratio, scalar; NaN for vectors that are all zero.

    Source:
        Papyan et al., PNAS 2020 (NC2).

    Example:
        >>> equinorm(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), correction=0)
        tensor(0.5000)
    """
    lengths = vectors.norm(dim=1)
    return lengths.std(correction=correction) / lengths.mean()


def equiangularity(vectors: Tensor, correction: int = 1) -> Tensor:
    """Standard deviation of the cosines between K vectors, over the pairs.

    Args:
        vectors: Shape ``(K, d)``.
        correction: What is subtracted from the number of pairs in the variance: 1 or 0.

    Returns:
        The deviation, scalar; NaN if a vector is zero, or if there is one pair and the correction is 1.

    Source:
        Papyan et al., PNAS 2020 (NC2).

    Example:
        >>> equiangularity(torch.eye(3))
        tensor(0.)
    """
    return spread(pairwise_cosines(vectors), correction)


def max_equiangularity(vectors: Tensor) -> Tensor:
    r"""How far the cosines between K vectors are from the least that all can have, :math:`-1/(K-1)`: the mean distance.

    Args:
        vectors: Shape ``(K, d)``.

    Returns:
        The mean over the pairs, scalar; NaN if a vector is zero.

    Source:
        Papyan et al., PNAS 2020 (NC2, maximal angles).

    Example:
        >>> max_equiangularity(torch.eye(3))
        tensor(0.5000)
    """
    return distance_from_widest(pairwise_cosines(vectors), len(vectors))


def pairwise_cosines(vectors: Tensor) -> Tensor:
    """Cosines of all pairs of K vectors, ``(K (K - 1) / 2,)``."""
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    return (unit @ unit.T)[rows, columns]


def spread(values: Tensor, correction: int) -> Tensor:
    """Standard deviation; NaN of too few values."""
    return values.new_tensor(math.nan) if len(values) <= correction else values.std(correction=correction)


def distance_from_widest(cosines: Tensor, num_classes: int) -> Tensor:
    """Mean distance of cosines from the least that all can have."""
    return (cosines + 1 / (num_classes - 1)).abs().mean()


def _centred(vectors: Tensor) -> Tensor:
    return vectors - vectors.mean(dim=0)


def _placed(frame: Tensor, rotation: Tensor | None, generator: torch.Generator | None) -> Tensor:
    num_features = frame.shape[1]
    if rotation is not None and generator is not None:
        raise ValueError("rotation must be left out where a generator draws one, got both")
    if generator is not None:
        rotation = _random_rotation(num_features, generator).to(torch.get_default_dtype())
    if rotation is None:
        return frame.to(torch.get_default_dtype())
    if rotation.shape != (num_features, num_features):
        raise ValueError(f"rotation must have shape ({num_features}, {num_features}), got {tuple(rotation.shape)}")
    return frame.to(rotation) @ rotation


def _random_rotation(size: int, generator: torch.Generator) -> Tensor:
    """Uniform over the orthogonal matrices: QR of a Gaussian matrix, signs by R's diagonal."""
    q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator, device=generator.device))
    return q * r.diagonal().sign()


def _check_frame(num_classes: int, num_features: int, scale: float, lowest: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if num_features < lowest:
        raise ValueError(f"num_features must be at least {lowest} for {num_classes} classes, got {num_features}")
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
