"""A small convolutional network."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from zoo.backbones.backbone import Backbone


class CNN(Backbone):
    """Convolutions 3 x 3 with batch normalisation and ReLU, then linear layers with ReLU.

    The defaults are LeNet-sized, for MNIST.

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image.
        channels: Width of each convolution.
        strides: Stride of each convolution.
        pool: Side of the average pooling after the last convolution; 1 pools nothing.
        hidden_channels: Width of each hidden linear layer.
        head_bias: Whether the last layer has a bias.

    Raises:
        ValueError: If ``channels`` and ``strides`` differ in length.

    Example:
        >>> CNN(10, (1, 28, 28))(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        channels: Sequence[int] = (16, 32),
        strides: Sequence[int] = (2, 2),
        pool: int = 1,
        hidden_channels: Sequence[int] = (256,),
        head_bias: bool = True,
    ) -> None:
        super().__init__()
        if len(channels) != len(strides):
            raise ValueError(f"strides must have one value for each of {len(channels)} channels, got {list(strides)}")
        widths = [input_shape[0], *channels]
        self.convs = nn.Sequential(
            *(_conv(*ends, stride) for ends, stride in zip(pairwise(widths), strides)), nn.AvgPool2d(pool), nn.Flatten()
        )
        with torch.no_grad():
            size = self.convs.eval()(torch.zeros(1, *input_shape)).shape[1]
        self.convs.train()
        widths = [size, *hidden_channels]
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(*ends), nn.ReLU(inplace=True)) for ends in pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], num_classes, head_bias)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, shape ``(B, d)``."""
        return self.layers(self.convs(x))


def _conv(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
