import math
import warnings

import pytest
import torch

from datamodules.sparse_regression import SparseRegressionDataModule, sparse_regression


def test_targets_are_those_of_the_sparse_solution():
    data = SparseRegressionDataModule(num_problems=3, seed=1)
    x, y, beta, mean = next(iter(data.train_dataloader()))
    torch.testing.assert_close(torch.einsum("pnd,pd->pn", x, beta), y)
    assert (beta != 0).sum(1).tolist() == [3, 3, 3]
    torch.testing.assert_close(beta.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert mean.tolist() == [5.0] * 100
    assert not torch.equal(beta[0], beta[1])


def test_inputs_have_their_mean_and_unit_variance():
    mean = torch.tensor([0.0, 5.0, -2.0])
    x, _, _ = sparse_regression(40_000, mean, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean(0), mean.double(), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), torch.eye(3, dtype=torch.float64), atol=0.03, rtol=0)


def test_noise_is_the_spread_of_the_targets_about_the_solution():
    data = SparseRegressionDataModule(num_problems=60, noise_std=0.1, amplitude=-2.0, seed=0)
    x, y, beta, _ = data.batch
    assert (y - torch.einsum("pnd,pd->pn", x, beta)).std().item() == pytest.approx(0.1, rel=0.05)
    assert beta.unique().tolist() == [-2.0, 0.0]


def test_a_draw_is_the_seeds_whatever_the_number_of_draws():
    few, many, other = (SparseRegressionDataModule(num, seed=seed).batch for num, seed in ((2, 3), (5, 3), (2, 4)))
    assert torch.equal(few.x, many.x[:2])
    assert torch.equal(few.y, many.y[:2])
    assert not torch.equal(few.x, other.x)


def test_the_seed_of_the_run_is_taken_for_the_draws(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert SparseRegressionDataModule().seed == 7
    assert SparseRegressionDataModule(seed=3).seed == 3


def test_a_determined_problem_is_warned_of():
    with pytest.warns(UserWarning, match="num_samples 100 is not below num_features 100"):
        SparseRegressionDataModule(num_samples=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SparseRegressionDataModule(num_samples=99)


def test_the_description_says_what_the_data_is():
    data = SparseRegressionDataModule(num_problems=2, noise_std=0.1)
    assert (data.num_problems, data.dim, data.num_features) == (2, 100, 100)
    assert data.description == (
        "2 sparse regression problems (60 samples, 100 features of mean 5, 3 relevant, noise 0.1)"
    )
    mean = [0.0, 1.0, 2.5]
    assert "mean 0 to 2.5" in SparseRegressionDataModule(1, 2, 3, sparsity=1, feature_mean=mean).description


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_problems": 0}, "num_problems must be at least 1, got 0"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_features": 0}, "num_features must be at least 1, got 0"),
        ({"sparsity": 0}, "sparsity must be from 1 to 100, the features, got 0"),
        ({"sparsity": 101}, "sparsity must be from 1 to 100, the features, got 101"),
        ({"feature_mean": [1.0, 2.0]}, "feature_mean must be a number, or 100 of them"),
        ({"feature_mean": math.nan}, "feature_mean must be a number, or 100 of them, got nan"),
        ({"noise_std": -0.1}, "noise_std must be >= 0, got -0.1"),
        ({"amplitude": 0.0}, "amplitude must be 'unit_norm' or a number other than 0, got 0.0"),
        ({"amplitude": "unit"}, "amplitude must be 'unit_norm' or a number other than 0, got 'unit'"),
    ],
)
def test_wrong_arguments_of_sparse_regression_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SparseRegressionDataModule(**options)
