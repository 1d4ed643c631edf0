import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.local_augmentation import NeighborCVAE, NeighborDecoder, NeighborPairDataset
from zoo.local_augmentation.cvae import normalize_rows


@pytest.fixture
def cvae():
    torch.manual_seed(0)
    return NeighborCVAE(in_channels=20, hidden_channels=16, latent_dim=4).eval()


def test_generated_rows_are_positive_and_sum_to_one(cvae, data):
    generated = cvae.generate(data.raw_x, num_samples=3)
    assert generated.shape == (3, *data.raw_x.shape)
    assert (generated > 0).all()
    torch.testing.assert_close(generated.sum(-1), torch.ones(3, data.num_nodes), atol=1e-5, rtol=0)
    assert not generated.requires_grad


def test_generation_is_conditioned_on_the_centre(cvae, data):
    swap = torch.randperm(data.num_nodes)
    z = torch.randn(data.num_nodes, 4)
    generated = cvae.decode(z, cvae.condition(data.raw_x))
    swapped = cvae.decode(z[swap], cvae.condition(data.raw_x[swap]))
    torch.testing.assert_close(swapped, generated[swap])
    assert not torch.allclose(cvae.decode(z, cvae.condition(data.raw_x[swap])), generated)


def test_decoding_in_blocks_equals_the_plain_network():
    torch.manual_seed(0)
    decoder = NeighborDecoder(in_channels=7, hidden_channels=16, latent_dim=4).eval()
    c, z = torch.rand(700, 7), torch.randn(2, 700, 4)  # 700 rows are three blocks
    plain = nn.Sequential(decoder.decoder, nn.ReLU(), decoder.output, nn.Sigmoid())
    expected = plain(torch.cat([z, c.expand(2, -1, -1)], dim=-1))
    torch.testing.assert_close(decoder.decode(z, decoder.condition(c), normalize=False), expected)
    out = torch.empty(2, 700, 7)
    assert decoder.decode(z, decoder.condition(c), out=out) is out
    torch.testing.assert_close(out, expected / expected.sum(-1, keepdim=True))


def test_elbo_by_an_independent_route(data):
    torch.manual_seed(0)
    cvae = NeighborCVAE(in_channels=20, hidden_channels=16, latent_dim=4)
    x, c = data.raw_x[:8], data.raw_x[8:16]
    torch.manual_seed(1)
    parts = cvae.elbo(x, c)
    torch.manual_seed(1)
    mean, log_var = cvae.encode(x, c)
    posterior = torch.distributions.Normal(mean, (log_var / 2).exp())
    z = mean + (log_var / 2).exp() * torch.randn_like(mean)
    likelihood = torch.distributions.Bernoulli(logits=cvae.output(cvae.decoder(torch.cat([z, c], 1)).relu()))
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(parts["rec"], -likelihood.log_prob(x).sum(1).mean())
    kl = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
    torch.testing.assert_close(parts["kl"], kl)


def test_gaussian_likelihood_is_summed_squared_error_of_tanh():
    torch.manual_seed(0)
    cvae = NeighborCVAE(in_channels=6, hidden_channels=8, latent_dim=2, likelihood="gaussian", batch_norm=True)
    x, c = torch.randn(16, 6), torch.randn(16, 6)
    torch.manual_seed(1)
    rec = cvae.elbo(x, c)["rec"]
    torch.manual_seed(1)
    mean, log_var = cvae.encode(x, c)
    z = mean + (log_var / 2).exp() * torch.randn_like(mean)
    out = cvae.output(cvae.decoder_norm(cvae.decoder(torch.cat([z, c], 1))).relu()).tanh()
    torch.testing.assert_close(rec, F.mse_loss(out, x, reduction="none").sum(1).mean())


def test_unseen_nodes_and_sparse_features_are_generated_for(cvae):
    unseen = (torch.rand(5, 20) > 0.8).float()
    dense = cvae.generate(unseen, generator=torch.Generator().manual_seed(3))
    sparse = cvae.generate(unseen.to_sparse_csr(), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(dense, sparse)


def test_the_trained_half_generates_alone(cvae, data):
    decoder = NeighborDecoder(in_channels=20, hidden_channels=16, latent_dim=4).eval()
    decoder.load_state_dict({name: cvae.state_dict()[name] for name in decoder.state_dict()})
    one, other = (g.generate(data.raw_x, generator=torch.Generator().manual_seed(0)) for g in (cvae, decoder))
    assert torch.equal(one, other)


def test_a_zero_row_stays_zero():
    assert torch.equal(normalize_rows(torch.tensor([[0.0, 0.0], [2.0, 2.0]])), torch.tensor([[0.0, 0.0], [0.5, 0.5]]))


def test_a_pair_is_the_neighbour_then_the_centre():
    x = torch.eye(3)
    pairs = NeighborPairDataset(torch.tensor([[0, 2, 1], [1, 2, 0]]), x)
    neighbour, centre = pairs[0]
    assert torch.equal(neighbour, x[1])
    assert torch.equal(centre, x[0])
    assert len(pairs) == 3
    assert len(NeighborPairDataset(torch.tensor([[0, 2, 1], [1, 2, 0]]), x, remove_self_loops=True)) == 2
    neighbours, centres = pairs[[0, 2]]
    assert torch.equal(neighbours, x[[1, 0]])
    assert torch.equal(centres, x[[0, 1]])


def test_a_graph_without_edges_has_no_pairs():
    with pytest.raises(ValueError, match="edge_index has no edge"):
        NeighborPairDataset(torch.empty(2, 0, dtype=torch.long), torch.eye(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"likelihood": "poisson"}, "likelihood must be 'bernoulli' or 'gaussian', got 'poisson'"),
        ({"out_act": "relu"}, "out_act must be"),
        ({"out_act": "tanh"}, "out_act must be 'sigmoid' for a Bernoulli likelihood"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        NeighborCVAE(**({"in_channels": 5} | arguments))


def test_features_of_another_graph_are_refused(cvae):
    with pytest.raises(ValueError, match="x has 7 features, the generator was built for in_channels=20"):
        cvae.generate(torch.rand(3, 7))
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        cvae.generate(torch.rand(3, 20), num_samples=0)
