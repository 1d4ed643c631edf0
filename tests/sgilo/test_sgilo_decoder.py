import math

import pytest
import torch

from zoo.sgilo import VAE, ConvDecoder, Inverter


def test_prefix_and_suffix_make_up_the_decoder_at_every_split(decoder):
    z = torch.randn(3, 3)
    for split in (1, 2):
        state = decoder.prefix(z, split)
        assert state.shape[1:] == decoder.latent_shape(split)
        torch.testing.assert_close(decoder.suffix(state, split), decoder(z), rtol=0, atol=1e-6)
    torch.testing.assert_close(decoder.between(decoder.prefix(z, 1), 1, 2), decoder.prefix(z, 2))


def test_images_lie_in_the_unit_interval_and_have_the_given_shape():
    images = ConvDecoder(5, (3, 12, 20))(10 * torch.randn(4, 5))
    assert images.shape == (4, 3, 12, 20)
    assert 0 <= images.min() <= images.max() <= 1


def test_the_bound_is_bernoulli_likelihood_and_gaussian_divergence():
    torch.manual_seed(0)
    vae = VAE(3, (1, 8, 8), 16, (2, 4, 4))
    x, noise = torch.rand(5, 1, 8, 8), torch.randn(5, 3)
    parts = vae.loss(x, noise)
    mean, log_var = vae.encode(x)
    decoded = vae.decoder(mean + torch.exp(0.5 * log_var) * noise)
    rec = -(x * decoded.log() + (1 - x) * (1 - decoded).log()).flatten(1).sum(1).mean()
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_var))
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(parts["rec"], rec)
    torch.testing.assert_close(parts["kl"], kl)


@pytest.mark.parametrize("split", [1, 2])
def test_an_inverter_learns_what_the_prefix_cannot_make(split):
    torch.manual_seed(0)
    vae = VAE(2, (1, 8, 8), 16, (2, 4, 4))
    inverter = Inverter(vae, split, channels=8)
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(3)
        x = vae.decoder.suffix(2 * torch.randn(64, *vae.decoder.latent_shape(split)), split)
    adam = torch.optim.Adam(inverter.correction.parameters(), lr=1e-2)
    before = (vae.decoder.suffix(inverter.start(x), split) - x).square().mean()
    for _ in range(60):
        loss = sum(inverter.loss(x, 1e-3).values())
        adam.zero_grad()
        loss.backward()
        adam.step()
    after = (vae.decoder.suffix(inverter.invert(x), split) - x).square().mean()
    assert after < 0.8 * before
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_latents_of_the_range_alone_are_those_of_the_prefix():
    vae = VAE(2, (1, 8, 8), 16, (2, 4, 4))
    x = torch.rand(3, 1, 8, 8)
    found = Inverter(vae, range_only=True).invert(x)
    torch.testing.assert_close(found, vae.decoder.prefix(vae.encode(x)[0], 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConvDecoder(0), "latent_dim must be at least 1, got 0"),
        (lambda: ConvDecoder(6, (1, 30, 28)), "multiples of 4"),
        (lambda: ConvDecoder(6, channels=(8, 32)), "channels must be three numbers"),
        (lambda: ConvDecoder(6).latent_shape(3), "split must be from 1 to 2, got 3"),
        (lambda: ConvDecoder(6).suffix(torch.zeros(1, 8, 7), 1), r"state must be of shape \(B, \*\(8, 7, 7\)\)"),
        (lambda: Inverter(VAE(2), split=0), "split must be from 1 to 2, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_decoder_works_in_double_precision():
    decoder = ConvDecoder(2, (1, 8, 8)).double()
    z = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: decoder(z).sum((1, 2, 3)), z, atol=1e-4)
    assert math.isfinite(decoder(z).sum().item())
