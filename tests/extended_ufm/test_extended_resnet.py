import torch
from torch import nn

from zoo.extended_ufm import ExtendedResNet


def test_one_more_layer_stands_between_the_averaged_features_and_the_head():
    torch.manual_seed(0)
    net = ExtendedResNet(3, (1, 8, 8), depths=[1], widths=[4], head_bias=False).eval()
    x = torch.randn(2, 1, 8, 8)
    seen = {}
    net.avgpool.register_forward_hook(lambda module, args, output: seen.update(h1=output))
    logits = net(x)
    linear = net.extra[0]
    expected = net.head.weight @ (linear.weight @ seen["h1"].T + linear.bias[:, None]).relu()
    torch.testing.assert_close(logits.T, expected)
    assert net.head.bias is None
    assert isinstance(net.head, nn.Linear)
