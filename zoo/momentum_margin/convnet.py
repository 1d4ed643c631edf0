"""A small convolutional network without normalisation."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from zoo.backbones import Backbone


class StridedCNN(Backbone):
    """Convolutions 3 x 3 of stride 2 with ReLU, and a linear layer on all of what is left.

    Without batch normalisation, which would rescale what momentum does to weights.

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image.
        channels: Width of each convolution, at least one.

    Raises:
        ValueError: If there are no convolutions.

    Example:
        >>> StridedCNN(2)(torch.randn(4, 3, 32, 32)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self, num_classes: int, input_shape: tuple[int, int, int] = (3, 32, 32), channels: Sequence[int] = (16, 32, 64)
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels must have at least one width, got none")
        layers: list[nn.Module] = []
        for ends in pairwise((input_shape[0], *channels)):
            layers += [nn.Conv2d(*ends, kernel_size=3, stride=2, padding=1), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            width = self.convs(torch.zeros(1, *input_shape)).shape[1]
        self.head = nn.Linear(width, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """The last convolution at every place, shape ``(B, d)``."""
        return self.convs(x)
