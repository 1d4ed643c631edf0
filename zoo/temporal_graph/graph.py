"""One weighted graph, and what the layers of a network need of it, computed once for all of them."""

from functools import cached_property

import torch
from torch import Tensor
from torch_geometric import EdgeIndex


class Propagation:
    r"""A sparse matrix with an extra diagonal, :math:`P = A + \mathrm{diag}(d)`, that multiplies node features.

    The products run on PyG's :class:`~torch_geometric.EdgeIndex`: compressed rows where the values are fixed, gather
    and scatter where they are learned. They accumulate in at least single precision.

    Args:
        pattern: Targets and sources of the edges, sorted by target.
        values: Of the edges, shape ``(E,)``.
        diagonal: Added to the diagonal, shape ``(N,)``; nothing if ``None``.
    """

    def __init__(self, pattern: EdgeIndex, values: Tensor, diagonal: Tensor | None = None) -> None:
        self.pattern, self.values, self.diagonal = pattern, values, diagonal

    def __matmul__(self, x: Tensor) -> Tensor:
        """The product with features, shape ``(N, *)``."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        columns = x.reshape(len(x), -1).to(dtype)
        product = self.pattern.matmul(columns, self.values.to(dtype))
        if self.diagonal is not None:
            product = torch.addcmul(product, self.diagonal[:, None].to(dtype), columns)
        return product.view(x.shape).to(x.dtype)


class Graph:
    """Edges with a weight each, and the matrices by which layers propagate.

    Args:
        edge_index: Sources and targets, shape ``(2, E)``, sorted by target.
        num_nodes: Number of nodes N.
        weight: Of the edges, shape ``(E,)``; all 1 if ``None``.
        attr: Features of the edges for layers that attend, shape ``(E, C)``.
        present: Which edges are there, boolean ``(E,)``; the others must weigh 0. All if ``None``.

    Raises:
        ValueError: If the edges are not sorted by target.

    Example:
        >>> graph = Graph(torch.tensor([[1, 0], [0, 1]]), num_nodes=2)
        >>> graph.gcn @ torch.eye(2)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_nodes: int,
        weight: Tensor | None = None,
        attr: Tensor | None = None,
        present: Tensor | None = None,
    ) -> None:
        self.source, self.target = edge_index
        if bool((self.target.diff() < 0).any()):
            raise ValueError("edge_index must be sorted by target")
        self.edge_index, self.num_nodes = edge_index, num_nodes
        self.weight = torch.ones(len(self.source), device=edge_index.device) if weight is None else weight
        self.attr, self.present = attr, present
        self.pattern = EdgeIndex(edge_index.flip(0), sparse_size=(num_nodes, num_nodes), sort_order="row")

    def reweighted(self, weight: Tensor, present: Tensor | None = None) -> "Graph":
        """The same edges with other weights, which share what depends on the edges alone."""
        graph = object.__new__(Graph)
        graph.__dict__ |= {
            name: self.__dict__[name] for name in ("source", "target", "edge_index", "num_nodes", "pattern")
        }
        graph.weight, graph.attr, graph.present = weight, None, present
        return graph

    def copies(self, num: int) -> "Graph":
        """So many graphs beside each other."""
        offset = torch.arange(num, device=self.edge_index.device)[:, None] * self.num_nodes
        attr = None if self.attr is None else self.attr.repeat(num, 1)
        edge_index = (self.edge_index[:, None] + offset).flatten(1)
        return Graph(edge_index, num * self.num_nodes, self.weight.repeat(num), attr)

    @cached_property
    def sum(self) -> Propagation:
        r""":math:`A`, the weights as they are."""
        return Propagation(self.pattern, self.weight)

    @cached_property
    def gcn(self) -> Propagation:
        r""":math:`D^{-1/2} (A + I) D^{-1/2}` of Kipf and Welling; a node with a loop of its own gets no second one."""
        is_loop = self.source == self.target
        has_loop = is_loop if self.present is None else is_loop & self.present
        missing = 1 - self._sum_by(self.target, has_loop.to(self.weight.dtype))
        scale = _inverse_root(self._sum_by(self.target, self.weight) + missing)
        values = scale[self.target] * self.weight * scale[self.source]
        return Propagation(self.pattern, values, scale.square() * missing)

    @cached_property
    def chebyshev(self) -> Propagation:
        r""":math:`-D^{-1/2} A D^{-1/2}` without loops: the Laplacian, scaled to [-1, 1].

        The degrees are those of the sources, as in PyG's ``ChebConv``.
        """
        weight = self.weight * (self.source != self.target)
        scale = _inverse_root(self._sum_by(self.source, weight))
        return Propagation(self.pattern, -scale[self.target] * weight * scale[self.source])

    def _sum_by(self, node: Tensor, values: Tensor) -> Tensor:
        return values.new_zeros(self.num_nodes).index_add(0, node, values)


def _inverse_root(degree: Tensor) -> Tensor:
    """One over the square root, 0 for a degree that is not positive."""
    positive = degree > 0
    return torch.where(positive, degree, 1).rsqrt() * positive
