import pytest
import torch

from datamodules import DynCSLDataModule
from datamodules.temporal_dyncsl import permuted, skip_link_graph, skip_link_window


@pytest.mark.parametrize("skip", [2, 3, 4, 7, -2])
def test_every_node_has_four_neighbours_and_itself(skip):
    source, target = skip_link_graph(19, skip)
    assert (torch.bincount(target, minlength=19) == 5).all()
    assert (source == target).sum() == 19
    edges = set(zip(source.tolist(), target.tolist()))
    assert len(edges) == 95
    assert edges == {(b, a) for a, b in edges}


@pytest.mark.parametrize("label", ["num_types", "order"])
def test_every_snapshot_is_regular_so_that_only_histories_tell(label):
    batch = DynCSLDataModule(label=label, num_samples=40, seed=3).windows[torch.arange(40)]
    degree = torch.zeros(len(batch.x), 8, dtype=torch.long).index_add_(0, batch.edge_index[1], batch.present.long())
    assert (degree == 5).all()
    assert (batch.x == 1).all()


def histories(window):
    """The histories of the edges into node 0 but its loop and its ring, as a sorted list."""
    into = (window.edge_index[1] == 0) & (window.present.sum(1) < window.present.shape[1])
    return sorted(window.present[into].long().tolist())


def test_the_label_is_the_number_of_skips():
    data = DynCSLDataModule(num_samples=40, permute=False)
    for i in range(16):
        window = data.windows[torch.tensor([i])]
        into = window.edge_index[1] == 0
        assert int(into.sum()) == 3 + 2 * (1 + i % 4)  # itself, the ring, and two for each skip
        assert int(window.y) == i % 4


def test_the_order_shows_in_histories_but_neither_in_union_nor_in_mean():
    data = DynCSLDataModule(label="order", num_samples=40, permute=False)
    alternate, blocked = (data.windows[torch.tensor([i])] for i in (0, 1))
    assert histories(alternate) == sorted([[1, 0] * 4] * 2 + [[0, 1] * 4] * 2)
    assert histories(blocked) == sorted([[1] * 4 + [0] * 4] * 2 + [[0] * 4 + [1] * 4] * 2)
    for window in (alternate, blocked):
        into = window.edge_index[1] == 0
        assert sorted(window.present[into].sum(1).tolist()) == [4, 4, 4, 4, 8, 8, 8]


def test_nodes_are_permuted_the_same_way_at_all_steps():
    window = skip_link_window(7, [2, 3], label=1)
    order = torch.tensor([3, 1, 0, 6, 5, 4, 2])
    renamed = permuted(window, order)
    before = {(*order[pair].tolist(), *there.tolist()) for pair, there in zip(window.edge_index.t(), window.present)}
    after = {(*pair.tolist(), *there.tolist()) for pair, there in zip(renamed.edge_index.t(), renamed.present)}
    assert before == after
    assert (renamed.edge_index[1].diff() >= 0).all()


def test_the_seed_decides_and_nothing_else():
    torch.manual_seed(0)
    first = DynCSLDataModule(seed=5, num_samples=40).windows[torch.arange(40)]
    torch.manual_seed(1)
    second = DynCSLDataModule(seed=5, num_samples=40).windows[torch.arange(40)]
    other = DynCSLDataModule(seed=6, num_samples=40).windows[torch.arange(40)]
    assert torch.equal(first.edge_index, second.edge_index)
    assert not torch.equal(first.edge_index, other.edge_index)


def test_the_parts_are_blocks_and_every_class_is_in_each():
    data = DynCSLDataModule()
    assert [len(data.positions[part]) for part in ("train", "val", "test")] == [140, 20, 40]
    for loader in (data.val_dataloader(), data.test_dataloader()):
        counts = next(iter(loader)).y.bincount()
        assert (counts == counts[0]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_nodes": 4}, "num_nodes must be at least 5, got 4"),
        ({"skips": (2, 1)}, "skips must not be 0, 1, -1 or n / 2 modulo the 19 nodes, got 1"),
        ({"skips": (2, 18)}, "skips must not be .* got 18"),
        ({"skips": (2, 19)}, "skips must not be .* got 19"),
        ({"num_nodes": 20, "skips": (2, 10)}, "skips must not be .* got 10"),
        ({"skips": (2, 17)}, "skips must be at least two that differ, up to their sign"),
        ({"skips": (2,)}, "skips must be at least two that differ"),
        ({"num_steps": 3}, "num_steps must be at least 4, the number of skips, got 3"),
        ({"label": "order", "num_steps": 7}, "num_steps must be even and at least 4 where label is order, got 7"),
        ({"label": "skip"}, "label must be one of num_types, order, got 'skip'"),
        ({"num_samples": 20}, "num_samples must leave at least 4 in each part, one of each class, got 20"),
        ({"padding_value": 1}, "padding_value must differ from 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DynCSLDataModule(**arguments)
