"""Whether a model can tell two inputs apart, before any training."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn


@torch.no_grad()
def output_gap(model: nn.Module, first: Any, second: Any) -> Tensor:
    r"""The largest difference between what a model makes of two inputs, :math:`\max |f(a) - f(b)|`.

    A gap of 0 at random weights, up to rounding, means that the model cannot separate the two, whatever it learns
    (but for weights of measure zero).

    Args:
        model: Called with each input in evaluation mode, its training mode is restored; its outputs have one shape.
        first: Whatever the model takes.
        second: The same.

    Returns:
        Scalar.

    Example:
        >>> output_gap(nn.Identity(), torch.zeros(3), torch.tensor([0.0, -2.0, 1.0]))
        tensor(2.)
    """
    was_training = model.training
    model.eval()
    gap = (model(first) - model(second)).abs().max()
    model.train(was_training)
    return gap


class ExpressivityProbe(pl.Callback):
    """Measures the gap between two inputs before the training, and tells it as ``expressivity/gap``.

    Asks of the datamodule two inputs that it wants told apart, ``contrasting_windows``, and of the module that it can
    be called with either.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ExpressivityProbe()], logger=False)
    """

    def __init__(self) -> None:
        self.final_metrics: dict[str, float] = {}
        self._restored = False

    def state_dict(self) -> dict[str, Any]:
        return {"final_metrics": self.final_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.final_metrics = state_dict["final_metrics"]
        self._restored = True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._restored:  # the weights of a resumed run are no longer those before the training
            self._restored = False
            return
        datamodule: Any = getattr(trainer, "datamodule", None)
        if not hasattr(datamodule, "contrasting_windows"):
            raise MisconfigurationException(
                f"ExpressivityProbe needs data with contrasting_windows, got {type(datamodule).__name__}"
            )
        pair = (trainer.strategy.batch_to_device(one, pl_module.device) for one in datamodule.contrasting_windows)
        with trainer.precision_plugin.forward_context():
            self.final_metrics = {"expressivity/gap": float(output_gap(pl_module, *pair))}
