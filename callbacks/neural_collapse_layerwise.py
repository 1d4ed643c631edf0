"""A callback that watches several layers collapse."""

from typing import Any, Literal, get_args

from torch import Tensor

from callbacks.neural_collapse_callback import NeuralCollapseCallback
from callbacks.neural_collapse_capture import FEATURES, LOGITS

Reduction = Literal["flatten", "pool"]


class LayerwiseNeuralCollapse(NeuralCollapseCallback):
    """Measures neural collapse of the training data after epochs, in several layers.

    Logs ``nc/<layer>/<result>`` for every layer that is named and for ``features``, what the classifier is given, which
    comes last by itself. Layers have the results of features; ``features`` has those of the classifier too. The
    log folder gets ``nc_layers.png``. All else is as in
    :class:`~callbacks.neural_collapse_callback.NeuralCollapseCallback`.

    Args:
        layers: Modules whose outputs are measured, in the order in which they are drawn:
            ``{"layer 1": "net.layer1", "layer 2": "net.layer2"}``.
        reduction: What is made of outputs ``(B, C, *)``: ``"flatten"``, ``(B, C * ...)``, or ``"pool"``, ``(B, C)``,
            the mean over all places.
        **options: Arguments of :class:`~callbacks.neural_collapse_callback.NeuralCollapseCallback`.

    Raises:
        ValueError: If an argument is out of range, or (before training) the model has no such layer.

    Source:
        Tirer and Bruna, *Extended Unconstrained Features Model for Exploring Deep Neural Collapse*, ICML 2022.

    Example:
        >>> import pytorch_lightning as pl
        >>> probe = LayerwiseNeuralCollapse({"block 1": "net.layer1", "block 2": "net.layer2"}, reduction="pool")
        >>> trainer = pl.Trainer(callbacks=[probe], logger=False)
    """

    def __init__(self, layers: dict[str, str], reduction: Reduction = "flatten", **options: Any) -> None:
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}, got {reduction!r}")
        if not layers:
            raise ValueError("layers must name at least one module, got none")
        if {FEATURES, LOGITS} & set(layers):
            raise ValueError(f"layers must have other names than {FEATURES} and {LOGITS}, got {', '.join(layers)}")
        super().__init__(**options)
        self.layers = dict(layers)
        self.reduction = reduction

    def name_of(self, layer: str, result: str) -> str:
        """The name that a result is logged by."""
        return f"{self.prefix}/{layer}/{result}"

    @property
    def file_name(self) -> str:
        """The name of the figure."""
        return f"{self.prefix}_layers.png"

    def features_of(self, layer: str, output: Tensor) -> Tensor:
        """What is measured of a layer's output, ``(B, d)``."""
        flat = output.flatten(2) if output.ndim > 2 else output
        if self.reduction == "pool" and flat.ndim == 3:
            return flat.mean(dim=2)
        return flat.flatten(1)
