"""Convolutions that keep the norm, and transposed ones."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo.paraunitary_conv.cached_weight import CachedWeight
from zoo.paraunitary_conv.circular_conv import CONV, adjoint_kernel, circular_conv, swapped
from zoo.paraunitary_conv.orthogonal import Chart
from zoo.paraunitary_conv.padding import circular_fold, circular_pad
from zoo.paraunitary_conv.parametrization import Init, SeparableParaunitary
from zoo.paraunitary_conv.singular_values import conv_singular_values, per_axis

PaddingMode = Literal["circular", "zeros"]
PADDING_MODES = get_args(PaddingMode)
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d}
PLAIN: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}
CIRCULAR_PAD: dict[int, Any] = {1: nn.CircularPad1d, 2: nn.CircularPad2d}
ZERO_PAD: dict[int, Any] = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d}


class _OrthogonalConv(CachedWeight):
    """What the convolutions share, whatever the number of axes; transposed ones swap the two directions."""

    num_axes: int
    transposed: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "circular",
        bias: bool = False,
        parametrization: Chart = "cayley",
        init: Init = "uniform",
        rank: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_axis("kernel_size", kernel_size, self.num_axes)
        self.stride = per_axis("stride", stride, self.num_axes)
        self.dilation = per_axis("dilation", dilation, self.num_axes)
        if any(step > 1 and apart > 1 for step, apart in zip(self.stride, self.dilation)):
            raise ValueError(f"dilation must be 1 where stride is more, got {self.dilation} with stride {self.stride}")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
        self.padding_mode = padding_mode
        ends = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        factors = SeparableParaunitary(*ends, self.kernel_size, self.stride, groups, rank, parametrization, init)
        self.weight = nn.Parameter(torch.empty(ends[0], ends[1] // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        parametrize.register_parametrization(self, "weight", factors)
        excess = [apart * (size - 1) + 1 - step for size, step, apart in self._axes()]
        self.padding = tuple((total // 2, total - total // 2) for total in excess)
        outputs, inputs = (factors.columns, factors.rows) if self.transposed else (factors.rows, factors.columns)
        self.preserves = "both" if outputs == inputs else "inputs" if outputs > inputs else "gradients"

    def _axes(self) -> list[tuple[int, int, int]]:
        return list(zip(self.kernel_size, self.stride, self.dilation))

    @property
    def _unit_stride(self) -> bool:
        return all(step == 1 for step in self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution.

        Args:
            x: Shape ``(B, in_channels, *)``; lengths are multiples of the stride, except of a transposed convolution.

        Returns:
            Shape ``(B, out_channels, *)``, lengths divided by the stride; multiplied, if transposed.

        Raises:
            ValueError: If a length is no multiple of the stride, or circular padding would be longer than it.
        """
        if not self.transposed:
            return self._convolve(x, self.bias)
        y = self._transpose(x)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * self.num_axes)

    def inverse(self, y: Tensor) -> Tensor:
        """The input that has this output; of what is no output, the input of the nearest one.

        Args:
            y: Shape ``(B, out_channels, *)``.

        Returns:
            Shape ``(B, in_channels, *)``.

        Raises:
            ValueError: If the layer does not preserve its inputs, or its boundaries are not circular.
        """
        self._check_circular("inverse")
        if self.preserves == "gradients":
            raise ValueError(f"inverse needs a layer that preserves its inputs, got {self!r}")
        if self.bias is not None:
            y = y - self.bias.view(-1, *[1] * self.num_axes)
        return self._convolve(y, None) if self.transposed else self._transpose(y)

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        lengths = x.shape[-self.num_axes :]
        if any(length % step for length, step in zip(lengths, self.stride)):
            raise ValueError(
                f"lengths of the input must be multiples of the stride {self.stride}, got {tuple(lengths)}"
            )
        if self.padding_mode == "circular":
            self._check_lengths(lengths)
            if self._unit_stride:
                return circular_conv(x, self.current_weight(), bias, self.padding, self.dilation, self.groups)
            x = circular_pad(x, self.padding)
        else:
            x = F.pad(x, self._reversed_padding())
        return CONV[self.num_axes](x, self.current_weight(), bias, self.stride, 0, self.dilation, self.groups)

    def _transpose(self, y: Tensor) -> Tensor:
        if self.padding_mode == "circular":
            lengths = y.shape[-self.num_axes :]
            self._check_lengths([length * step for length, step in zip(lengths, self.stride)])
            if self._unit_stride:
                kernel = adjoint_kernel(self.current_weight(), self.groups)
                return circular_conv(y, kernel, None, swapped(self.padding), self.dilation, self.groups)
        weight = self.current_weight()
        x = CONV_TRANSPOSE[self.num_axes](y, weight, None, self.stride, 0, 0, self.groups, self.dilation)
        if self.padding_mode == "circular":
            return circular_fold(x, self.padding)
        return F.pad(x, [-pad for pad in self._reversed_padding()])

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        if any(max(pads) > length for pads, length in zip(self.padding, lengths)):
            raise ValueError(
                f"lengths of the input must be at least the circular padding {self.padding} of a kernel of "
                f"{self.kernel_size} with dilation {self.dilation}, got {tuple(lengths)}"
            )

    def _check_circular(self, method: str) -> None:
        if self.padding_mode != "circular":
            raise ValueError(f"{method} needs padding_mode circular, got {self.padding_mode!r}")

    def _reversed_padding(self) -> list[int]:
        """As :func:`torch.nn.functional.pad` takes it, the last axis first."""
        return [pad for pads in reversed(self.padding) for pad in pads]

    def singular_values(self, input_size: int | Sequence[int]) -> Tensor:
        """All singular values of the layer as a linear map, in descending order; they are 1 up to rounding.

        Args:
            input_size: Length of each axis of the input, or one for all.

        Returns:
            As many as the smaller one of the input and the output has elements.

        Raises:
            ValueError: If a length is no multiple of the stride, or the boundaries are not circular.
        """
        self._check_circular("singular_values")
        lengths = per_axis("input_size", input_size, self.num_axes)
        if self.transposed:
            lengths = tuple(length * step for length, step in zip(lengths, self.stride))
        return conv_singular_values(self.current_weight(), lengths, self.stride, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"dilation={self.dilation}, groups={self.groups}, padding_mode={self.padding_mode!r}, "
            f"bias={self.bias is not None}, preserves={self.preserves!r}"
        )


