import math

import pytest
import torch

from zoo.sgilo import LangevinSampler, langevin_step, laplace_covariance

A = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, -1.0]], dtype=torch.float64)
Y = torch.tensor([1.0, -2.0], dtype=torch.float64)
NOISE_STD = 0.7
PRECISION = torch.eye(3, dtype=torch.float64) + A.mT @ A / NOISE_STD**2  # of z ~ N(0, I) given y = A z + noise
MEAN = torch.linalg.solve(PRECISION, A.mT @ Y / NOISE_STD**2)


def potential(z):
    return z.square().sum(1) / 2 + (z @ A.mT - Y).square().sum(1) / (2 * NOISE_STD**2)


def gradient(z):
    return z + (z @ A.mT - Y) @ A / NOISE_STD**2


def draw(sampler, num_chains=400, **functions):
    functions = functions or {"potential": potential}
    start = torch.full((num_chains, 3), 4.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    return sampler.sample(functions.pop("potential", None), start, generator, **functions)


def within_monte_carlo_error(samples, mean, covariance):
    """Whether means and covariances over chains agree with known ones within 4.5 standard errors.

    Chains are independent: the standard errors are those between their own means.
    """
    deviation = samples - mean
    by_chain = torch.cat([deviation, (deviation.unsqueeze(-1) * deviation.unsqueeze(-2)).flatten(-2)], -1).mean(0)
    expected = torch.cat([torch.zeros(3, dtype=mean.dtype), covariance.flatten()])
    error = by_chain.std(0) / math.sqrt(len(by_chain))
    return bool(((by_chain.mean(0) - expected).abs() < 4.5 * error).all())


def test_chains_on_a_gaussian_posterior_have_its_mean_and_the_covariance_of_their_step_size():
    step_size = 0.05
    chains = draw(LangevinSampler(step_size, num_steps=1000, burn_in=200, thin=5), gradient=gradient)
    assert within_monte_carlo_error(chains.samples, MEAN, laplace_covariance(PRECISION, 1.0, step_size))
    assert not within_monte_carlo_error(chains.samples, MEAN, 1.2 * laplace_covariance(PRECISION, 1.0, step_size))


def test_a_metropolis_test_takes_the_bias_of_a_large_step_away():
    step_size = 0.15
    exact = torch.linalg.inv(PRECISION)
    settings = {"num_steps": 1500, "burn_in": 200, "thin": 3}
    tested = draw(LangevinSampler(step_size, metropolis=True, **settings))
    plain = draw(LangevinSampler(step_size, **settings), gradient=gradient)
    assert within_monte_carlo_error(tested.samples, MEAN, exact)
    assert not within_monte_carlo_error(plain.samples, MEAN, exact)
    assert 0.3 < tested.acceptance.mean() < 1


def test_the_inverse_temperature_divides_the_covariance():
    chains = draw(
        LangevinSampler(0.02, inverse_temperature=9.0, num_steps=2000, burn_in=400, thin=5), gradient=gradient
    )
    assert within_monte_carlo_error(chains.samples, MEAN, laplace_covariance(PRECISION, 9.0, 0.02))


def test_without_noise_a_chain_descends_to_the_mode():
    chains = draw(LangevinSampler(0.1, inverse_temperature=math.inf, num_steps=400), num_chains=2)
    torch.testing.assert_close(chains.last, MEAN.expand(2, 3), rtol=0, atol=1e-10)


def test_a_step_is_the_one_written_out():
    z, slope, noise = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.0])
    assert langevin_step(z, slope, 0.5, 4.0, noise).item() == pytest.approx(1 - 0.5 * 2 + math.sqrt(2 * 0.5 / 4) * 3)
    assert langevin_step(z, slope, 0.5).item() == 0.0


def test_a_gradient_by_hand_and_by_differentiation_drive_the_same_chains():
    sampler = LangevinSampler(0.1, num_steps=50, thin=10)
    torch.testing.assert_close(draw(sampler).samples, draw(sampler, gradient=gradient).samples)


def test_every_thinned_state_after_the_burn_in_is_kept():
    every = draw(LangevinSampler(0.1, num_steps=12), num_chains=2)
    some = draw(LangevinSampler(0.1, num_steps=8, burn_in=4, thin=3), num_chains=2)
    assert torch.equal(some.samples, every.samples[[6, 9]])
    assert torch.equal(some.last, every.last)


def test_chains_of_any_shape_are_drawn_from_a_generator_and_leave_the_global_one_alone():
    before = torch.get_rng_state()
    start = torch.zeros(2, 3, 4)
    first, second = (
        LangevinSampler(0.1, num_steps=5, metropolis=True).sample(
            lambda z: z.square().flatten(1).sum(1), start, torch.Generator().manual_seed(1)
        )
        for _ in range(2)
    )
    assert first.samples.shape == (5, 2, 3, 4)
    assert torch.equal(first.samples, second.samples)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(start, torch.zeros(2, 3, 4))


def test_a_chain_that_is_lost_is_named_with_its_step():
    def one_unit_a_step(z):
        lost = torch.tensor([[False], [True], [False]]) & (z > 6.5)
        return torch.where(lost, torch.nan, torch.full_like(z, -1.0))

    sampler = LangevinSampler(1.0, inverse_temperature=math.inf, num_steps=300)
    with pytest.raises(FloatingPointError, match="chain 1 is not finite after step 8:"):
        sampler.sample(None, torch.zeros(3, 1), gradient=one_unit_a_step)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": 0.0}, "step_size must be > 0 and finite, got 0.0"),
        ({"step_size": math.nan}, "step_size must be > 0"),
        ({"inverse_temperature": -1.0}, "inverse_temperature must be > 0, got -1.0"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"burn_in": -1}, "burn_in must be at least 0, got -1"),
        ({"num_steps": 5, "thin": 6}, "thin must be from 1 to 5"),
        ({"metropolis": True, "inverse_temperature": math.inf}, "metropolis must be false"),
    ],
)
def test_samplers_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LangevinSampler(**{"step_size": 0.1, **arguments})


def test_a_test_needs_a_potential_of_one_value_a_chain():
    with pytest.raises(ValueError, match="potential must be given with metropolis"):
        LangevinSampler(0.1, metropolis=True).sample(None, torch.zeros(1, 2), gradient=lambda z: z)
    with pytest.raises(ValueError, match="potential must be given without a gradient"):
        LangevinSampler(0.1).sample(None, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"potential must be of shape \(4,\)"):
        LangevinSampler(0.1).sample(lambda z: z.square().sum(), torch.zeros(4, 2))
