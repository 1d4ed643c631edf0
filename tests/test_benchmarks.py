"""The plain procedure of the benchmark computes what the zoo computes, or their speeds could not be compared."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import to_dense_adj

from datamodules.stand_ins import citation_graph
from zoo.local_augmentation import LAGCN, Graph, NeighborCVAE, sharpened_consistency_loss

PLAIN = Path(__file__).parents[1] / "benchmarks/plain_local_augmentation.py"


@pytest.fixture(scope="module")
def plain():
    spec = importlib.util.spec_from_file_location("plain_local_augmentation", PLAIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data():
    graph = citation_graph("cora")
    keep = torch.arange(200)
    part = graph.subgraph(keep)
    part.raw_x = part.x = part.x[:, :50]
    return part


def same_generators(plain, in_channels):
    """Both generators with the same weights."""
    ours, theirs = NeighborCVAE(in_channels), plain.PlainCVAE(in_channels)
    for name in ("encoder", "decoder", "output"):
        getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
    for name, rows in (("mean", slice(0, 10)), ("log_var", slice(10, 20))):
        getattr(theirs, name).weight.data = ours.posterior.weight.data[rows]
        getattr(theirs, name).bias.data = ours.posterior.bias.data[rows]
    return ours, theirs


def test_both_draw_the_same_features(plain, data):
    ours, theirs = same_generators(plain, data.num_features)
    torch.manual_seed(0)
    drawn = ours.generate(data.raw_x)[0]
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, theirs.generate(data.raw_x))


def test_both_generators_have_the_same_loss(plain, data):
    ours, theirs = same_generators(plain, data.num_features)
    x, c = data.raw_x[data.edge_index[1, :32]], data.raw_x[data.edge_index[0, :32]]
    torch.manual_seed(0)
    parts = ours.elbo(x, c)
    torch.manual_seed(0)
    torch.testing.assert_close(parts["rec"] + parts["kl"], theirs.loss(x, c))


def test_both_networks_have_the_same_logits(plain, data):
    graph = Graph(data.edge_index, data.num_nodes)
    ours = LAGCN(data.num_features, 16, 7, num_branches=2).eval()
    theirs = plain.PlainGCN(data.num_features, 8, 2, 7).eval()
    for branch, features in zip(theirs.branches, ours.branches):
        branch.weight.data = features.weight.data[0]
    theirs.out.weight.data = ours.weight.data[0].t().contiguous()
    inputs = [torch.rand(data.num_nodes, data.num_features) for _ in range(2)]
    propagation = plain.propagation_matrix(data.edge_index, data.num_nodes)
    expected = ours(inputs, graph, num_samples=1).log_softmax(dim=-1).reshape(data.num_nodes, 7)
    torch.testing.assert_close(theirs(inputs, propagation), expected)


def test_the_propagation_is_that_of_a_gcn(plain, data):
    index, weight = gcn_norm(data.edge_index, num_nodes=data.num_nodes)
    expected = to_dense_adj(index, edge_attr=weight, max_num_nodes=data.num_nodes)[0]
    torch.testing.assert_close(plain.propagation_matrix(data.edge_index, data.num_nodes).to_dense(), expected)


def test_both_have_the_same_consistency_loss(plain):
    log_probs = torch.randn(4, 30, 7).log_softmax(dim=-1)
    torch.testing.assert_close(plain.consistency_loss(list(log_probs)), sharpened_consistency_loss(log_probs, 0.5))
