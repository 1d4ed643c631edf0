import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

from datamodules.temporal_dyncsl import permuted
from zoo.temporal_graph import RecurrentEncoder, TimeThenGraph, gat, gru_gcn, sequence_encoder

from .conftest import batched, random_window

SIMPLE = {"edge_to_scalar": "mean", "propagation": "sum", "gnn_activation": "identity", "activation": "tanh"}


@pytest.mark.parametrize("seed", range(5))
def test_it_separates_at_random_weights_what_no_snapshot_tells_apart(seed, contrast):
    torch.manual_seed(seed)
    encoder = gru_gcn(1, 1, **SIMPLE)
    constant, in_turn = (encoder(window) for window in contrast)
    assert (constant - in_turn).abs().max() > 1e-4


def test_it_separates_whatever_the_nodes_are_called(contrast):
    encoder = gru_gcn(1, 1, **SIMPLE)
    order = torch.randperm(19)
    for window in contrast:  # all nodes of a circulant graph are alike
        torch.testing.assert_close(encoder(permuted(window, order)), encoder(window))


def test_the_bare_union_does_not_know_how_often_an_edge_was_there(contrast):
    encoder = gru_gcn(1, 1, edge_encoder=None, **SIMPLE)
    blocked = batched(contrast[1])._replace(present=contrast[1].present.roll(1, dims=1))
    torch.testing.assert_close(encoder(blocked), encoder(contrast[1]))


def test_it_is_two_rnns_and_a_graph_convolution_as_one_would_write_them():
    window = random_window(num_features=2)
    encoder = gru_gcn(2, 1, hidden_channels=8)
    node_rnn, edge_rnn = encoder.node_encoder.encoder.net, encoder.edge_encoder.encoder.net
    codes = torch.stack([edge_rnn(history[None])[1][0, 0] for history in window.edge_attr])  # edge by edge
    weight = nn.functional.softplus(encoder.to_scalar(codes)).squeeze(1)
    h = nn.functional.softplus(node_rnn(window.x)[1][0])
    convs = [GCNConv(8, 8), GCNConv(8, 8)]
    for conv, layer in zip(convs, encoder.gnn.layers):
        conv.lin.weight.data, conv.bias.data = layer.weight.data.t(), layer.bias.data
    y = convs[1](nn.functional.softplus(convs[0](h, window.edge_index, weight)), window.edge_index, weight)
    torch.testing.assert_close(encoder(window), torch.cat([y, h], dim=1))


def test_the_padding_tells_absence():
    window = random_window()
    encoder = gru_gcn(2, 1, hidden_channels=8)
    other = window._replace(edge_attr=torch.where(window.present[..., None], window.edge_attr, -2.0))
    assert (encoder(window) - encoder(other)).abs().max() > 1e-5


@pytest.mark.parametrize("kind", ["gru", "lstm", "attention"])
def test_encoders_are_interchangeable(kind):
    window = random_window()
    encoder = gru_gcn(2, 1, hidden_channels=8, node_encoder=kind, edge_encoder=kind)
    z = encoder(window)
    z.sum().backward()
    assert z.shape == (20, 16)
    assert all(p.grad is not None for p in encoder.parameters())


def test_a_network_may_attend_to_the_codes_of_edges():
    window = random_window()
    edges = sequence_encoder("gru", 1, 6)
    encoder = TimeThenGraph(RecurrentEncoder(2, 8), edges, gat(8, 8, 6, "tanh"), "tanh", None, concat_node=False)
    z = encoder(window)
    z.sum().backward()
    assert z.shape == (20, encoder.out_channels) == (20, 8)
    assert all(p.grad is not None for p in encoder.parameters())


def test_an_unknown_way_from_code_to_weight_is_named():
    with pytest.raises(ValueError, match="edge_to_scalar must be softplus, mean or None, got 'max'"):
        gru_gcn(1, 1, edge_to_scalar="max")
