"""Matrices with orthonormal columns as smooth functions of free parameters, many at once."""

from typing import Literal, get_args

import torch
from torch import Tensor

Chart = Literal["cayley", "exp"]
CHARTS = get_args(Chart)
SAFE = 128  # size of matrices up to which a batch is factorised at once


def orthonormal_columns(x: Tensor, skew: Tensor | None = None, chart: Chart = "cayley") -> Tensor:
    r"""The first k columns of the Cayley transform, or of the exponential, of a skew-symmetric matrix.

    .. math:: S = \begin{pmatrix} \Omega & -X^\top \\ X & 0 \end{pmatrix}, \qquad
              Q = (I - S/2)^{-1} (I + S/2) \quad \text{or} \quad Q = e^S

    Only a k x k matrix is inverted for the Cayley transform: with Z = X / 2 and
    :math:`H = (I - \Omega / 2 + Z^\top Z)^{-1}` the columns are :math:`2 H - I` above :math:`X H`. Both charts agree
    up to the second order, so that a learning rate means the same in both. Every subspace of dimension k is spanned
    by the columns for some X of spectral norm up to 2 (up to pi / 2 for the exponential).

    Args:
        x: The block X, shape ``(..., n - k, k)``.
        skew: The block Omega, skew-symmetric, shape ``(..., k, k)``; ``None`` is zero, where only the subspace matters.
        chart: ``"cayley"`` or ``"exp"``.

    Returns:
        The columns, shape ``(..., n, k)``.

    Raises:
        ValueError: If there is no such chart.

    Source:
        Su, Byeon, Huang, ICML 2022, section on learning the factors; the Cayley transform of tall matrices as in
        Trockman and Kolter, *Orthogonalizing Convolutional Layers with the Cayley Transform*, ICLR 2021.

    Example:
        >>> u = orthonormal_columns(torch.randn(5, 3, 2))
        >>> torch.allclose(u.mT @ u, torch.eye(2), atol=1e-6)
        True
    """
    if chart not in CHARTS:
        raise ValueError(f"chart must be one of {', '.join(CHARTS)}, got {chart!r}")
    size = x.shape[-1]
    if chart == "exp":
        omega = x.new_zeros(*x.shape[:-2], size, size) if skew is None else skew
        corner = x.new_zeros(*x.shape[:-2], x.shape[-2], x.shape[-2])
        whole = torch.cat([torch.cat([omega, -x.mT], -1), torch.cat([x, corner], -1)], -2)
        return torch.linalg.matrix_exp(whole)[..., :size]
    core = eye = torch.eye(size, dtype=x.dtype, device=x.device)
    if x.shape[-2]:
        core = core + x.mT @ x / 4
    if skew is not None:
        core = core - skew / 2
    h = _inverse(core)  # the symmetric part is at least I: it exists
    return torch.cat([2 * h - eye, x @ h], -2) if x.shape[-2] else 2 * h - eye


def _inverse(matrices: Tensor) -> Tensor:
    """Inverses, shape ``(..., n, n)``; on the CPU large ones one by one.

    After ``torch.set_num_threads`` several threads factorise a batch there at once, which the library below does not
    bear from n = 150 or so on (https://github.com/pytorch/pytorch/issues/142815).
    """
    if matrices.device.type != "cpu" or matrices.shape[-1] < SAFE or matrices.shape[:-2].numel() < 2:
        return torch.linalg.inv_ex(matrices).inverse
    one_by_one = [torch.linalg.inv_ex(matrix).inverse for matrix in matrices.flatten(0, -3).unbind()]
    return torch.stack(one_by_one).view(matrices.shape)


def polished(q: Tensor) -> Tensor:
    r"""Columns that are orthonormal up to some error, made so up to the square of it; gradients pass as they are.

    .. math:: q + q \, (I - q^\top q) / 2

    What rounding takes from orthogonality, however far the parameters have moved, comes down to rounding itself.

    Args:
        q: Nearly orthonormal columns, shape ``(..., n, k)``.

    Returns:
        The columns, shape ``(..., n, k)``.

    Source:
        One step of Newton and Schulz; Björck and Bowie, SIAM Journal on Numerical Analysis, 1971.

    Example:
        >>> q = polished(torch.eye(3, dtype=torch.float64) + 1e-4)
        >>> bool((q.mT @ q - torch.eye(3)).abs().max() < 1e-6)
        True
    """
    with torch.no_grad():
        gram = q.mT @ q
        correction = q @ (torch.eye(q.shape[-1], dtype=q.dtype, device=q.device) - gram) / 2
    return q + correction


def subspace_coordinates(u: Tensor, chart: Chart = "cayley") -> Tensor:
    """The block X whose :func:`orthonormal_columns` span the same subspace as given ones.

    Args:
        u: Orthonormal columns, shape ``(..., n, k)``.
        chart: ``"cayley"`` or ``"exp"``.

    Returns:
        Shape ``(..., n - k, k)``.

    Raises:
        ValueError: If there is no such chart.

    Example:
        >>> u = haar(1, 6)[..., :2]
        >>> v = orthonormal_columns(subspace_coordinates(u))
        >>> torch.allclose(u @ u.mT, v @ v.mT, atol=1e-5)
        True
    """
    if chart not in CHARTS:
        raise ValueError(f"chart must be one of {', '.join(CHARTS)}, got {chart!r}")
    size = u.shape[-1]
    left, cosines, right = torch.linalg.svd(u[..., :size, :])
    below = u[..., size:, :] @ right.mT  # turned within the subspace, so that the block above is symmetric, >= 0
    cosines = cosines.clamp(max=1)
    factor = 2 / (1 + cosines) if chart == "cayley" else 1 / torch.sinc(cosines.acos() / torch.pi)
    return below * factor[..., None, :] @ left.mT


def haar(number: int, size: int) -> Tensor:
    """Orthogonal matrices drawn uniformly, shape ``(number, size, size)``.

    Example:
        >>> haar(3, 4).shape
        torch.Size([3, 4, 4])
    """
    q, r = torch.linalg.qr(torch.randn(number, size, size))
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]


def block_rotations(number: int, size: int) -> Tensor:
    """Rotations of pairs of axes by uniform angles, block diagonal, shape ``(number, size, size)``.

    Of an odd number of axes the last one stays.

    Example:
        >>> block_rotations(2, 3)[:, 2]
        tensor([[0., 0., 1.],
                [0., 0., 1.]])
    """
    angles = (2 * torch.rand(number, size // 2) - 1) * torch.pi
    q = torch.eye(size).repeat(number, 1, 1)
    even, odd = torch.arange(0, size - 1, 2), torch.arange(1, size, 2)
    q[:, even, even] = q[:, odd, odd] = angles.cos()
    q[:, odd, even] = angles.sin()
    q[:, even, odd] = -angles.sin()
    return q
