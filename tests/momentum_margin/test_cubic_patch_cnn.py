import math

import pytest
import torch
import torch.nn.functional as F

from zoo.momentum_margin import CubicPatchCNN, StridedCNN


def test_one_filter_on_one_patch_by_hand():
    net = CubicPatchCNN(dim=1, num_filters=1).double()
    net.weight.data.fill_(1.0)
    logit = net(torch.tensor([[2.0]], dtype=torch.float64))
    loss = F.softplus(-logit)
    loss.backward()
    assert logit.item() == 8.0
    assert loss.item() == pytest.approx(3.3541e-4, rel=1e-4)
    assert torch.sigmoid(-logit).item() == pytest.approx(3.3535e-4, rel=1e-4)
    assert net.weight.grad.item() == pytest.approx(-8.048e-3, rel=1e-3)


def test_logits_are_sums_of_cubes_over_patches_and_filters():
    torch.manual_seed(0)
    net, x = CubicPatchCNN(dim=3, num_filters=2, init_std=1.0), torch.randn(5, 4, 3)
    slow = [sum((w @ patch).item() ** 3 for w in net.weight for patch in sample) for sample in x]
    torch.testing.assert_close(net(x), torch.tensor(slow))


def test_the_order_of_the_patches_does_not_matter_and_the_sign_of_all_turns_the_logit():
    torch.manual_seed(0)
    net, x = CubicPatchCNN(dim=6, init_std=1.0).double(), torch.randn(5, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(net(x), net(x.flip(1)))
    torch.testing.assert_close(net(x), -net(-x))


def test_another_activation_takes_the_place_of_the_cube():
    torch.manual_seed(0)
    net, x = CubicPatchCNN(dim=6, activation=torch.relu), torch.randn(5, 4, 6)
    torch.testing.assert_close(net(x), torch.relu(x @ net.weight.T).flatten(1).sum(1))


def test_feature_coefficients_and_noise_correlations():
    net = CubicPatchCNN(dim=2, num_filters=2)
    net.weight.data = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [5.0, 0.0]]])
    assert net.feature_coefficients(torch.tensor([1.0, 0.0])).tolist() == [1.0, 3.0]
    assert net.noise_correlations(x, torch.tensor([0, 1])).tolist() == [[[0, 0], [4, -8]], [[2, -4], [0, 0]]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"dim": 2, "num_filters": 0}, "num_filters must be at least 1, got 0"),
        ({"dim": 2, "init_std": math.nan}, "init_std must be > 0, got nan"),
        ({"dim": 2, "init_std": 0.0}, "init_std must be > 0, got 0.0"),
        ({"dim": 2, "activation": "square"}, "activation must be cubic, or a function, got 'square'"),
    ],
)
def test_a_network_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CubicPatchCNN(**options)


def test_the_strided_network_has_features_before_its_linear_head():
    net, x = StridedCNN(2, channels=(4, 8)), torch.randn(3, 3, 32, 32)
    assert net.features(x).shape == (3, 8 * 8 * 8)
    torch.testing.assert_close(net(x), net.head(net.features(x)))
    with pytest.raises(ValueError, match="channels must have at least one width, got none"):
        StridedCNN(2, channels=())
