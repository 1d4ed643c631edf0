"""VGG-16 with batch normalisation, for small images."""

from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from zoo.backbones.backbone import Backbone


class VGG(Backbone):
    """Torchvision's thirteen convolutions of VGG-16 with batch normalisation, and one linear layer.

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image; at least 32 x 32.
        head_bias: Whether the last layer has a bias.

    Raises:
        ValueError: If the image is smaller.

    Source:
        Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015.
    """

    def __init__(
        self, num_classes: int, input_shape: tuple[int, int, int] = (3, 32, 32), head_bias: bool = True
    ) -> None:
        super().__init__()
        if min(input_shape[1:]) < 32:
            raise ValueError(
                f"vgg16_bn needs images of at least 32 x 32 pixels, got {input_shape[1]} x {input_shape[2]}"
            )
        self.convs = make_layers(cfgs["D"], batch_norm=True)
        if input_shape[0] != 3:
            self.convs[0] = nn.Conv2d(input_shape[0], 64, 3, padding=1)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(512, num_classes, head_bias)

    def features(self, x: Tensor) -> Tensor:
        """The average over the image of the last convolution, shape ``(B, 512)``."""
        return self.pool(self.convs(x))
