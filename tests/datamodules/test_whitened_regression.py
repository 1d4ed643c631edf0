import pytest
import torch

from datamodules import WhitenedRegressionDataModule, whitened


def test_inputs_are_white_and_outputs_give_the_target():
    data = WhitenedRegressionDataModule([[3.0, 2.0], [1.0]], 5, 4, num_samples=20, noise_std=0.5, seed=3)
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (2, 20, 5)
    assert y.shape == (2, 20, 4)
    torch.testing.assert_close(x.mT @ x, torch.eye(5, dtype=torch.float64).expand(2, 5, 5))
    torch.testing.assert_close(y.mT @ x, data.target)
    assert data.num_problems == 2


def test_the_loss_is_the_distance_of_matrices_and_the_errors_left():
    data = WhitenedRegressionDataModule(noise_std=0.5, seed=3)
    x, y = data.batch
    W = torch.randn(4, 5, dtype=torch.float64)
    errors = y - x @ data.target.mT
    loss = (x @ W.mT - y).square().sum()
    torch.testing.assert_close(loss, (W - data.target).square().sum() + errors.square().sum())
    assert errors.square().mean().sqrt() == pytest.approx(0.5 * (1 - 5 / 64) ** 0.5, rel=0.1)


def test_whitening_is_the_inverse_root_of_the_second_moment():
    x = torch.randn(30, 4, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(x.mT @ x)
    torch.testing.assert_close(whitened(x), x @ vectors @ torch.diag(values.rsqrt()) @ vectors.mT)


def test_singular_values_are_those_asked_for_in_any_basis():
    data = WhitenedRegressionDataModule([3.0, 2.0, 0.5], 5, 4, rotate=True, seed=1)
    expected = torch.tensor([[3.0, 2.0, 0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.svdvals(data.target), expected)
    assert (data.target.abs() > 1e-3).sum() > 10
    plain = WhitenedRegressionDataModule([3.0, 2.0, 0.5], 5, 4).target
    assert (plain != 0).sum() == 3  # exact zeros


def test_the_seed_is_that_of_everything_unless_given(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    one, other = WhitenedRegressionDataModule(), WhitenedRegressionDataModule(seed=7)
    assert torch.equal(one.batch.x, other.batch.x)
    assert not torch.equal(one.batch.x, WhitenedRegressionDataModule(seed=8).batch.x)


def test_the_description_names_what_matters():
    text = WhitenedRegressionDataModule([[3.0], [2.0, 0.5]], noise_std=0.1).description
    assert "64 samples, 5 inputs, 4 outputs, singular values 3; 2, 0.5, noise 0.1" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_dim": 0}, "input_dim must be at least 1, got 0"),
        ({"num_samples": 4}, "num_samples must be at least input_dim, 5, to be whitened, got 4"),
        ({"noise_std": float("nan")}, "noise_std must be >= 0, got nan"),
        ({"num_samples": 5, "noise_std": 0.1}, "noise_std must be 0 where num_samples is input_dim"),
        ({"singular_values": []}, "singular_values must be 1 to 4 numbers"),
        ({"singular_values": [1.0] * 5}, "singular_values must be 1 to 4 numbers"),
        ({"singular_values": [1.0, 2.0]}, "singular_values must descend"),
        ({"singular_values": [[1.0], [-2.0]]}, "singular_values must be >= 0"),
        ({"singular_values": [float("nan")]}, "singular_values must be >= 0"),
    ],
)
def test_problems_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WhitenedRegressionDataModule(**options)
