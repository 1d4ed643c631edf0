"""Remembers what was computed of a graph that stays."""

import torch
from torch import Tensor, nn

from zoo.temporal_graph.graph import Graph


class Memo:
    """Keeps the graph of the last edges it was given, as long as the very same tensors come again.

    A graph whose weights are learned changes with every step and is not kept.
    """

    def __init__(self) -> None:
        self._key: tuple[Tensor, Tensor, int, int] | None = None
        self._graph: Graph | None = None

    def graph(
        self, edge_index: Tensor, edge_attr: Tensor, num_nodes: int, weigh: nn.Module | None = None, copies: int = 1
    ) -> Graph:
        """The graph of these edges, or the first of several equal ones that they consist of.

        Args:
            edge_index: Sources and targets, shape ``(2, E)``, sorted by target.
            edge_attr: Features, shape ``(E, C)``.
            num_nodes: Nodes N of all of them.
            weigh: Makes weights of features; the first feature is the weight if ``None``.
            copies: How many equal graphs there are.
        """
        if weigh is not None and any(True for _ in weigh.parameters()):
            return _first(edge_index, edge_attr, num_nodes, weigh, copies)
        key = (edge_index, edge_attr, num_nodes, copies)
        if self._key is None or any(a is not b for a, b in zip(key[:2], self._key[:2])) or key[2:] != self._key[2:]:
            # The first step may be one of a validation, whose inference tensors could not be trained on.
            with torch.inference_mode(False):
                self._graph = _first(edge_index, edge_attr, num_nodes, weigh, copies)
            self._key = key
        assert self._graph is not None
        return self._graph

    def __deepcopy__(self, memo: object) -> "Memo":
        return Memo()

    def __reduce__(self) -> tuple[type["Memo"], tuple[()]]:
        return Memo, ()


def _first(edge_index: Tensor, edge_attr: Tensor, num_nodes: int, weigh: nn.Module | None, copies: int) -> Graph:
    num_edges = edge_index.shape[1] // copies
    attr = edge_attr[:num_edges]
    weight = attr[:, 0] if weigh is None else weigh(attr)
    graph = Graph(edge_index[:, :num_edges], num_nodes // copies, weight, attr)
    if not weight.requires_grad:
        graph.pattern.fill_cache_()
        _ = graph.gcn, graph.chebyshev
    return graph
