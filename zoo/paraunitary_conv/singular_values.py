"""All singular values of a convolution with circular boundaries, exactly, by Fourier transform."""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor


def conv_singular_values(
    weight: Tensor,
    input_size: Sequence[int],
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    r"""Singular values of the linear map that a circular convolution is.

    The frequencies of the output do not mix: at each the map is one matrix, :math:`T \times S R^d` with the R^d phases
    of the input side by side. Where the input is shorter than the kernel, taps that meet are added.

    Args:
        weight: Shape ``(T, S / groups, K_1, ..., K_d)``.
        input_size: Length of each axis of the input, a multiple of the stride.
        stride: Of each axis, or one for all.
        dilation: Of each axis, or one for all.
        groups: Number of groups.

    Returns:
        All of them, in descending order: ``min(T, S R^d)`` for every frequency of the output.

    Raises:
        ValueError: If the input has not as many axes as the weight, or a length is no multiple of the stride.

    Source:
        Sedghi, Gupta, Long, *The Singular Values of Convolutional Layers*, ICLR 2019, for stride 1; the phases as in
        Su, Byeon, Huang, ICML 2022.

    Example:
        >>> conv_singular_values(torch.tensor([[[1.0, 1.0]]]), [4])  # a sum of neighbours
        tensor([2.0000, 1.4142, 1.4142, 0.0000])
    """
    axes = weight.ndim - 2
    if len(input_size) != axes:
        raise ValueError(f"input_size must have {axes} lengths, got {tuple(input_size)}")
    strides, dilations = per_axis("stride", stride, axes), per_axis("dilation", dilation, axes)
    for length, step in zip(input_size, strides):
        if length < 1 or length % step:
            raise ValueError(f"input_size must be multiples of the stride {strides}, got {tuple(input_size)}")
    lengths = [length // step for length, step in zip(input_size, strides)]
    kernel = weight.reshape(groups, -1, *weight.shape[1:])
    phases = kernel.new_zeros(groups, *lengths, *strides, *kernel.shape[1:3])
    for tap, matrix in zip(product(*map(range, weight.shape[2:])), kernel.flatten(3).unbind(3)):
        positions = [k * step for k, step in zip(tap, dilations)]
        cell = [(p // step) % length for p, step, length in zip(positions, strides, lengths)]
        phase = [p % step for p, step in zip(positions, strides)]
        place: Any = (slice(None), *cell, *phase)
        phases[place] += matrix
    spectrum = torch.fft.fftn(phases, dim=list(range(1, 1 + axes)))
    rows = spectrum.movedim(-2, 1 + axes).reshape(groups * prod(lengths), kernel.shape[1], -1)
    return torch.linalg.svdvals(rows).flatten().sort(descending=True).values


def per_axis(name: str, value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """One number for each axis.

    Raises:
        ValueError: If there are not as many, or one is below 1.

    Example:
        >>> per_axis("stride", 2, 3)
        (2, 2, 2)
    """
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes or any(number < 1 for number in values):
        raise ValueError(f"{name} must be at least 1, for each of {axes} axes, got {value}")
    return values
