import math
from itertools import product

import pytest
import torch
from torch_geometric.utils import to_dense_adj

from callbacks.mad_gap import MADGap, MeanAverageDistanceGap, average_distances, mad_gap

PATH = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])


def hops_between(edge_index, num_nodes):
    """Length of the shortest path between all pairs, by Floyd and Warshall."""
    hops = torch.full((num_nodes, num_nodes), math.inf)
    hops[edge_index[0], edge_index[1]] = 1
    hops.fill_diagonal_(0)
    for via, a, b in product(range(num_nodes), repeat=3):
        hops[a, b] = min(hops[a, b], hops[a, via] + hops[via, b])
    return hops


def mad_by_hand(h, chosen):
    """Mean over nodes of the mean cosine distance to the chosen others, pair by pair."""
    means = []
    for i in range(len(h)):
        distances = [1 - torch.cosine_similarity(h[i], h[j], dim=0).item() for j in range(len(h)) if chosen[i, j]]
        distances = [distance for distance in distances if distance > 1e-5]
        if distances:
            means.append(sum(distances) / len(distances))
    return sum(means) / len(means)


def test_a_path_worked_out_by_hand():
    # Both ends of the path are two or more hops from the other half; each half points its own way.
    h = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    near, far = average_distances(h, PATH, near=1, far=2)
    torch.testing.assert_close(near, torch.tensor([math.nan, 1.0, 1.0, math.nan]), equal_nan=True)
    torch.testing.assert_close(far, torch.ones(4))
    assert mad_gap(h, PATH, near=1, far=2).abs() < 1e-6


@pytest.mark.parametrize(("near", "far"), [(1, 2), (2, 3), (1, 4), (3, 8)])
def test_it_agrees_with_all_pairs_shortest_paths(graph, near, far):
    hops = hops_between(graph.edge_index, 30)
    is_near = (hops <= near) & ~torch.eye(30, dtype=torch.bool)
    expected = mad_by_hand(graph.x, hops >= far) - mad_by_hand(graph.x, is_near)
    assert mad_gap(graph.x, graph.edge_index, near, far).item() == pytest.approx(expected, abs=1e-5)


def test_lengths_of_representations_do_not_matter(graph):
    scaled = graph.x * torch.rand(30, 1).add(0.1)
    torch.testing.assert_close(mad_gap(scaled, graph.edge_index), mad_gap(graph.x, graph.edge_index))


def test_the_order_of_nodes_does_not_matter(graph):
    order = torch.randperm(30)
    place = order.argsort()
    torch.testing.assert_close(mad_gap(graph.x[order], place[graph.edge_index]), mad_gap(graph.x, graph.edge_index))


def test_smoothing_near_nodes_widens_the_gap(graph):
    adjacency = to_dense_adj(graph.edge_index, max_num_nodes=30)[0] + torch.eye(30)
    smoothed = adjacency @ graph.x / adjacency.sum(dim=1, keepdim=True)
    assert mad_gap(smoothed, graph.edge_index, 1, 3) > mad_gap(graph.x, graph.edge_index, 1, 3)


def test_a_complete_graph_has_no_remote_pairs():
    edges = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]])
    assert mad_gap(torch.eye(3), edges, near=1, far=2).isnan()


def test_parts_merge_into_the_whole(graph):
    both, first, second = (MeanAverageDistanceGap(1, 3) for _ in range(3))
    for metric in (both, first):
        metric.update(graph.x, graph.edge_index)
    for metric in (both, second):
        metric.update(graph.x.flip(0), graph.edge_index)
    first.merge_state(second)
    assert {name: float(value) for name, value in first.compute().items()} == pytest.approx(
        {name: float(value) for name, value in both.compute().items()}
    )


def test_the_callback_logs_what_the_function_gives(graph, test):
    logged = test(MADGap(near=1, far=3), [graph])
    assert logged["test/mad_gap"] == pytest.approx(mad_gap(graph.x, graph.edge_index, 1, 3).item(), abs=1e-6)
    assert logged["test/mad_gap"] == pytest.approx(logged["test/mad_far"] - logged["test/mad_near"], abs=1e-6)


def test_a_module_that_embeds_is_asked_for_its_embedding(graph, test, module, monkeypatch):
    monkeypatch.setattr(type(module), "embed", lambda self, batch: batch.x[:, :2], raising=False)
    logged = test(MADGap(near=1, far=3), [graph])
    assert logged["test/mad_gap"] == pytest.approx(mad_gap(graph.x[:, :2], graph.edge_index, 1, 3).item(), abs=1e-6)


def test_a_representation_of_other_nodes_is_refused(graph, test, module, monkeypatch):
    monkeypatch.setattr(type(module), "predict_step", lambda self, batch, batch_idx: batch.x[:5])
    with pytest.raises(ValueError, match="predict_step must return one row for each of the 30 nodes"):
        test(MADGap(), [graph])


@pytest.mark.parametrize(("near", "far"), [(0, 2), (3, 3), (4, 2)])
def test_near_must_be_less_than_far(near, far):
    with pytest.raises(ValueError, match=f"1 <= near < far, got near={near}, far={far}"):
        MADGap(near, far)
