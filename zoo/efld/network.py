"""A convolutional network without normalisation, so that every sample has a gradient of its own."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from zoo.backbones import Backbone


class ConvNet(Backbone):
    """Convolutions with ReLU and max-pooling, then linear layers with ReLU.

    Batch normalisation would make the gradient of a sample depend on its batch; the theory of stability has no such
    thing. The defaults are the network of the public bounds for Langevin dynamics on MNIST; channels 8 and 16, strides
    of 2, no pooling and 32 hidden units make a small one of 28,874 parameters.

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image.
        channels: Width of each convolution.
        kernel_size: Side of their kernels, an odd number; the image is padded so as to keep its size.
        stride: Of every convolution.
        pool: Side and stride of the pooling after each convolution; 1 pools nothing.
        hidden_channels: Width of each hidden linear layer.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> net = ConvNet(10, (1, 28, 28), channels=(8, 16), stride=2, pool=1, hidden_channels=(32,))
        >>> net(torch.randn(2, 1, 28, 28)).shape, sum(p.numel() for p in net.parameters())
        (torch.Size([2, 10]), 28874)
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 5,
        stride: int = 1,
        pool: int = 2,
        hidden_channels: Sequence[int] = (128,),
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be an odd number of at least 1, got {kernel_size}")
        for name, number in {"stride": stride, "pool": pool}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        blocks = []
        for ends in pairwise([input_shape[0], *channels]):
            conv = nn.Conv2d(*ends, kernel_size, stride, padding=kernel_size // 2)
            blocks.append(nn.Sequential(conv, nn.ReLU(inplace=True), nn.MaxPool2d(pool) if pool > 1 else nn.Identity()))
        self.convs = nn.Sequential(*blocks, nn.Flatten())
        with torch.no_grad():
            size = self.convs(torch.zeros(1, *input_shape)).shape[1]
        widths = [size, *hidden_channels]
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(*ends), nn.ReLU(inplace=True)) for ends in pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, shape ``(B, d)``."""
        return self.layers(self.convs(x))
