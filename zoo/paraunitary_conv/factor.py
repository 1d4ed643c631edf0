"""Paraunitary kernels as products of elementary factors, one axis after the other."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor


def multiply_factor(taps: Tensor, u: Tensor, axis: int, complement: bool = False) -> Tensor:
    r"""Multiply a kernel from the right by an elementary factor, which adds one tap to an axis.

    .. math:: V(z) = (I - P) + P z^{-1}, \qquad P = U U^\top, \qquad V(z)^* V(z) = I \text{ for } |z| = 1

    The projector is applied through its columns, which for the usual rank C / 2 takes half the work.

    Args:
        taps: The kernel, shape ``(G, K_1, ..., K_d, m, C)``: taps along the axes, then matrices.
        u: Orthonormal columns U, shape ``(G, C, r)``.
        axis: The axis that grows, in ``[0, d)``.
        complement: Multiply by :math:`P + (I - P) z^{-1}` instead.

    Returns:
        The kernel with ``K_axis + 1`` taps.

    Source:
        Su, Byeon, Huang, ICML 2022: the complete factorisation of one-dimensional paraunitary systems.

    Example:
        >>> u = torch.tensor([[[1.0], [0.0]]])
        >>> multiply_factor(torch.eye(2).view(1, 1, 2, 2), u, axis=0)[0]
        tensor([[[0., 0.],
                 [0., 1.]],
        <BLANKLINE>
                [[1., 0.],
                 [0., 0.]]])
    """
    rows = taps.reshape(len(taps), -1, taps.shape[-1])
    inside = (rows @ u @ u.mT).view(taps.shape)
    outside = taps - inside
    now, later = (inside, outside) if complement else (outside, inside)
    if taps.shape[1 + axis] == 1:
        return torch.cat([now, later], 1 + axis)
    others = [0, 0] * (taps.ndim - 2 - axis)  # axes behind; padding begins with the last one
    return F.pad(now, [*others, 0, 1]) + F.pad(later, [*others, 1, 0])


def paraunitary_kernel(q: Tensor, projectors: Sequence[Tensor]) -> Tensor:
    r"""A separable paraunitary kernel: an orthogonal matrix, then elementary factors along each axis.

    .. math:: H(z_1, \dots, z_d) = Q \, \prod_{a = d}^{1} \; \prod_{j} V_{aj}(z_a)

    Every other factor is the complement, so that a factor and its neighbour of the same U make a plain delay:
    then all of Q stands in the middle tap. One Q is enough, since one of another axis can be taken through the
    factors, which it only turns.

    Args:
        q: Orthonormal rows, shape ``(G, m, C)``.
        projectors: Orthonormal columns of the factors along each of d axes, shape ``(G, K_a - 1, C, r)``.

    Returns:
        Shape ``(G, K_1, ..., K_d, m, C)``: :math:`H(z) H(z)^* = I` for all :math:`|z_a| = 1`.

    Source:
        Su, Byeon, Huang, ICML 2022: separable orthogonal convolutions; one of their two orthogonal matrices is left
        out, and all factors stand on one side, which reaches the same kernels.

    Example:
        >>> q, u = torch.eye(2)[None], torch.eye(2)[None, None, :, :1]
        >>> paraunitary_kernel(q, [torch.cat([u, u], dim=1)])[0, :, 0, 0]  # a delay by one
        tensor([0., 1., 0.])
    """
    taps = q.view(len(q), *[1] * len(projectors), *q.shape[1:])
    for axis in reversed(range(len(projectors))):
        u, complements = projectors[axis][:, ::2], projectors[axis][:, 1::2]
        pairs = complements.shape[1]
        left, right = _pair_matrices(u[:, :pairs], complements)
        for j in range(pairs):
            taps = _multiply_pair(taps, left[:, j], right[:, j], axis)
        if u.shape[1] > pairs:
            taps = multiply_factor(taps, u[:, -1], axis)
    return taps


def _pair_matrices(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    r"""The outer taps of pairs of a factor and a complement, in factored form.

    .. math:: \big((I - P) + P z^{-1}\big) \big(R + (I - R) z^{-1}\big)
              = (I - P) R + A z^{-1} + P (I - R) z^{-2}, \qquad P = U U^\top, \; R = V V^\top

    Args:
        u: Orthonormal columns of the factors, shape ``(G, pairs, C, r)``.
        v: Those of the complements, of the same shape.

    Returns:
        Shapes ``(G, pairs, C, 2 r)`` and ``(G, pairs, 2 r, C)``: the first halves multiply to the first tap, the second
        ones to the last.
    """
    overlap = u.mT @ v
    return torch.cat([v - u @ overlap, u], -1), torch.cat([v.mT, u.mT - overlap @ v.mT], -2)


def _multiply_pair(taps: Tensor, left: Tensor, right: Tensor, axis: int) -> Tensor:
    """Multiply by both factors of a pair at once, which adds two taps to an axis.

    All taps of a pair add up to the identity, so that the middle one takes no product: a third less work.
    """
    rank = left.shape[-1] // 2
    inside = taps.reshape(len(taps), -1, taps.shape[-1]) @ left
    first = (inside[..., :rank] @ right[:, :rank]).view(taps.shape)
    last = (inside[..., rank:] @ right[:, rank:]).view(taps.shape)
    middle = taps - first - last
    if taps.shape[1 + axis] == 1:
        return torch.cat([first, middle, last], 1 + axis)
    others = [0, 0] * (taps.ndim - 2 - axis)
    return sum(F.pad(part, [*others, i, 2 - i]) for i, part in enumerate((first, middle, last)))  # type: ignore[return-value]


def paraunitary_kernel_1d(q: Tensor, u: Tensor) -> Tensor:
    """The kernel of an orthogonal 1-D convolution with circular boundaries.

    Args:
        q: Orthonormal rows, shape ``(m, C)``.
        u: Orthonormal columns of each factor, shape ``(K - 1, C, r)``.

    Returns:
        Shape ``(m, C, K)``, as :func:`torch.nn.functional.conv1d` takes it.

    Source:
        Su, Byeon, Huang, ICML 2022.

    Example:
        >>> paraunitary_kernel_1d(torch.eye(4), torch.eye(4)[None, :, :2]).shape
        torch.Size([4, 4, 2])
    """
    return paraunitary_kernel(q[None], [u[None]])[0].permute(1, 2, 0)


def polyphase_to_strided(taps: Tensor, stride: Sequence[int]) -> Tensor:
    """The weight of a strided convolution from the kernel that maps all phases of its input at once.

    Args:
        taps: Shape ``(G, K_1, ..., K_d, T, S * prod(stride))``; a column is (channel, phase 1, ..., phase d).
        stride: Stride R of each axis.

    Returns:
        Shape ``(G * T, S, K_1 * R_1, ..., K_d * R_d)``.

    Source:
        Su, Byeon, Huang, ICML 2022: strided convolutions by polyphase components.

    Example:
        >>> polyphase_to_strided(torch.arange(4.0).view(1, 2, 1, 2), [2])
        tensor([[[0., 1., 2., 3.]]])
    """
    axes = len(stride)
    groups, lengths, (rows, columns) = len(taps), taps.shape[1 : 1 + axes], taps.shape[-2:]
    channels = columns // prod(stride)
    split = taps.reshape(groups, *lengths, rows, channels, *stride)
    channel = axes + 2
    order = [0, axes + 1, channel]
    for axis in range(axes):
        order += [1 + axis, channel + 1 + axis]
    sizes = [length * step for length, step in zip(lengths, stride)]
    return split.permute(order).reshape(groups * rows, channels, *sizes)
