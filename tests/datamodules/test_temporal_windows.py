import pytest
import torch
from torch_geometric.data import Batch, Data

from datamodules.temporal_windows import (
    EdgeHistories,
    SlidingWindows,
    WindowList,
    edge_histories,
    pad,
    temporal_window,
    windows_with_edge,
)


def random_days(num_days=6, num_nodes=5, seed=0):
    """Snapshots with loops, without duplicates, unsorted."""
    generator = torch.Generator().manual_seed(seed)
    indices, attrs = [], []
    for _ in range(num_days):
        pairs = torch.randperm(num_nodes**2, generator=generator)[:8]
        indices.append(torch.stack([pairs % num_nodes, pairs // num_nodes]))
        attrs.append(torch.rand(8, 1, generator=generator))
    return indices, attrs


def test_a_history_has_the_value_of_every_day():
    indices, attrs = random_days()
    found = edge_histories(indices, attrs, num_nodes=5)
    listed = {
        (day, *edge): float(value)
        for day, (index, attr) in enumerate(zip(indices, attrs))
        for edge, value in zip(index.t().tolist(), attr)
    }
    for row, (source, target) in enumerate(found.pairs.t().tolist()):
        for day in range(6):
            assert float(found.values[row, day]) == listed.get((day, source, target), 0.0)
            assert bool(found.present[row, day]) == ((day, source, target) in listed)


def test_edges_are_sorted_by_target_then_source_and_each_is_there_once():
    pairs = edge_histories(*random_days(), num_nodes=5).pairs
    key = pairs[1] * 5 + pairs[0]
    assert (key.diff() > 0).all()


def test_an_edge_listed_twice_is_an_error_unless_it_is_to_be_summed():
    index, attr = torch.tensor([[0, 0], [1, 1]]), torch.tensor([[2.0], [3.0]])
    with pytest.raises(ValueError, match="duplicates must be 'sum' where a snapshot lists an edge twice, as 0 0 -> 1"):
        edge_histories([index], [attr], num_nodes=2)
    assert edge_histories([index], [attr], num_nodes=2, duplicates="sum").values.tolist() == [[[5.0]]]


def test_a_snapshot_without_edges_is_an_error_unless_it_is_meant():
    days = [torch.tensor([[0], [1]]), torch.empty(2, 0, dtype=torch.long)]
    attrs = [torch.ones(1, 1), torch.empty(0, 1)]
    with pytest.raises(ValueError, match="snapshot 1 has no edge"):
        edge_histories(days, attrs, num_nodes=2)
    assert edge_histories(days, attrs, num_nodes=2, allow_empty=True).present.tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("indices", "attrs", "message"),
    [
        ([torch.tensor([[0], [7]])], [torch.ones(1, 1)], "snapshot 0 names nodes outside 0 to 1"),
        ([torch.tensor([[0], [1]])], [torch.ones(2, 1)], "snapshot 0 must have features for its 1 edges, got 2"),
        ([torch.tensor([[0], [1]])], [], "edge_attrs must have one entry for each of 1 snapshots"),
    ],
)
def test_snapshots_that_do_not_fit_are_refused(indices, attrs, message):
    with pytest.raises(ValueError, match=message):
        edge_histories(indices, attrs, num_nodes=2)


def test_a_window_needs_as_many_snapshots_as_steps():
    with pytest.raises(ValueError, match="edge_indices must have one entry for each of 3 steps, got 1"):
        temporal_window(torch.ones(2, 3, 1), [torch.tensor([[0], [1]])], [torch.ones(1, 1)], torch.tensor([0]))


@pytest.mark.parametrize("padding_value", [0.5, 0.0, 1.0])
def test_padding_must_differ_from_what_an_edge_may_carry(padding_value):
    values = torch.tensor([[[0.0], [1.0]]])
    with pytest.raises(ValueError, match="padding_value must lie outside the range of the edge features, 0 to 1"):
        pad(values, torch.ones(1, 2, dtype=torch.bool), padding_value)


def test_running_counts_find_the_edges_of_each_window():
    present = torch.rand(30, 12, generator=torch.Generator().manual_seed(0)) < 0.2
    expected = torch.stack([present[:, w : w + 4].any(1) for w in range(9)])
    assert torch.equal(windows_with_edge(present, 4), expected)


def sliding(indices, attrs, features, length=3):
    found = edge_histories(indices, attrs, features.shape[1])
    edges = EdgeHistories(found.pairs, pad(found.values, found.present, -1.0), found.present)
    return SlidingWindows(features, edges, length, num_targets=1, mask=torch.ones(features.shape[1], dtype=torch.bool))


def test_a_batch_of_windows_is_the_windows_one_by_one():
    indices, attrs = random_days()
    features = torch.randn(6, 5, 2)
    batch = sliding(indices, attrs, features)[torch.tensor([2, 0])]
    singles = [
        temporal_window(
            features[w : w + 3].transpose(0, 1), indices[w : w + 3], attrs[w : w + 3], features[w + 3, :, :1]
        )
        for w in (2, 0)
    ]
    for name in ("x", "edge_attr", "present", "y"):
        assert torch.equal(getattr(batch, name), torch.cat([getattr(one, name) for one in singles])), name
    shifted = [one.edge_index + 5 * i for i, one in enumerate(singles)]
    assert torch.equal(batch.edge_index, torch.cat(shifted, dim=1))
    assert batch.snapshot_id.tolist() == [[2, 3, 4], [0, 1, 2]]
    assert batch.time.tolist() == [5, 3]


def test_an_edge_of_the_target_step_alone_is_not_in_the_window():
    ring = torch.tensor([[0, 1, 2], [1, 2, 0]])
    indices = [ring, ring, torch.cat([ring, torch.tensor([[0], [2]])], dim=1)]
    attrs = [torch.ones(index.shape[1], 1) for index in indices]
    batch = sliding(indices, attrs, torch.randn(3, 3, 1), length=2)[torch.tensor([0])]
    assert [0, 2] not in batch.edge_index.t().tolist()
    assert batch.edge_index.shape[1] == 3


@pytest.mark.parametrize("length", [0, 6, 9])
def test_a_window_and_its_target_must_fit_into_the_sequence(length):
    indices, attrs = random_days()
    with pytest.raises(ValueError, match=f"window must be from 1 to 5 of 6 steps, got {length}"):
        sliding(indices, attrs, torch.randn(6, 5, 1), length)


def test_a_graph_that_stays_gives_the_same_tensors_at_every_step():
    pairs, weights = torch.tensor([[1, 0], [0, 1]]), torch.tensor([[0.2], [0.4]])
    windows = SlidingWindows(torch.randn(9, 2, 3), (pairs, weights), 4, 2, torch.ones(2, dtype=torch.bool))
    first, second = windows[torch.tensor([0, 3])], windows[torch.tensor([4, 1])]
    assert first.edge_index is second.edge_index
    assert first.edge_index.tolist() == [[1, 0, 3, 2], [0, 1, 2, 3]]
    assert first.present is None
    assert windows.num_edges().tolist() == [2] * 5


def test_a_list_of_windows_is_batched_as_pyg_does():
    windows = []
    for i, num_nodes in enumerate((5, 4, 6)):
        indices, attrs = random_days(num_days=3, num_nodes=num_nodes, seed=i)
        windows.append(temporal_window(torch.randn(num_nodes, 3, 1), indices, attrs, torch.tensor([i])))
    ours = WindowList(windows)[torch.tensor([2, 0, 1])]
    names = ("x", "edge_index", "edge_attr", "present", "y", "mask")
    theirs = Batch.from_data_list([Data(**{name: getattr(windows[i], name) for name in names}) for i in (2, 0, 1)])
    for name in (*names, "ptr", "batch"):
        assert torch.equal(getattr(ours, name), theirs[name]), name
