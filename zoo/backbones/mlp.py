"""A multi-layer perceptron."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from zoo.backbones.backbone import Backbone


class MLP(Backbone):
    """Linear layers with ReLU between them, on the flattened input.

    Args:
        num_classes: Number of classes.
        input_shape: Shape of one input.
        hidden_channels: Width of each hidden layer; none gives a linear model.
        batch_norm: Whether each hidden layer is normalised before its ReLU.
        head_bias: Whether the last layer has a bias.

    Example:
        >>> import torch
        >>> MLP(10, (1, 28, 28))(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int] = (1, 28, 28),
        hidden_channels: Sequence[int] = (100, 100),
        batch_norm: bool = False,
        head_bias: bool = True,
    ) -> None:
        super().__init__()
        widths = [math.prod(input_shape), *hidden_channels]
        blocks = []
        for in_features, out_features in pairwise(widths):
            norm = [nn.BatchNorm1d(out_features)] if batch_norm else []
            blocks.append(nn.Sequential(nn.Linear(in_features, out_features), *norm, nn.ReLU(inplace=True)))
        self.layers = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], num_classes, head_bias)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, shape ``(B, d)``."""
        return self.layers(x.flatten(1))
