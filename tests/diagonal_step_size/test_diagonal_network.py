import math

import pytest
import torch
from torch.nn.utils import parametrize

from zoo.diagonal_step_size import DiagonalLinear, HadamardParametrization


def step(network, x, y, lr):
    """One step of plain gradient descent on half the mean square, by autograd."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    optimizer.zero_grad()
    ((network(x) - y).square().mean() / 2).backward()
    optimizer.step()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 10, dtype=torch.float64, generator=generator) + 1
    return x, x[:, 0] - x[:, 1]


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_one_step_by_hand():
    network = DiagonalLinear(1, init_scale=0.5)
    x = torch.ones(1, 1)
    step(network, x, torch.ones(1), lr=0.5)  # g = -1
    assert (network.u.item(), network.v.item(), network.beta.item()) == (1.0, 0.5, 0.5)
    assert (2 * network.effective_init_scale().item()) ** 2 == pytest.approx(0.75)  # 1 - lr^2 g^2
    assert network.sharpness(x).item() == pytest.approx(1.25)  # u^2 + v^2, at least 2 |beta| = 1


def test_both_parametrisations_are_one_network_at_half_the_step_size(data):
    x, y = data
    products, powers = DiagonalLinear(10, init_scale=0.2), DiagonalLinear(10, init_scale=0.2, parametrization="w_pm")
    for _ in range(20):
        step(products, x, y, lr=0.04)
        step(powers, x, y, lr=0.02)
    assert products.beta.abs().max() > 0.1
    torch.testing.assert_close(products.beta, powers.beta)
    torch.testing.assert_close(products.effective_init_scale(), powers.effective_init_scale())
    torch.testing.assert_close(2 * products.sharpness(x), powers.sharpness(x))


@pytest.mark.parametrize(("depth", "parametrization"), [(2, "uv"), (2, "w_pm"), (4, "w_pm")])
def test_the_tangent_kernel_is_made_of_the_gradients_of_the_predictions(data, depth, parametrization):
    x, y = data
    network = DiagonalLinear(10, depth, 0.6, parametrization)
    step(network, x, y, lr=0.01)
    gradients = []
    for one in x:
        network.zero_grad()
        network(one).backward()
        gradients.append(torch.cat([parameter.grad for parameter in network.parameters()]))
    jacobian = torch.stack(gradients)
    torch.testing.assert_close(network.tangent_kernel(x), jacobian @ jacobian.T / len(x))
    largest = torch.linalg.svdvals(jacobian)[0] ** 2 / len(x)
    torch.testing.assert_close(network.sharpness(x), largest)


@pytest.mark.parametrize(("depth", "parametrization"), [(2, "uv"), (2, "w_pm"), (3, "w_pm"), (5, "w_pm")])
def test_small_steps_conserve_the_effective_scale(data, depth, parametrization):
    x, y = data
    shape = torch.linspace(0.5, 1.5, 10)
    network = DiagonalLinear(10, depth, 0.5, parametrization, init_shape=shape)
    torch.testing.assert_close(network.effective_init_scale(), 0.5 * shape)
    for _ in range(500):
        step(network, x, y, lr=1e-3)
    assert network.beta.abs().max() > 0.05
    torch.testing.assert_close(network.effective_init_scale(), 0.5 * shape, atol=1e-3, rtol=0)


def test_a_parametrised_layer_learns_as_the_network_does(data):
    x, y = data
    layer = torch.nn.Linear(10, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    parametrize.register_parametrization(layer, "weight", HadamardParametrization(0.2))
    network = DiagonalLinear(10, init_scale=0.2)
    for _ in range(20):
        step(network, x, y, lr=0.04)
        step(layer, x, y[:, None], lr=0.04)
    torch.testing.assert_close(layer.weight[0], network.beta)


def test_a_weight_becomes_the_balanced_pair():
    weight = torch.tensor([-3.0, 0.0, 1e-8, 2e4])
    u, v = HadamardParametrization(0.1).right_inverse(weight)
    torch.testing.assert_close(u * v, weight)
    torch.testing.assert_close((u - v) * (u + v), torch.full((4,), 0.04), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_features": 0}, "in_features must be at least 1, got 0"),
        ({"depth": 1, "parametrization": "w_pm"}, "depth must be at least 2, got 1"),
        ({"depth": 3}, "depth must be 2 with parametrization 'uv', got 3"),
        ({"init_scale": 0.0}, "init_scale must be > 0, got 0.0"),
        ({"init_scale": math.nan}, "init_scale must be > 0, got nan"),
        ({"parametrization": "w"}, "parametrization must be one of 'uv', 'w_pm', got 'w'"),
        ({"init_shape": [1.0, 2.0]}, "init_shape must be 3 numbers > 0"),
        ({"init_shape": [1.0, 0.0, 2.0]}, "init_shape must be 3 numbers > 0"),
    ],
)
def test_wrong_arguments_of_a_network_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DiagonalLinear(**({"in_features": 3} | options))


def test_a_parametrisation_needs_a_positive_scale():
    with pytest.raises(ValueError, match=r"init_scale must be > 0, got -0\.1"):
        HadamardParametrization(-0.1)
