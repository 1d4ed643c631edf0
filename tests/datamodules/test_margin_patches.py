import math

import pytest
import torch

from datamodules import MarginPatchDataModule

SMALL = {"num_problems": 2, "num_train": 30, "num_test": 40, "dim": 25, "seed": 0}


def margins(batch):
    """What the feature is times in each patch, labels counted in, ``(A, N, P)``."""
    return torch.einsum("anpd,ad->anp", batch.x, batch.signal) * batch.y.unsqueeze(-1)


@pytest.mark.parametrize("signal", ["basis", "random"])
def test_only_the_signal_patch_holds_the_feature_and_at_its_margin(signal):
    batch = MarginPatchDataModule(**SMALL, alpha=2.0, beta=0.5, signal=signal).train
    found = margins(batch)
    at_signal = found.gather(2, batch.signal_patch.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(at_signal, torch.where(batch.small_margin, 0.5, 2.0))
    elsewhere = found.scatter(2, batch.signal_patch.unsqueeze(-1), 0.0)
    assert elsewhere.abs().max() < 1e-5
    torch.testing.assert_close(batch.signal.norm(dim=1), torch.ones(2))


def test_a_signal_patch_holds_nothing_else():
    batch = MarginPatchDataModule(**SMALL).train
    rows = torch.arange(30)
    patches = torch.stack([x[rows, patch] for x, patch in zip(batch.x, batch.signal_patch)])
    assert patches[..., 1:].abs().max() == 0.0


def test_noise_has_the_length_that_is_asked_for():
    for options in ({"noise_norm": 1.5}, {"noise_norm": None, "noise_std": 1.5 / 400**0.5}):
        batch = MarginPatchDataModule(num_train=400, num_test=1, dim=400, seed=0, **options).train
        noise = batch.x[torch.nn.functional.one_hot(batch.signal_patch, 4) == 0]
        assert noise.square().sum(-1).mean().sqrt().item() == pytest.approx(1.5, rel=5e-3)


def test_a_stratified_draw_has_exactly_the_share_and_another_about_it():
    exact = MarginPatchDataModule(num_problems=20, num_train=200, num_test=50, dim=2, seed=0)
    assert exact.train.small_margin.sum(1).tolist() == [20] * 20
    assert exact.test.small_margin.sum(1).tolist() == [25] * 20
    loose = MarginPatchDataModule(num_problems=20, num_train=200, num_test=50, dim=2, seed=0, stratified=False)
    counts = loose.train.small_margin.sum(1).float()
    assert counts.std() > 2
    assert counts.mean().item() == pytest.approx(20, abs=4)


def test_problems_differ_and_do_not_depend_on_how_many_there_are():
    two, three = (MarginPatchDataModule(**{**SMALL, "num_problems": n}) for n in (2, 3))
    assert torch.equal(two.train.x, three.train.x[:2])
    assert torch.equal(two.test.x, three.test.x[:2])
    assert not torch.equal(three.train.x[0], three.train.x[1])


def test_the_seed_decides_and_train_and_test_share_only_the_feature(monkeypatch):
    one, again, other = (MarginPatchDataModule(**{**SMALL, "seed": seed}, signal="random") for seed in (0, 0, 1))
    assert torch.equal(one.train.x, again.train.x)
    assert not torch.equal(one.train.x, other.train.x)
    assert torch.equal(one.train.signal, one.test.signal)
    assert not torch.equal(one.train.x[0, :30], one.test.x[0, :30])
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert torch.equal(MarginPatchDataModule(**{**SMALL, "seed": None}, signal="random").train.x, other.train.x)


def test_drawing_leaves_the_global_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    next(iter(MarginPatchDataModule(**SMALL).train_dataloader()))
    assert torch.equal(torch.rand(1), expected)


def test_every_epoch_has_the_same_one_batch_of_all_samples():
    data = MarginPatchDataModule(**SMALL)
    for loader, batch in (
        (data.train_dataloader(), data.train),
        (data.val_dataloader(), data.test),
        (data.test_dataloader(), data.test),
        (data.predict_dataloader(), data.test),
    ):
        for _ in range(2):
            (only,) = loader
            assert only.x is batch.x
            assert only.small_margin is batch.small_margin


def test_no_small_margin_is_told():
    with pytest.warns(UserWarning, match="no small margin among its 4 training samples"):
        MarginPatchDataModule(num_train=4)


def test_the_description_tells_what_there_is():
    text = MarginPatchDataModule(**SMALL).description
    assert "2 problems of 30 training and 40 held-out samples" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, r"beta must be in \(0, alpha\], with alpha 1.0, got 0.0"),
        ({"beta": 1.5}, r"beta must be in \(0, alpha\], with alpha 1.0, got 1.5"),
        ({"alpha": math.nan}, "alpha must be > 0, got nan"),
        ({"small_margin_fraction": 1.2}, r"small_margin_fraction must be in \[0, 1\], got 1.2"),
        ({"test_small_fraction": math.nan}, r"test_small_fraction must be in \[0, 1\], got nan"),
        ({"num_patches": 1}, "num_patches must be at least 2, got 1"),
        ({"dim": 1}, "dim must be at least 2, got 1"),
        ({"num_train": 0}, "num_train must be at least 1, got 0"),
        ({"num_problems": 0}, "num_problems must be at least 1, got 0"),
        ({"noise_std": 0.1}, "exactly one of noise_norm and noise_std must be given, got 1.5 and 0.1"),
        ({"noise_norm": None}, "exactly one of noise_norm and noise_std must be given, got None and None"),
        ({"noise_norm": -1.0}, "noise_norm must be >= 0, got -1.0"),
        ({"noise_norm": None, "noise_std": math.nan}, "noise_std must be >= 0, got nan"),
        ({"signal": "first"}, "signal must be one of basis, random, got 'first'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MarginPatchDataModule(**options)
