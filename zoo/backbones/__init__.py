"""Networks that more than one paper trains: each has ``features(x)`` and a linear ``head``."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

from zoo.backbones.backbone import Backbone
from zoo.backbones.cnn import CNN
from zoo.backbones.mlp import MLP
from zoo.backbones.preact_resnet import PreActResNet
from zoo.backbones.resnet import ResNet
from zoo.backbones.vgg import VGG

__all__ = ["BACKBONES", "CNN", "MLP", "VGG", "Backbone", "PreActResNet", "ResNet", "build_backbone"]

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "cnn": CNN,
    "mlp": MLP,
    "preact_resnet18": PreActResNet,
    "resnet10": partial(ResNet, depths=(1, 1, 1, 1), widths=(16, 32, 64, 64)),
    "resnet18": partial(ResNet, depths=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "resnet20": partial(ResNet, depths=(3, 3, 3), widths=(16, 32, 64)),
    "resnet34": partial(ResNet, depths=(3, 4, 6, 3), widths=(64, 128, 256, 512)),
    "vgg16_bn": VGG,
}


def build_backbone(
    name: str, num_classes: int, input_shape: tuple[int, int, int], options: Mapping[str, Any] | None = None
) -> Backbone:
    """Build a network by name.

    Args:
        name: One of :data:`BACKBONES`.
        num_classes: Number of classes.
        input_shape: Channels, height and width of an image.
        options: Further arguments of the network.

    Returns:
        The network, freshly initialised.

    Raises:
        ValueError: If there is no such network, or it has no such argument.

    Example:
        >>> build_backbone("mlp", 10, (1, 28, 28), {"hidden_channels": (100,)}).head
        Linear(in_features=100, out_features=10, bias=True)
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone must be one of {', '.join(sorted(BACKBONES))}, got {name!r}")
    build, options = BACKBONES[name], dict(options or {})
    allowed = set(signature(build).parameters) - {"num_classes", "input_shape"}
    unknown = set(options) - allowed
    if unknown:
        raise ValueError(
            f"backbone_args of {name} must be among {', '.join(sorted(allowed))}, got {', '.join(sorted(unknown))}"
        )
    return build(num_classes=num_classes, input_shape=input_shape, **options)
