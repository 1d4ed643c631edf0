import torch
from torch_geometric.nn.models.tgn import IdentityMessage, MeanAggregator
from torch_geometric.utils import softmax

from zoo.temporal_graph import TGAT, TGN
from zoo.temporal_graph.events import since_last

from .conftest import random_window


def test_the_memory_is_updated_by_the_mean_of_pygs_messages():
    window = random_window(num_nodes=6, num_steps=4)
    encoder = TGN(2, 1, 5)
    nodes, time_channels = 6, 8
    message, mean = IdentityMessage(1 + 2 * 2, 5, time_channels), MeanAggregator()
    memory, latest = torch.zeros(nodes, 5), torch.zeros(nodes, dtype=torch.long)
    for step in range(4):
        there = window.present[:, step]
        source, target = window.edge_index[:, there]
        attr = window.edge_attr[there, step].repeat(2, 1)
        near, far = torch.cat([target, source]), torch.cat([source, target])  # each end gets a message
        raw = torch.cat([window.x[near, step], window.x[far, step], attr], dim=1)
        age = encoder.time((step - latest[near]).float())
        laid_out = message(memory[near], memory[far], raw, age)
        averaged = mean(laid_out, near, torch.full_like(near, step), nodes)
        s_near, s_far, x_near, x_far, a, phi = averaged.split([5, 5, 2, 2, 1, time_channels], dim=1)
        updated = encoder.cell(torch.cat([s_near, s_far, x_near, x_far, a, phi], dim=1), memory)
        active = torch.zeros(nodes, dtype=torch.bool).index_fill_(0, near, True)
        memory = torch.where(active[:, None], updated, memory)
        latest = torch.where(active, step, latest)
    found = encoder.memories(window, window.present, window.edge_attr)
    torch.testing.assert_close(found, memory)


def test_a_node_without_events_keeps_its_memory():
    window = random_window(num_nodes=6, num_steps=4)
    of_five = (window.edge_index == 5).any(0)
    present = window.present & ~of_five[:, None]
    memory = TGN(2, 1, 5).memories(window, present, window.edge_attr)
    assert (memory[5] == 0).all()
    assert (memory[:5] != 0).any(1).all()


def test_time_is_counted_from_the_last_event():
    active = torch.tensor([[False, True, False, False, True]])
    assert since_last(active).tolist() == [[0, 1, 1, 2, 3]]


def test_the_first_layer_of_tgat_attends_to_events_with_their_age():
    window = random_window(num_nodes=6, num_steps=3)
    encoder = TGAT(2, 1, 4)
    conv = encoder.attention.first
    edge, step = window.present.nonzero().unbind(1)
    source, target = window.edge_index[:, edge]
    carried = torch.cat([window.edge_attr[edge, step], window.x[source, step]], dim=1)
    attr = conv.lin_edge(torch.cat([carried, encoder.attention.time((2 - step).float())], dim=1)).view(-1, 2, 2)
    x = window.x[:, -1]
    key, value, query = (lin(x).view(-1, 2, 2) for lin in (conv.lin_key, conv.lin_value, conv.lin_query))
    score = (query[target] * (key[source] + attr)).sum(-1) / 2**0.5
    share = softmax(score, target, num_nodes=6)
    expected = torch.zeros(6, 2, 2).index_add_(0, target, share[..., None] * (value[source] + attr))
    expected = expected.flatten(1) + conv.lin_skip(x)
    found = conv(x, window.edge_index[:, edge], torch.cat([carried, encoder.attention.time((2 - step).float())], dim=1))
    torch.testing.assert_close(found, expected)
