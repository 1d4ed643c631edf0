import pytest
import torch
from torch import nn
from torch_geometric.nn import ChebConv, GCNConv

from zoo.temporal_graph import ENCODERS, TimeAndGraph, build_encoder, chebyshev, dcrnn, gcn, gcn_gru, gcrn_m2
from zoo.temporal_graph.time_and_graph import gru_step

from .conftest import random_window
from .test_temporal_encoders import one_sequence

TIME_AND_GRAPH = [name for name in ENCODERS if name not in ("gru_gcn", "tgat", "tgn")]


def snapshot(window, step):
    """Sources, targets and weights of the edges that a snapshot has."""
    there = window.present[:, step]
    return window.edge_index[:, there], window.edge_attr[there, step, 0]


@pytest.mark.parametrize(
    ("name", "args"), [*((name, {}) for name in TIME_AND_GRAPH), ("gcn_gru", {"propagation": "sum"})]
)
def test_they_cannot_tell_apart_what_each_snapshot_hides(name, args, contrast):
    encoder = build_encoder(name, 1, 1, 16, "tanh", args)
    constant, in_turn = (encoder(window) for window in contrast)
    torch.testing.assert_close(constant, in_turn, atol=1e-5, rtol=0)


def test_gcn_gru_is_a_loop_over_snapshots_as_one_would_write_it(window):
    encoder = gcn_gru(2, 1, hidden_channels=8)
    convs = [GCNConv(2, 8), GCNConv(8, 8)]
    for conv, layer in zip(convs, encoder.gnn_in.layers):
        conv.lin.weight.data, conv.bias.data = layer.weight.data.t(), layer.bias.data
    softplus, states = nn.functional.softplus, []
    for step in range(5):
        index, weight = snapshot(window, step)
        y = convs[1](softplus(convs[0](window.x[:, step], index, weight)), index, weight)
        states.append(softplus(y))
    expected = encoder.encoder.encoder.net(torch.stack(states, dim=1))[1][0]
    torch.testing.assert_close(encoder(window), expected)


def chebyshev_pair(network):
    """PyG's layers with the weights of ours."""
    convs = []
    for layer in network.layers:
        conv = ChebConv(layer.weight.shape[1], layer.weight.shape[2], K=layer.order)
        for k in range(layer.order):
            conv.lins[k].weight.data = layer.weight.data[k].t()
        conv.bias.data = layer.bias.data
        convs.append(conv)
    return lambda x, index, weight: convs[1](nn.functional.softplus(convs[0](x, index, weight)), index, weight)


def test_gcrn_m2_is_an_lstm_with_peepholes_and_graph_gates(window):
    encoder = gcrn_m2(2, 1, hidden_channels=4)
    encoder.peephole.data.normal_()
    of_input, of_state = chebyshev_pair(encoder.gnn_in), chebyshev_pair(encoder.gnn_rec)
    state = memory = torch.zeros(20, 4)
    for step in range(5):
        edges = snapshot(window, step)
        i, f, g, o = (of_input(window.x[:, step], *edges) + of_state(state, *edges)).split(4, dim=1)
        i, f = (i + encoder.peephole[0] * memory).sigmoid(), (f + encoder.peephole[1] * memory).sigmoid()
        memory = f * memory + i * g.tanh()
        state = (o + encoder.peephole[2] * memory).sigmoid() * memory.tanh()
    torch.testing.assert_close(encoder(window), state)


def test_a_step_of_the_gru_is_torchs():
    cell, x, state = nn.GRUCell(3, 5), torch.randn(7, 3), torch.randn(7, 5)
    inputs = nn.functional.linear(x, cell.weight_ih, cell.bias_ih)
    recurrent = nn.functional.linear(state, cell.weight_hh, cell.bias_hh)
    torch.testing.assert_close(gru_step(inputs, recurrent, state), cell(x, state))


def test_dcrnn_is_a_gru_whose_gates_are_networks_of_input_and_state(window):
    size, encoder = 4, dcrnn(2, 1, hidden_channels=4)

    def gate(number, second_weight, second_bias):
        """G of [x, s], whose first layer is ours for x and ours for s, one below the other."""
        of_x = encoder.of_input.weight.data[:, :, number * size : (number + 1) * size]
        of_s = encoder.of_reset_state.weight.data
        if number < 2:
            of_s = encoder.of_state.weight.data[:, :, number * size : (number + 1) * size]
        first, second = ChebConv(2 + size, size, K=2), ChebConv(size, size, K=2)
        for k in range(2):
            first.lins[k].weight.data = torch.cat([of_x[k], of_s[k]]).t()
            second.lins[k].weight.data = second_weight[k].t()
        second.bias.data = second_bias
        return lambda x, s, edges: second(nn.functional.softplus(first(torch.cat([x, s], 1), *edges)), *edges)

    reset, update = (gate(i, encoder.gates.weight.data[i], encoder.gates.bias.data[i]) for i in range(2))
    candidate = gate(2, encoder.candidate.weight.data, encoder.candidate.bias.data)
    state = torch.zeros(20, size)
    for step in range(5):
        x, edges = window.x[:, step], snapshot(window, step)
        r, u = reset(x, state, edges).sigmoid(), update(x, state, edges).sigmoid()
        state = u * state + (1 - u) * candidate(x, r * state, edges).tanh()
    torch.testing.assert_close(encoder(window), state)


@pytest.mark.parametrize("static", [False, True])
def test_a_snapshot_that_windows_share_is_worked_on_once(static, monkeypatch):
    batch, encoder, seen = one_sequence(static), gcn_gru(2, 1), []
    layer = encoder.gnn_in.layers[0]
    monkeypatch.setattr(
        layer, "forward", lambda x, graph, plain=layer.forward: seen.append(x.numel()) or plain(x, graph)
    )
    encoder(batch)  # windows 0, 1, 1 and 3 of four steps have the steps 0 to 6
    encoder(batch._replace(snapshot_id=None))
    assert seen == [7 * 20 * 2, 16 * 20 * 2]


def test_gates_of_a_wrong_size_are_named():
    with pytest.raises(ValueError, match="gnn_rec must give 3 times hidden_channels = 4 for a gru, got 8"):
        TimeAndGraph(chebyshev(2, 4, 12, "tanh"), chebyshev(4, 4, 8, "tanh"), "gru", 4)
    with pytest.raises(ValueError, match="cell must be gru or lstm where gnn_rec is given, got 'attention'"):
        TimeAndGraph(chebyshev(2, 4, 12, "tanh"), chebyshev(4, 4, 8, "tanh"), "attention", 4)
    with pytest.raises(ValueError, match="an encoder must be one of gru, lstm, attention, mean, got 'tcn'"):
        TimeAndGraph(gcn(2, 4, "tanh"), None, "tcn", 4)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_both_cells_carry_gradients_to_the_first_step(cell, window):
    window = random_window()
    x = window.x.clone().requires_grad_()
    gcrn_m2(2, 1, cell=cell)(window._replace(x=x)).sum().backward()
    assert (x.grad[:, 0] != 0).all()
