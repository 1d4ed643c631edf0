"""How far the layers of a network are from orthogonal."""

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric


class OrthogonalityError(Metric):
    """Largest distance of a singular value from 1.

    Example:
        >>> OrthogonalityError()(torch.tensor([1.0, 0.75, 1.125]))
        tensor(0.2500)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    error: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("error", torch.tensor(0.0), dist_reduce_fx="max")

    def update(self, singular_values: Tensor) -> None:
        """Add a linear map.

        Args:
            singular_values: All of them that are not 0 by its shape, in any shape.
        """
        self.error = torch.maximum(self.error, (singular_values - 1).abs().amax().to(self.error))

    def compute(self) -> Tensor:
        """The largest distance, scalar."""
        return self.error


class OrthogonalityMonitor(pl.Callback):
    """Logs ``orthogonality/error``: how far the layers' singular values are from 1, all of them, at the sizes in use.

    When the fit ends, ``final_metrics`` has ``orthogonality/error_at_start``, before the first step of the optimizer,
    and ``final_curves`` the singular values of each layer in descending order, ``orthogonality/<layer>``.

    Works on modules whose layers have ``singular_values(input_size)``, with the lengths of the input's axes behind the
    channels; of linear layers, ``singular_values()``. Layers that no training batch passes are left out.

    Args:
        every_n_epochs: Epochs between two logs, at least 1; the last epoch of ``max_epochs`` is always logged.
        fail_above: End the training with an error when the distance is larger; ``None`` never does.
        max_points: Values of a layer in a final curve, at most, evenly spaced in their order; at least 2.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[OrthogonalityMonitor(fail_above=1e-4)], logger=False)
    """

    def __init__(self, every_n_epochs: int = 1, fail_above: float | None = None, max_points: int = 200) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        if fail_above is not None and not fail_above > 0:
            raise ValueError(f"fail_above must be > 0, got {fail_above}")
        if max_points < 2:
            raise ValueError(f"max_points must be at least 2, got {max_points}")
        self.every_n_epochs, self.fail_above, self.max_points = every_n_epochs, fail_above, max_points
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.handles: list[RemovableHandle] = []
        self.final_metrics: dict[str, float] = {}
        self.final_curves: dict[str, tuple[list[float], list[float]]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        layers = {name: layer for name, layer in pl_module.named_modules() if hasattr(layer, "singular_values")}
        if not layers:
            raise MisconfigurationException(
                f"OrthogonalityMonitor needs layers with singular_values, got none in {type(pl_module).__name__}"
            )
        self.handles = [layer.register_forward_pre_hook(partial(self._note, name)) for name, layer in layers.items()]

    def _note(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.sizes[name] = () if isinstance(layer, nn.Linear) else tuple(args[0].shape[2:])

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if not self.final_metrics:
            self.final_metrics["orthogonality/error_at_start"] = float(self._error(pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs:
            pl_module.log("orthogonality/error", self._error(pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, values in self.singular_values(pl_module).items():
            chosen = torch.linspace(0, len(values) - 1, min(len(values), self.max_points)).round().long()
            shown = values.cpu()[chosen]
            self.final_curves[f"orthogonality/{name}"] = ((chosen / max(len(values) - 1, 1)).tolist(), shown.tolist())

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    @torch.no_grad()
    def singular_values(self, module: nn.Module) -> dict[str, Tensor]:
        """Those of each layer that a batch has passed, in descending order, by the layer's name."""
        layers = dict(module.named_modules())
        return {name: layers[name].singular_values(*[size] if size else []) for name, size in self.sizes.items()}

    def _error(self, module: pl.LightningModule) -> Tensor:
        largest = OrthogonalityError().to(module.device)
        for name, values in self.singular_values(module).items():
            error = largest(values)
            if self.fail_above is not None and not error <= self.fail_above:
                raise RuntimeError(
                    f"layer {name} is not orthogonal: a singular value is {float(error):.1e} from 1, "
                    f"more than fail_above {self.fail_above}"
                )
        return largest.compute()

    def state_dict(self) -> dict[str, Any]:
        return {"final_metrics": self.final_metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.final_metrics = dict(state_dict["final_metrics"])
