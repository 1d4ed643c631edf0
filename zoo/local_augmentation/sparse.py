"""Fixed sparse matrices: the bag-of-words features and the propagation of a graph."""

from functools import cached_property

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn.conv.gcn_conv import gcn_norm

MAX_DENSITY = 0.25  # of features above which a dense product is the faster one


class SparseMatrix:
    r"""A sparse matrix that stays, and multiplies stacks of dense matrices, with gradients in the dense factor.

    The products run on PyG's :class:`~torch_geometric.EdgeIndex`, whose transpose for the backward pass is computed
    once. They accumulate in at least single precision.

    Args:
        index: Row and column of every stored value, shape ``(2, nnz)``.
        values: The stored values, shape ``(nnz,)``.
        shape: Number of rows and of columns.

    Example:
        >>> matrix = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
        >>> matrix @ torch.tensor([[1.0], [3.0]])
        tensor([[6.],
                [0.]])
    """

    def __init__(self, index: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        order = (index[0] * shape[1] + index[1]).argsort()
        self.index = EdgeIndex(index[:, order], sparse_size=shape, sort_order="row").fill_cache_()
        self.values = values[order]
        self.shape = shape
        self._stacks: dict[int, SparseMatrix] = {}

    @classmethod
    def from_dense(cls, x: Tensor) -> "SparseMatrix":
        """Store the non-zeros of a dense or sparse tensor, shape ``(rows, columns)``."""
        coo = x.detach().to_sparse_coo().coalesce()
        return cls(coo.indices(), coo.values(), (x.shape[0], x.shape[1]))

    def stacked(self, copies: int) -> "SparseMatrix":
        """``copies`` of the matrix one below the other, shape ``(copies * rows, columns)``; kept for the next call."""
        if copies not in self._stacks:
            rows, columns = self.shape
            row, column = self.index.as_tensor()
            offset = torch.arange(copies, device=row.device)[:, None] * rows
            index = torch.stack([(row + offset).flatten(), column.repeat(copies)])
            self._stacks[copies] = SparseMatrix(index, self.values.repeat(copies), (copies * rows, columns))
        return self._stacks[copies]

    def block(self, rows: Tensor, columns: Tensor) -> "SparseMatrix":
        """The submatrix of the given row and column indices, in their order."""
        row, column = self.index.as_tensor()
        new_row, new_column = (
            torch.full((size,), -1, device=chosen.device).scatter_(
                0, chosen, torch.arange(len(chosen), device=chosen.device)
            )
            for size, chosen in zip(self.shape, (rows, columns))
        )
        index = torch.stack([new_row[row], new_column[column]])
        kept = (index >= 0).all(dim=0)
        return SparseMatrix(index[:, kept], self.values[kept], (len(rows), len(columns)))

    def to_dense(self) -> Tensor:
        """The matrix with its zeros."""
        row, column = self.index.as_tensor()
        return self.values.new_zeros(self.shape).index_put_((row, column), self.values)

    def matmul(self, other: Tensor, values: Tensor | None = None) -> Tensor:
        """Multiply every matrix of a stack from the left.

        Args:
            other: Dense matrices, shape ``(*, columns, width)``.
            values: Use these instead of the stored values, in their order, shape ``(nnz,)``.

        Returns:
            The products, shape ``(*, rows, width)``.
        """
        dtype = torch.promote_types(other.dtype, torch.float32)
        values = (self.values if values is None else values).to(dtype)
        side_by_side = other.movedim(-2, 0)
        product = self.index.matmul(side_by_side.reshape(len(side_by_side), -1).to(dtype), values)
        return product.view(-1, *side_by_side.shape[1:]).movedim(0, -2).to(other.dtype)

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.matmul(other)


Features = Tensor | SparseMatrix


def as_features(x: Tensor) -> Features:
    """Node features in the form in which products with them are fastest: sparse if at most a quarter is stored."""
    if x.layout != torch.strided:
        return SparseMatrix.from_dense(x)
    density = torch.count_nonzero(x) / max(x.numel(), 1)
    return SparseMatrix.from_dense(x) if density <= MAX_DENSITY else x


class Graph:
    r"""A graph's edges, and what the backbones need of them, computed once.

    Args:
        edge_index: Both directions of every edge, shape ``(2, E)``.
        num_nodes: Number of nodes N.

    Example:
        >>> graph = Graph(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> graph.propagation @ torch.eye(2)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        self.edge_index = edge_index
        self.num_nodes = num_nodes

    @cached_property
    def propagation(self) -> SparseMatrix:
        r""":math:`P = \tilde D^{-1/2} (A + I) \tilde D^{-1/2}` of Kipf and Welling."""
        index, values = gcn_norm(self.edge_index, num_nodes=self.num_nodes)
        return SparseMatrix(index, values, (self.num_nodes, self.num_nodes))

    def copies(self, num: int) -> Tensor:
        """Edges of ``num`` copies of the graph beside each other, shape ``(2, num * E)``."""
        offset = torch.arange(num, device=self.edge_index.device)[:, None] * self.num_nodes
        return (self.edge_index[:, None] + offset).flatten(1)