class _OrthogonalForward(_OrthogonalConv):
    """What only the convolutions that are not transposed have."""

    transposed = False

    @torch.no_grad()
    def materialize(self) -> nn.Module:
        """A plain convolution that computes the same, with a weight of its own.

        Returns:
            ``nn.Conv1d`` or ``nn.Conv2d``; below a padding layer where the padding of two sides differs.
        """
        even = all(before == after for before, after in self.padding)
        weight = self.current_weight()
        plain = PLAIN[self.num_axes](
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            [before for before, _ in self.padding] if even else 0,
            self.dilation,
            self.groups,
            self.bias is not None,
            self.padding_mode if even else "zeros",
            weight.device,
            weight.dtype,
        )
        plain.weight.copy_(weight)
        if self.bias is not None:
            plain.bias.copy_(self.bias)
        if even:
            return plain
        pad = CIRCULAR_PAD if self.padding_mode == "circular" else ZERO_PAD
        return nn.Sequential(pad[self.num_axes](tuple(self._reversed_padding())), plain)


class OrthogonalConv2d(_OrthogonalForward):
    r"""A convolution all of whose non-zero singular values are 1, exactly, at every step of the training.

    With circular boundaries it preserves the norm of its inputs if ``out_channels`` is at least ``in_channels`` times
    the product of the strides (``preserves`` is ``"inputs"``, or ``"both"`` if they are equal), else that of gradients
    (``"gradients"``). It is 1-Lipschitz in each case. Its output has the length of the input divided by the stride.

    Under ``torch.nn.utils.parametrize.cached()`` the weight is computed once, in evaluation it is kept by itself.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Of both axes, or of each; a multiple of the stride.
        stride: Of both axes, or of each.
        dilation: Of both axes, or of each; 1 where the stride is more.
        groups: Blocks of channels.
        padding_mode: ``"circular"``, where all of this is exact; with ``"zeros"`` singular values are at most 1.
        bias: Whether a bias is added.
        parametrization: ``"cayley"`` or ``"exp"``; see :class:`~zoo.paraunitary_conv.SeparableParaunitary`.
        init: ``"uniform"``, ``"permutation"``, ``"identity"``, ``"reverse"`` or ``"torus"``.
        rank: Rank of the projectors; ``None`` is half of the channels.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Su, Byeon, Huang, *Scaling-up Diverse Orthogonal Convolutional Networks by a Paraunitary Framework*, ICML 2022
        (SC-Fac).

    Example:
        >>> conv, x = OrthogonalConv2d(4, 16, kernel_size=6, stride=2), torch.randn(1, 4, 8, 8)
        >>> conv(x).shape, torch.allclose(conv(x).norm(), x.norm())
        (torch.Size([1, 16, 4, 4]), True)
    """

    num_axes = 2


