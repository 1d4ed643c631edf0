import math

import pytest
import torch

from zoo.sgilo import GaussianPrior, LatentDenoiser, ProximityPrior, ScoreMLP, ScorePrior


@pytest.fixture
def untrained():
    """A denoiser with the mean and scale of some latents, and a network that is still zero."""
    latents = 3 * torch.randn(5000, 2, 2, generator=torch.Generator().manual_seed(0)) + 1
    return LatentDenoiser((2, 2), hidden_dim=16, num_blocks=1).fit(latents)


def test_an_untrained_denoiser_is_the_wiener_filter(untrained):
    z = torch.randn(7, 2, 2)
    u = (z - untrained.mean) / untrained.scale
    torch.testing.assert_close(untrained.denoise(z, 0.5), untrained.mean + untrained.scale * u / 1.25)
    exact = -(z - untrained.mean) / (untrained.scale**2 * 1.25)  # of normal latents with that noise
    torch.testing.assert_close(untrained.score(z, 0.5), exact)


def test_mean_and_scale_are_those_of_the_latents(untrained):
    assert (untrained.mean - 1).abs().max() < 0.2
    assert abs(untrained.scale.item() - 3) < 0.1
    other = LatentDenoiser((2, 2), hidden_dim=16, num_blocks=1)
    other.load_state_dict(untrained.state_dict())
    assert torch.equal(other.scale, untrained.scale)  # a checkpoint keeps them


def test_the_loss_is_one_where_nothing_can_be_learned(untrained):
    draw = torch.Generator().manual_seed(1)
    z = 3 * torch.randn(4000, 2, 2, generator=draw) + 1
    log_sigma = torch.empty(4000).uniform_(-3, 2, generator=draw)
    loss = untrained.loss(z, log_sigma, torch.randn(4000, 4, generator=draw))
    assert abs(loss.item() - 1) < 0.05


def test_a_trained_denoiser_has_the_score_of_a_gaussian():
    torch.manual_seed(0)
    std = torch.tensor([0.3, 1.0, 1.36])  # mean square close to 1
    latents = std * torch.randn(20_000, 3)
    denoiser = LatentDenoiser((3,), hidden_dim=48, num_blocks=2).fit(latents)
    adam = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 3e-3, total_steps=500)
    for _ in range(500):
        z = latents[torch.randint(len(latents), (512,))]
        loss = denoiser.loss(z, torch.empty(512).uniform_(math.log(0.05), math.log(8)), torch.randn(512, 3))
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    for sigma in (0.3, 1.0, 3.0):
        noise = sigma * denoiser.scale
        z = latents[:2000] + noise * torch.randn(2000, 3)
        exact = -(z - denoiser.mean) / (std**2 + noise**2)
        error = (denoiser.score(z, sigma) - exact).square().sum() / exact.square().sum()
        untold = (-(z - denoiser.mean) / (denoiser.scale**2 + noise**2) - exact).square().sum() / exact.square().sum()
        assert error < 0.02
        assert error < untold / 5  # of a filter that knows the scale alone
    drawn = denoiser.sample(4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.std(0), std, rtol=0.12, atol=0)


def test_a_prior_that_is_not_perturbed_is_the_score_with_its_sign_changed(untrained):
    z = torch.randn(5, 2, 2)
    torch.testing.assert_close(ScorePrior(untrained, perturb=False).gradient(z, 0.6), -untrained.score(z, 0.6))


def test_a_perturbed_prior_is_right_on_average(untrained):
    z = torch.randn(1, 2, 2).expand(20_000, 2, 2)
    draw = torch.Generator().manual_seed(0)
    found = ScorePrior(untrained).gradient(z, 0.6, draw)
    exact = ScorePrior(untrained, perturb=False).gradient(z, 0.6)  # the filter is linear
    assert (found.mean(0) - exact[0]).abs().max() < 4 * (found.std() / math.sqrt(20_000))
    draw.manual_seed(0)
    assert torch.equal(found, ScorePrior(untrained).gradient(z, 0.6, draw))


def test_no_gradient_reaches_the_network(untrained):
    z = torch.randn(3, 2, 2, requires_grad=True)
    assert not untrained.denoise(z, 0.6).requires_grad


def test_a_gaussian_prior_has_the_score_of_its_latents():
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 4, generator=draw, dtype=torch.float64)
    latents = (torch.randn(200_000, 4, generator=draw, dtype=torch.float64) @ mixing + 2).view(-1, 2, 2)
    prior = GaussianPrior((2, 2)).double().fit(latents, ridge=1e-9)
    z = torch.randn(5, 2, 2, dtype=torch.float64)
    exact = (z.flatten(1) - 2) @ torch.linalg.inv(mixing.T @ mixing)
    error = (prior.centred(z).gradient(z, 0.0).flatten(1) - exact).norm() / exact.norm()
    assert error < 0.02


def test_the_ridge_makes_a_prior_of_latents_in_a_plane():
    latents = torch.randn(1000, 1) @ torch.ones(1, 3)
    assert GaussianPrior((3,)).fit(latents).precision.isfinite().all()


def test_a_proximity_prior_pulls_each_chain_to_its_start():
    start = torch.randn(4, 3)
    prior = ProximityPrior(0.25).centred(start)
    assert torch.equal(prior.gradient(start, 0.0), torch.zeros(4, 3))
    torch.testing.assert_close(prior.gradient(start + 1, 0.0), torch.full((4, 3), 0.5))


def test_what_is_not_fitted_is_refused():
    with pytest.raises(ValueError, match="must be fitted"):
        ScorePrior(LatentDenoiser((2,))).centred(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="must be fitted"):
        LatentDenoiser((2,)).sample(1)
    with pytest.raises(ValueError, match="must be fitted"):
        GaussianPrior((2,)).centred(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="center must be given"):
        ProximityPrior(1.0).gradient(torch.zeros(1, 2), 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.denoise(torch.zeros(1, 2, 2), 9.0), "sigma must be in the trained range 0.05 to 8.0, got 9.0"),
        (lambda d: d.denoise(torch.zeros(1, 2, 2), math.nan), "sigma must be in the trained range"),
        (lambda d: d.denoise(torch.zeros(1, 4), 1.0), r"latents must be of shape \(B, \*\(2, 2\)\), got \(1, 4\)"),
        (lambda d: d.fit(torch.zeros(5, 2, 2)), "spread > 0"),
        (lambda d: d.sample(1, num_steps=1), "num_steps must be at least 2"),
        (lambda d: LatentDenoiser((2,), sigma_min=1.0, sigma_max=0.5), "0 < sigma_min < sigma_max"),
        (lambda d: ScoreMLP(0), "dim must be at least 1, got 0"),
        (lambda d: ScoreMLP(2, embedding_dim=3), "embedding_dim must be even"),
        (lambda d: GaussianPrior((2,)).fit(torch.zeros(5, 3)), "latents must be of shape"),
        (lambda d: GaussianPrior((2,)).fit(torch.randn(5, 2), ridge=0.0), "ridge must be > 0"),
        (lambda d: ProximityPrior(0.0), "weight must be > 0, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(untrained, call, message):
    with pytest.raises(ValueError, match=message):
        call(untrained)
