"""Graph networks of a few layers, on a :class:`~zoo.temporal_graph.graph.Graph` that is prepared once for all."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GATConv
from torch_geometric.nn.inits import glorot

from zoo.temporal_graph.graph import Graph
from zoo.temporal_graph.sequences import num_heads

Activation = Literal["softplus", "tanh", "relu", "identity"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "relu": F.relu,
    "identity": lambda x: x,
}


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """An activation by name.

    Raises:
        ValueError: If there is no such activation.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


class GCNLayer(nn.Module):
    r"""One graph convolution, :math:`P X W + b`.

    It computes what PyG's ``GCNConv`` does, with the normalisation of a graph done once for all layers and steps, and
    multiplies with ``W`` before or after ``P``, whichever propagates fewer channels.

    Args:
        in_channels: Features F of a node.
        out_channels: Features D that come out.
        propagation: ``"gcn"``, normalised and with self loops, or ``"sum"``, the weights as they are.

    Example:
        >>> layer = GCNLayer(3, 4)
        >>> layer(torch.randn(2, 3), Graph(torch.tensor([[1], [0]]), num_nodes=2)).shape
        torch.Size([2, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, propagation: Literal["gcn", "sum"] = "gcn") -> None:
        super().__init__()
        if propagation not in ("gcn", "sum"):
            raise ValueError(f"propagation must be gcn or sum, got {propagation!r}")
        self.propagation = propagation
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        glorot(self.weight)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """From features ``(N, *, F)`` to ``(N, *, D)``."""
        matrix = graph.gcn if self.propagation == "gcn" else graph.sum
        if self.weight.shape[0] <= self.weight.shape[1]:
            return (matrix @ x) @ self.weight + self.bias
        return matrix @ (x @ self.weight) + self.bias


class ChebyshevLayer(nn.Module):
    r"""A polynomial of the scaled Laplacian, :math:`\sum_{k<K} T_k(\hat L) X W_k + b`; as PyG's ``ChebConv``.

    Args:
        in_channels: Features F of a node.
        out_channels: Features D that come out.
        order: Number K of terms.
        bias: Whether there is b.

    Raises:
        ValueError: If ``order`` is less than 1.
    """

    def __init__(self, in_channels: int, out_channels: int, order: int = 2, bias: bool = True) -> None:
        super().__init__()
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        self.order = order
        self.weight = nn.Parameter(torch.empty(order, in_channels, out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        glorot(self.weight)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """From features ``(N, *, F)`` to ``(N, *, D)``."""
        return F.linear(chebyshev_terms(x, graph, self.order), self.weight.flatten(0, 1).t(), self.bias)


def chebyshev_terms(x: Tensor, graph: Graph, order: int) -> Tensor:
    r"""The terms :math:`T_k(\hat L) X` side by side.

    Args:
        x: Shape ``(N, *, F)``.
        graph: The graph.
        order: Number K of terms.

    Returns:
        Shape ``(N, *, K F)``.
    """
    terms = [x]
    for k in range(1, order):
        step = graph.chebyshev @ terms[-1]
        terms.append(step if k == 1 else 2 * step - terms[-2])
    return torch.cat(terms, dim=-1)


class GATLayer(nn.Module):
    """PyG's ``GATConv`` on a :class:`~zoo.temporal_graph.graph.Graph`, heads side by side.

    Args:
        in_channels: Features F of a node.
        out_channels: Features D that come out, of all heads together.
        edge_channels: Features of an edge that attention looks at.
        heads: Number of heads; ``None`` for :func:`~zoo.temporal_graph.sequences.num_heads`.
    """

    def __init__(self, in_channels: int, out_channels: int, edge_channels: int, heads: int | None = None) -> None:
        super().__init__()
        heads = heads or num_heads(out_channels)
        self.conv = GATConv(in_channels, out_channels // heads, heads, edge_dim=edge_channels)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """From features ``(N, F)`` or, with T copies of the graph, ``(N, T, F)``, to ``(N, D)`` or ``(N, T, D)``."""
        if x.dim() == 2:
            return self.conv(x, graph.edge_index, graph.attr)
        num_nodes, num_copies = x.shape[:2]
        copies = graph.copies(num_copies)
        y = self.conv(x.transpose(0, 1).flatten(0, 1), copies.edge_index, copies.attr)
        return y.view(num_copies, num_nodes, -1).transpose(0, 1)


class GraphNetwork(nn.Module):
    """Layers one after the other, with an activation between them.

    Args:
        layers: Each is called with features and graph.
        activation: Between layers, not after the last.
        out_channels: Features that come out.
    """

    def __init__(self, layers: Sequence[nn.Module], activation: str, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.activation = activation_function(activation)
        self.out_channels = out_channels

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """Features of the nodes that the last layer gives."""
        for i, layer in enumerate(self.layers):
            x = layer(self.activation(x) if i else x, graph)
        return x


def gcn(
    in_channels: int,
    out_channels: int,
    activation: str,
    propagation: Literal["gcn", "sum"] = "gcn",
    num_layers: int = 2,
) -> GraphNetwork:
    """Graph convolutions; see :class:`GCNLayer`."""
    sizes = [in_channels] + [out_channels] * num_layers
    layers = [GCNLayer(a, b, propagation) for a, b in pairwise(sizes)]
    return GraphNetwork(layers, activation, out_channels)


def chebyshev(
    in_channels: int, hidden_channels: int, out_channels: int, activation: str, order: int = 2
) -> GraphNetwork:
    """Two Chebyshev layers; see :class:`ChebyshevLayer`."""
    layers = [ChebyshevLayer(in_channels, hidden_channels, order), ChebyshevLayer(hidden_channels, out_channels, order)]
    return GraphNetwork(layers, activation, out_channels)


def gat(in_channels: int, out_channels: int, edge_channels: int, activation: str) -> GraphNetwork:
    """Two layers of attention; see :class:`GATLayer`."""
    layers = [GATLayer(in_channels, out_channels, edge_channels), GATLayer(out_channels, out_channels, edge_channels)]
    return GraphNetwork(layers, activation, out_channels)


class EdgeWeight(nn.Module):
    """One weight for each edge: its feature as it is, or where there are several, the softplus of a linear map.

    Args:
        edge_channels: Features C of an edge.
    """

    def __init__(self, edge_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(edge_channels, 1) if edge_channels > 1 else None

    def forward(self, edge_attr: Tensor) -> Tensor:
        """From features ``(*, C)`` to weights ``(*)``."""
        weight = edge_attr if self.linear is None else F.softplus(self.linear(edge_attr))
        return weight.squeeze(-1)
