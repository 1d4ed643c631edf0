import math

import pytest
import torch
import torch.nn.functional as F

from zoo.sparse_over_parameterization import BootstrapCrossEntropy, GeneralizedCrossEntropy, SymmetricCrossEntropy

LOSSES = [GeneralizedCrossEntropy(), SymmetricCrossEntropy(), BootstrapCrossEntropy(kind="soft")]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(32, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(5, (32,), generator=generator)


def likelihood(logits, y):
    return logits.softmax(dim=1)[torch.arange(len(y)), y]


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_generalized_cross_entropy_is_its_formula(batch, q):
    expected = ((1 - likelihood(*batch) ** q) / q).mean()
    torch.testing.assert_close(GeneralizedCrossEntropy(q)(*batch), expected)


def test_generalized_cross_entropy_tends_to_cross_entropy(batch):
    torch.testing.assert_close(GeneralizedCrossEntropy(1e-6)(*batch), F.cross_entropy(*batch), rtol=1e-4, atol=0)


def test_symmetric_cross_entropy_is_its_formula(batch):
    logits, y = batch
    p, hot = logits.softmax(dim=1), F.one_hot(y, 5)
    log_label = torch.where(hot == 1, 0.0, -4.0)  # the logarithm of the label, with A for log 0
    expected = 0.1 * F.cross_entropy(logits, y) - (p * log_label).sum(dim=1).mean()
    torch.testing.assert_close(SymmetricCrossEntropy()(logits, y), expected)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_bootstrap_is_cross_entropy_to_a_mixture(batch, kind):
    logits, y = batch
    p = logits.softmax(dim=1)
    own = p if kind == "soft" else F.one_hot(p.argmax(dim=1), 5)
    mixture = 0.6 * F.one_hot(y, 5) + 0.4 * own
    expected = -(mixture * p.log()).sum(dim=1).mean()
    torch.testing.assert_close(BootstrapCrossEntropy(0.6, kind)(logits, y), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_wrong_label_pulls_less_than_in_cross_entropy(loss):
    logits = torch.tensor([[8.0, 0.0, 0.0]], requires_grad=True)  # sure of class 0, labelled 1
    (pull,) = torch.autograd.grad(loss(logits, torch.tensor([1])), logits)
    (full,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([1])), logits)
    assert pull.norm() < full.norm()
    assert pull.isfinite().all()


@pytest.mark.parametrize(
    "loss", [GeneralizedCrossEntropy(), SymmetricCrossEntropy(), BootstrapCrossEntropy(kind="soft")]
)
def test_very_sure_logits_stay_finite(loss):
    logits = torch.tensor([[300.0, -300.0]], requires_grad=True)
    value = loss(logits, torch.tensor([1]))
    (pull,) = torch.autograd.grad(value, logits)
    assert math.isfinite(value.item())
    assert pull.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeneralizedCrossEntropy(0.0), r"q must be in \(0, 1\], got 0.0"),
        (lambda: GeneralizedCrossEntropy(math.nan), r"q must be in \(0, 1\], got nan"),
        (lambda: SymmetricCrossEntropy(alpha=-1.0), "alpha must be >= 0, got -1.0"),
        (lambda: SymmetricCrossEntropy(log_zero=0.0), "log_zero must be < 0, got 0.0"),
        (lambda: BootstrapCrossEntropy(1.5), r"beta must be in \[0, 1\], got 1.5"),
        (lambda: BootstrapCrossEntropy(kind="semi"), "kind must be one of soft, hard, got 'semi'"),
    ],
)
def test_wrong_arguments_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()
