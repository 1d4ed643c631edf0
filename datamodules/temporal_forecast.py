"""What forecasts of a sequence of graphs share: windows, splits, scales and batches."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.root import data_root
from datamodules.temporal_order import WindowOrder
from datamodules.temporal_splits import SPLITS, Split, chronological, deal_nodes, interleaved, min_max
from datamodules.temporal_windows import EdgeHistories, SlidingWindows, TemporalGraphWindow, pad

IF_UNAVAILABLE = ("error", "stand_in")


@dataclass
class GraphSequence:
    """A sequence of graphs as measured.

    Args:
        features: Of the nodes, shape ``(D, n, F)``, those to be forecast first.
        num_targets: How many are forecast.
        edges: Histories of edges that change, or ``pairs (2, P)`` and ``weights (P, C)`` of edges that stay.
    """

    features: Tensor
    num_targets: int
    edges: EdgeHistories | tuple[Tensor, Tensor]


class ForecastDataModule(pl.LightningDataModule):
    """Windows of a sequence of graphs, each with the step after it to be forecast.

    A batch is a :class:`~datamodules.temporal_windows.TemporalGraphWindow`. Features and edge weights are scaled to
    [0, 1] by the least and the largest value of the training part, channel by channel.

    A subclass says what the data is: ``title``, :meth:`read` and :meth:`unavailable`, and :meth:`stand_in`.

    Args:
        root: Folder of all data; ``None`` means the variable ``ZOO_DATA``, else ``data/``.
        window: Steps T of a window.
        split: ``"chronological"``, 70, 10 and 20 % of the windows in order of time; ``"interleaved"``, windows dealt
            in turn; or ``"node"``, all windows, of which each part has its own nodes. See
            :mod:`datamodules.temporal_splits`.
        batch_size: Windows of a training batch, on each device.
        eval_batch_size: Windows of a batch in validation and test.
        padding_value: What an edge's feature is while the edge is absent; outside [0, 1].
        keep_edges: Whether the edges are used; without them, only what the nodes themselves tell is left.
        if_unavailable: What to do without the data: ``"error"``, or ``"stand_in"`` for a generated sequence.
        seed: Of the order; ``None`` takes the one of ``seed_everything``, 0 if there is none.

    Raises:
        ValueError: If an argument is out of range.
    """

    title: str
    unit: str

    def __init__(
        self,
        root: str | os.PathLike[str] | None,
        window: int,
        split: Split,
        batch_size: int,
        eval_batch_size: int,
        padding_value: float,
        keep_edges: bool,
        if_unavailable: str,
        seed: int | None,
    ) -> None:
        super().__init__()
        for name, value in (("window", window), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, choice, allowed in (("split", split, SPLITS), ("if_unavailable", if_unavailable, IF_UNAVAILABLE)):
            if choice not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {choice!r}")
        if not (padding_value < 0 or padding_value > 1):
            raise ValueError(f"padding_value must lie outside [0, 1], where the edge weights are, got {padding_value}")
        self.root = data_root(root)
        self.window, self.split, self.padding_value, self.keep_edges = window, split, padding_value, keep_edges
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.if_unavailable = if_unavailable
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self._placed: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def unavailable(self) -> str | None:
        """Why the data is out of reach, after an attempt to fetch it; ``None`` if it is there."""
        raise NotImplementedError

    def read(self) -> GraphSequence:
        """The data of the files."""
        raise NotImplementedError

    def stand_in(self) -> GraphSequence:
        """Generated data of the same form."""
        raise NotImplementedError

    @cached_property
    def is_stand_in(self) -> bool:
        """Whether the data is generated, because the real one is out of reach.

        Raises:
            FileNotFoundError: If it is out of reach and ``if_unavailable`` is ``"error"``.
        """
        reason = self.unavailable()
        if reason is None:
            return False
        if self.if_unavailable == "error":
            raise FileNotFoundError(
                f"{self.title} is not available: {reason}. Set ZOO_DATA (or --data.root) to the folder that holds it, "
                "or train on generated data with --data.if_unavailable stand_in"
            )
        rank_zero_warn(
            f"TRAINING ON A STAND-IN, NOT ON {self.title.upper()}: {reason}. A generated sequence takes its place; "
            "errors on it say nothing about the real data."
        )
        return True

    @cached_property
    def sequence(self) -> GraphSequence:
        """The sequence as measured, read at first use."""
        return self.stand_in() if self.is_stand_in else self.read()

    @cached_property
    def positions(self) -> dict[str, Tensor]:
        """The windows of each part."""
        num_windows = len(self.sequence.features) - self.window
        if num_windows < 1:
            raise ValueError(
                f"window must be less than the {len(self.sequence.features)} steps of {self.title}, got {self.window}"
            )
        if self.split == "node":
            return dict.fromkeys(("train", "val", "test"), torch.arange(num_windows))
        return chronological(num_windows) if self.split == "chronological" else interleaved(num_windows)

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """The nodes of each part, boolean ``(n,)``: all of them, unless the split is by nodes."""
        edges, num_nodes = self.sequence.edges, self.sequence.features.shape[1]
        if self.split != "node":
            return dict.fromkeys(("train", "val", "test"), torch.ones(num_nodes, dtype=torch.bool))
        if isinstance(edges, EdgeHistories):
            target = edges.pairs[1].repeat_interleave(edges.present.sum(1))
        else:
            target = edges[0][1]
        return deal_nodes(torch.bincount(target, minlength=num_nodes))

    @cached_property
    def training_steps(self) -> Tensor:
        """Which steps of the sequence the training sees, boolean ``(D,)``: those of its windows and their targets."""
        seen = torch.zeros(len(self.sequence.features), dtype=torch.bool)
        for offset in range(self.window + 1):
            seen[self.positions["train"] + offset] = True
        return seen

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Least value and range of each feature in the training part, each ``(F,)``."""
        return min_max(self.sequence.features[self.training_steps][:, self.masks["train"]])

    @cached_property
    def parts(self) -> dict[str, SlidingWindows]:
        """All windows, scaled, with the nodes of each part."""
        least, width = self.scale
        features = (self.sequence.features - least) / width
        edges = self._scaled_edges()
        num_targets = self.sequence.num_targets
        return {
            part: SlidingWindows(features, edges, self.window, num_targets, self.masks[part])
            for part in ("train", "val", "test")
        }

    def _scaled_edges(self) -> EdgeHistories | tuple[Tensor, Tensor]:
        edges = self.sequence.edges
        if not isinstance(edges, EdgeHistories):
            pairs, weights = edges
            if not self.keep_edges:
                pairs, weights = pairs[:, :0], weights[:0]
            return (pairs, weights) if len(weights) == 0 else (pairs, _scaled(weights, weights))
        pairs, values, present = edges.pairs, edges.values, edges.present
        if not self.keep_edges:
            return EdgeHistories(pairs[:, :0], values[:0], present[:0])
        seen = present & self.training_steps
        return EdgeHistories(pairs, pad(_scaled(values, values[seen]), present, self.padding_value), present)

    @property
    def num_features(self) -> int:
        """Features of a node."""
        return self.sequence.features.shape[2]

    @property
    def num_targets(self) -> int:
        """Values to forecast at each node."""
        return self.sequence.num_targets

    @property
    def num_edge_features(self) -> int:
        """Features of an edge."""
        edges = self.sequence.edges
        return (edges.values if isinstance(edges, EdgeHistories) else edges[1]).shape[-1]

    @property
    def target_range(self) -> tuple[float, ...]:
        """By how much to multiply scaled errors for the unit of measurement, for each target."""
        return tuple(self.scale[1][: self.num_targets].tolist())

    @property
    def num_train(self) -> int:
        """Training windows."""
        return len(self.positions["train"])

    def to_raw(self, y: Tensor) -> Tensor:
        """Scaled targets ``(*, targets)`` in their unit."""
        least, width = (value[: self.num_targets].to(y) for value in self.scale)
        return y * width + least

    @property
    def description(self) -> str:
        """The data in one line, for tables."""
        title = f"STAND-IN for {self.title}: generated sequence of graphs" if self.is_stand_in else self.title
        num_steps, num_nodes = self.sequence.features.shape[:2]
        edges = "" if self.keep_edges else ", without its edges"
        return f"{title} ({num_nodes} nodes, {num_steps:,} steps, windows of {self.window}, {self.split} split{edges})"

    def prepare_data(self) -> None:
        """Fetch the data if it is not there."""
        _ = self.is_stand_in

    def setup(self, stage: str) -> None:
        """Read and scale the sequence."""
        _ = self.parts

    def train_dataloader(self) -> DataLoader:
        """Training windows in an order that the seed shuffles anew in every epoch."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Validation windows in order of time."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        """Test windows in order of time."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader:
        """Test windows in order of time."""
        return self.test_dataloader()

    def _loader(self, part: str, batch_size: int, shuffle: bool = False) -> DataLoader:
        world = (
            {} if self.trainer is None else {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}
        )
        positions = self.positions[part]
        order = WindowOrder(positions, batch_size, shuffle, seed=self.seed, **world)
        # A loader draws a worker seed at every epoch; its own generator leaves the global stream to the model.
        return DataLoader(self.parts[part], batch_size=None, sampler=order, generator=torch.Generator())

    def transfer_batch_to_device(
        self, batch: TemporalGraphWindow, device: torch.device, dataloader_idx: int
    ) -> TemporalGraphWindow:
        """Edges that stay are moved once, and are the same tensors at every step, so that models may see it."""
        if batch.present is not None:
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        key = (len(batch.ptr), device)
        if key not in self._placed:
            self._placed[key] = batch.edge_index.to(device), batch.edge_attr.to(device)
        edge_index, edge_attr = self._placed[key]
        empty = batch._replace(edge_index=edge_index, edge_attr=edge_attr)
        return super().transfer_batch_to_device(empty, device, dataloader_idx)


def _scaled(values: Tensor, of_training: Tensor) -> Tensor:
    least, width = min_max(of_training)
    return (values - least) / width


def missing(paths: list[Path]) -> str | None:
    """Which of the files are not there, in words; ``None`` if all are."""
    lacking = [str(path) for path in paths if not path.is_file()]
    return f"there is no {' and no '.join(lacking)}" if lacking else None