class OrthogonalConv1d(_OrthogonalForward):
    """:class:`OrthogonalConv2d` with one axis: here the factorisation reaches every orthogonal convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: A multiple of the stride.
        stride: Of the convolution.
        dilation: 1 where the stride is more.
        groups: Blocks of channels.
        padding_mode: ``"circular"`` or ``"zeros"``.
        bias: Whether a bias is added.
        parametrization: ``"cayley"`` or ``"exp"``.
        init: ``"uniform"``, ``"permutation"``, ``"identity"``, ``"reverse"`` or ``"torus"``.
        rank: Rank of the projectors; ``None`` is half of the channels.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Su, Byeon, Huang, ICML 2022.

    Example:
        >>> conv, x = OrthogonalConv1d(4, 4, kernel_size=5, dilation=2), torch.randn(2, 4, 12)
        >>> torch.allclose(conv.inverse(conv(x)), x, atol=1e-5)
        True
    """

    num_axes = 1


class OrthogonalConvTranspose2d(_OrthogonalConv):
    """The adjoint of an :class:`OrthogonalConv2d` of the same kernel: lengths are multiplied by the stride.

    It preserves the norm of its inputs if ``in_channels`` is at most ``out_channels`` times the product of the strides.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Of both axes, or of each; a multiple of the stride.
        stride: Of both axes, or of each.
        dilation: Of both axes, or of each; 1 where the stride is more.
        groups: Blocks of channels.
        padding_mode: ``"circular"`` or ``"zeros"``.
        bias: Whether a bias is added.
        parametrization: ``"cayley"`` or ``"exp"``.
        init: ``"uniform"``, ``"permutation"``, ``"identity"``, ``"reverse"`` or ``"torus"``.
        rank: Rank of the projectors; ``None`` is half of the channels.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Su, Byeon, Huang, ICML 2022.

    Example:
        >>> conv, x = OrthogonalConvTranspose2d(16, 4, kernel_size=2, stride=2), torch.randn(1, 16, 4, 4)
        >>> conv(x).shape, torch.allclose(conv(x).norm(), x.norm())
        (torch.Size([1, 4, 8, 8]), True)
    """

    num_axes = 2
    transposed = True


class OrthogonalConvTranspose1d(_OrthogonalConv):
    """:class:`OrthogonalConvTranspose2d` with one axis.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: A multiple of the stride.
        stride: Of the convolution.
        dilation: 1 where the stride is more.
        groups: Blocks of channels.
        padding_mode: ``"circular"`` or ``"zeros"``.
        bias: Whether a bias is added.
        parametrization: ``"cayley"`` or ``"exp"``.
        init: ``"uniform"``, ``"permutation"``, ``"identity"``, ``"reverse"`` or ``"torus"``.
        rank: Rank of the projectors; ``None`` is half of the channels.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Su, Byeon, Huang, ICML 2022.

    Example:
        >>> OrthogonalConvTranspose1d(4, 2, kernel_size=6, stride=2)(torch.randn(1, 4, 5)).shape
        torch.Size([1, 2, 10])
    """

    num_axes = 1
    transposed = True
