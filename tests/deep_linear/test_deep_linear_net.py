import pytest
import torch

from zoo.deep_linear import DeepLinearNet, balanced_rank_one_, random_balanced_

DIMS = [5, 3, 1, 4]


def random_net(dims=DIMS, num_replicas=3):
    torch.manual_seed(0)
    net = DeepLinearNet(dims, num_replicas)
    net.flat.data.normal_()
    return net


def units(*size):
    return torch.nn.functional.normalize(torch.randn(*size, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("dims", [[1, 1, 1], [5, 1, 4], [5, 3, 1, 4], [2, 3, 1, 6, 4], [5, 3, 1], [1, 3, 2]])
def test_the_closed_form_gradient_is_that_of_autograd(dims):
    net = random_net(dims)
    target = torch.randn(dims[-1], dims[0], dtype=torch.float64)
    ((net.product() - target).square().sum() / 2).backward()
    torch.testing.assert_close(net.flow_gradient(target), net.flat.grad, rtol=1e-12, atol=1e-12)


def test_outputs_are_inputs_times_all_layers_one_by_one():
    net = random_net()
    x = torch.randn(3, 7, 5, dtype=torch.float64)
    expected = x
    for weight in net.weights():
        expected = expected @ weight.mT
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net(x[0])[0], expected[0])  # shared inputs


def test_replicas_do_not_see_each_other():
    net, target = random_net(), torch.randn(3, 4, 5, dtype=torch.float64)
    alone = DeepLinearNet(DIMS)
    alone.flat.data = net.flat.data[1:2].clone()
    torch.testing.assert_close(net.flow_gradient(target)[1:2], alone.flow_gradient(target[1]))


def test_the_gradient_moves_balancedness_only_in_second_order():
    net, target = random_net(), torch.randn(4, 5, dtype=torch.float64)
    before, direction = net.balancedness(), net.flow_gradient(target)
    moved = []
    for step in (1e-3, 1e-4):
        other = random_net()
        other.flat.data -= step * direction
        moved.append(max((now - then).norm().item() for now, then in zip(other.balancedness(), before)))
    assert moved[0] / moved[1] == pytest.approx(100, rel=1e-4)


def test_balancedness_by_hand():
    net = DeepLinearNet([1, 1, 1])
    net.flat.data = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    assert [matrix.item() for matrix in net.balancedness()] == [5.0]


@pytest.mark.parametrize("dims", [[5, 1, 4], [5, 3, 1, 4], [5, 3, 1, 6, 4], [1, 3, 2]])
def test_a_balanced_start_has_its_product_and_is_balanced(dims):
    net = DeepLinearNet(dims, 4)
    u, v, s = units(4, dims[-1]), units(4, dims[0]), torch.tensor([0.5, 1e-8, 0.0, 7.0], dtype=torch.float64)
    balanced_rank_one_(net, u, v, s)
    torch.testing.assert_close(net.product(), s[:, None, None] * u[:, :, None] * v[:, None, :], rtol=1e-12, atol=1e-16)
    assert max(matrix.norm().item() for matrix in net.balancedness()) < 1e-14


def test_the_one_neuron_may_have_either_sign():
    signs = set()
    for seed in range(8):
        net = DeepLinearNet([2, 1, 2])
        generator = torch.Generator().manual_seed(seed)
        balanced_rank_one_(net, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 1.0, generator)
        signs.add(net.weights()[0][0, 0, 1].item())
        assert net.product()[0, 0, 1] == 1
    assert signs == {-1.0, 1.0}


def test_exact_zeros_of_the_directions_are_exact_zeros_of_the_product():
    net = DeepLinearNet(DIMS)
    u, v = torch.tensor([0, 0.6, 0.8, 0], dtype=torch.float64), torch.eye(5)[1]
    product = balanced_rank_one_(net, u, v, 0.5).product()
    assert (product[:, 0] == 0).all()
    assert (product[:, :, 0] == 0).all()


@pytest.mark.parametrize(("dims", "rank"), [([5, 3, 1, 4], 1), ([5, 1, 4], 1)])
def test_a_random_balanced_start_with_one_neuron_has_rank_one(dims, rank):
    net = random_balanced_(DeepLinearNet(dims, 3), generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(net.product())
    assert values[:, rank:].max() < 1e-14
    assert max(matrix.norm().item() for matrix in net.balancedness()) < 1e-13


def test_a_random_balanced_start_without_one_neuron_keeps_the_largest_singular_values():
    generator = torch.Generator().manual_seed(2)
    with pytest.warns(UserWarning, match="the theory needs a layer of one neuron"):
        net = random_balanced_(DeepLinearNet([5, 2, 4]), scale=2.0, generator=generator)
    gaussian = 2.0 * torch.randn(1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(torch.linalg.svdvals(net.product())[:, :2], torch.linalg.svdvals(gaussian)[:, :2])
    assert max(matrix.norm().item() for matrix in net.balancedness()) < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": [5, 4]}, "dims must have at least three widths"),
        ({"dims": [5, 0, 4]}, "dims must be at least 1"),
        ({"dims": [5, 1, 4], "num_replicas": 0}, "num_replicas must be at least 1, got 0"),
    ],
)
def test_a_network_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepLinearNet(**arguments)


def test_a_target_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"target must have the shape \(4, 5\).*got \(5, 4\)"):
        DeepLinearNet(DIMS).flow_gradient(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="one such matrix for each of 1 replicas"):
        DeepLinearNet(DIMS).flow_gradient(torch.zeros(2, 4, 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"u": torch.ones(4)}, "u must have length 1"),
        ({"u": torch.eye(3)[0]}, r"u must have the shape \(2, 4\), got \(3,\)"),
        ({"v": torch.full((5,), float("nan"))}, "v must have length 1"),
        ({"s": -1.0}, "s must be >= 0, got -1.0"),
        ({"s": float("nan")}, "s must be >= 0, got nan"),
        ({"s": torch.ones(3)}, "s must be one value, or one for each of 2 replicas"),
    ],
)
def test_a_start_that_cannot_be_is_refused(changes, message):
    arguments = {"u": torch.eye(4)[0], "v": torch.eye(5)[0], "s": 1.0} | changes
    with pytest.raises(ValueError, match=message):
        balanced_rank_one_(DeepLinearNet(DIMS, 2), **arguments)


def test_a_scale_must_be_positive():
    with pytest.raises(ValueError, match="scale must be > 0, got nan"):
        random_balanced_(DeepLinearNet(DIMS), scale=float("nan"))
