"""Time-then-graph: encode the history of every node and every edge, then run one network on one static graph."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.temporal_graph.graph import Graph
from zoo.temporal_graph.layers import activation_function
from zoo.temporal_graph.memo import Memo
from zoo.temporal_graph.window import TemporalWindow

EDGE_TO_SCALAR = ("softplus", "mean", None)


class TimeThenGraph(nn.Module):
    r"""A representation of nodes from the union of a window's graphs, whose nodes and edges carry their histories.

    .. math:: h_i = \mathrm{enc}_\text{node}(x_{i, 1..T}), \quad e_{ij} = \mathrm{enc}_\text{edge}(a_{ij, 1..T}),
              \quad Z = \mathrm{GNN}(\phi(h), e)

    Edges are those of any snapshot, each once, with a padding value where it is absent. With a network as strong as
    1-WL this is strictly more expressive than any interleaving of such a network with a recurrence: a node's edges
    still tell which of them came together and when. If the graph stays, a single feature of an edge is its weight, and
    several are a history of one step.

    Args:
        node_encoder: From ``(R, T, F)`` to ``(R, out_channels)``.
        edge_encoder: The same for edges; ``None`` forgets histories and keeps the bare union (a control).
        gnn: From features ``(N, D)`` and a :class:`~zoo.temporal_graph.graph.Graph` to ``(N, gnn.out_channels)``.
        activation: Of what the node encoder gives.
        edge_to_scalar: How an edge's code becomes a weight: ``"softplus"`` of a learned linear map, ``"mean"`` over
            its channels, or ``None``: the network attends to the code itself, as the graph's ``attr``.
        concat_node: Whether the nodes' own codes are put beside what the network gives.

    Raises:
        ValueError: If ``edge_to_scalar`` is none of these.

    Source:
        Gao and Ribeiro, ICML 2022.

    Example:
        >>> from zoo.temporal_graph import gru_gcn
        >>> from datamodules.temporal_dyncsl import skip_link_window
        >>> gru_gcn(1, 1, hidden_channels=16)(skip_link_window(19, [2, 3, 2, 3], label=0)).shape
        torch.Size([19, 32])
    """

    def __init__(
        self,
        node_encoder: nn.Module,
        edge_encoder: nn.Module | None,
        gnn: nn.Module,
        activation: str = "softplus",
        edge_to_scalar: Literal["softplus", "mean"] | None = "softplus",
        concat_node: bool = True,
    ) -> None:
        super().__init__()
        if edge_to_scalar not in EDGE_TO_SCALAR:
            raise ValueError(f"edge_to_scalar must be softplus, mean or None, got {edge_to_scalar!r}")
        self.node_encoder, self.edge_encoder, self.gnn = node_encoder, edge_encoder, gnn
        self.activation = activation_function(activation)
        self.edge_to_scalar, self.concat_node = edge_to_scalar, concat_node
        self.out_channels: int = gnn.out_channels + concat_node * node_encoder.out_channels  # type: ignore[operator,assignment]
        if edge_to_scalar == "softplus" and edge_encoder is not None:
            self.to_scalar = nn.Linear(edge_encoder.out_channels, 1)  # type: ignore[arg-type]
        self._static = Memo()

    def forward(self, window: TemporalWindow) -> Tensor:
        """Represent the nodes of all windows, shape ``(N, out_channels)``."""
        h = self.activation(self.node_encoder(window.x))
        z = self.gnn(h, self.union(window))
        return torch.cat([z, h], dim=1) if self.concat_node else z

    def union(self, window: TemporalWindow) -> Graph:
        """The static graph of all windows, with what the histories of its edges have become."""
        num_nodes = len(window.x)
        stays = window.present is None
        if stays and window.edge_attr.shape[1] == 1:
            return self._static.graph(window.edge_index, window.edge_attr, num_nodes)
        if self.edge_encoder is None:
            return Graph(window.edge_index, num_nodes)
        code = self.edge_encoder(window.edge_attr[:, None] if stays else window.edge_attr)
        if self.edge_to_scalar is None:
            return Graph(window.edge_index, num_nodes, attr=code)
        weight = F.softplus(self.to_scalar(code)).squeeze(1) if self.edge_to_scalar == "softplus" else code.mean(dim=1)
        return Graph(window.edge_index, num_nodes, weight)
