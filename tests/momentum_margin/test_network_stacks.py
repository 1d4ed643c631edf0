import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.momentum_margin import CubicPatchCNN, StackedPatchCNN, StackedPerceptron


def labels(*shape):
    return 2.0 * torch.randint(2, shape, dtype=torch.float64) - 1


def autograd(net, x, y):
    """Gradients of the sum of all replicas' losses, by autograd; each replica has its own parameters."""
    net.zero_grad()
    F.softplus(-y.unsqueeze(1) * net(x)).mean(dim=-1).sum().backward()
    return [param.grad for param in net.parameters()]


@pytest.fixture
def patches():
    torch.manual_seed(0)
    net = StackedPatchCNN(num_problems=2, num_settings=3, dim=7, num_filters=5, init_std=0.5).double()
    net.weight.data += 0.1 * torch.randn_like(net.weight)  # the settings part
    return net, torch.randn(2, 11, 4, 7, dtype=torch.float64), labels(2, 11)


@pytest.fixture
def perceptron():
    torch.manual_seed(0)
    net = StackedPerceptron(num_problems=2, num_settings=3, dim=7, hidden_dim=9).double()
    for param in net.parameters():
        param.data += 0.1 * torch.randn_like(param)
    return net, torch.randn(2, 11, 7, dtype=torch.float64), labels(2, 11)


@pytest.mark.parametrize("kind", ["patches", "perceptron"])
def test_closed_form_gradients_are_those_of_autograd(kind, request):
    net, x, y = request.getfixturevalue(kind)
    expected = autograd(net, x, y)
    logits = net.differentiate(net.prepare(x), y)
    torch.testing.assert_close(logits, net(x))
    for param, grad in zip(net.parameters(), expected):
        torch.testing.assert_close(param.grad, grad)


@pytest.mark.parametrize("kind", ["patches", "perceptron"])
def test_gradients_are_written_anew_at_every_step(kind, request):
    net, x, y = request.getfixturevalue(kind)
    inputs = net.prepare(x)
    net.differentiate(inputs, y)
    first = [param.grad.clone() for param in net.parameters()]
    net.differentiate(inputs, y)
    assert all(torch.equal(param.grad, grad) for param, grad in zip(net.parameters(), first))


def test_a_stack_of_patch_networks_is_that_many_networks(patches):
    net, x, _ = patches
    single = CubicPatchCNN(7, 5).double()
    for problem in range(2):
        for setting in range(3):
            single.weight.data = net.weight.data[problem, setting]
            torch.testing.assert_close(net(x)[problem, setting], single(x[problem]))


def test_a_stack_of_perceptrons_is_that_many_networks(perceptron):
    net, x, _ = perceptron
    single = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 1)).double()
    for problem in range(2):
        for setting in range(3):
            parts = (net.weight, net.bias, net.head[..., None, :], net.head_bias[..., None])
            for param, part in zip(single.parameters(), parts):
                param.data = part.data[problem, setting]
            torch.testing.assert_close(net(x)[problem, setting], single(x[problem]).flatten())


def test_products_lie_by_filter_sample_and_patch(patches):
    net, x, _ = patches
    torch.testing.assert_close(net.products(x)[1, 2, 3, 8, 1], net.weight[1, 2, 3] @ x[1, 8, 1])


@pytest.mark.parametrize("make", [lambda: StackedPatchCNN(3, 4, 6), lambda: StackedPerceptron(3, 4, 6)])
def test_all_settings_of_a_problem_start_at_the_same_network(make):
    for param in make().parameters():
        assert torch.equal(param, param[:, :1].expand_as(param))
        assert not torch.equal(param[0], param[1])


def test_perceptrons_start_as_linear_layers_do():
    torch.manual_seed(0)
    net = StackedPerceptron(num_problems=50, num_settings=1, dim=25, hidden_dim=100)
    assert net.weight.abs().max().item() == pytest.approx(1 / 5, rel=1e-2)
    assert net.head.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("name", ["num_problems", "num_settings", "dim"])
@pytest.mark.parametrize("kind", [StackedPatchCNN, StackedPerceptron])
def test_empty_stacks_are_refused(kind, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        kind(**{"num_problems": 1, "num_settings": 1, "dim": 1, name: 0})
