import math

import pytest
import torch

from callbacks.fixed_point import (
    FixedPointResidual,
    LengthMap,
    SolverIterations,
    jacobian_spectral_radius,
    non_normality,
)

F64 = torch.float64


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_growth_of_a_vector_is_the_largest_modulus(symmetric):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(30, 30, dtype=F64, generator=generator) / 6
    weight = (weight + weight.T) / 2 if symmetric else weight
    expected = torch.linalg.eigvals(weight).abs().max()
    found = jacobian_spectral_radius(
        lambda z: z @ weight, torch.zeros(4, 30, dtype=F64), num_steps=400, generator=generator
    )
    torch.testing.assert_close(found, expected.expand(4), rtol=0.02, atol=0)


def test_each_sample_has_the_radius_of_its_own_jacobian():
    slopes = torch.tensor([[0.5], [2.0], [0.0]])
    found = jacobian_spectral_radius(lambda z: slopes * torch.tanh(z), torch.zeros(3, 4))
    torch.testing.assert_close(found, torch.tensor([0.5, 2.0, 0.0]))
    stacks = jacobian_spectral_radius(lambda z: 0.5 * z, torch.zeros(2, 3, 4), batch_dims=2)
    torch.testing.assert_close(stacks, torch.full((2, 3), 0.5))


def test_too_few_products_are_refused():
    with pytest.raises(ValueError, match="num_steps must be at least 2, got 1"):
        jacobian_spectral_radius(torch.cos, torch.zeros(1, 1), num_steps=1)


def test_normal_matrices_have_no_non_normality():
    q = torch.linalg.qr(torch.randn(5, 5, dtype=F64)).Q
    assert non_normality(torch.stack([q, q + q.T])).max() < 1e-12
    assert non_normality(torch.triu(torch.ones(5, 5, dtype=F64))) > 0.1


def test_residuals_of_batches_are_those_of_all_samples_together():
    residual = torch.rand(10)
    whole, parts = FixedPointResidual(), FixedPointResidual()
    whole.update(residual, residual < 0.5)
    for part in residual.split(3):
        parts.update(part, part < 0.5)
    parts.update(residual[:0], residual[:0] < 0.5)
    torch.testing.assert_close(parts.compute(), whole.compute())
    assert whole.compute()["converged"] == (residual < 0.5).float().mean()


def test_a_residual_that_is_nan_counts_as_infinite():
    metric = FixedPointResidual()
    metric.update(torch.tensor([0.1, math.nan]), torch.tensor([True, False]))
    found = metric.compute()
    assert found["max_residual"] == math.inf
    assert found["converged"] == 0.5


def test_iterations_are_counted_over_stacks():
    metric = SolverIterations()
    metric.update(torch.tensor([[1, 2], [3, 40]]))
    metric.update(torch.zeros(0, dtype=torch.long))
    assert {name: value.item() for name, value in metric.compute().items()} == {
        "iterations": 11.5,
        "max_iterations": 40,
    }


def test_the_length_map_is_the_mean_ratio_and_its_spread():
    z, u = torch.randn(50, 6), torch.randn(50, 6)
    ratios = z.square().sum(1) / u.square().sum(1)
    metric = LengthMap()
    for part in torch.arange(50).split(7):
        metric.update(z[part], u[part])
    found = metric.compute()
    torch.testing.assert_close(found["length_map"], ratios.mean())
    torch.testing.assert_close(found["length_fluctuation"], ratios.std(correction=0) / ratios.mean())
