import pytest
import torch
from torch import nn

from callbacks import EmpiricalLipschitz, pgd_l2, stretching_pairs
from zoo.paraunitary_conv import LipConvNet


@pytest.mark.parametrize(("depth", "shape"), [(5, (3, 32, 32)), (10, (1, 32, 64))])
def test_stages_halve_the_image_and_double_the_channels(depth, shape):
    net = LipConvNet(7, shape, depth, base_channels=4)
    x = torch.rand(2, *shape)
    convs = [layer for layer in net.layers if hasattr(layer, "singular_values")]
    assert len(convs) == depth
    assert convs[0].in_channels == shape[0]
    assert [conv.out_channels for conv in convs if conv.stride == (2, 2)] == [8, 16, 32, 64, 128]
    assert net.features(x).shape == (2, 128 * shape[1] // 32 * shape[2] // 32)
    assert net(x).shape == (2, 7)
    assert net.lipschitz_bound() == 1


@pytest.mark.parametrize("depth", [5, 15])
def test_it_never_stretches_a_distance_after_training(depth):
    torch.manual_seed(0)
    net = LipConvNet(10, depth=depth, base_channels=2)
    x, y = torch.rand(16, 3, 32, 32), torch.randint(10, (16,))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.multi_margin_loss(net(x), y, margin=0.5).backward()
        optimizer.step()
    net.eval().requires_grad_(False)
    lipschitz = EmpiricalLipschitz()
    random = x + 0.14 * nn.functional.normalize(torch.randn_like(x).flatten(1)).view_as(x)
    for start in (random, pgd_l2(net, x, y, eps=0.14), x.roll(1, 0)):
        partner = stretching_pairs(net, x, start, steps=10)
        lipschitz.update(x, partner, net(x), net(partner))
    assert 0.5 < lipschitz.compute() <= 1 + 1e-4


def test_the_bound_of_plain_layers_is_the_product_of_their_norms():
    torch.manual_seed(0)
    net = LipConvNet(3, depth=5, base_channels=1, constraint="none")
    expected, x = 1.0, torch.zeros(1, 3, 32, 32)
    for layer in net.layers:
        y = layer(x)
        if isinstance(layer, nn.Conv2d):
            jacobian = torch.autograd.functional.jacobian(layer, x).reshape(y.numel(), x.numel())
            expected *= torch.linalg.matrix_norm(jacobian, 2).item()
        x = y
    expected *= torch.linalg.matrix_norm(net.head.weight, 2).item()
    assert net.lipschitz_bound().item() == pytest.approx(expected, rel=1e-4)


def test_both_networks_have_the_same_shapes():
    nets = [LipConvNet(10, depth=10, base_channels=4, constraint=constraint) for constraint in ("orthogonal", "none")]
    shapes = [[layer.weight.shape for layer in [*net.layers, net.head] if hasattr(layer, "weight")] for net in nets]
    assert shapes[0] == shapes[1]


def test_the_mean_is_subtracted_channel_by_channel():
    net = LipConvNet(10, base_channels=2, mean=[0.1, 0.2, 0.3])
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(net.features(x), net.layers(x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)))


@pytest.mark.parametrize(("options", "message"), [
    ({"depth": 6}, "depth must be a multiple of 5, got 6"),
    ({"base_channels": 0}, "base_channels must be at least 1, got 0"),
    ({"input_shape": (3, 28, 28)}, "input_shape must have sides that are multiples of 32"),
    ({"constraint": "spectral"}, "constraint must be one of orthogonal, none, got 'spectral'"),
    ({"mean": [0.1, 0.2]}, "mean must be one number or 3, one for each channel"),
])  # fmt: skip
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LipConvNet(10, **options)
