import pytest
import torch

from datamodules.temporal_splits import chronological, deal_nodes, interleaved, min_max


@pytest.mark.parametrize("split", [chronological, interleaved])
@pytest.mark.parametrize("num", [10, 54, 16_980])
def test_every_window_is_in_exactly_one_part(split, num):
    parts = split(num)
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(num))
    assert 0.6 * num < len(parts["train"]) < 0.8 * num


def test_the_chronological_test_comes_after_all_training():
    parts = chronological(54)
    assert parts["train"].max() < parts["val"].min() < parts["val"].max() < parts["test"].min()


def test_interleaved_test_windows_have_training_windows_on_both_sides():
    parts = interleaved(54)
    assert parts["train"].min() < parts["test"].min()
    assert parts["test"].max() < parts["train"].max()


def test_nodes_are_dealt_by_degree():
    masks = deal_nodes(torch.arange(20).flip(0))  # node 0 has the most
    assert masks["test"].nonzero().flatten().tolist() == [8, 9, 18, 19]
    assert (sum(mask.long() for mask in masks.values()) == 1).all()


@pytest.mark.parametrize("split", [chronological, interleaved])
def test_a_part_must_not_be_empty(split):
    with pytest.raises(ValueError, match=r"split leaves no .* part of 3"):
        split(3)


def test_a_constant_channel_is_not_divided_by_zero():
    least, width = min_max(torch.tensor([[2.0], [2.0]]))
    assert (least.item(), width.item()) == (2.0, 1.0)
