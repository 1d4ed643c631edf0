import math

import pytest
import torch

from callbacks import L1Norm, PopulationError, SupportRecovery


def test_the_metrics_are_means_over_all_predictors_of_all_updates():
    generator = torch.Generator().manual_seed(0)
    beta, truth = torch.randn(5, 4, generator=generator), torch.randn(4, generator=generator)
    norm, error = L1Norm(), PopulationError(truth, mean=2.0)
    for metric in (norm, error):
        metric.update(beta[:2])
        metric.update(beta[2:])
    assert norm.compute().item() == pytest.approx(beta.abs().sum(1).mean().item())
    moments = torch.eye(4) + 4 * torch.ones(4, 4)  # covariance plus outer product of the mean
    expected = torch.einsum("bi,ij,bj->b", beta - truth, moments, beta - truth).mean().item()
    assert error.compute().item() == pytest.approx(expected, rel=1e-5)


def test_the_population_error_is_that_of_fresh_inputs():
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    truth, beta = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    x = mean + torch.randn(200_000, 3, dtype=torch.float64, generator=generator) @ root.T
    metric = PopulationError(truth, mean, cov=root @ root.T)
    assert metric(beta).item() == pytest.approx((x @ (beta - truth)).square().mean().item(), rel=0.02)


def test_the_support_is_what_is_larger_than_the_tolerance():
    truth = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
    metric = SupportRecovery(truth, tol=0.1)
    assert metric(truth).item() == 1
    metric.reset()
    found = torch.tensor([[0.5, 0.05, -0.3, 0.0], [0.0, 0.0, 0.0, -0.2]])  # 1 of 2 found, 1 of 2 right; all right
    assert metric(found).item() == pytest.approx((0.5 + 1) / 2)


def test_the_true_predictor_is_on_the_metrics_device_and_not_in_checkpoints():
    metric = PopulationError(torch.ones(3), cov=torch.eye(3)).to("meta")
    assert {metric.beta_star.device.type, metric.mean.device.type, metric.cov.device.type} == {"meta"}
    assert metric.state_dict() == {}


@pytest.mark.parametrize("tol", [-1.0, math.nan])
def test_the_tolerance_is_not_negative(tol):
    with pytest.raises(ValueError, match="tol must be >= 0"):
        SupportRecovery(torch.ones(3), tol)
