"""A ResNet whose last block has few features."""

from collections.abc import Sequence
from typing import Literal

from torch import nn
from torchvision.models.resnet import BasicBlock

from zoo.backbones import ResNet


class NarrowResNet(ResNet):
    """A ResNet whose last block gives ``feature_dim`` channels in place of the last stage's width.

    With ``feature_dim=10`` a ResNet-18 for CIFAR-10 has 8.86 million parameters in place of 11.17.

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image.
        feature_dim: Number of features d, at least 1.
        depths: Blocks in each stage.
        widths: Width of each stage.
        stem: ``"cifar"`` or ``"imagenet"``.
        head_bias: Whether the last layer has a bias.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Zhou et al., *On the Optimization Landscape of Neural Collapse under MSE Loss*, ICML 2022.

    Example:
        >>> NarrowResNet(10, feature_dim=10).head
        Linear(in_features=10, out_features=10, bias=True)
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        feature_dim: int = 10,
        depths: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: Literal["cifar", "imagenet"] = "cifar",
        head_bias: bool = True,
    ) -> None:
        if feature_dim < 1:
            raise ValueError(f"feature_dim must be at least 1, got {feature_dim}")
        super().__init__(num_classes, input_shape, depths, widths, stem, head_bias=head_bias)
        block = self.get_submodule(self.stages[-1])[-1]  # type: ignore[index]
        assert isinstance(block, BasicBlock)
        in_channels, width = block.conv1.in_channels, block.conv2.in_channels
        block.conv2 = nn.Conv2d(width, feature_dim, 3, padding=1, bias=False)
        block.bn2 = nn.BatchNorm2d(feature_dim)
        shortcut = nn.Conv2d(in_channels, feature_dim, 1, block.stride, bias=False)
        block.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(feature_dim))
        for convolution in (block.conv2, shortcut):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.head = nn.Linear(feature_dim, num_classes, head_bias)
