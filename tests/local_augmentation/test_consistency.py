import pytest
import torch

from zoo.local_augmentation import SharpenedConsistencyLoss, sharpen, sharpened_consistency_loss


def log_probs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).log_softmax(dim=-1)


def test_one_pass_agrees_with_itself_unless_sharpened():
    one = log_probs(1, 10, 3)
    assert sharpened_consistency_loss(one, temperature=1.0).item() == pytest.approx(0, abs=1e-12)
    assert sharpened_consistency_loss(one, temperature=0.5) > 1e-3


def test_loss_by_hand():
    passes = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]]).log()  # mean (0.6, 0.4); sharpened (0.36, 0.16) / 0.52
    target = torch.tensor([0.36, 0.16]) / 0.52
    expected = sum(((p - target) ** 2).sum() for p in (torch.tensor([0.8, 0.2]), torch.tensor([0.4, 0.6]))) / 2
    torch.testing.assert_close(sharpened_consistency_loss(passes, temperature=0.5), expected)


def test_no_gradient_flows_through_the_target():
    logits = torch.randn(2, 4, 3, requires_grad=True)
    sharpened_consistency_loss(logits.log_softmax(-1)).backward()
    probs = logits.detach().softmax(-1)
    free = logits.detach().clone().requires_grad_()
    target = sharpen(probs.mean(0), 0.5)
    ((free.softmax(-1) - target).square().sum(-1).mean()).backward()
    torch.testing.assert_close(logits.grad, free.grad)


def test_reductions_agree():
    passes = log_probs(5, 4, 10, 3)  # 5 replicas
    each = sharpened_consistency_loss(passes, reduction="none")
    assert each.shape == (5, 10)
    torch.testing.assert_close(sharpened_consistency_loss(passes, reduction="mean"), each.mean(1))
    torch.testing.assert_close(SharpenedConsistencyLoss(reduction="sum")(passes), each.sum(1))


def test_sharpening_survives_a_tiny_temperature():
    assert torch.equal(sharpen(torch.tensor([0.3, 0.7, 0.0]), 1e-4), torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be > 0"):
        SharpenedConsistencyLoss(temperature)


def test_reduction_must_be_known():
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'max'"):
        SharpenedConsistencyLoss(reduction="max")
