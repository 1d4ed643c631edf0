import pytest
import torch
from torch_geometric.nn import ChebConv, GCNConv

from zoo.temporal_graph import ChebyshevLayer, GATLayer, GCNLayer, Graph
from zoo.temporal_graph.dcrnn import ParallelChebyshevLayer


def directed(num_nodes=12, num_edges=50):
    """Directed, weighted, with loops at some nodes, sorted by target."""
    pairs = torch.randint(num_nodes**2, (num_edges,)).unique()
    edge_index = torch.stack([pairs % num_nodes, pairs // num_nodes])
    return edge_index, torch.rand(len(pairs)), num_nodes


@pytest.mark.parametrize(("size_in", "size_out"), [(3, 5), (5, 3)])
def test_a_graph_convolution_is_pygs(size_in, size_out):
    edge_index, weight, num_nodes = directed()
    assert 0 < (edge_index[0] == edge_index[1]).sum() < num_nodes
    ours, theirs = GCNLayer(size_in, size_out), GCNConv(size_in, size_out)
    theirs.lin.weight.data, theirs.bias.data = ours.weight.data.t(), torch.randn(size_out)
    ours.bias.data = theirs.bias.data
    x = torch.randn(num_nodes, size_in)
    graph = Graph(edge_index, num_nodes, weight)
    torch.testing.assert_close(ours(x, graph), theirs(x, edge_index, weight))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_chebyshev_layer_is_pygs(order):
    edge_index, weight, num_nodes = directed()
    ours, theirs = ChebyshevLayer(3, 4, order), ChebConv(3, 4, K=order)
    for k in range(order):
        theirs.lins[k].weight.data = ours.weight.data[k].t()
    x = torch.randn(num_nodes, 3)
    expected = theirs(x, edge_index, weight, lambda_max=torch.tensor(2.0))
    torch.testing.assert_close(ours(x, Graph(edge_index, num_nodes, weight)), expected)


def test_the_sum_is_the_weighted_sum_of_the_sources():
    edge_index, weight, num_nodes = directed()
    x = torch.randn(num_nodes, 3)
    dense = torch.zeros(num_nodes, num_nodes).index_put_((edge_index[1], edge_index[0]), weight)
    torch.testing.assert_close(Graph(edge_index, num_nodes, weight).sum @ x, dense @ x)


@pytest.mark.parametrize("name", ["gcn", "chebyshev", "sum"])
def test_an_absent_edge_is_as_one_that_was_never_there(name):
    edge_index, weight, num_nodes = directed()
    present = torch.rand(len(weight)) < 0.5
    assert ((edge_index[0] == edge_index[1]) & ~present).any()
    x = torch.randn(num_nodes, 3)
    union = Graph(edge_index, num_nodes).reweighted(weight * present, present)
    alone = Graph(edge_index[:, present], num_nodes, weight[present])
    torch.testing.assert_close(getattr(union, name) @ x, getattr(alone, name) @ x)


@pytest.mark.parametrize("name", ["gcn", "sum"])
def test_gradients_reach_learned_weights_and_features(name):
    edge_index, weight, num_nodes = directed(8, 20)
    x = torch.randn(num_nodes, 2, dtype=torch.double, requires_grad=True)
    weight = weight.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w, x: getattr(Graph(edge_index, num_nodes, w), name) @ x, (weight, x))


def test_features_of_several_steps_are_propagated_step_by_step():
    edge_index, weight, num_nodes = directed()
    graph, layer = Graph(edge_index, num_nodes, weight), GCNLayer(3, 5)
    x = torch.randn(num_nodes, 4, 3)
    torch.testing.assert_close(layer(x, graph), torch.stack([layer(x[:, t], graph) for t in range(4)], dim=1))


def test_attention_to_several_steps_is_attention_step_by_step():
    edge_index, weight, num_nodes = directed()
    graph, layer = Graph(edge_index, num_nodes, weight, attr=weight[:, None]), GATLayer(3, 8, edge_channels=1)
    x = torch.randn(num_nodes, 4, 3)
    torch.testing.assert_close(layer(x, graph), torch.stack([layer(x[:, t], graph) for t in range(4)], dim=1))


def test_parallel_layers_are_layers_of_their_own():
    edge_index, weight, num_nodes = directed()
    graph, parallel = Graph(edge_index, num_nodes, weight), ParallelChebyshevLayer(2, 4, order=2)
    x = torch.randn(num_nodes, 2, 4)
    for i in range(2):
        alone = ChebyshevLayer(4, 4)
        alone.weight.data, alone.bias.data = parallel.weight.data[i], parallel.bias.data[i]
        torch.testing.assert_close(parallel(x, graph)[:, i], alone(x[:, i], graph))


def test_edges_that_are_not_sorted_are_refused():
    with pytest.raises(ValueError, match="edge_index must be sorted by target"):
        Graph(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)


def test_a_graph_without_edges_leaves_nodes_to_themselves():
    graph, x = Graph(torch.empty(2, 0, dtype=torch.long), 3), torch.randn(3, 2)
    torch.testing.assert_close(graph.gcn @ x, x)
    assert (graph.chebyshev @ x == 0).all()


@pytest.mark.parametrize("build", [lambda: GCNLayer(2, 2, "max"), lambda: ChebyshevLayer(2, 2, 0)])
def test_wrong_arguments_of_layers_are_named(build):
    with pytest.raises(ValueError, match=r"propagation must be gcn or sum|order must be at least 1"):
        build()
