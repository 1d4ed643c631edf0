"""The residual network whose blocks normalise and activate before they convolve."""

from collections.abc import Sequence

from torch import Tensor, nn

from zoo.backbones.backbone import Backbone


class PreActResNet(Backbone):
    """A pre-activation ResNet for small images; the defaults are the PreActResNet-18.

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image.
        depths: Blocks in each stage.
        widths: Width of each stage; the stem's is the first one.
        head_bias: Whether the last layer has a bias.

    Source:
        He et al., *Identity Mappings in Deep Residual Networks*, ECCV 2016.

    Example:
        >>> import torch
        >>> PreActResNet(10, depths=(1, 1), widths=(8, 16))(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        depths: Sequence[int] = (2, 2, 2, 2),
        widths: Sequence[int] = (64, 128, 256, 512),
        head_bias: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=False)
        in_channels = widths[0]
        blocks = []
        for i, (depth, width) in enumerate(zip(depths, widths)):
            for j in range(depth):
                blocks.append(PreActBlock(in_channels, width, stride=2 if i > 0 and j == 0 else 1))
                in_channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(in_channels)
        self.pool = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(in_channels, num_classes, head_bias)

    def features(self, x: Tensor) -> Tensor:
        """The average over the image of the last block, normalised and activated, shape ``(B, d)``."""
        return self.pool(self.norm(self.blocks(self.conv1(x))))


class PreActBlock(nn.Module):
    """Twice normalisation, ReLU and convolution, added to the shortcut.

    Args:
        in_channels: Channels of the input.
        width: Channels of the output.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        changes = stride != 1 or in_channels != width
        self.shortcut = nn.Conv2d(in_channels, width, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(B, width, H / stride, W / stride)`` for ``(B, in_channels, H, W)``."""
        activated = self.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.conv2(self.relu(self.norm2(self.conv1(activated))))
