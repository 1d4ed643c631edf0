import pytest
import torch
from torch import nn


def small_network(dtype=torch.float64, classes=5, seed=0):
    """A smooth little convolutional network for images of 2 x 6 x 6, whose logits do not depend on rounding much."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Softplus(), nn.Flatten(), nn.Linear(288, classes)
    )
    net[0].weight.data.mul_(4)
    net[1].running_mean.uniform_(-0.1, 0.1)
    net[1].running_var.uniform_(0.5, 1.5)
    net = net.to(torch.float64).eval()
    net[4].weight.data.mul_(10)
    net[4].bias.data.sub_(net(images(200, seed=seed + 100)).mean(0).detach())  # else one class is always the largest
    return net.to(dtype)


def images(num=12, dtype=torch.float64, seed=0, shape=(2, 6, 6)):
    """Random images, some pixels of which are black or white."""
    x = torch.rand(num, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[x < 0.05], x[x > 0.95] = 0, 1
    return x.to(dtype)


@pytest.fixture
def net():
    return small_network()


@pytest.fixture
def x():
    return images()


@pytest.fixture
def y(net, x):
    """The classes that the network gives the clean images."""
    return net(x).argmax(1)
