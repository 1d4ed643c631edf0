import pytest
import torch

from zoo.local_augmentation import LocalAugmentation, NeighborDecoder
from zoo.local_augmentation.sparse import SparseMatrix


def augmentation(**options):
    torch.manual_seed(0)
    return LocalAugmentation(NeighborDecoder(in_channels=20, hidden_channels=16, latent_dim=4), **options)


def test_concat_puts_generated_features_before_the_own(data):
    *generated, own = augmentation(num_generated=2)(data.x, data.raw_x, num_samples=3)
    assert own is data.x
    assert [g.shape for g in generated] == [(3, *data.x.shape)] * 2
    for g in generated:
        torch.testing.assert_close(g.sum(-1), torch.ones(3, data.num_nodes))


def test_average_is_one_input_between_own_and_generated(data):
    augment = augmentation(mode="average")
    z = augment.sample(data.num_nodes)
    generated = augment.decode(z, data.raw_x)
    (dense,) = augment.combine(data.x, generated)
    torch.testing.assert_close(dense, (data.x + generated[:, 0]) / 2)
    (from_sparse,) = augment.combine(SparseMatrix.from_dense(data.x), generated)
    torch.testing.assert_close(from_sparse, dense)


def test_latents_give_the_same_features_again(data):
    augment = augmentation()
    z = augment.sample(data.num_nodes, num_samples=2)
    assert torch.equal(augment.decode(z, data.raw_x), augment.decode(z, data.raw_x))


def test_the_generator_is_frozen_and_stays_in_evaluation():
    augment = augmentation().train()
    assert not augment.generator.training
    assert not any(parameter.requires_grad for parameter in augment.parameters())


def test_other_weights_make_other_features(data):
    augment = augmentation()
    z = augment.sample(data.num_nodes)
    before = augment.decode(z, data.raw_x)
    torch.manual_seed(1)
    augment.load_state_dict(LocalAugmentation(NeighborDecoder(20, 16, 4)).state_dict())
    assert not torch.allclose(augment.decode(z, data.raw_x), before)  # the cached condition was dropped


def test_a_pool_replaces_its_oldest_draw_and_samples_come_from_it(data):
    augment = augmentation(pool_size=3)
    augment.draw(data.raw_x)
    first = augment.pool.clone()
    drawn = augment.draw(data.raw_x, num_samples=5)
    kept = augment.decode(augment.pool, data.raw_x)
    assert not torch.equal(augment.pool[0], first[0])
    assert torch.equal(augment.pool[1:], first[1:])
    assert all(any(torch.equal(one, matrix) for matrix in kept) for one in drawn)
    augment.draw(data.raw_x)
    assert torch.equal(augment.pool[2], first[2])
    assert not torch.equal(augment.pool[1], first[1])


def test_a_pool_comes_back_from_a_checkpoint(data):
    one, other = augmentation(pool_size=3), augmentation(pool_size=3)
    one.draw(data.raw_x)
    one.draw(data.raw_x)
    other.load_state_dict(one.state_dict())
    draws = []
    for augment in (one, other):
        torch.manual_seed(5)
        draws.append(torch.stack([augment.draw(data.raw_x) for _ in range(4)]))
    assert torch.equal(*draws)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_generated": 0}, "num_generated must be at least 1"),
        ({"mode": "sum"}, "mode must be 'concat' or 'average', got 'sum'"),
        ({"pool_size": -1}, "pool_size must be 0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        augmentation(**options)
