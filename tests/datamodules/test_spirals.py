import math

import pytest
import torch

from datamodules.spirals import SpiralDataModule, spirals


def test_a_point_without_noise_lies_on_the_spiral_of_its_class():
    x, y = spirals(200, num_classes=3, turns=1.5, noise=0.0, generator=torch.Generator().manual_seed(0))
    radius = x.norm(dim=1)
    turned = torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) - 1.5 * radius - y / 3
    torch.testing.assert_close(turned, turned.round(), atol=1e-4, rtol=0)  # whole turns are left
    assert y.bincount().tolist() == [200, 200, 200]
    assert 0.9 < radius.max() <= 1


def test_noise_is_the_spread_about_the_spiral():
    drawn = [spirals(20_000, noise=noise, generator=torch.Generator().manual_seed(0))[0] for noise in (0.0, 0.1)]
    assert (drawn[1] - drawn[0]).std().item() == pytest.approx(0.1, rel=0.02)


def test_the_parts_are_draws_of_their_own_and_the_seeds():
    first, same, other = (SpiralDataModule(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.parts["test"].tensors[0], same.parts["test"].tensors[0])
    assert not torch.equal(first.parts["test"].tensors[0], other.parts["test"].tensors[0])
    assert not torch.equal(first.parts["test"].tensors[0], first.parts["train"].tensors[0])


def test_the_seed_of_the_run_is_taken(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert SpiralDataModule().seed == 7
    assert SpiralDataModule(seed=3).seed == 3


def test_an_epoch_holds_every_point_once_in_an_order_of_its_own():
    data = SpiralDataModule(num_per_class=50, batch_size=20, seed=0)
    loader = data.train_dataloader()
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        epochs.append(torch.cat([x for x, _ in loader]))
    assert not torch.equal(*epochs)
    expected = data.parts["train"].tensors[0]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == sorted(expected.tolist())


def test_a_test_batch_holds_all_points_and_the_description_says_what_they_are():
    data = SpiralDataModule(seed=0)
    x, y = next(iter(data.test_dataloader()))
    assert x.shape == (1000, *data.input_shape)
    assert y.shape == (1000,)
    assert data.description == "2 spirals of 2 turns (500 points each in training, validation and test; noise 0.01)"
    assert (data.num_train, data.num_classes) == (1000, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_per_class": 0}, "num_per_class must be at least 1, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"turns": 0.0}, "turns must be > 0, got 0.0"),
        ({"turns": math.nan}, "turns must be > 0, got nan"),
        ({"noise": -0.1}, "noise must be 0 or more, got -0.1"),
        ({"batch_size": 2000}, "batch_size must be from 1 to 1000, the training points, got 2000"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SpiralDataModule(**options)
