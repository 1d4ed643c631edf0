import math

import pytest
import torch
from torch.distributions import Categorical

from zoo.efld.noise import GaussianNoise, QuantizedNoise, SignNoise

FAMILIES = [
    GaussianNoise(),
    SignNoise(),
    QuantizedNoise([-1.0, 0.0, 1.0]),
    QuantizedNoise([-2.0, -0.5, 0.0, 3.0], base=[1.0, 2.0, 4.0, 0.5]),
]
THETA = torch.linspace(-3, 3, 13, dtype=torch.float64)


@pytest.mark.parametrize("noise", FAMILIES, ids=lambda noise: type(noise).__name__)
def test_mean_and_variance_are_the_derivatives_of_the_log_partition(noise):
    theta = THETA.clone().requires_grad_()
    (first,) = torch.autograd.grad(noise.log_partition(theta).sum(), theta, create_graph=True)
    torch.testing.assert_close(noise.mean(THETA), first.detach())
    if isinstance(noise, GaussianNoise):
        torch.testing.assert_close(noise.variance(THETA), torch.ones_like(THETA))
    elif isinstance(noise, SignNoise):  # differentiating abs twice loses the kink, which is not there
        torch.testing.assert_close(noise.variance(THETA), 1 - torch.tanh(THETA) ** 2)
    else:
        (second,) = torch.autograd.grad(first.sum(), theta)
        torch.testing.assert_close(noise.variance(THETA), second)


@pytest.mark.parametrize("noise", FAMILIES, ids=lambda noise: type(noise).__name__)
def test_draws_have_the_mean_and_the_variance(noise):
    generator = torch.Generator().manual_seed(0)
    draws = noise.sample(THETA.expand(40_000, -1), generator)
    error = noise.variance(THETA).sqrt() / 200
    assert ((draws.mean(0) - noise.mean(THETA)).abs() < 5 * error + 1e-9).all()
    torch.testing.assert_close(draws.var(0), noise.variance(THETA), rtol=0.1, atol=0.02)


@pytest.mark.parametrize("noise", FAMILIES, ids=lambda noise: type(noise).__name__)
def test_no_variance_is_above_the_smoothness(noise):
    assert (noise.variance(torch.linspace(-20, 20, 2001, dtype=torch.float64)) <= noise.smoothness + 1e-12).all()


def test_the_smoothness_of_signs_and_of_two_far_levels_is_reached():
    zero = torch.zeros(())
    assert SignNoise().variance(zero) == SignNoise().smoothness == 1
    assert QuantizedNoise([0.0, 6.0]).variance(zero) == QuantizedNoise([0.0, 6.0]).smoothness == 9


def test_the_mean_of_signs_is_that_of_their_probabilities():
    g, alpha = torch.randn(10_000, dtype=torch.float64), 0.3
    assert (SignNoise().mean(g / alpha) - (2 * torch.sigmoid(2 * g / alpha) - 1)).abs().max() < 1e-15


def test_signs_agree_with_small_gradients_as_often_as_alpha_allows():
    g = 1e-3 * torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for alpha, agreement in {1e-6: 0.9997, 1e-4: 0.972, 1e-2: 0.540}.items():
        assert torch.sigmoid(2 * g.abs() / alpha).mean().item() == pytest.approx(agreement, abs=2e-3)


def test_levels_of_signs_are_signs():
    theta, signs, levels = THETA, SignNoise(), QuantizedNoise([-1.0, 1.0])
    torch.testing.assert_close(levels.log_partition(theta), signs.log_partition(theta) - math.log(2))
    torch.testing.assert_close(levels.mean(theta), signs.mean(theta))
    torch.testing.assert_close(levels.variance(theta), signs.variance(theta))


def test_levels_are_drawn_with_the_probabilities_of_a_softmax():
    levels, base = torch.tensor([-2.0, -0.5, 0.0, 3.0]), torch.tensor([1.0, 2.0, 4.0, 0.5])
    draws = FAMILIES[3].sample(torch.full((100_000,), 0.4), torch.Generator().manual_seed(2))
    expected = Categorical(logits=0.4 * levels + base.log()).probs
    found = torch.stack([(draws == level).float().mean() for level in levels])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("noise", FAMILIES[1:], ids=lambda noise: type(noise).__name__)
def test_far_parameters_saturate_and_nan_stays_nan(noise):
    far = torch.tensor([math.inf, 1e38, -1e38, -math.inf, math.nan])
    drawn = noise.sample(far)
    ends = (-1.0, 1.0) if isinstance(noise, SignNoise) else (noise.levels[0], noise.levels[-1])
    assert drawn[:4].tolist() == [ends[1], ends[1], ends[0], ends[0]]
    assert drawn[4].isnan()


def test_a_generator_repeats_its_draws():
    for noise in FAMILIES:
        one, other = (noise.sample(THETA, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": [1.0]}, r"levels must be at least two finite values in increasing order, got \[1.0\]"),
        ({"levels": [1.0, 0.0]}, "levels must be .* increasing order"),
        ({"levels": [0.0, 0.0]}, "levels must be .* increasing order"),
        ({"levels": [0.0, math.nan]}, "levels must be at least two finite values"),
        ({"levels": [0.0, math.inf]}, "levels must be at least two finite values"),
        ({"levels": [0.0, 1.0], "base": [1.0]}, "base must be 2 finite weights > 0, one for each level"),
        ({"levels": [0.0, 1.0], "base": [1.0, 0.0]}, "base must be 2 finite weights > 0"),
        ({"levels": [0.0, 1.0], "base": [1.0, math.nan]}, "base must be 2 finite weights > 0"),
    ],
)
def test_wrong_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        QuantizedNoise(**arguments)
