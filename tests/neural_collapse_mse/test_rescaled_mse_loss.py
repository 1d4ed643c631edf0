import math

import pytest
import torch
import torch.nn.functional as F

from zoo.neural_collapse_mse import RescaledMSELoss
from zoo.unconstrained_features import UnconstrainedFeatures

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
TARGET = torch.tensor([0, 2])


def test_hand_check_of_the_rescaled_loss():
    # alpha = 4, M = 3: 4 (2 - 3)^2 + 1 + 0.25 = 5.25, and 4 (1 - 3)^2 + 0 + 9 = 25
    losses = RescaledMSELoss(3, alpha=4.0, M=3.0, scale="half_sum", reduction="none")(LOGITS, TARGET)
    torch.testing.assert_close(losses, torch.tensor([5.25, 25.0]) / 2)
    assert RescaledMSELoss(3, alpha=4.0, M=3.0)(LOGITS, TARGET).item() == pytest.approx((5.25 + 25) / 6)
    assert RescaledMSELoss(3, alpha=4.0, M=3.0, reduction="sum")(LOGITS, TARGET).item() == pytest.approx(30.25 / 3)


def test_with_both_ones_it_is_the_mean_squared_error_against_one_hot_labels():
    logits, target = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 5
    expected = F.mse_loss(logits, F.one_hot(target, 5).float())
    torch.testing.assert_close(RescaledMSELoss()(logits, target), expected)
    torch.testing.assert_close(RescaledMSELoss(scale="half_sum")(logits, target), expected * 5 / 2)


@pytest.mark.parametrize(("alpha", "M"), [(1.0, 1.0), (5.0, 2.0)])
def test_it_is_the_error_of_the_unconstrained_features_model(alpha, M):
    ufm = UnconstrainedFeatures(4, 6, 6, bias=True, alpha=alpha, M=M, generator=torch.Generator().manual_seed(0))
    loss = RescaledMSELoss(4, alpha, M, scale="half_sum")(ufm.outputs()[0].T, torch.arange(4).repeat_interleave(6))
    decay = sum(5e-3 / 2 * w.square().sum() for w in ufm.weights) + 1e-3 / 2 * ufm.features.square().sum()
    assert (loss + decay).item() == pytest.approx(ufm().item(), rel=1e-12)


def test_both_scales_have_the_same_minimum_where_the_decay_is_scaled_too():
    """Gradients of "mean" with decay and of "half_sum" with K / 2 times as much are parallel everywhere."""
    weight = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x, target = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(9) % 5
    gradients = []
    for scale, decay in (("mean", 0.1), ("half_sum", 0.1 * 5 / 2)):
        loss = RescaledMSELoss(5, scale=scale)(x @ weight.T, target) + decay / 2 * weight.square().sum()
        gradients += torch.autograd.grad(loss, weight)
    torch.testing.assert_close(5 / 2 * gradients[0], gradients[1])


def test_the_loss_keeps_the_precision_of_the_logits():
    assert RescaledMSELoss(3, alpha=2.0)(LOGITS.double(), TARGET).dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0"),
        ({"M": math.nan}, "M must be > 0, got nan"),
        ({"scale": "sum"}, "scale must be one of mean, half_sum, got 'sum'"),
        ({"reduction": "max"}, "reduction must be one of mean, sum, none, got 'max'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RescaledMSELoss(**arguments)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"logits must have shape \(B, 4\), got \(2, 3\)"):
        RescaledMSELoss(4)(LOGITS, TARGET)
    with pytest.raises(ValueError, match=r"logits must have shape \(B, K\), got \(3,\)"):
        RescaledMSELoss()(LOGITS[0], TARGET)
    with pytest.raises(ValueError, match=r"target must have shape \(2,\), got \(2, 3\)"):
        RescaledMSELoss()(LOGITS, F.one_hot(TARGET, 3))
