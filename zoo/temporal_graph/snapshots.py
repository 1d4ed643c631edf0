"""The snapshots of a batch of windows: all side by side in one graph, or one after the other for a recurrence."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.temporal_graph.graph import Graph
from zoo.temporal_graph.memo import Memo
from zoo.temporal_graph.window import TemporalWindow, num_windows, pointers, window_of_node


@dataclass
class Stack:
    """Snapshots side by side.

    Args:
        x: Node features, shape ``(M, F)``; or ``(n, S, F)`` of S snapshots of one graph.
        graph: The graph of these nodes.
        position: Where each node of the windows is at each step, in the flattened first axes of ``x``, ``(N, T)``.
    """

    x: Tensor
    graph: Graph
    position: Tensor

    def over_time(self, y: Tensor) -> Tensor:
        """What a network made of ``x``, as sequences of the windows' nodes, ``(N, T, D)``."""
        return y.reshape(-1, y.shape[-1])[self.position]


def stack_snapshots(window: TemporalWindow, weigh: nn.Module | None, memo: Memo) -> Stack:
    """Put all snapshots side by side, so that one call of a network works on all; those that windows share, once.

    Args:
        window: The windows; ``snapshot_id`` tells which of their snapshots are the same.
        weigh: Makes weights ``(*)`` of edge features ``(*, C)``; the first feature is the weight if ``None``.
        memo: Keeps a graph that stays.
    """
    first, slot = distinct_snapshots(window)
    if window.present is None:
        return _stack_of_one_graph(window, weigh, memo, first, slot)
    batch, ptr = window_of_node(window), pointers(window)
    sizes = ptr.diff()[:, None].expand_as(slot).t()[first.t()]  # nodes of each block, in order of slot
    begin = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    local = torch.arange(len(batch), device=batch.device) - ptr[batch]
    position = begin[slot[batch]] + local[:, None]
    node, step = first[batch].nonzero().unbind(1)
    x = window.x.new_empty(len(node), window.x.shape[2])
    x[position[node, step]] = window.x[node, step]
    source, target = window.edge_index
    when, edge = (window.present & first[batch[target]]).t().nonzero().unbind(1)  # by step, window, target: sorted
    edge_index = torch.stack([position[source[edge], when], position[target[edge], when]])
    attr = window.edge_attr[edge, when]
    weight = attr[:, 0] if weigh is None else weigh(attr)
    return Stack(x, Graph(edge_index, len(x), weight, attr), position)


def distinct_snapshots(window: TemporalWindow) -> tuple[Tensor, Tensor]:
    """Which snapshots are the first of their kind, and the number of each one's kind, in order of step and window.

    Args:
        window: The windows.

    Returns:
        Both of shape ``(B, T)``.
    """
    windows, steps, device = num_windows(window), window.x.shape[1], window.x.device
    snapshot = getattr(window, "snapshot_id", None)
    position = torch.arange(windows * steps, device=device)
    if snapshot is None:
        return torch.ones(windows, steps, dtype=torch.bool, device=device), position.view(steps, windows).t()
    kinds, kind = snapshot.t().flatten().unique(return_inverse=True)
    earliest = torch.full_like(kinds, len(kind)).scatter_reduce_(0, kind, position, "amin")
    is_first = position == earliest[kind]
    slot = (is_first.long().cumsum(0) - 1)[earliest[kind]]
    return is_first.view(steps, windows).t(), slot.view(steps, windows).t()


def _stack_of_one_graph(
    window: TemporalWindow, weigh: nn.Module | None, memo: Memo, first: Tensor, slot: Tensor
) -> Stack:
    """A graph that stays is not copied for each step: its snapshots are more columns of the same product."""
    num_nodes, num_steps, num_features = window.x.shape
    if getattr(window, "snapshot_id", None) is None:
        graph = memo.graph(window.edge_index, window.edge_attr, num_nodes, weigh)
        position = torch.arange(num_nodes * num_steps, device=window.x.device).view(num_nodes, num_steps)
        return Stack(window.x, graph, position)
    windows = len(first)  # of one sequence, so that all have the same nodes and edges
    graph = memo.graph(window.edge_index, window.edge_attr, num_nodes, weigh, copies=windows)
    by_step = window.x.view(windows, -1, num_steps, num_features).permute(2, 0, 1, 3)
    x = by_step[first.t()].transpose(0, 1)
    local = torch.arange(x.shape[0], device=x.device).repeat(windows)
    position = local[:, None] * x.shape[1] + slot.repeat_interleave(x.shape[0], dim=0)
    return Stack(x, graph, position)


def step_graphs(window: TemporalWindow, weigh: nn.Module | None, memo: Memo) -> list[Graph]:
    """The graph of each step, T of them, for what must be done one after the other.

    All have the edges of the union, so that they share what depends on edges alone; absent ones weigh 0.

    Args:
        window: The windows.
        weigh: As in :func:`stack_snapshots`.
        memo: Keeps a graph that stays.
    """
    num_nodes, num_steps = window.x.shape[:2]
    if window.present is None:
        return [memo.graph(window.edge_index, window.edge_attr, num_nodes, weigh)] * num_steps
    weight = window.edge_attr[..., 0] if weigh is None else weigh(window.edge_attr)
    union = Graph(window.edge_index, num_nodes)
    steps = zip((weight * window.present).unbind(1), window.present.unbind(1))
    return [union.reweighted(weight, present) for weight, present in steps]
