"""An orthogonal convolution as it is usually written: one matrix at a time, dense projectors, two axes put together."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainOrthogonalConv2d(nn.Module):
    """The separable paraunitary convolution, straight from its definition.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps of each axis.
        stride: Of both axes; ``kernel_size`` is a multiple of it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.shape, self.kernel_size, self.stride = (out_channels, in_channels), kernel_size, stride
        self.channels = max(out_channels, in_channels * stride**2)
        matrices = 2 * (1 + kernel_size // stride - 1)  # of each axis: an orthogonal one, and one for each factor
        self.free = nn.ParameterList(
            nn.init.xavier_uniform_(torch.empty(self.channels, self.channels)) for _ in range(matrices)
        )

    def weight(self) -> Tensor:
        """The weight, shape ``(out_channels, in_channels, kernel_size, kernel_size)``."""
        matrices = [cayley(free) for free in self.free]
        half = len(matrices) // 2
        across, down = (axis_kernel(part[0], part[1:]) for part in (matrices[:half], matrices[half:]))
        kernel = torch.einsum("jtr,irs->tsij", across, down)
        return strided(kernel[: self.shape[0], : self.shape[1] * self.stride**2], self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with circular boundaries."""
        total = self.kernel_size - self.stride
        before, after = total // 2, total - total // 2
        x = F.pad(x, (before, after, before, after), mode="circular")
        return F.conv2d(x, self.weight(), stride=self.stride)


def cayley(free: Tensor) -> Tensor:
    """An orthogonal matrix."""
    skew, eye = free - free.T, torch.eye(len(free))
    return torch.linalg.solve(eye + skew, eye - skew)


def axis_kernel(q: Tensor, bases: list[Tensor]) -> Tensor:
    """The kernel of one axis, ``(K, C, C)``: factors from the right and from the left by turns."""
    eye = torch.eye(len(q))
    taps = q[None]
    for j, basis in enumerate(bases):
        u = basis[:, : len(q) // 2]
        p = u @ u.T
        now, later = (taps @ p, taps @ (eye - p)) if j % 2 == 0 else ((eye - p) @ taps, p @ taps)
        nothing = torch.zeros_like(q)[None]
        taps = torch.cat([now, nothing]) + torch.cat([nothing, later])
    return taps


def strided(kernel: Tensor, stride: int) -> Tensor:
    """Phases of the input, which are columns of each matrix, taken apart in space."""
    out_channels, columns, height, width = kernel.shape
    split = kernel.view(out_channels, columns // stride**2, stride, stride, height, width)
    return split.permute(0, 1, 4, 2, 5, 3).reshape(out_channels, -1, height * stride, width * stride)
