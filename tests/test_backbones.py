import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from zoo.backbones import BACKBONES, build_backbone


@pytest.mark.parametrize("name", list(BACKBONES))
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_are_the_head_of_the_features(name, channels):
    torch.manual_seed(0)
    net = build_backbone(name, 7, (channels, 32, 32)).eval()
    x = torch.randn(2, channels, 32, 32)
    with torch.no_grad():
        features = net.features(x)
        torch.testing.assert_close(net(x), nn.functional.linear(features, net.head.weight, net.head.bias))
    assert features.shape == (2, net.head.in_features)
    assert net(x).shape == (2, 7)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_head_may_lack_a_bias(name):
    assert build_backbone(name, 7, (3, 32, 32), {"head_bias": False}).head.bias is None


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet18", 11.17), ("resnet34", 21.28), ("resnet20", 0.272), ("preact_resnet18", 11.17), ("vgg16_bn", 14.73)],
)
def test_networks_have_their_known_sizes(name, millions):
    assert count(build_backbone(name, 10, (3, 32, 32))) / 1e6 == pytest.approx(millions, rel=0.005)


def test_the_imagenet_stem_is_torchvisions_network():
    torch.manual_seed(0)
    net, reference = build_backbone("resnet18", 10, (3, 64, 64), {"stem": "imagenet"}).eval(), resnet18().eval()
    reference.fc = nn.Linear(512, 10)
    reference.load_state_dict({name.replace("head.", "fc."): value for name, value in net.state_dict().items()})
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net(x), reference(x))


def test_the_small_cnn_is_the_one_asked_for():
    options = {"channels": (32, 64, 64, 128), "strides": (2, 1, 2, 2), "pool": 2, "hidden_channels": ()}
    net = build_backbone("cnn", 10, (3, 32, 32), options)
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 64 + 64 * 128) + 2 * (32 + 64 + 64 + 128)
    assert count(net) == convolutions + 512 * 10 + 10
    assert count(build_backbone("mlp", 10, (1, 28, 28))) == 784 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10


def test_initialisation_is_chosen():
    torch.manual_seed(0)
    std = [
        build_backbone("resnet18", 10, (3, 32, 32), {"init": init}).layer4[0].conv2.weight.std().item()
        for init in ("kaiming", "default")
    ]
    assert std[0] == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)
    assert std[1] == pytest.approx((1 / (3 * 9 * 512)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, "backbone must be one of cnn, mlp, preact_resnet18, .* got 'resnet19'"),
        (
            "resnet18",
            {"width": 3},
            "backbone_args of resnet18 must be among depths, head_bias, init, stem, widths, got width",
        ),
        ("resnet18", {"stem": "big"}, "stem must be 'cifar' or 'imagenet', got 'big'"),
        ("resnet18", {"init": "zero"}, "init must be 'kaiming' or 'default', got 'zero'"),
        ("resnet18", {"depths": [1]}, "depths must have one value for each of 4 widths, got"),
        ("cnn", {"strides": [2]}, "strides must have one value for each of 2 channels, got"),
    ],
)
def test_what_cannot_be_built_is_told(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(name, 10, (3, 32, 32), options)


def test_vgg_needs_room():
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, got 28 x 28"):
        build_backbone("vgg16_bn", 10, (1, 28, 28))
