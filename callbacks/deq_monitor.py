"""Watches the solvers of deep equilibrium layers, and the stability of what they find."""

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics import Metric

from callbacks.fixed_point import (
    FixedPointResidual,
    LengthMap,
    SolverIterations,
    jacobian_spectral_radius,
    non_normality,
)

DIRECTIONS = ("forward", "backward")


class DEQMonitor(pl.Callback):
    r"""Logs how the solvers of deep equilibrium layers do in each training epoch.

    Over all batches, for the state (``forward``) and its gradient (``backward``): ``deq/forward_residual`` and
    ``deq/forward_max_residual``, mean and maximum over the samples, ``deq/forward_converged``, the share within the
    tolerance, ``deq/forward_iterations`` and ``deq/forward_max_iterations``. At the epoch's first batch, before its
    step: ``deq/spectral_radius``, the largest of the Jacobians' at the solutions; ``deq/length_map`` and
    ``deq/length_fluctuation``, of :math:`|z|^2 / |u|^2` where the first input u has the state's shape; and
    ``deq/non_normality`` of the function's ``weight``, if it has a square one (the mean of several).

    A layer is a module with a function ``f(z, *inputs)``, which is called ``layer(*inputs)`` and returns a state, and
    with ``batch_dims``, ``forward_stats`` and ``backward_stats`` (or ``None``), which hold ``num_iterations``,
    ``residual`` and ``converged`` of each sample. With several of them the names go on, ``deq/<layer>/...``.

    Args:
        num_steps: Products with the Jacobian for the spectral radius, at least 2; 0 leaves it out.

    Raises:
        ValueError: If ``num_steps`` is out of range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[DEQMonitor()], logger=False)
    """

    def __init__(self, num_steps: int = 100) -> None:
        if num_steps < 0 or num_steps == 1:
            raise ValueError(f"num_steps must be 0 or at least 2, got {num_steps}")
        self.num_steps = num_steps
        self._layers: dict[str, nn.Module] = {}
        self._metrics: dict[tuple[str, str], Metric] = {}
        self._seen: dict[str, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = {name: module for name, module in pl_module.named_modules() if _is_layer(module)}
        if not found:
            raise MisconfigurationException(
                f"DEQMonitor needs a layer with f, forward_stats and backward_stats, got none in "
                f"{type(pl_module).__name__}"
            )
        self._layers = {f"deq/{name}/" if len(found) > 1 else "deq/": layer for name, layer in found.items()}
        self._metrics = {}
        for prefix in self._layers:
            for direction in DIRECTIONS:
                self._metrics[prefix, f"{direction}_residual"] = FixedPointResidual().to(pl_module.device)
                self._metrics[prefix, f"{direction}_iterations"] = SolverIterations().to(pl_module.device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            for prefix, layer in self._layers.items():
                self._hooks.append(layer.register_forward_hook(partial(self._look, prefix)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._remove_hooks()
        for (prefix, name), metric in self._metrics.items():
            stats = getattr(self._layers[prefix], f"{name.split('_')[0]}_stats")
            if stats is None:
                continue
            if isinstance(metric, FixedPointResidual):
                metric.update(stats.residual, stats.converged)
            else:
                metric.update(stats.num_iterations)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for (prefix, name), metric in self._metrics.items():
            if metric.update_called:
                direction = name.split("_")[0]
                pl_module.log_dict({f"{prefix}{direction}_{key}": value for key, value in metric.compute().items()})
            metric.reset()
        pl_module.log_dict(self._seen, sync_dist=True)
        self._seen = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _look(self, prefix: str, layer: nn.Module, inputs: tuple[Tensor, ...], z: Tensor) -> None:
        """Measure a layer's solution with the parameters that it was found with; random numbers stay as they were."""
        devices = [z.device] if z.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.autocast(z.device.type, enabled=False):
            inputs = tuple(x.detach().to(z.dtype) if x.is_floating_point() else x for x in inputs)
            if self.num_steps:
                f = partial(_call, layer.f, inputs)
                generator = torch.Generator(z.device).manual_seed(0)
                batch_dims = int(layer.batch_dims)  # type: ignore[arg-type]
                radii = jacobian_spectral_radius(f, z, self.num_steps, batch_dims, generator)
                self._seen[f"{prefix}spectral_radius"] = radii.max()
            if inputs and inputs[0].shape == z.shape:
                lengths = LengthMap().to(z.device)
                lengths.update(z, inputs[0])
                self._seen |= {f"{prefix}{name}": value for name, value in lengths.compute().items()}
            weight = getattr(layer.f, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() >= 2 and weight.shape[-1] == weight.shape[-2]:
                self._seen[f"{prefix}non_normality"] = non_normality(weight.detach()).mean()


def _is_layer(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in ("f", "batch_dims", "forward_stats", "backward_stats"))


def _call(f: Any, inputs: tuple[Tensor, ...], z: Tensor) -> Tensor:
    return f(z, *inputs)
