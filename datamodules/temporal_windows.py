"""Windows of temporal graphs: snapshots of a common set of nodes, kept as one union of edges with their histories."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset


class TemporalGraphWindow(NamedTuple):
    """One window of T snapshots, or a batch of B windows side by side; N nodes and E edges in all.

    An edge is there once, however many snapshots have it. Models take anything with these attributes: a PyG ``Data``
    or ``Batch`` of windows serves as well.

    Attributes:
        x: Node features over time, shape ``(N, T, F)``.
        edge_index: Sources and targets of the edges that any snapshot has, shape ``(2, E)``, sorted by target, then
            source; the nodes of a window are numbered after those of the one before.
        edge_attr: Edge features over time, shape ``(E, T, C)``, the padding value where a snapshot lacks the edge; or
            ``(E, C)`` if the graph is the same at all times.
        present: Which snapshots have the edge, boolean ``(E, T)``; ``None`` if the graph is the same at all times.
        y: What is to be told: forecasts ``(N, targets)``, or one class for each window, ``(B,)``.
        mask: Which nodes count in loss and metrics, boolean ``(N,)``.
        ptr: Where the nodes of each window begin, and N, shape ``(B + 1,)``.
        batch: The window of each node, shape ``(N,)``.
        snapshot_id: Which snapshot of a sequence each one is, int64 ``(B, T)``; ``None`` if windows share none.
        time: The step that is forecast, int64 ``(B,)``; ``None`` where nothing is forecast.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    present: Tensor | None
    y: Tensor
    mask: Tensor
    ptr: Tensor
    batch: Tensor
    snapshot_id: Tensor | None = None
    time: Tensor | None = None


@dataclass
class EdgeHistories:
    """Every pair of nodes that has an edge at some time, with what it carries at each.

    Args:
        pairs: Sources and targets, shape ``(2, P)``, sorted by target, then source.
        values: Edge features, shape ``(P, D, C)``; 0 where there is no edge.
        present: Where there is one, boolean ``(P, D)``.
    """

    pairs: Tensor
    values: Tensor
    present: Tensor


