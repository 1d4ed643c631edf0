"""What every network here is: features, and a linear layer on them."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A classifier whose last layer is linear, as probes of features and of the last layer want it.

    Attributes:
        head: The last layer.
    """

    head: nn.Linear

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """What the last layer is given, shape ``(B, d)``, for images ``(B, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape ``(B, K)``."""
        return self.head(self.features(x))
