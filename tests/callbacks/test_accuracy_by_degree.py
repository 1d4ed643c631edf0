import math

import pytest
import torch

from callbacks.accuracy_by_degree import (
    AccuracyByDegree,
    DegreeBinnedAccuracy,
    accuracy_by_degree,
    degree_without_self_loops,
)

BINS = ((0, 1), (2, 4), (5, None))


def by_hand(graph, low, high):
    """Accuracy and number of the test nodes with low to high neighbours, node by node."""
    hits = []
    for node in graph.test_mask.nonzero().flatten().tolist():
        neighbours = {b for a, b in graph.edge_index.t().tolist() if a == node and b != node}
        if low <= len(neighbours) <= high:
            hits.append(graph.x[node].argmax().item() == graph.y[node].item())
    return (sum(hits) / len(hits) if hits else math.nan), len(hits)


def test_a_star_splits_into_its_centre_and_its_leaves():
    star = torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0]])
    degrees = degree_without_self_loops(star, num_nodes=4)
    assert degrees.tolist() == [3, 1, 1, 1]
    right_at_the_centre_and_one_leaf = torch.tensor([1, 1, 0, 0]), torch.ones(4, dtype=torch.long)
    accuracies = accuracy_by_degree(*right_at_the_centre_and_one_leaf, degrees, bins=((1, 1), (2, None)))
    torch.testing.assert_close(accuracies, torch.tensor([1 / 3, 1.0]))


def test_self_loops_are_no_neighbours():
    assert degree_without_self_loops(torch.tensor([[0, 1, 1], [0, 1, 0]]), num_nodes=2).tolist() == [1, 0]


def test_an_empty_bin_is_nan_and_not_zero():
    accuracies = accuracy_by_degree(torch.tensor([0]), torch.tensor([0]), torch.tensor([1]), bins=((1, 1), (2, 3)))
    assert accuracies[0] == 1
    assert accuracies[1].isnan()


def test_the_bins_add_up_to_the_accuracy_of_all(graph):
    prediction, degrees = graph.x.argmax(dim=1), degree_without_self_loops(graph.edge_index, 30)
    metric = DegreeBinnedAccuracy(BINS)
    metric.update(prediction, graph.y, degrees)
    assert metric.count.sum() == 30
    assert metric.correct.sum() == (prediction == graph.y).sum()


def test_parts_merge_into_the_whole(graph):
    prediction, degrees = graph.x.argmax(dim=1), degree_without_self_loops(graph.edge_index, 30)
    first, second = DegreeBinnedAccuracy(BINS), DegreeBinnedAccuracy(BINS)
    first.update(prediction[:10], graph.y[:10], degrees[:10])
    second.update(prediction[10:], graph.y[10:], degrees[10:])
    first.merge_state(second)
    whole = accuracy_by_degree(prediction, graph.y, degrees, BINS)
    torch.testing.assert_close(first.compute(), whole, equal_nan=True)
    first.reset()
    assert first.count.sum() == 0


def test_the_callback_logs_what_counting_by_hand_gives(graph, test):
    logged = test(AccuracyByDegree(BINS), [graph])
    for label, low, high in (("0-1", 0, 1), ("2-4", 2, 4), ("5+", 5, 1000)):
        accuracy, count = by_hand(graph, low, high)
        assert logged[f"test/nodes_degree_{label}"] == count
        assert logged[f"test/acc_degree_{label}"] == pytest.approx(accuracy, nan_ok=True)
    assert sum(value for name, value in logged.items() if "nodes" in name) == graph.test_mask.sum()


def test_a_second_test_starts_afresh(graph, test):
    callback = AccuracyByDegree(BINS)
    assert test(callback, [graph]) == pytest.approx(test(callback, [graph]), nan_ok=True)


def test_scores_of_the_wrong_shape_are_refused(graph, test, module, monkeypatch):
    monkeypatch.setattr(type(module), "predict_step", lambda self, batch, batch_idx: batch.x[:5])
    with pytest.raises(ValueError, match=r"predict_step must return scores of shape \(30, C\), got \(5, 4\)"):
        test(AccuracyByDegree(), [graph])


@pytest.mark.parametrize("bins", [(), ((2, 1),), ((1, 3), (3, 5)), ((1, None), (2, 3)), ((-1, 3),)])
def test_bins_must_be_in_order(bins):
    with pytest.raises(ValueError, match="bins must be pairs"):
        AccuracyByDegree(bins)
