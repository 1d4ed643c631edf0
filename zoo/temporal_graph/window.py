"""What a model is given: a batch of windows."""

from typing import Protocol

import torch
from torch import Tensor


class TemporalWindow(Protocol):
    """One window of T snapshots, or B of them side by side: anything with these attributes, a PyG ``Data`` too.

    ``ptr`` ``(B + 1,)`` and ``batch`` ``(N,)`` say which nodes are whose, as in a PyG ``Batch``; without them there is
    one window. ``snapshot_id`` ``(B, T)`` may say which of the windows' snapshots are the same, so that each is worked
    on once.

    Attributes:
        x: Node features over time, shape ``(N, T, F)``.
        edge_index: Sources and targets of the edges that any snapshot has, shape ``(2, E)``, sorted by target.
        edge_attr: Edge features over time ``(E, T, C)``, padded where absent; ``(E, C)`` if the graph stays.
        present: Which snapshots have the edge, boolean ``(E, T)``; ``None`` if the graph stays.
    """

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    present: Tensor | None


def pointers(window: TemporalWindow) -> Tensor:
    """Where the nodes of each window begin, shape ``(B + 1,)``."""
    ptr = getattr(window, "ptr", None)
    return torch.tensor([0, len(window.x)], device=window.x.device) if ptr is None else ptr


def window_of_node(window: TemporalWindow) -> Tensor:
    """The window of each node, shape ``(N,)``."""
    batch = getattr(window, "batch", None)
    return torch.zeros(len(window.x), dtype=torch.long, device=window.x.device) if batch is None else batch


def num_windows(window: TemporalWindow) -> int:
    """Number of windows B."""
    return len(pointers(window)) - 1
