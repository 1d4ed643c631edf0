"""A classifier whose last layer may be a frozen simplex ETF."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.classifier import Classifier
from zoo.neural_collapse_mse.etf import ETFLinear


class ETFClassifier(Classifier):
    """A classifier with a frozen simplex ETF for its last layer; everything else is as in ``Classifier``.

    Args:
        num_classes: Number of classes K.
        frozen: Whether the last layer is a frozen ETF; else it is the network's own.
        l2: Weight of half the squared norm of all trained parameters in the training loss, >= 0: the weight decay of
            optimizers that have none, such as L-BFGS.
        **classifier: Arguments of :class:`~zoo.classifier.Classifier`; the network has at least K - 1 features.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Zhou et al., *On the Optimization Landscape of Neural Collapse under MSE Loss*, ICML 2022.

    Example:
        >>> model = ETFClassifier(10, input_shape=(1, 28, 28), backbone="mlp")
        >>> model.head.weight.requires_grad, model.head.bias.requires_grad
        (False, True)
    """

    def __init__(self, num_classes: int, frozen: bool = True, l2: float = 0.0, **classifier: Any) -> None:
        super().__init__(num_classes, **classifier)
        if not l2 >= 0:
            raise ValueError(f"l2 must be >= 0, got {l2}")
        self.l2 = l2
        if frozen:
            self.net.head = ETFLinear(self.head.in_features, num_classes, bias=self.head.bias is not None)

    def loss(self, logits: Tensor, batch: Sequence[Tensor]) -> Tensor:
        loss = super().loss(logits, batch)
        if not self.training or self.l2 == 0:
            return loss
        squares = [norm.square() for norm in torch._foreach_norm([p for p in self.parameters() if p.requires_grad])]
        return loss + self.l2 / 2 * torch.stack(squares).sum()
