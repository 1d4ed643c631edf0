import math

import pytest
import torch
from torch import nn

from datamodules.inverse_operators import RandomInpainting
from zoo.sgilo import CSGM, ILO, SGILO, GaussianPrior, PosteriorLangevin, ProximityPrior, StyleGAN2, solve_all
from zoo.sgilo.descent import descend
from zoo.sgilo.solver import DataTerm, Reconstruction


def given(generator, latent):
    """What a solver begins with: a latent at split 1."""
    return Reconstruction(generator.suffix(latent, 1).detach(), latent, 1, torch.zeros(len(latent)))


def exact_prior(generator, num=50):
    """A Gaussian prior of known mean and precision."""
    prior = GaussianPrior(generator.latent_shape(1)).double()
    draws = torch.randn(
        num, *generator.latent_shape(1), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    return prior.fit(draws + 0.5)


def problem(num_images=3, m=20, side=8):
    draw = torch.Generator().manual_seed(5)
    x = torch.rand(num_images, 1, side, side, generator=draw)
    operator = RandomInpainting((1, side, side), m, num_images, draw)
    return x, operator, operator(x)


def test_the_data_term_is_half_the_squared_error_and_its_gradient(linear):
    y = torch.randn(5, 6, dtype=torch.float64)
    latent = torch.randn(10, 4, dtype=torch.float64)
    term = DataTerm(lambda z: linear.suffix(z, 1), nn.Flatten(), y, num_chains=2)
    error, gradient = term(latent)
    difference = latent @ linear.second.detach() - y.repeat(2, 1)
    torch.testing.assert_close(error, difference.square().sum(1))
    torch.testing.assert_close(gradient, difference @ linear.second.detach().T)


def test_csgm_on_a_linear_generator_is_ridge_regression(linear, flat):
    y = torch.randn(5, 6, dtype=torch.float64)
    found = CSGM(weight=0.3, num_restarts=2, num_steps=2000, lr=0.01).solve(linear, flat, y)
    matrix = (linear.first @ linear.second).detach()
    exact = torch.linalg.solve(matrix @ matrix.T + 0.3 * torch.eye(2, dtype=torch.float64), matrix @ y.T).T
    torch.testing.assert_close(found.state, exact, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.error, (found.x.flatten(1) - y).square().sum(1))


def test_sgilo_with_a_gaussian_prior_on_a_linear_generator_is_ridge_regression(linear, flat):
    y, prior = torch.randn(5, 6, dtype=torch.float64), exact_prior(linear)
    solver = SGILO(CSGM(), prior, prior_weight=0.7, sigma_eff=0.5, num_steps=3000, lr=0.01)
    found = solver.solve(linear, flat, y, start=given(linear, torch.zeros(5, 4, dtype=torch.float64)))
    matrix, precision = linear.second.detach(), 0.7 * prior.precision
    right = matrix @ y.T / 0.25 + (precision @ prior.mean).unsqueeze(1)
    exact = torch.linalg.solve(matrix @ matrix.T / 0.25 + precision, right).T
    torch.testing.assert_close(found.state, exact, atol=1e-4, rtol=0)


def test_posterior_samples_have_the_mean_and_covariance_of_the_gaussian_posterior(linear, flat):
    y, prior = torch.randn(2, 6, dtype=torch.float64), exact_prior(linear)
    matrix = linear.second.detach()
    precision = matrix @ matrix.T / 0.25 + prior.precision
    mean = torch.linalg.solve(precision, matrix @ y.T / 0.25 + (prior.precision @ prior.mean).unsqueeze(1)).T
    sampler = PosteriorLangevin(
        CSGM(), prior, sigma_eff=0.5, relative_step_size=0.1, num_chains=200, burn_in=500, num_steps=4000, thin=400
    )
    found = sampler.solve(linear, flat, y, start=given(linear, mean), rng=torch.Generator().manual_seed(0))
    assert found.chains.shape == (2000, 2, 1, 1, 6)
    covariance = matrix.T @ torch.linalg.inv(precision) @ matrix  # of images
    for i in range(2):
        images = found.chains[:, i].flatten(1)
        error = (images.mean(0) - mean[i] @ matrix).abs()
        assert (
            error < 4 * (covariance.diagonal() / 2000).sqrt() * 1.5
        ).all()  # draws of a chain are not quite independent
        assert (torch.cov(images.T) - covariance).norm() < 0.12 * covariance.norm()
    torch.testing.assert_close(found.x, found.chains.mean(0))


def test_without_prior_and_ball_sgilo_is_ilo_step_by_step(decoder):
    _, operator, y = problem()
    first = CSGM(num_steps=5)
    start = first.solve(decoder, operator, y, rng=torch.Generator().manual_seed(0))
    ilo = ILO(first, num_steps=20).solve(decoder, operator, y, start=start)
    sgilo = SGILO(first, prior_weight=0.0, sigma_eff=1.0, num_steps=20).solve(decoder, operator, y, start=start)
    assert torch.equal(ilo.history["error"], sgilo.history["error"])
    assert torch.equal(ilo.x, sgilo.x)


def test_ilo_stays_within_its_ball(decoder):
    _, operator, y = problem()
    first = CSGM(num_steps=5)
    start = first.solve(decoder, operator, y)
    found = ILO(first, radius=0.5, num_steps=30).solve(decoder, operator, y, start=start)
    deviation = (found.state - decoder.prefix(start.state, 1)).flatten(1).abs().sum(1)
    assert (deviation <= 0.5 + 1e-5).all()
    assert (deviation > 0.4).any()
    assert (found.error < start.error).all()


def test_solvers_go_on_from_split_to_split(decoder):
    _, operator, y = problem()
    first = ILO(CSGM(num_steps=5), split=1, radius=0.5, num_steps=10)
    second = ILO(first, split=2, radius=0.5, num_steps=10)
    found = solve_all({"first": first, "second": second}, decoder, operator, y)
    assert found["second"].state.shape == (3, 4, 4, 4)
    assert found["second"].split == 2
    torch.testing.assert_close(found["second"].history["error"][0], found["first"].error)
    assert (found["second"].error < found["first"].error).all()
    with pytest.raises(ValueError, match="split must be at least 2, where the start stands, got 1"):
        ILO(second, split=1).solve(decoder, operator, y, start=found["second"])


def test_the_best_restart_is_taken_image_by_image(decoder):
    _, operator, y = problem(num_images=8)
    solver = CSGM(num_restarts=4, num_steps=3)
    found = solver.solve(decoder, operator, y, rng=torch.Generator().manual_seed(0))
    single = DataTerm(decoder, operator, y)
    torch.testing.assert_close(single.error(found.state), found.error)
    other = CSGM(num_restarts=1, num_steps=3).solve(decoder, operator, y)
    assert (found.error <= other.error + 1e-6).all()
    at_zero = (found.state - other.state).abs().amax(1) < 1e-6  # images for which the first restart is the best
    assert 0 < at_zero.sum() < 8


def test_an_image_is_solved_alike_alone_and_in_a_batch(decoder):
    x, _, _ = problem()
    flat = nn.Flatten()
    solvers = {"csgm": CSGM(num_restarts=1, num_steps=20)}
    solvers["ilo"] = ILO(solvers["csgm"], radius=1.0, num_steps=20)
    solvers["sgilo"] = SGILO(solvers["csgm"], ProximityPrior(0.5), num_steps=20)
    together = solve_all(solvers, decoder, flat, x.flatten(1))
    alone = solve_all(solvers, decoder, flat, x[1:2].flatten(1))
    for name in solvers:
        torch.testing.assert_close(together[name].x[1:2], alone[name].x, atol=1e-4, rtol=0)


def test_starts_that_solvers_share_are_found_once(decoder, monkeypatch):
    _, operator, y = problem()
    calls = []
    original = CSGM._solve
    monkeypatch.setattr(CSGM, "_solve", lambda self, *args: calls.append(1) or original(self, *args))
    first = CSGM(num_steps=2)
    solvers = {"ilo": ILO(CSGM(num_steps=2), num_steps=2), "csgm": first, "near": SGILO(first, ProximityPrior(1.0))}
    found = solve_all(solvers, decoder, operator, y)
    assert len(calls) == 1
    assert list(found) == ["ilo", "csgm", "near"]
    assert found["near"].seconds > found["csgm"].seconds > 0


def test_randomness_is_that_of_the_generator_alone(decoder):
    _, operator, y = problem()
    solvers = {"sgilo": SGILO(CSGM(num_steps=3), ProximityPrior(0.5), temperature=0.1, num_chains=2, num_steps=5)}
    state = torch.get_rng_state()
    one, same, other = (solve_all(solvers, decoder, operator, y, seed=seed)["sgilo"].x for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_no_gradient_reaches_the_generator(decoder):
    _, operator, y = problem()
    ILO(CSGM(num_steps=2), num_steps=2).solve(decoder, operator, y)
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_several_chains_give_their_mean_or_the_best(decoder):
    _, operator, y = problem()
    shared = {"prior": ProximityPrior(0.5), "temperature": 0.3, "num_chains": 3, "num_steps": 5}
    best = SGILO(CSGM(num_steps=3), **shared)
    mean = SGILO(CSGM(num_steps=3), **shared, reduction="mean")
    found = solve_all({"best": best, "mean": mean}, decoder, operator, y)
    torch.testing.assert_close(found["best"].error, found["mean"].error)  # of the same chains
    torch.testing.assert_close(operator(found["best"].x).sub(y).square().sum(1), found["best"].error)
    assert not torch.allclose(found["best"].x, found["mean"].x)
    assert found["best"].history["error"].shape == (5, 9)


def test_every_pixel_measured_without_noise_is_found_again(decoder, flat):
    with torch.no_grad():
        truth = decoder.suffix(decoder.prefix(torch.randn(1, 3), 1) + 0.1 * torch.randn(1, 2, 2, 2), 1)
    solver = ILO(CSGM(num_restarts=1, num_steps=100), num_steps=300)
    found = solver.solve(decoder, flat, truth.flatten(1))
    assert (found.x - truth).square().mean() < 1e-4


def test_the_noise_level_goes_geometrically():
    solver = SGILO(CSGM(), sigma=0.25, sigma_start=1.0, num_steps=3)
    assert [solver.level(step) for step in range(3)] == pytest.approx([1.0, 0.5, 0.25])


def test_stylegan_is_solved_with_several_chains():
    torch.manual_seed(0)
    net = StyleGAN2(size=16, style_dim=8, n_mlp=2, channels={4: 8, 8: 8, 16: 8}).eval()
    operator = RandomInpainting((3, 16, 16), 60, 2, torch.Generator().manual_seed(0))
    y = operator(torch.rand(2, 3, 16, 16))
    shared = {"prior": ProximityPrior(0.1), "temperature": 0.1, "num_chains": 2, "num_steps": 3}
    for num_images in (2, 1):
        part = RandomInpainting((3, 16, 16), 60, num_images, torch.Generator().manual_seed(0))
        first = SGILO(CSGM(num_steps=3), split=1, **shared)
        found = SGILO(first, split=2, **shared).solve(net, part, y[:num_images])
        assert found.x.shape == (num_images, 3, 16, 16)
        predicted = part(net.suffix(found.state, 2))
        torch.testing.assert_close((predicted - y[:num_images]).square().sum(1), found.error, rtol=1e-4, atol=1e-4)


def test_measurements_of_another_shape_are_refused(decoder, flat):
    with pytest.raises(ValueError, match=r"shape of y, \(3, 20\), got \(3, 64\)"):
        CSGM(num_restarts=1, num_steps=1).solve(decoder, flat, torch.rand(3, 20))


def test_a_chain_that_is_not_finite_is_named():
    def gradient(latent, step):
        error = torch.ones(4)
        if step == 2:
            error[3] = math.nan
        return torch.ones_like(latent), {"error": error}

    with pytest.raises(FloatingPointError, match="chain 1 of image 1 is not finite after 2 steps"):
        descend(torch.zeros(4, 2), gradient, 5, 0.1, num_images=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CSGM(weight=-1.0), "weight must be >= 0"),
        (lambda: CSGM(num_restarts=0), "num_restarts must be at least 1, got 0"),
        (lambda: CSGM(lr=math.nan), "lr must be > 0"),
        (lambda: ILO(CSGM(), radius=0.0), "radius must be > 0, got 0.0"),
        (lambda: ILO(CSGM(), split=0), "split must be at least 1, got 0"),
        (lambda: SGILO(CSGM(), sigma=0.0), "sigma must be > 0"),
        (lambda: SGILO(CSGM(), sigma_start=-1.0), "sigma_start must be > 0"),
        (lambda: SGILO(CSGM(), sigma_eff=math.inf), "sigma_eff must be > 0"),
        (lambda: SGILO(CSGM(), prior_weight=math.nan), "prior_weight must be >= 0"),
        (lambda: SGILO(CSGM(), temperature=-0.1), "temperature must be >= 0"),
        (lambda: SGILO(CSGM(), reduction="median"), "reduction must be 'best' or 'mean', got 'median'"),
        (lambda: PosteriorLangevin(CSGM(), relative_step_size=2.0), r"relative_step_size must be in \(0, 2\), got 2.0"),
        (lambda: PosteriorLangevin(CSGM(), prior_weight=0.0), "prior_weight must be > 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_prior_is_named(decoder, flat):
    with pytest.raises(ValueError, match="prior must be a prior, or one of other, got 'score'"):
        SGILO(CSGM(num_steps=1)).solve(decoder, flat, torch.rand(1, 64), {"other": ProximityPrior(1.0)})


def test_a_split_that_the_generator_lacks_is_refused(decoder, flat):
    with pytest.raises(ValueError, match="split must be from 1 to 2, got 3"):
        ILO(CSGM(num_steps=1), split=3).solve(decoder, flat, torch.rand(1, 64))
