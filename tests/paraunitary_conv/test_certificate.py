import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from zoo.paraunitary_conv import CertifiedAccuracy, CertifiedRadius, LipschitzMarginLoss, certified_radius

LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 2.0, 0.0]])
Y = torch.tensor([0, 1, 0])


def test_the_radius_is_the_distance_to_the_boundary_of_a_linear_classifier():
    torch.manual_seed(0)
    weight = torch.linalg.qr(torch.randn(5, 3)).Q.T  # orthonormal rows: 1-Lipschitz, differences sqrt 2
    x = torch.randn(50, 5)
    y = (x @ weight.T).argmax(dim=1)
    radius = certified_radius(x @ weight.T, y)
    second = (x @ weight.T).scatter(1, y[:, None], -math.inf).argmax(dim=1)
    normal = F.normalize(weight[second] - weight[y], dim=1)
    for factor, stays in ((0.999, True), (1.001, False)):
        moved = x + factor * radius[:, None] * normal
        assert ((moved @ weight.T).argmax(dim=1) == y).all().item() is stays or not stays
        assert ((moved @ weight.T).argmax(dim=1) == second).all().item() is not stays


def test_by_hand():
    torch.testing.assert_close(certified_radius(LOGITS, Y), torch.tensor([2.0, 1.0, -1.0]) / math.sqrt(2))
    torch.testing.assert_close(certified_radius(LOGITS, Y, 2.0), torch.tensor([1.0, 0.5, -0.5]) / math.sqrt(2))
    assert CertifiedAccuracy([0.0, 0.8, 2.0])(LOGITS, Y).tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert CertifiedAccuracy(0.8, lipschitz_constant=2.0)(LOGITS, Y).item() == 0
    assert CertifiedRadius()(LOGITS, Y).item() == pytest.approx(1 / math.sqrt(2))
    assert CertifiedRadius(lipschitz_constant=3.0)(LOGITS, Y).item() == pytest.approx(1 / math.sqrt(2) / 3)


def test_batches_add_up():
    torch.manual_seed(0)
    logits, y = torch.randn(100, 4), torch.randint(4, (100,))
    for whole, parts in ((CertifiedAccuracy([0.0, 0.3]),) * 2, (CertifiedRadius(),) * 2):
        expected = whole(logits, y)
        parts.reset()
        for batch in DataLoader(TensorDataset(logits, y), batch_size=33):
            parts.update(*batch)
        torch.testing.assert_close(parts.compute(), expected)


def test_a_sample_without_loss_is_certified_as_far_as_the_loss_says():
    loss = LipschitzMarginLoss(margin=0.5, lipschitz_constant=2.0)
    logits = torch.tensor([[1.0, 0.0]])
    assert loss(logits, torch.tensor([0])) == 0
    assert certified_radius(logits, torch.tensor([0]), 2.0).item() == pytest.approx(loss.certified_eps)
    assert loss(torch.tensor([[0.9, 0.0]]), torch.tensor([0])).item() == pytest.approx(0.05)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: CertifiedAccuracy(-0.1), "eps must be >= 0, got -0.1"),
    (lambda: CertifiedAccuracy(float("nan")), "eps must be >= 0, got nan"),
    (lambda: CertifiedAccuracy(0.1, lipschitz_constant=0.0), "lipschitz_constant must be > 0, got 0.0"),
    (lambda: CertifiedRadius(float("nan")), "lipschitz_constant must be > 0, got nan"),
    (lambda: LipschitzMarginLoss(0.0), "margin must be > 0, got 0.0"),
    (lambda: LipschitzMarginLoss(lipschitz_constant=-1.0), "lipschitz_constant must be > 0, got -1.0"),
])  # fmt: skip
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
