import numpy as np
import pytest
import torch

from datamodules.batches import BatchOrder, ImageBatches


def epoch(order, number=0):
    order.set_epoch(number)
    return torch.cat(list(order)).tolist()


@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_takes_every_image_once(drop_last):
    order = BatchOrder(10, 4, shuffle=True, drop_last=drop_last)
    taken = epoch(order)
    assert len(set(taken)) == len(taken) == (8 if drop_last else 10)
    assert len(list(order)) == len(order) == (2 if drop_last else 3)


def test_the_order_depends_on_seed_and_epoch_alone():
    assert epoch(BatchOrder(50, 8, True, seed=1), 3) == epoch(BatchOrder(50, 8, True, seed=1), 3)
    orders = [tuple(epoch(BatchOrder(50, 8, True, seed=seed), number)) for seed in range(3) for number in range(3)]
    assert len(set(orders)) == 9


def test_evaluation_keeps_the_order():
    assert epoch(BatchOrder(7, 3)) == list(range(7))


@pytest.mark.parametrize("num_replicas", [2, 3])
def test_processes_share_the_images(num_replicas):
    training = [BatchOrder(11, 2, True, True, 0, num_replicas, rank) for rank in range(num_replicas)]
    assert len({len(order) for order in training}) == 1  # a process with a batch more would wait for the others
    taken = [image for order in training for image in epoch(order)]
    assert len(set(taken)) == len(taken)
    evaluation = [BatchOrder(11, 2, num_replicas=num_replicas, rank=rank) for rank in range(num_replicas)]
    assert sorted(image for order in evaluation for image in epoch(order)) == list(range(11))


def test_without_drop_last_processes_have_equally_many_batches():
    orders = [BatchOrder(9, 2, True, False, 0, 4, rank) for rank in range(4)]
    assert [len(list(order)) for order in orders] == [len(order) for order in orders] == [2, 2, 2, 2]


def test_a_batch_holds_what_belongs_together():
    x = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    y, clean_y = torch.arange(5) * 10, torch.arange(5) * 100
    batches = ImageBatches(x, y, clean_y, lambda x: x.permute(0, 3, 1, 2).float(), lambda x: -x.float())
    batch = batches[torch.tensor([3, 1])]
    assert batch.x.flatten().tolist() == [3, 1]
    assert batch.y.tolist() == [30, 10]
    assert batch.index.tolist() == [3, 1]
    assert batch.clean_y.tolist() == [300, 100]
    assert batch.second_view.flatten().tolist() == [-3, -1]


def test_independent_batches_hold_no_image_twice_and_an_epoch_does():
    order = BatchOrder(20, 8, shuffle=True, drop_last=True, independent=True)
    batches = [batch.tolist() for number in range(50) for batch in (order.set_epoch(number), *order)[1:]]
    assert len(batches) == 50 * len(order) == 100
    assert all(len(set(batch)) == 8 for batch in batches)
    pairs = list(zip(batches[::2], batches[1::2]))
    assert any(set(one) & set(other) for one, other in pairs)  # a shuffled pass never does so
    shares = np.bincount(np.concatenate(batches), minlength=20) / 100
    assert abs(shares - 8 / 20).max() < 5 * (0.4 * 0.6 / 100) ** 0.5


def test_independent_batches_depend_on_seed_and_epoch_alone():
    def first(seed, number):
        return epoch(BatchOrder(50, 8, True, True, seed, independent=True), number)

    assert first(1, 3) == first(1, 3)
    assert len({tuple(first(seed, number)) for seed in range(3) for number in range(3)}) == 9


def test_processes_share_an_independent_batch():
    orders = [BatchOrder(12, 3, True, True, 0, 4, rank, independent=True) for rank in range(4)]
    steps = list(zip(*orders))
    assert len(steps) == 1
    assert sorted(image for batch in steps[0] for image in batch.tolist()) == list(range(12))


def test_independent_batches_are_in_order_where_nothing_is_shuffled():
    order = BatchOrder(7, 3, shuffle=True, independent=True)
    order.shuffle = False  # as for measurements of the training data
    assert epoch(order) == list(range(7))
