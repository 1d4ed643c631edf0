"""Networks that take pixels in [0, 1], as attacks give them."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn


class NormalizedNetwork(nn.Module):
    """A network behind the normalisation of its channels, so that perturbations are measured in pixels.

    Args:
        net: Takes normalised images; its ``features`` and ``head``, if it has any, are passed on.
        mean: Of each channel, or one for all.
        std: Standard deviation of each channel, or one for all, > 0.

    Raises:
        ValueError: If a standard deviation is not positive.

    Example:
        >>> NormalizedNetwork(nn.Identity(), [0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not all(value > 0 for value in std):
            raise ValueError(f"std must be > 0, got {list(std)}")
        self.net = net
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def normalize(self, x: Tensor) -> Tensor:
        """Normalised images, in the shape of ``x``, ``(B, C, H, W)``."""
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape ``(B, K)``."""
        return self.net(self.normalize(x))

    def features(self, x: Tensor) -> Tensor:
        """What the last layer is given, shape ``(B, d)``."""
        return self.net.features(self.normalize(x))  # type: ignore[operator]

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        return cast(nn.Linear, self.net.head)


class RobustBenchNetwork(nn.Module):
    """A trained robust network of RobustBench, which its own package downloads.

    Args:
        model_name: Its name there, such as ``"Ding2020MMA"``.
        dataset: ``"cifar10"``, ``"cifar100"`` or ``"imagenet"``.
        threat_model: ``"Linf"``, ``"L2"`` or ``"corruptions"``.
        model_dir: Folder of the downloads.

    Raises:
        ImportError: If the package, or one that it needs, is not installed.
    """

    def __init__(
        self,
        model_name: str,
        dataset: str = "cifar10",
        threat_model: str = "Linf",
        model_dir: str = "cache/robustbench",
    ) -> None:
        super().__init__()
        try:
            from robustbench.utils import load_model
        except ImportError as error:  # the package, or one that it needs
            raise ImportError(
                f"RobustBenchNetwork needs the package robustbench, pip install 'robustbench>=1.1': {error}"
            ) from error
        self.net = load_model(model_name=model_name, model_dir=model_dir, dataset=dataset, threat_model=threat_model)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape ``(B, K)``, of images in [0, 1]."""
        return self.net(x)
