"""A callback that draws the loss on the straight line from a run's first to its last weights."""

import copy
import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.nn.functional as F
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from callbacks.evaluation_data import as_in_a_test
from callbacks.path import has_statistics, interpolate_paths
from callbacks.path_plot import draw_paths
from callbacks.path_result import PathResult
from callbacks.states import check_buffers, check_groups, snapshot, weight_distance, weight_norm

PARTS = ("train", "val", "test")
WHOLE = "all"  # the line on which everything moves
DRY_EXAMPLES = 16  # of a part in a fast_dev_run, which has the two ends for positions
OF_A_GROUP = ("loss_start", "min_delta", "barrier")
Key = tuple[str, str, str]  # part, buffers, group


class LinearInterpolation(pl.Callback):
    """Evaluates the loss on the line from the weights at the start of the fit to those at its end.

    The start is the state before the first step, after whatever a hook ``on_fit_start`` has done to the weights. It is
    kept in every checkpoint, so that a resumed run draws the same path as an uninterrupted one. The lines are evaluated
    when training ends; nothing the run draws at random changes by it. The log folder gets ``path.csv`` and
    ``path.png``, the loggers get the numbers.

    Works on any LightningModule whose ``forward(x)`` gives class scores and whose batch is ``(x, y, ...)``. Batches
    come from the Trainer's datamodule, as in a test: without augmentation where the datamodule has an attribute
    ``augment``. With several processes each evaluates what its dataloader gives it, and the sums are added up.

    Args:
        num_alphas: Positions on the line, both ends included.
        groups: Layer-wise lines by name, each with the modules that move while the rest is at its final values:
            ``{"B1": ["net.layer1"], "fc": ["net.head"]}``.
        buffers: Treatments of the running statistics of batch normalisation, each drawn: ``"interpolate"``,
            ``"recompute"``, ``"final"``; see :func:`~callbacks.states.lerp_state`. Without such layers they agree, and
            the first one is drawn.
        parts: Data that the loss is taken on: ``"test"``, ``"train"``, ``"val"``.
        max_examples: At most so many examples of each part; all if ``None``.
        statistics_examples: Training examples from which ``"recompute"`` takes the statistics.
        loss_fn: Loss of scores and targets, averaged over a batch; cross-entropy if ``None``.
        dataloaders: Batches by part, for a Trainer without a datamodule.

    Attributes:
        paths: What was measured, by part, treatment of the buffers and group; ``"all"`` is the whole network.
        final_metrics: Its numbers, as ``path/<part>/<buffers>/<group>/<number>``, the Euclidean distance of the ends
            as ``path/distance``, divided by the norm of the start as ``path/relative_distance``, and the norm of the
            end divided by that of the start as ``path/norm_ratio``.
        final_curves: Losses and accuracies over alpha, as ``path/<part>/<buffers>/<group>/loss``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> probe = LinearInterpolation(num_alphas=11, buffers=["interpolate", "recompute"])
        >>> trainer = pl.Trainer(callbacks=[probe], logger=False)
    """

    def __init__(
        self,
        num_alphas: int = 50,
        groups: dict[str, list[str]] | None = None,
        buffers: Sequence[str] = ("interpolate",),
        parts: Sequence[str] = ("test",),
        max_examples: int | None = None,
        statistics_examples: int = 1000,
        loss_fn: nn.Module | None = None,
        dataloaders: Mapping[str, Iterable[Any]] | None = None,
    ) -> None:
        _check(num_alphas, buffers, parts, max_examples, statistics_examples)
        if groups and WHOLE in groups:
            raise ValueError(f"groups must have other names than {WHOLE!r}, the whole network's, got {list(groups)}")
        self.num_alphas = num_alphas
        self.groups: dict[str, list[str] | None] = {WHOLE: None, **(groups or {})}
        self.buffers = list(buffers)
        self.parts = list(parts)
        self.max_examples = max_examples
        self.statistics_examples = statistics_examples
        self.loss_fn = loss_fn or F.cross_entropy
        self.dataloaders = dict(dataloaders or {})
        self.initial_state: dict[str, Tensor] | None = None
        self.paths: dict[Key, PathResult] = {}
        self.final_metrics: dict[str, float] = {}
        self.final_curves: dict[str, tuple[list[float], list[float]]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"initial_state": self.initial_state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.initial_state = state_dict["initial_state"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.initial_state = None  # a checkpoint, if there is one, is read after this
        if isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
            name = type(trainer.strategy).__name__
            raise MisconfigurationException(f"LinearInterpolation needs all weights on every device, got {name}")
        for part in [*self.parts, *(["train"] if "recompute" in self.buffers else [])]:
            if part not in self.dataloaders and getattr(trainer, "datamodule", None) is None:
                raise MisconfigurationException(
                    f"LinearInterpolation needs a datamodule, or dataloaders={{{part!r}: ...}}, got neither"
                )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for modules in self.groups.values():
            check_groups(modules, pl_module.state_dict())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.initial_state is not None:
            return
        if trainer.global_step > 0:
            rank_zero_warn(
                f"The checkpoint keeps no initial weights: the path begins at step {trainer.global_step}, where this "
                "fit goes on."
            )
        self.initial_state = snapshot(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.initial_state is not None
        final_state = snapshot(pl_module)
        self.paths = dict(self._measure(trainer, pl_module, final_state))
        self.final_metrics = {
            "path/distance": weight_distance(self.initial_state, final_state),
            "path/relative_distance": weight_distance(self.initial_state, final_state, normalize=True),
            "path/norm_ratio": weight_norm(final_state) / weight_norm(self.initial_state),
            **_numbers(self.paths),
        }
        self.final_curves = {
            f"path/{'/'.join(key)}/{name}": (path.alphas.tolist(), curve.tolist())
            for key, path in self.paths.items()
            for name, curve in path.columns().items()
            if name != "alpha"
        }
        self._keep(trainer)

    def _measure(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, final_state: Mapping[str, Tensor]
    ) -> Iterator[tuple[Key, PathResult]]:
        assert self.initial_state is not None
        treatments = self.buffers if has_statistics(pl_module) else self.buffers[:1]
        with isolate_rng(), as_in_a_test(trainer), trainer.precision_plugin.forward_context():
            for part, buffers in product(self.parts, treatments):
                statistics = self._batches(trainer, "train", self.statistics_examples)
                try:
                    paths = interpolate_paths(
                        pl_module,
                        self.initial_state,
                        final_state,
                        self._batches(trainer, part, self.max_examples),
                        self.groups,
                        num_alphas=2 if trainer.fast_dev_run else self.num_alphas,  # type: ignore[attr-defined]
                        loss_fn=self.loss_fn,
                        buffers=buffers if has_statistics(pl_module) else "interpolate",
                        statistics_loader=statistics if buffers == "recompute" else None,
                        device=pl_module.device,
                        distributed=trainer.world_size > 1,
                    )
                except ValueError as error:  # the training is done: one line less should not lose it
                    rank_zero_warn(f"No path on the {part} data with buffers={buffers!r}: {error}")
                    continue
                yield from (((part, buffers, group), path) for group, path in paths.items())

    def _batches(self, trainer: pl.Trainer, part: str, max_examples: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of a part on the device, up to a number of examples over all processes."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            max_examples = DRY_EXAMPLES
        left = math.inf if max_examples is None else math.ceil(max_examples / trainer.world_size)
        for batch in self._loader(trainer, part):
            if left <= 0:
                return
            x, y, *_ = trainer.strategy.batch_to_device(batch)
            count = int(min(left, len(y)))
            left -= count
            yield x[:count], y[:count]

    def _loader(self, trainer: pl.Trainer, part: str) -> Iterable[Any]:
        if part in self.dataloaders:
            return self.dataloaders[part]
        datamodule = copy.copy(trainer.datamodule)  # type: ignore[attr-defined]
        if hasattr(datamodule, "augment"):
            datamodule.augment = False
        return getattr(datamodule, f"{part}_dataloader")()

    def _keep(self, trainer: pl.Trainer) -> None:
        """Log the numbers, and write what was measured into the log folder."""
        for logger in trainer.loggers:
            logger.log_metrics({**self.final_metrics, "epoch": trainer.current_epoch}, step=trainer.global_step)
        folder = trainer.log_dir  # asked for in every process
        if folder is not None and self.paths and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(Path(folder))

    @rank_zero_only
    def _write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys(name for path in self.paths.values() for name in path.columns()))
        partial = folder / "path.partial"  # renamed when whole
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["part", "buffers", "group", *columns])
            writer.writeheader()
            for (part, buffers, group), path in self.paths.items():
                for values in zip(*(curve.tolist() for curve in path.columns().values())):
                    row = dict(zip(path.columns(), values))
                    writer.writerow({"part": part, "buffers": buffers, "group": group, **row})
        partial.replace(folder / "path.csv")
        draw_paths(self.paths).savefig(partial, format="png", dpi=150)
        partial.replace(folder / "path.png")


def _numbers(paths: Mapping[Key, PathResult]) -> dict[str, float]:
    """The summaries by name; of a group only what sets it apart."""
    return {
        f"path/{'/'.join(key)}/{name}": value
        for key, path in paths.items()
        for name, value in path.summary().items()
        if key[2] == WHOLE or name in OF_A_GROUP
    }


def _check(
    num_alphas: int, buffers: Sequence[str], parts: Sequence[str], max_examples: int | None, statistics_examples: int
) -> None:
    if num_alphas < 2:
        raise ValueError(f"num_alphas must be at least 2, both ends, got {num_alphas}")
    if not buffers or isinstance(buffers, str):
        raise ValueError(f"buffers must be a list of at least one treatment, got {buffers!r}")
    for treatment in buffers:
        check_buffers(treatment)
    if not parts or isinstance(parts, str) or not set(parts) <= set(PARTS):
        raise ValueError(f"parts must be a list of {', '.join(PARTS)}, got {parts!r}")
    if max_examples is not None and max_examples < 1:
        raise ValueError(f"max_examples must be at least 1, got {max_examples}")
    if statistics_examples < 2:
        raise ValueError(f"statistics_examples must be at least 2, got {statistics_examples}")
