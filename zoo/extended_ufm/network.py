"""A ResNet with one more layer before its last one."""

from typing import Any

from torch import Tensor, nn

from zoo.backbones import ResNet


class ExtendedResNet(ResNet):
    """A ResNet whose averaged features pass through a linear layer and a ReLU, as H in ``W2 relu(W1 H)``.

    Attributes:
        extra: The added layer and its ReLU; its input is ``avgpool``'s output.

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image.
        **resnet: Arguments of :class:`~zoo.backbones.ResNet`.

    Source:
        Tirer and Bruna, *Extended Unconstrained Features Model for Exploring Deep Neural Collapse*, ICML 2022.

    Example:
        >>> import torch
        >>> net = ExtendedResNet(10, (1, 28, 28), depths=[1, 1], widths=[8, 16], head_bias=False)
        >>> net.features(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 16])
    """

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int] = (3, 32, 32), **resnet: Any) -> None:
        super().__init__(num_classes, input_shape, **resnet)
        width = self.head.in_features
        self.extra = nn.Sequential(nn.Linear(width, width), nn.ReLU())

    def features(self, x: Tensor) -> Tensor:
        """The output of the added layer, shape ``(B, d)``."""
        return self.extra(super().features(x))
