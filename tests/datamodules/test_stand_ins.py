import pytest
import torch
import torch.nn.functional as F
from torch_geometric.nn import GCNConv
from torch_geometric.utils import contains_self_loops, homophily

from datamodules.planetoid import normalize_rows
from datamodules.stand_ins import STATISTICS, citation_graph


@pytest.mark.parametrize("name", STATISTICS)
def test_the_stand_in_has_the_statistics_of_the_real_graph(name):
    graph, statistics = citation_graph(name), STATISTICS[name]
    assert graph.x.shape == (sum(statistics.class_sizes), statistics.num_words)
    assert graph.y.bincount().tolist() == list(statistics.class_sizes)
    assert graph.num_edges == pytest.approx(2 * statistics.num_edges, rel=0.01)
    assert homophily(graph.edge_index, graph.y) == pytest.approx(statistics.homophily, abs=0.015)
    assert graph.x.count_nonzero() / graph.num_nodes == pytest.approx(statistics.words_per_node, rel=0.02)
    assert graph.is_undirected()
    assert not contains_self_loops(graph.edge_index)
    assert graph.y[graph.train_mask].bincount().tolist() == [20] * len(statistics.class_sizes)
    assert (graph.val_mask.sum(), graph.test_mask.sum()) == (500, 1000)
    assert graph.validate()


def test_features_are_binary_where_the_real_ones_are():
    assert citation_graph("cora").x.unique().tolist() == [0, 1]
    tf_idf = citation_graph("pubmed").x
    assert 0 < tf_idf[tf_idf > 0].min() < tf_idf.max() < 1


def test_the_stand_in_is_always_the_same_and_leaves_the_global_random_state():
    state = torch.get_rng_state()
    one, other = citation_graph("cora"), citation_graph("cora")
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.edge_index, other.edge_index)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_graph_convolution_learns_the_stand_in_neither_badly_nor_perfectly():
    torch.manual_seed(0)
    graph = citation_graph("cora")
    x, train, test = normalize_rows(graph.x), graph.train_mask, graph.test_mask
    first, second = GCNConv(x.size(1), 16, cached=True), GCNConv(16, 7, cached=True)
    optimizer = torch.optim.Adam([*first.parameters(), *second.parameters()], lr=0.05, weight_decay=5e-4)
    for _ in range(40):
        scores = second(F.dropout(first(x, graph.edge_index).relu()), graph.edge_index)
        optimizer.zero_grad()
        F.cross_entropy(scores[train], graph.y[train]).backward()
        optimizer.step()
    scores = second(first(x, graph.edge_index).relu(), graph.edge_index)
    accuracy = (scores.argmax(dim=1) == graph.y)[test].float().mean()
    assert 0.7 < accuracy < 0.9
