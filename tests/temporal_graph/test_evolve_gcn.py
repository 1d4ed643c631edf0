import pytest
import torch
from torch_geometric.nn import GCNConv

from zoo.temporal_graph import evolve_gcn_h, evolve_gcn_o

from .conftest import batched, random_window


def gcn(x, window, weight):
    conv = GCNConv(x.shape[1], weight.shape[0], bias=False)
    conv.lin.weight.data = weight.data
    there = window.present[:, -1]
    return conv(x, window.edge_index[:, there], window.edge_attr[there, -1, 0])


def test_variant_o_is_a_convolution_of_the_last_snapshot(window):
    encoder = evolve_gcn_o(2, 1, activation="tanh")
    first, second = (layer.after(5) for layer in encoder.weights)
    expected = gcn(torch.tanh(gcn(window.x[:, -1], window, first)), window, second)
    torch.testing.assert_close(encoder(window), expected)


def test_the_weights_of_variant_o_are_states_of_an_lstm():
    layer = evolve_gcn_o(2, 1).weights[1]
    weight, memory = layer.start, torch.zeros(16, 16)
    for _ in range(3):
        weight, memory = layer.cell(weight, (weight, memory))
    torch.testing.assert_close(layer.after(3), weight)


def test_from_zeros_variant_o_gives_the_same_feature_in_every_channel(window):
    z = evolve_gcn_o(2, 1, initial="zeros")(window)
    torch.testing.assert_close(z, z[:, :1].expand_as(z))
    learned = evolve_gcn_o(2, 1)(window)
    assert (learned - learned[:, :1]).abs().max() > 1e-3


def test_the_input_of_variant_h_are_the_nodes_of_the_highest_scores():
    layer = evolve_gcn_h(3, 1, hidden_channels=2).weights[0]
    layer.score.data = torch.tensor([2.0, 0.0, 0.0])
    x = torch.tensor([[[0.1, 1, 1], [0.5, 2, 2], [0.3, 3, 3]]])
    summary = torch.stack([x[0, 1] * torch.tanh(torch.tensor(0.5)), x[0, 2] * torch.tanh(torch.tensor(0.3))])
    expected = layer.cell(summary, layer.start)
    torch.testing.assert_close(layer.evolve(layer.start[None], x)[0], expected)


def test_variant_h_needs_as_many_nodes_as_features():
    window = random_window(num_nodes=10)
    with pytest.raises(ValueError, match="hidden_channels must be at most the 10 nodes in EvolveGCN-H, got 16"):
        evolve_gcn_h(2, 1)(window)


def test_variant_h_needs_windows_of_one_size():
    with pytest.raises(ValueError, match=r"windows must have equally many nodes in EvolveGCN-H, got \[20, 24\]"):
        evolve_gcn_h(2, 1)(batched(random_window(20), random_window(24)))


@pytest.mark.parametrize(("argument", "value"), [("variant", "Q"), ("initial", "ones")])
def test_unknown_variants_are_named(argument, value):
    from zoo.temporal_graph import EvolveGCN

    with pytest.raises(ValueError, match=f"{argument} must be .*, got '{value}'"):
        EvolveGCN(2, 4, **{argument: value})
