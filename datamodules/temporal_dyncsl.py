"""Sequences of circulant graphs whose skip links change: what networks as strong as 1-WL tell apart only over time."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.temporal_order import WindowOrder
from datamodules.temporal_splits import chronological
from datamodules.temporal_windows import TemporalGraphWindow, WindowList, temporal_window

LABELS = ("num_types", "order")


def skip_link_graph(num_nodes: int, skip: int) -> Tensor:
    """The circulant graph of a ring and links that skip R nodes, in both directions, with self loops.

    Args:
        num_nodes: Nodes n, at least 5.
        skip: R; neither it nor twice it may be 0 modulo n, nor it 1 or -1, or nodes would have fewer than 4 neighbours.

    Returns:
        Sources and targets, shape ``(2, 5 n)``.

    Raises:
        ValueError: If an argument is not as described.

    Example:
        >>> skip_link_graph(5, 2).shape
        torch.Size([2, 25])
    """
    if num_nodes < 5:
        raise ValueError(f"num_nodes must be at least 5, got {num_nodes}")
    if skip % num_nodes in (0, 1, num_nodes - 1) or 2 * skip % num_nodes == 0:
        raise ValueError(f"skips must not be 0, 1, -1 or n / 2 modulo the {num_nodes} nodes, got {skip}")
    node = torch.arange(num_nodes)
    steps = torch.tensor([0, 1, -1, skip, -skip])
    return torch.stack([node.repeat(5), (node + steps[:, None]).flatten() % num_nodes])


def skip_link_window(
    num_nodes: int, skips: Sequence[int], label: int, padding_value: float = -1.0
) -> TemporalGraphWindow:
    """A sequence of circulant graphs on the same nodes, whose features are all 1.

    Args:
        num_nodes: Nodes n.
        skips: The skip of each step.
        label: Class of the sequence.
        padding_value: What an edge's feature is while the edge is absent; it is 1 otherwise.

    Example:
        >>> skip_link_window(19, [2, 3], label=0).edge_attr.shape
        torch.Size([133, 2, 1])
    """
    graphs = [skip_link_graph(num_nodes, skip) for skip in skips]
    weights = [torch.ones(graph.shape[1], 1) for graph in graphs]
    x = torch.ones(num_nodes, len(skips), 1)
    return temporal_window(x, graphs, weights, torch.tensor([label]), padding_value=padding_value)


class DynCSLDataModule(pl.LightningDataModule):
    """Classify sequences of circulant graphs by which skips they have, or by the order of the skips.

    A reconstruction of the paper's DynCSL, whose generator is not public: 19 nodes, 8 steps, constant features. Every
    snapshot is 4-regular, so that one round of neighbours, or many, tell nothing of its skip. A batch is a
    :class:`~datamodules.temporal_windows.TemporalGraphWindow`; each sequence has its nodes permuted, the same way at
    all steps.

    Labels ``"num_types"``: the number of different skips, 1 to 4, less one. (The union of the edges, without their
    histories, gives that away: its degree grows with the number.) ``"order"``: whether two skips alternate (0) or come
    one after the other (1); union and mean over time are the same for both, only the histories of edges differ.

    Args:
        num_nodes: Nodes of each graph.
        num_steps: Steps of each sequence.
        skips: The skips to choose from; the default has one of each class of isomorphic graphs on 19 nodes.
        num_samples: Sequences; the first 70 % are for training, the next 10 for validation, the last 20 for the test.
        label: ``"num_types"`` or ``"order"``.
        permute: Whether nodes are permuted.
        batch_size: Sequences of a training batch, on each device.
        padding_value: What an edge's feature is while the edge is absent; it is 1 otherwise.
        seed: Of sequences and order; ``None`` takes the one of ``seed_everything``, 0 if there is none.

    Raises:
        ValueError: If an argument is out of range, or a class would be absent from a part.

    Source:
        Gao and Ribeiro, ICML 2022 (the idea and the sizes); the labels are ours.

    Example:
        >>> batch = next(iter(DynCSLDataModule().val_dataloader()))
        >>> batch.x.shape, batch.y.bincount()
        (torch.Size([380, 8, 1]), tensor([5, 5, 5, 5]))
    """

    def __init__(
        self,
        num_nodes: int = 19,
        num_steps: int = 8,
        skips: Sequence[int] = (2, 3, 4, 7),
        num_samples: int = 200,
        label: Literal["num_types", "order"] = "num_types",
        permute: bool = True,
        batch_size: int = 20,
        padding_value: float = -1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if label not in LABELS:
            raise ValueError(f"label must be one of {', '.join(LABELS)}, got {label!r}")
        for skip in skips:
            skip_link_graph(num_nodes, skip)
        if len({min(skip % num_nodes, -skip % num_nodes) for skip in skips}) < max(2, len(skips)):
            raise ValueError(f"skips must be at least two that differ, up to their sign, got {list(skips)}")
        if label == "num_types" and num_steps < len(skips):
            raise ValueError(f"num_steps must be at least {len(skips)}, the number of skips, got {num_steps}")
        if label == "order" and (num_steps < 4 or num_steps % 2):
            raise ValueError(f"num_steps must be even and at least 4 where label is order, got {num_steps}")
        if padding_value == 1:
            raise ValueError("padding_value must differ from 1, the feature of an edge that is there, got 1")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_samples < 10:
            raise ValueError(f"num_samples must be at least 10, as the parts are tenths, got {num_samples}")
        self.num_nodes, self.num_steps, self.skips = num_nodes, num_steps, tuple(skips)
        self.label, self.permute, self.padding_value = label, permute, padding_value
        self.batch_size, self.num_samples = batch_size, num_samples
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.positions = chronological(num_samples)
        smallest = min(len(positions) for positions in self.positions.values())
        if smallest < self.num_classes:
            raise ValueError(
                f"num_samples must leave at least {self.num_classes} in each part, one of each class, got {num_samples}"
            )

    @property
    def num_classes(self) -> int:
        """Classes of the sequences."""
        return len(self.skips) if self.label == "num_types" else 2

    @property
    def num_features(self) -> int:
        """Features of a node."""
        return 1

    @property
    def num_edge_features(self) -> int:
        """Features of an edge."""
        return 1

    @property
    def num_train(self) -> int:
        """Training sequences."""
        return len(self.positions["train"])

    @property
    def description(self) -> str:
        """The data in one line, for tables."""
        return (
            f"DynCSL, reconstructed ({self.num_samples} sequences of {self.num_steps} circulant graphs of "
            f"{self.num_nodes} nodes, label {self.label})"
        )

    @cached_property
    def windows(self) -> WindowList:
        """All sequences, labels in turn."""
        generator = torch.Generator().manual_seed(self.seed)
        return WindowList([self._window(i % self.num_classes, generator) for i in range(self.num_samples)])

    def _window(self, label: int, generator: torch.Generator) -> TemporalGraphWindow:
        window = skip_link_window(self.num_nodes, self._draw_skips(label, generator), label, self.padding_value)
        return permuted(window, torch.randperm(self.num_nodes, generator=generator)) if self.permute else window

    def _draw_skips(self, label: int, generator: torch.Generator) -> list[int]:
        drawn = torch.tensor(self.skips)[torch.randperm(len(self.skips), generator=generator)]
        half = self.num_steps // 2
        if self.label == "order":
            return (drawn[:2].repeat(half) if label == 0 else drawn[:2].repeat_interleave(half)).tolist()
        types = drawn[: label + 1]
        again = torch.randint(len(types), (self.num_steps - len(types),), generator=generator)
        sequence = torch.cat([types, types[again]])
        return sequence[torch.randperm(self.num_steps, generator=generator)].tolist()

    @property
    def contrasting_windows(self) -> tuple[TemporalGraphWindow, TemporalGraphWindow]:
        """One skip at all steps, and two skips in turn: the same graphs to 1-WL, snapshot by snapshot."""
        a, b = self.skips[:2]
        in_turn = [(a, b)[t % 2] for t in range(self.num_steps)]
        return tuple(  # type: ignore[return-value]
            skip_link_window(self.num_nodes, skips, 0, self.padding_value) for skips in ([a] * self.num_steps, in_turn)
        )

    def setup(self, stage: str) -> None:
        """Draw the sequences."""
        _ = self.windows

    def train_dataloader(self) -> DataLoader:
        """Training sequences in an order that the seed shuffles anew in every epoch."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """All validation sequences as one batch."""
        return self._loader("val", self.num_samples)

    def test_dataloader(self) -> DataLoader:
        """All test sequences as one batch."""
        return self._loader("test", self.num_samples)

    def predict_dataloader(self) -> DataLoader:
        """All test sequences as one batch."""
        return self.test_dataloader()

    def _loader(self, part: str, batch_size: int, shuffle: bool = False) -> DataLoader:
        world = (
            {} if self.trainer is None else {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}
        )
        order = WindowOrder(self.positions[part], batch_size, shuffle, seed=self.seed, **world)
        # A loader draws a worker seed at every epoch; its own generator leaves the global stream to the model.
        return DataLoader(self.windows, batch_size=None, sampler=order, generator=torch.Generator())


def permuted(window: TemporalGraphWindow, order: Tensor) -> TemporalGraphWindow:
    """The window with its nodes renamed, the same way at all steps.

    Args:
        window: A single one, of one class.
        order: The new name of each node, shape ``(n,)``.

    Example:
        >>> window = skip_link_window(5, [2], label=0)
        >>> permuted(window, torch.arange(5)).edge_index.equal(window.edge_index)
        True
    """
    num_nodes = len(order)
    edge_index = order[window.edge_index]
    rank = (edge_index[1] * num_nodes + edge_index[0]).argsort()
    assert window.present is not None
    old = order.argsort()
    return window._replace(
        x=window.x[old],
        edge_index=edge_index[:, rank],
        edge_attr=window.edge_attr[rank],
        present=window.present[rank],
        mask=window.mask[old],
    )
