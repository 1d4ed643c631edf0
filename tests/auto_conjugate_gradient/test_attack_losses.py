import pytest
import torch
import torch.nn.functional as F

from zoo.auto_conjugate_gradient.losses import (
    LOSSES,
    TARGETED_LOSSES,
    ce_loss,
    cw_loss,
    dlr_loss,
    is_adversarial,
    success_margin,
    targeted_ce_loss,
    targeted_cw_loss,
    targeted_dlr_loss,
)

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(200, 10, generator=GENERATOR)
Y = torch.randint(10, (200,), generator=GENERATOR)
TARGET = (Y + torch.randint(1, 10, (200,), generator=GENERATOR)) % 10


@pytest.mark.parametrize("loss", [cw_loss, dlr_loss])
def test_a_margin_is_positive_exactly_where_the_image_is_misclassified(loss):
    assert (loss(LOGITS, Y) > 0).equal(LOGITS.argmax(1) != Y)
    assert (loss(F.one_hot(Y, 10) * 3.0, Y) < 0).all()


def test_losses_of_one_image_by_hand():
    logits, y, target = torch.tensor([[4.0, 1.0, 3.0, 0.0]]), torch.tensor([0]), torch.tensor([3])
    assert cw_loss(logits, y).item() == -1
    assert dlr_loss(logits, y).item() == pytest.approx(-1 / 3)
    assert targeted_cw_loss(logits, y, target).item() == -4
    assert targeted_dlr_loss(logits, y, target).item() == pytest.approx(-4 / (4 - 0.5))
    assert targeted_ce_loss(logits, y, target).item() == pytest.approx(logits.log_softmax(1)[0, 3].item())


def test_the_ratio_does_not_depend_on_scale_and_offset_of_the_logits():
    torch.testing.assert_close(dlr_loss(7 * LOGITS + 3, Y), dlr_loss(LOGITS, Y))
    torch.testing.assert_close(targeted_dlr_loss(7 * LOGITS + 3, Y, TARGET), targeted_dlr_loss(LOGITS, Y, TARGET))


def test_cross_entropy_is_torchs():
    torch.testing.assert_close(ce_loss(LOGITS, Y).mean(), F.cross_entropy(LOGITS, Y))


def test_the_largest_targeted_margin_is_the_untargeted_one():
    others = torch.stack([targeted_cw_loss(LOGITS, Y, (Y + i) % 10) for i in range(1, 10)])
    torch.testing.assert_close(others.amax(0), cw_loss(LOGITS, Y))


def test_a_targeted_success_is_the_target_being_predicted():
    assert (success_margin(LOGITS, Y, TARGET) > 0).equal(LOGITS.argmax(1) == TARGET)
    assert is_adversarial(LOGITS, Y, TARGET).equal(LOGITS.argmax(1) == TARGET)
    assert is_adversarial(LOGITS, Y).equal(success_margin(LOGITS, Y) > 0)


@pytest.mark.parametrize("name", list(LOSSES))
def test_all_losses_rise_along_their_gradients(name):
    for loss in (lambda z: LOSSES[name](z, Y), lambda z: TARGETED_LOSSES[name](z, Y, TARGET)):
        logits = LOGITS.double().requires_grad_()
        before = loss(logits)
        (gradient,) = torch.autograd.grad(before.sum(), logits)
        after = loss(logits + 1e-4 * gradient)
        assert (after >= before - 1e-12).all()
        assert (after > before).float().mean() > 0.9


def test_ratios_need_enough_classes():
    with pytest.raises(ValueError, match="loss dlr needs logits of at least 3 classes, got 2"):
        dlr_loss(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match="at least 4 classes, got 3"):
        targeted_dlr_loss(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([1]))
