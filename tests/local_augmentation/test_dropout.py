import pytest
import torch

from zoo.local_augmentation.dropout import bernoulli_mask, dropout, dropout_


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_mask_keeps_the_asked_share_of_independent_places(keep):
    mask = bernoulli_mask((400, 401), keep, generator=torch.Generator().manual_seed(0))
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    spread = (keep * (1 - keep) / mask.numel()) ** 0.5
    assert abs(mask.mean().item() - keep) <= 4 * spread
    beside = (mask[:, 1:] * mask[:, :-1]).mean().item()  # neighbours in a row share their random word
    assert abs(beside - keep**2) <= 6 * spread + 1e-9


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_is_zero_or_scaled_and_keeps_the_mean(p):
    x = torch.full((300, 300), 2.0)
    out = dropout(x, p, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(out[out != 0], torch.tensor(2 / (1 - p)))
    assert out.mean().item() == pytest.approx(2.0, rel=0.02)


def test_dropout_passes_gradients_through_what_it_kept():
    x = torch.ones(1000, requires_grad=True)
    out = dropout(x, 0.5)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_in_place_dropout_changes_its_argument_alone():
    x = torch.ones(3, 40, 50)
    out = dropout_(x, 0.5, generator=torch.Generator().manual_seed(0))
    assert out is x
    assert set(x.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(x[0], x[1])


def test_no_dropout_in_evaluation():
    x = torch.ones(5)
    assert dropout(x, 0.5, training=False) is x
