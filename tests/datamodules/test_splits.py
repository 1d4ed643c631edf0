import pytest
import torch

from datamodules.splits import random_split

Y = torch.arange(60) % 3


def test_every_class_trains_the_same_number_of_nodes_and_masks_are_disjoint():
    train, val, test = random_split(Y, 5, num_val=10, num_test=20)
    assert Y[train].bincount().tolist() == [5, 5, 5]
    assert (val.sum(), test.sum()) == (10, 20)
    assert (train.int() + val.int() + test.int()).max() == 1


def test_the_generator_alone_decides_the_split():
    state = torch.get_rng_state()
    first, again, other = (
        random_split(Y, 5, num_val=10, num_test=20, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not all(torch.equal(a, b) for a, b in zip(first, other))
    assert torch.equal(torch.get_rng_state(), state)


def test_unlabeled_nodes_are_never_drawn():
    labeled = torch.arange(60) < 45
    masks = random_split(Y, 5, num_val=10, num_test=20, labeled_mask=labeled)
    assert torch.equal(masks[0] | masks[1] | masks[2], labeled)


def test_sizes_beyond_the_graph_are_errors():
    random_split(Y, 20, num_val=0, num_test=0)
    with pytest.raises(ValueError, match="num_train_per_class must be at most 20, the smallest class, got 21"):
        random_split(Y, 21, num_val=1, num_test=1)
    with pytest.raises(ValueError, match=r"num_val \+ num_test must be at most 45, .* got 40 \+ 6"):
        random_split(Y, 5, num_val=40, num_test=6)
