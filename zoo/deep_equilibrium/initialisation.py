"""Random square matrices of equal second moments and different higher ones, as initial weights."""

from typing import Literal, get_args

import torch
from torch import Tensor

Family = Literal["iid", "orthogonal", "goe", "symmetric_orthogonal"]
Normalization = Literal["spectral", "variance"]

FAMILIES: tuple[Family, ...] = get_args(Family)
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)


@torch.no_grad()
def deq_init_(
    tensor: Tensor,
    family: Family,
    sigma_w: float | Tensor,
    normalization: Normalization = "spectral",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Fill a weight, or a stack of them, with independent random matrices of a family, in place.

    ====================  ==========================================  =======================================
    family                matrix                                      eigenvalues
    ====================  ==========================================  =======================================
    iid                   Gaussian entries                            uniform in the disc of radius sigma_w
    orthogonal            sigma_w Q, Q of the Haar measure            on the circle of radius sigma_w
    goe                   G + G^T, scaled                             semicircle on [-R, R]
    symmetric_orthogonal  sigma_w Q diag(1, -1, 1, ...) Q^T           half at sigma_w, half at -sigma_w
    ====================  ==========================================  =======================================

    With ``"spectral"`` the GOE has R = sigma_w, so that sigma_w = 1 is the edge of linear stability in every family.
    With ``"variance"`` its entries have variance sigma_w^2 / N, as those of the others have anyway, and R = 2 sigma_w.

    Args:
        tensor: Weights, shape ``(*, N, N)``, floating point; ``iid`` takes ``(*, out, in)`` with variance
            sigma_w^2 / in, and ``orthogonal`` too, of which the longer side has orthonormal vectors.
        family: One of the four.
        sigma_w: Scale, >= 0; one for all, or one for each matrix, a tensor that broadcasts to the leading axes.
        normalization: What sigma_w means for ``goe``.
        generator: Source of randomness, on the device of ``tensor``; the global one if ``None``.

    Returns:
        The tensor.

    Raises:
        ValueError: If an argument is out of range, or a symmetric family is asked of matrices that are not square.

    Source:
        Agarwala and Schoenholz, *Deep equilibrium networks are sensitive to initialization statistics*, ICML 2022.

    Example:
        >>> weight = deq_init_(torch.empty(2, 4, 4), "orthogonal", sigma_w=0.5)
        >>> torch.allclose(weight.mT @ weight, 0.25 * torch.eye(4), atol=1e-6)
        True
    """
    check_family(family, normalization)
    _check_shape(tensor, family)
    scale = torch.as_tensor(sigma_w, device=tensor.device)
    if not bool((scale >= 0).all()) or bool(scale.isinf().any()):
        raise ValueError(f"sigma_w must be >= 0 and finite, got {sigma_w}")
    dtype = torch.promote_types(tensor.dtype, torch.float32)  # decompositions know no half precision
    matrix = _unit_matrix(family, tensor.shape, dtype, tensor.device, generator)
    if family == "goe" and normalization == "variance":
        scale = 2 * scale
    return tensor.copy_(scale.to(dtype)[..., None, None] * matrix)


def check_family(family: str, normalization: str) -> None:
    """Raise a ``ValueError`` if there is no such family or normalisation."""
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")


def _check_shape(tensor: Tensor, family: Family) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"tensor must be floating point, got {tensor.dtype}")
    shape = tuple(tensor.shape)
    if len(shape) < 2:
        raise ValueError(f"tensor must have at least two axes, got shape {shape}")
    if family in ("goe", "symmetric_orthogonal") and shape[-1] != shape[-2]:
        raise ValueError(f"tensor must hold square matrices for {family}, got shape {shape}")


def _unit_matrix(
    family: Family, shape: torch.Size, dtype: torch.dtype, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Matrices whose spectrum ends at 1."""
    columns = shape[-1]
    if family in ("iid", "goe"):
        gaussian = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        if family == "iid":
            return gaussian.div_(columns**0.5)
        return (gaussian + gaussian.mT).div_((8 * columns) ** 0.5)
    if family == "orthogonal":
        return haar(shape, dtype, device, generator)
    basis = haar(shape, dtype, device, generator)
    signs = 1 - 2 * (torch.arange(columns, device=device) % 2).to(dtype)
    first = 1 - 2 * torch.randint(2, (*shape[:-2], 1, 1), dtype=dtype, device=device, generator=generator)
    return first * (basis * signs) @ basis.mT  # the first sign matters where N is odd


def haar(
    shape: torch.Size | tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Matrices with orthonormal columns (rows, if these are longer), uniform among all such matrices.

    The factor Q of a Gaussian matrix is uniform only after its signs are fixed by those of R's diagonal.

    Args:
        shape: ``(*, rows, columns)``.
        dtype: Floating point.
        device: Of the result.
        generator: Source of randomness; the global one if ``None``.

    Example:
        >>> q = haar((5, 3))
        >>> torch.allclose(q.mT @ q, torch.eye(3), atol=1e-6)
        True
    """
    *batch, rows, columns = shape
    tall = (*batch, max(rows, columns), min(rows, columns))
    q, r = torch.linalg.qr(torch.randn(tall, dtype=dtype, device=device, generator=generator))
    q = q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(dtype).unsqueeze(-2)
    return q if rows >= columns else q.mT
