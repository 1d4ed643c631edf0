import pytest
import torch
from torch import nn

from callbacks.gradient_discrepancy_gram import gradient_gram, per_sample_gradients
from zoo.efld import ConvNet

CE = nn.CrossEntropyLoss()


class Sequence(nn.Module):
    """Tokens, a linear layer on each of them that is used twice, and a parameter outside of layers."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        tokens = self.norm(self.mix(torch.tanh(self.mix(self.embedding(x)))))
        return self.head(tokens.mean(1))


class Scaled(nn.Module):
    """A module that has a parameter of its own beside its layers'."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.sin(x * self.scale))


def conv(**options):
    layers = nn.Conv2d(2, 4, **({"kernel_size": 3} | options)), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3))


def frozen():
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    net[0].requires_grad_(False)
    net[2].bias.requires_grad_(False)
    net[4].weight.requires_grad_(False)
    return net


IMAGES, ROWS, TOKENS = torch.randn(6, 2, 9, 8), torch.randn(6, 4), torch.randint(11, (6, 5))
NETS = {
    "conv net": (lambda: ConvNet(3, (2, 9, 8), (4, 5), 3, 2, 1, (7,)).to(memory_format=torch.channels_last), IMAGES),
    "pooled": (lambda: ConvNet(3, (2, 9, 8), (4,), 5), IMAGES),
    "conv": (lambda: conv(padding=1, bias=False), IMAGES),
    "stride, dilation": (lambda: conv(kernel_size=(3, 2), stride=(1, 2), dilation=(2, 1), padding=(2, 0)), IMAGES),
    "same padding": (lambda: conv(kernel_size=4, padding="same", dilation=2), IMAGES),
    "circular": (lambda: conv(padding=1, padding_mode="circular"), IMAGES),
    "groups": (lambda: conv(groups=2), IMAGES),
    "group norm": (lambda: nn.Sequential(nn.GroupNorm(2, 2), nn.Flatten(), nn.Linear(144, 3)), IMAGES),
    "batch norm": (lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(144, 3)).eval(), IMAGES),
    "no bias": (lambda: nn.Linear(4, 3, bias=False), ROWS),
    "sequence": (Sequence, TOKENS),
    "own parameter": (Scaled, ROWS),
    "frozen": (frozen, ROWS),
}
every_net = pytest.mark.parametrize(("make", "x"), NETS.values(), ids=NETS)


def by_a_loop(net, x, y, params):
    rows = []
    for one, target in zip(x, y):
        found = torch.autograd.grad(CE(net(one[None]), target[None]), params, allow_unused=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(params, found)]))
    return torch.stack(rows)


def double(net, x):
    return net.double(), x.double() if x.is_floating_point() else x


@every_net
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
@pytest.mark.parametrize("method", ["gram", "vmap"])
def test_both_ways_agree_with_a_loop_over_samples(make, x, method, chunk_size):
    torch.manual_seed(0)
    net, x = double(make(), x)
    y = torch.randint(3, (6,))
    params = [p for p in net.parameters() if p.requires_grad]
    rows = by_a_loop(net, x, y, params)
    torch.testing.assert_close(gradient_gram(net, CE, x, y, method=method, chunk_size=chunk_size), rows @ rows.T)


@every_net
def test_gradients_of_samples_are_those_of_a_loop(make, x):
    torch.manual_seed(0)
    net, x = double(make(), x)
    y = torch.randint(3, (6,))
    rows = by_a_loop(net, x, y, [p for p in net.parameters() if p.requires_grad])
    torch.testing.assert_close(per_sample_gradients(net, CE, x, y), rows)


@pytest.mark.parametrize("method", ["gram", "vmap"])
def test_only_the_parameters_that_are_asked_for_count(method):
    net, x = double(ConvNet(3, (2, 9, 8), (4, 5), 3, 2, 1, (7,)), IMAGES)
    y = torch.randint(3, (6,))
    chosen = [net.head.bias, net.convs[0][0].weight]
    rows = by_a_loop(net, x, y, chosen)
    torch.testing.assert_close(gradient_gram(net, CE, x, y, chosen, method), rows @ rows.T)


@pytest.mark.parametrize("method", ["gram", "vmap"])
def test_no_parameters_give_no_gradient(method):
    net = nn.Linear(4, 3).requires_grad_(False)
    found = gradient_gram(net, CE, ROWS, torch.zeros(6, dtype=torch.long), method=method)
    assert torch.equal(found, torch.zeros(6, 6))


@pytest.mark.parametrize("method", ["gram", "vmap"])
def test_nothing_is_left_behind(method):
    net = ConvNet(3, (2, 9, 8), (4,), 3)
    net.head.bias.grad = torch.ones(3)
    with torch.no_grad():  # as at the end of an epoch
        gradient_gram(net, CE, IMAGES, torch.zeros(6, dtype=torch.long), method=method)
    assert net.head.bias.grad.tolist() == [1, 1, 1]
    assert net.head.weight.grad is None
    assert not any(module._forward_hooks for module in net.modules())


def test_layers_that_share_a_parameter_need_the_other_way():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    net, x = double(net, ROWS)
    y = torch.randint(4, (6,))
    with pytest.raises(ValueError, match=r"method must be 'vmap' where layers share a parameter, as 0\.weight is"):
        gradient_gram(net, CE, x, y)
    rows = by_a_loop(net, x, y, list(net.parameters()))
    torch.testing.assert_close(gradient_gram(net, CE, x, y, method="vmap"), rows @ rows.T)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "loop"}, "method must be one of gram, vmap, got 'loop'"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gradient_gram(nn.Linear(4, 3), CE, ROWS, torch.zeros(6, dtype=torch.long), **options)
