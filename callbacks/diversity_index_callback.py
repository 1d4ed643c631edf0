"""The Diversity Index of attacks while a module tests them."""

from collections.abc import Mapping
from typing import Any, Protocol

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from callbacks.diversity_index import Norm, check
from callbacks.diversity_index_metric import DiversityIndex


class SearchTrace(Protocol):
    """What is known of a search: runs on each of B images, and T points of each run.

    Attributes:
        points: Shape ``(L, B, T, *)``, L the number of runs, whose points are not mixed.
        eps: Radius of the ball that is searched.
        norm: Its norm, ``"Linf"`` or ``"L2"``.
    """

    points: Tensor
    eps: float
    norm: Norm


class DiversityIndexMonitor(pl.Callback):
    """Logs ``test/diversity_index/<attack>``, the mean over images and windows, of every attack that a module tests.

    Works with any module whose ``test_step`` returns a mapping with ``"traces"``: the trace of each attack by its name,
    an object with ``points``, ``eps`` and ``norm`` as :class:`SearchTrace` has them.

    ``final_curves`` has the mean index over the iterations, ``diversity_index/<attack>``; x is the last iteration of
    the window, where the start point is iteration 0.

    Args:
        window: Consecutive search points of an index, at least 3; the paper has 10.

    Raises:
        ValueError: If ``window`` is out of range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[DiversityIndexMonitor(window=10)], logger=False)
    """

    def __init__(self, window: int = 10) -> None:
        check(1.0, window, "Linf")
        self.window = window
        self.metrics: dict[str, DiversityIndex] = {}
        self.final_curves: dict[str, tuple[list[float], list[float]]] = {}

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.metrics, self.final_curves = {}, {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        traces = outputs.get("traces") if isinstance(outputs, Mapping) else None
        if not traces:
            raise MisconfigurationException(
                "DiversityIndexMonitor needs a module whose test_step returns the traces of its attacks by name, as "
                f'{{"traces": {{...}}}}, got {type(pl_module).__name__}, which gave none; do its attacks record them?'
            )
        for name, trace in traces.items():
            if name not in self.metrics:
                self.metrics[name] = DiversityIndex(trace.eps, self.window, trace.norm).to(pl_module.device)
            self.metrics[name].update(trace.points.flatten(0, 1))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, metric in self.metrics.items():
            found = metric.compute()
            pl_module.log(f"test/diversity_index/{name}", found["diversity_index"])
            values = found["curve"].tolist()
            iterations = range(self.window - 1, self.window - 1 + len(values))
            self.final_curves[f"diversity_index/{name}"] = ([float(k) for k in iterations], values)
