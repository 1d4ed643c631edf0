"""A plain convolution, beside which the orthogonal one is set."""

from collections.abc import Sequence

from torch import Tensor, nn

from zoo.paraunitary_conv.singular_values import conv_singular_values, per_axis


class CircularConv2d(nn.Conv2d):
    """A plain convolution with circular boundaries, for comparison with :class:`OrthogonalConv2d`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Of both axes.
        stride: Of both axes; ``kernel_size - stride`` is even.
        bias: Whether a bias is added.

    Raises:
        ValueError: If the padding of two sides would differ.

    Example:
        >>> import torch
        >>> conv = CircularConv2d(4, 16, kernel_size=6, stride=2)
        >>> conv(torch.randn(1, 4, 8, 8)).shape, conv.singular_values(8).shape
        (torch.Size([1, 16, 4, 4]), torch.Size([256]))
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True
    ) -> None:
        if (kernel_size - stride) % 2:
            raise ValueError(f"kernel_size - stride must be even, got {kernel_size} and {stride}")
        padding = (kernel_size - stride) // 2
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias, padding_mode="circular")

    def singular_values(self, input_size: int | Sequence[int]) -> Tensor:
        """All singular values of the layer as a linear map, in descending order.

        Args:
            input_size: Length of each axis of the input, or one for both.
        """
        return conv_singular_values(self.weight, per_axis("input_size", input_size, 2), self.stride)
