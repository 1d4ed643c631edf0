import torch
from torch_geometric.utils import to_dense_adj

from zoo.local_augmentation.sparse import Graph, SparseMatrix, as_features


def test_products_and_their_gradients_equal_the_dense_ones(data):
    sparse = SparseMatrix.from_dense(data.x)
    other = torch.randn(4, data.x.shape[1], 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, data.num_nodes, 5, dtype=torch.float64)
    (grad,) = torch.autograd.grad(((sparse @ other) * weight).sum(), other)
    (expected,) = torch.autograd.grad(((data.x.double() @ other) * weight).sum(), other)
    torch.testing.assert_close(sparse @ other, data.x.double() @ other)
    torch.testing.assert_close(grad, expected)


def test_stack_block_and_dense_round_trip(data):
    sparse = SparseMatrix.from_dense(data.x)
    other = torch.randn(data.x.shape[1], 3)
    torch.testing.assert_close(sparse.stacked(3) @ other, (data.x @ other).repeat(3, 1))
    rows, columns = torch.tensor([5, 2, 9]), torch.tensor([7, 0, 3, 1])
    assert torch.equal(sparse.block(rows, columns).to_dense(), data.x[rows][:, columns])
    assert torch.equal(sparse.to_dense(), data.x)


def test_half_precision_is_kept_and_accumulated_in_single(data):
    sparse = SparseMatrix.from_dense(data.x)
    other = torch.randn(data.x.shape[1], 3).bfloat16()
    out = sparse @ other
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, (data.x @ other.float()).bfloat16())


def test_propagation_is_the_symmetric_normalisation_with_self_loops(data):
    adjacency = to_dense_adj(data.edge_index, max_num_nodes=data.num_nodes)[0] + torch.eye(data.num_nodes)
    scale = adjacency.sum(1).rsqrt()
    expected = scale[:, None] * adjacency * scale
    torch.testing.assert_close(Graph(data.edge_index, data.num_nodes).propagation.to_dense(), expected)


def test_mostly_filled_features_stay_dense():
    dense = torch.rand(5, 4)
    assert as_features(dense) is dense
    assert isinstance(as_features(torch.eye(5)), SparseMatrix)
    assert isinstance(as_features(dense.to_sparse_csr()), SparseMatrix)
