"""Residual networks for small images, of torchvision's blocks."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from zoo.backbones.backbone import Backbone


class ResNet(Backbone):
    """A ResNet of basic blocks; every stage but the first halves the image.

    With the stem ``"cifar"`` the image keeps its size until the first stage ends; ``"imagenet"`` is torchvision's, a
    strided 7 x 7 convolution and max-pooling. Names of modules are torchvision's, except ``head`` for ``fc``. Where the
    width changes, the shortcut is a 1 x 1 convolution (in the ResNet-20 of He et al. it has no weights).

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image.
        depths: Blocks in each stage.
        widths: Width of each stage; the stem's is the first one.
        stem: ``"cifar"`` or ``"imagenet"``.
        init: ``"kaiming"`` (fan out, as torchvision does), or ``"default"`` (what PyTorch's layers do by themselves).
        head_bias: Whether the last layer has a bias.

    Raises:
        ValueError: If ``depths`` and ``widths`` differ in length, or there is no such stem or initialisation.

    Source:
        He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016.

    Example:
        >>> import torch
        >>> ResNet(10, depths=(1, 1), widths=(8, 16))(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        depths: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: Literal["cifar", "imagenet"] = "cifar",
        init: Literal["kaiming", "default"] = "kaiming",
        head_bias: bool = True,
    ) -> None:
        super().__init__()
        if len(depths) != len(widths):
            raise ValueError(f"depths must have one value for each of {len(widths)} widths, got {list(depths)}")
        if stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem must be 'cifar' or 'imagenet', got {stem!r}")
        if init not in ("kaiming", "default"):
            raise ValueError(f"init must be 'kaiming' or 'default', got {init!r}")
        size, stride = (3, 1) if stem == "cifar" else (7, 2)
        self.conv1 = nn.Conv2d(input_shape[0], widths[0], size, stride, padding=size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, padding=1)
        in_channels = widths[0]
        self.stages = [f"layer{i}" for i in range(1, len(widths) + 1)]
        for i, (name, depth, width) in enumerate(zip(self.stages, depths, widths)):
            self.add_module(name, _stage(in_channels, width, depth, stride=1 if i == 0 else 2))
            in_channels = width
        self.avgpool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(in_channels, num_classes, head_bias)
        if init == "kaiming":
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """The average over the image of the last stage, shape ``(B, d)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.avgpool(x)


def _stage(in_channels: int, width: int, depth: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or in_channels != width:
        shortcut = nn.Sequential(nn.Conv2d(in_channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    first = BasicBlock(in_channels, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(depth - 1)))
