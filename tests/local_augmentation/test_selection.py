import math

import pytest
import torch
from torch_geometric.nn import GCNConv

from zoo.local_augmentation import ReceptiveFieldGCN, bald, cross_entropy_gap
from zoo.local_augmentation.sparse import Graph


def test_scores_of_agreeing_passes_are_zero():
    same = torch.randn(10, 3).log_softmax(-1).expand(5, -1, -1)
    assert bald(same).item() == pytest.approx(0, abs=1e-6)
    assert cross_entropy_gap(same, torch.zeros(10, dtype=torch.long)).item() == pytest.approx(0, abs=1e-6)


def test_disagreement_raises_bald_and_lowers_the_gap():
    log_probs = torch.randn(8, 10, 3).log_softmax(-1)
    assert bald(log_probs) > 0
    assert cross_entropy_gap(log_probs, torch.zeros(10, dtype=torch.long)) < 0


def test_scores_by_hand():
    log_probs = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()
    entropy = lambda p: -(p * math.log(p) + (1 - p) * math.log(1 - p))  # noqa: E731
    assert bald(log_probs).item() == pytest.approx(entropy(0.7) - (entropy(0.9) + entropy(0.5)) / 2, abs=1e-6)
    gap = -math.log(0.7) + (math.log(0.9) + math.log(0.5)) / 2
    assert cross_entropy_gap(log_probs, torch.tensor([0])).item() == pytest.approx(gap, abs=1e-6)


def test_the_receptive_field_gives_exactly_the_logits_of_the_whole_graph(data):
    torch.manual_seed(0)
    nodes = data.train_mask.nonzero().flatten()
    gcn = ReceptiveFieldGCN(Graph(data.edge_index, data.num_nodes), nodes, 20, 3, dropout=0.0)
    first, second = GCNConv(20, 32), GCNConv(32, 3)
    with torch.no_grad():
        first.lin.weight.copy_(gcn.features.weight[0])
        first.bias.copy_(gcn.hidden_bias.normal_())
        second.lin.weight.copy_(gcn.weight.t())
    whole = second(first(data.x, data.edge_index).relu(), data.edge_index)
    torch.testing.assert_close(gcn(data.x[gcn.field]), whole[nodes])


def test_fitting_lowers_the_loss_and_sampling_is_stochastic(data):
    torch.manual_seed(0)
    nodes = data.train_mask.nonzero().flatten()
    gcn = ReceptiveFieldGCN(Graph(data.edge_index, data.num_nodes), nodes, 20, 3)
    x, y = data.x[gcn.field], data.y[nodes]
    loss = lambda: -gcn.sample(x, 50).gather(-1, y.expand(50, -1)[..., None]).mean()  # noqa: E731
    before = loss()
    gcn.fit(x, y, 100, torch.optim.Adam(gcn.parameters(), lr=0.01))
    assert loss() < before - 0.1
    assert not torch.equal(*gcn.sample(x, 2))