def edge_histories(
    edge_indices: Sequence[Tensor],
    edge_attrs: Sequence[Tensor],
    num_nodes: int,
    duplicates: Literal["error", "sum"] = "error",
    allow_empty: bool = False,
) -> EdgeHistories:
    """Gather the edges of all snapshots.

    Args:
        edge_indices: Sources and targets of each snapshot, D tensors ``(2, E_t)``, int64.
        edge_attrs: Their features, D tensors ``(E_t, C)``.
        num_nodes: Number of nodes n.
        duplicates: Whether an edge that a snapshot lists twice is an error, or carries the sum.
        allow_empty: Whether a snapshot may have no edge; else that is an error, as it is mostly a slip in slicing.

    Raises:
        ValueError: If an edge names no node, a snapshot is empty or lists an edge twice, against these arguments.

    Example:
        >>> days = [torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0], [1]])]
        >>> found = edge_histories(days, [torch.ones(2, 1), torch.ones(1, 1)], num_nodes=2)
        >>> found.pairs.tolist(), found.present.tolist()
        ([[1, 0], [0, 1]], [[True, False], [True, True]])
    """
    _check_snapshots(edge_indices, edge_attrs, num_nodes, allow_empty)
    num_steps = len(edge_indices)
    counts = torch.tensor([index.shape[1] for index in edge_indices])
    step = torch.arange(num_steps).repeat_interleave(counts)
    source, target = torch.cat(list(edge_indices), dim=1)
    pair, where = (target * num_nodes + source).unique(return_inverse=True)
    slot = where * num_steps + step
    times = torch.bincount(slot, minlength=len(pair) * num_steps)
    if duplicates == "error" and times.numel() and int(times.max()) > 1:
        first = int((times[slot] > 1).nonzero()[0])
        edge = f"{int(source[first])} -> {int(target[first])}"
        raise ValueError(f"duplicates must be 'sum' where a snapshot lists an edge twice, as {int(step[first])} {edge}")
    attr = torch.cat(list(edge_attrs))
    values = attr.new_zeros(len(pair) * num_steps, attr.shape[1]).index_add_(0, slot, attr)
    return EdgeHistories(
        torch.stack([pair % num_nodes, pair // num_nodes]),
        values.view(len(pair), num_steps, attr.shape[1]),
        (times > 0).view(len(pair), num_steps),
    )


def _check_snapshots(
    edge_indices: Sequence[Tensor], edge_attrs: Sequence[Tensor], num_nodes: int, allow_empty: bool
) -> None:
    if len(edge_indices) != len(edge_attrs) or not edge_indices:
        raise ValueError(f"edge_attrs must have one entry for each of {len(edge_indices)} snapshots")
    for t, (index, attr) in enumerate(zip(edge_indices, edge_attrs)):
        if index.shape[1] != len(attr):
            raise ValueError(f"snapshot {t} must have features for its {index.shape[1]} edges, got {len(attr)}")
        if index.numel() == 0 and not allow_empty:
            raise ValueError(f"snapshot {t} has no edge; say allow_empty=True if that is meant")
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < num_nodes:
            raise ValueError(f"snapshot {t} names nodes outside 0 to {num_nodes - 1}")


def pad(values: Tensor, present: Tensor, padding_value: float) -> Tensor:
    """Put the padding value where there is no edge.

    Args:
        values: Edge features, shape ``(P, D, C)``.
        present: Where there is an edge, boolean ``(P, D)``.
        padding_value: Must lie outside the range of the features, or absent could not be told from present.

    Raises:
        ValueError: If it does not.

    Example:
        >>> pad(torch.ones(1, 2, 1), torch.tensor([[True, False]]), -1.0).flatten()
        tensor([ 1., -1.])
    """
    found = values[present]
    if found.numel() and float(found.min()) <= padding_value <= float(found.max()):
        raise ValueError(
            f"padding_value must lie outside the range of the edge features, {float(found.min()):g} to "
            f"{float(found.max()):g}, got {padding_value:g}"
        )
    return torch.where(present[:, :, None], values, padding_value)


def temporal_window(
    x: Tensor,
    edge_indices: Sequence[Tensor],
    edge_attrs: Sequence[Tensor],
    y: Tensor,
    mask: Tensor | None = None,
    padding_value: float = -1.0,
    duplicates: Literal["error", "sum"] = "error",
    allow_empty: bool = False,
) -> TemporalGraphWindow:
    """Make a window of snapshots.

    Args:
        x: Node features over time, shape ``(n, T, F)``.
        edge_indices: Sources and targets of each snapshot, T tensors ``(2, E_t)``.
        edge_attrs: Their features, T tensors ``(E_t, C)``.
        y: Forecasts ``(n, targets)`` or a class ``(1,)``.
        mask: Which nodes count, boolean ``(n,)``; all if ``None``.
        padding_value: Feature of an edge where it is absent; outside the features' range.
        duplicates: As in :func:`edge_histories`.
        allow_empty: As in :func:`edge_histories`.

    Raises:
        ValueError: If shapes do not agree, or for the reasons of :func:`edge_histories` and :func:`pad`.

    Example:
        >>> edges = [torch.tensor([[0], [1]]), torch.tensor([[1], [0]])]
        >>> window = temporal_window(torch.ones(2, 2, 1), edges, [torch.ones(1, 1)] * 2, y=torch.tensor([0]))
        >>> window.edge_attr.squeeze(-1)
        tensor([[-1.,  1.],
                [ 1., -1.]])
    """
    num_nodes, num_steps = x.shape[:2]
    if len(edge_indices) != num_steps:
        raise ValueError(f"edge_indices must have one entry for each of {num_steps} steps, got {len(edge_indices)}")
    found = edge_histories(edge_indices, edge_attrs, num_nodes, duplicates, allow_empty)
    return TemporalGraphWindow(
        x=x,
        edge_index=found.pairs,
        edge_attr=pad(found.values, found.present, padding_value),
        present=found.present,
        y=y,
        mask=torch.ones(num_nodes, dtype=torch.bool) if mask is None else mask,
        ptr=torch.tensor([0, num_nodes]),
        batch=torch.zeros(num_nodes, dtype=torch.long),
    )


def windows_with_edge(present: Tensor, length: int) -> Tensor:
    """Which windows of a sequence have each edge at some step, by running counts: one pass over the sequence.

    Args:
        present: Where there is an edge, boolean ``(P, D)``.
        length: Steps T of a window.

    Returns:
        Whether steps ``w`` to ``w + T - 1`` have the edge, boolean ``(D - T + 1, P)``.

    Example:
        >>> windows_with_edge(torch.tensor([[True, False, False]]), length=2)
        tensor([[ True],
                [False]])
    """
    count = torch.nn.functional.pad(present.long().cumsum(1), (1, 0))
    return (count[:, length:] > count[:, :-length]).t()


def ragged_rows(ptr: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of some groups, where those of a group lie together.

    Args:
        ptr: Where each group's rows begin, and their number in all, shape ``(G + 1,)``.
        chosen: Groups, shape ``(B,)``.

    Returns:
        The rows, group by group, and the position in ``chosen`` that each belongs to.

    Example:
        >>> ragged_rows(torch.tensor([0, 2, 3]), torch.tensor([1, 0]))
        (tensor([2, 0, 1]), tensor([0, 1, 1]))
    """
    counts = ptr[chosen + 1] - ptr[chosen]
    owner = torch.arange(len(chosen)).repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return torch.arange(len(owner)) + (ptr[chosen] - before)[owner], owner


class SlidingWindows(Dataset[TemporalGraphWindow]):
    """All windows of a sequence that are followed by the step to be forecast, taken by whole batches of positions.

    Window ``w`` has steps ``w`` to ``w + T - 1``, and its targets are the first features of step ``w + T``. The edges
    of that step are not in it.

    Args:
        features: Of the nodes, shape ``(D, n, F)``, the targets first.
        edges: Histories of the edges; or ``pairs (2, P)`` and ``weights (P, C)`` that are the same at all times.
        length: Steps T of a window.
        num_targets: How many of the features are forecast.
        mask: Which nodes count, boolean ``(n,)``.

    Raises:
        ValueError: If the sequence is too short for a window and its target.
    """

    def __init__(
        self,
        features: Tensor,
        edges: EdgeHistories | tuple[Tensor, Tensor],
        length: int,
        num_targets: int,
        mask: Tensor,
    ) -> None:
        if not 1 <= length < len(features):
            raise ValueError(f"window must be from 1 to {len(features) - 1} of {len(features)} steps, got {length}")
        self.features, self.edges, self.length = features, edges, length
        self.num_targets, self.mask = num_targets, mask
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}
        if isinstance(edges, EdgeHistories):
            in_window = windows_with_edge(edges.present, length)[:-1]  # the last window has no step after it
            self._pair = in_window.nonzero()[:, 1]
            self._ptr = torch.nn.functional.pad(in_window.sum(1).cumsum(0), (1, 0))

    def __len__(self) -> int:
        return len(self.features) - self.length

    def __getitem__(self, index: Tensor) -> TemporalGraphWindow:
        num_windows, num_nodes = len(index), self.features.shape[1]
        steps = index[:, None] + torch.arange(self.length)
        edge_index, edge_attr, present = self._edges_of(index, steps)
        return TemporalGraphWindow(
            x=self.features[steps].transpose(1, 2).flatten(0, 1),
            edge_index=edge_index,
            edge_attr=edge_attr,
            present=present,
            y=self.features[index + self.length, :, : self.num_targets].flatten(0, 1),
            mask=self.mask.repeat(num_windows),
            ptr=torch.arange(num_windows + 1) * num_nodes,
            batch=torch.arange(num_windows).repeat_interleave(num_nodes),
            snapshot_id=steps,
            time=index + self.length,
        )

    def num_edges(self) -> Tensor:
        """Edges of each window, shape ``(W,)``."""
        if isinstance(self.edges, EdgeHistories):
            return self._ptr.diff()
        return torch.full((len(self),), self.edges[0].shape[1])

    def _edges_of(self, index: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if not isinstance(self.edges, EdgeHistories):
            return *self.static_edges(len(index)), None
        row, window = ragged_rows(self._ptr, index)
        pair = self._pair[row]
        edge_index = self.edges.pairs[:, pair] + window * self.features.shape[1]
        at = pair[:, None], steps[window]
        return edge_index, self.edges.values[at], self.edges.present[at]

    def static_edges(self, num_windows: int) -> tuple[Tensor, Tensor]:
        """The edges of so many windows beside each other; the same tensors at every call, so that models may see it."""
        if num_windows not in self._copies:
            assert not isinstance(self.edges, EdgeHistories)
            pairs, weights = self.edges
            offset = torch.arange(num_windows)[:, None] * self.features.shape[1]
            edge_index = (pairs[:, None] + offset).flatten(1)
            self._copies[num_windows] = edge_index, weights.repeat(num_windows, 1)
        return self._copies[num_windows]


class WindowList(Dataset[TemporalGraphWindow]):
    """Windows that have nothing in common, taken by whole batches of positions.

    Args:
        windows: Single windows of equally many steps, whose edges change over time.

    Example:
        >>> edges = [torch.tensor([[0], [1]])]
        >>> one = temporal_window(torch.ones(2, 1, 1), edges, [torch.ones(1, 1)], y=torch.tensor([0]))
        >>> WindowList([one, one])[torch.tensor([1, 0])].edge_index
        tensor([[0, 2],
                [1, 3]])
    """

    def __init__(self, windows: Sequence[TemporalGraphWindow]) -> None:
        self._nodes = _pointers([len(window.x) for window in windows])
        self._edges = _pointers([window.edge_index.shape[1] for window in windows])
        self.x, self.edge_attr, self.y, self.mask = (
            torch.cat([getattr(window, name) for window in windows]) for name in ("x", "edge_attr", "y", "mask")
        )
        self.present = torch.cat([window.present for window in windows])  # type: ignore[misc]
        self.edge_index = torch.cat([window.edge_index for window in windows], dim=1)

    def __len__(self) -> int:
        return len(self._nodes) - 1

    def __getitem__(self, index: Tensor) -> TemporalGraphWindow:
        node, window = ragged_rows(self._nodes, index)
        edge, owner = ragged_rows(self._edges, index)
        ptr = torch.nn.functional.pad(self._nodes.diff()[index].cumsum(0), (1, 0))
        return TemporalGraphWindow(
            x=self.x[node],
            edge_index=self.edge_index[:, edge] + ptr[owner],
            edge_attr=self.edge_attr[edge],
            present=self.present[edge],
            y=self.y[index],
            mask=self.mask[node],
            ptr=ptr,
            batch=window,
        )


def _pointers(sizes: Sequence[int]) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0)
