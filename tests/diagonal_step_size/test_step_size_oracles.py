import math

import pytest
import torch

from zoo.diagonal_step_size import (
    critical_step_size,
    flow_potential,
    gradient_flow_limit,
    initial_stability_threshold,
    minimum_l1,
    population_error,
    sharpness,
    weighted_l1,
)


def problems(num=2, num_samples=6, dim=10, mean=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = mean + torch.randn(num, num_samples, dim, dtype=torch.float64, generator=generator)
    beta = torch.zeros(num, dim, dtype=torch.float64)
    beta[:, 0] = 1.0
    return x, (x @ beta.unsqueeze(-1)).squeeze(-1), beta


def follow_the_flow(x, y, scale, steps=10_000, lr=2e-3):
    """Gradient descent with steps so small that it is the flow."""
    u, v = torch.full_like(x[0], 2 * scale), torch.zeros_like(x[0])
    for _ in range(steps):
        g = x.T @ (x @ (u * v) - y) / len(x)
        u, v = u - lr * v * g, v - lr * u * g
    return u * v


def test_the_flows_limit_is_where_small_steps_lead():
    x, y, _ = problems(num=1, num_samples=2, dim=6, mean=0.5)
    found = gradient_flow_limit(x[0], y[0], 0.3)
    torch.testing.assert_close(found, follow_the_flow(x[0], y[0], 0.3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [1e-6, 0.01, 0.3, 10.0, 1e4])
def test_the_flows_limit_interpolates_and_is_stationary(scale):
    x, y, _ = problems()
    beta = gradient_flow_limit(x, y, scale).requires_grad_()
    torch.testing.assert_close((x @ beta.unsqueeze(-1)).squeeze(-1), y, atol=1e-9, rtol=0)
    flow_potential(beta, scale).sum().backward()
    outside = beta.grad - (torch.linalg.pinv(x) @ (x @ beta.grad.unsqueeze(-1))).squeeze(-1)  # not a row of x
    assert (outside.norm() / beta.grad.norm()).item() < 1e-7


def test_the_flows_limit_is_minimum_l2_from_large_scales_and_minimum_l1_from_small_ones():
    x, y, _ = problems()
    smallest = (torch.linalg.pinv(x) @ y.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(gradient_flow_limit(x, y, 1e4), smallest, atol=1e-8, rtol=0)
    torch.testing.assert_close(gradient_flow_limit(x, y, 1e-7), minimum_l1(x, y), atol=1e-4, rtol=0)


def test_scales_broadcast_with_problems():
    x, y, _ = problems()
    scales = torch.tensor([0.1, 0.5, 2.0])
    together = gradient_flow_limit(x.unsqueeze(1), y.unsqueeze(1), scales)
    assert together.shape == (2, 3, 10)
    torch.testing.assert_close(together[1, 2], gradient_flow_limit(x[1], y[1], 2.0))


def test_equations_that_repeat_change_nothing():
    x, y, _ = problems()
    twice, targets = torch.cat([x, x[:, :2]], 1), torch.cat([y, y[:, :2]], 1)
    torch.testing.assert_close(gradient_flow_limit(twice, targets, 0.2), gradient_flow_limit(x, y, 0.2))
    torch.testing.assert_close(minimum_l1(twice, targets), minimum_l1(x, y))


def test_where_nothing_interpolates_the_flow_finds_least_squares():
    x, y, _ = problems(num=1, num_samples=12, dim=4)
    noisy = y + torch.sin(torch.arange(12.0))
    expected = torch.linalg.lstsq(x, noisy.unsqueeze(-1)).solution.squeeze(-1)
    torch.testing.assert_close(gradient_flow_limit(x, noisy, 0.5), expected)
    with pytest.raises(ValueError, match="x and y must have an interpolator, got 12 equations for 4 unknowns"):
        critical_step_size(x, noisy)


def test_the_potential_has_the_closed_form_and_both_limits():
    beta, scale = torch.tensor([0.7, -1.3], dtype=torch.float64), 0.4
    z = beta / scale**2
    expected = (scale**2 * (2 - (4 + z**2).sqrt() + z * (z / 2).asinh())).sum()
    torch.testing.assert_close(flow_potential(beta, scale), expected)
    torch.testing.assert_close(flow_potential(beta, 1e4) * 4e8, beta.square().sum(), rtol=1e-6, atol=0)
    small = flow_potential(beta, 1e-30) / math.log(1e60)
    torch.testing.assert_close(small, beta.abs().sum(), rtol=0.02, atol=0)


def test_the_potential_keeps_its_digits_for_tiny_and_huge_arguments():
    tiny = torch.tensor([1e-9], dtype=torch.float64)
    assert flow_potential(tiny, 1.0).item() == pytest.approx(0.25e-18, rel=1e-12)
    assert flow_potential(tiny * 1e159, 1.0).isfinite()


def test_the_critical_step_size_is_that_of_the_sparse_solution_where_it_is_the_minimiser():
    x, y, beta = problems(num=3, num_samples=8)
    weights = x.mean(1).square()
    torch.testing.assert_close(minimum_l1(x, y, weights), beta, atol=1e-9, rtol=0)
    torch.testing.assert_close(critical_step_size(x, y), 1 / weights[:, 0])
    other = gradient_flow_limit(x, y, 1.0)
    assert (weighted_l1(other, x) > weighted_l1(beta, x)).all()


def test_beyond_the_critical_step_size_every_interpolator_is_too_sharp():
    x, y, beta = problems(num=1)
    lr = critical_step_size(x, y)
    for interpolator in (beta, gradient_flow_limit(x, y, 0.3), gradient_flow_limit(x, y, 3.0)):
        size = interpolator.abs().sqrt()  # balanced: the flattest pair of a product
        bound = weighted_l1(interpolator, x)
        assert bound >= (1 - 1e-9) / lr
        assert sharpness(size, interpolator.sign() * size, x) >= 2 * bound


def test_no_step_size_is_critical_for_targets_of_zero_or_inputs_of_mean_zero():
    x, y, _ = problems(num_samples=3)
    assert critical_step_size(x, 0 * y).tolist() == [math.inf, math.inf]
    assert (critical_step_size(torch.cat([x, -x], dim=1), torch.cat([y, -y], dim=1)) > 1e20).all()


def test_the_start_is_unstable_from_the_threshold_on():
    x, _, _ = problems()
    start = torch.full((2, 10), 0.6, dtype=torch.float64)
    expected = 2 / sharpness(start, 0 * start, x)
    torch.testing.assert_close(initial_stability_threshold(x, 0.3), expected)


def test_the_population_error_is_that_of_many_fresh_inputs():
    generator = torch.Generator().manual_seed(0)
    error, root = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((4,), (4, 4)))
    mean = torch.tensor([1.0, 2.0, 0.0, -1.0], dtype=torch.float64)
    x = mean + torch.randn(200_000, 4, dtype=torch.float64, generator=generator) @ root.T
    sampled = (x @ error).square().mean().item()
    assert population_error(error, torch.zeros(4), mean, root @ root.T).item() == pytest.approx(sampled, rel=0.02)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_the_flow_starts_from_a_positive_scale(scale):
    x, y, _ = problems()
    with pytest.raises(ValueError, match="init_scale must be > 0"):
        gradient_flow_limit(x, y, scale)
