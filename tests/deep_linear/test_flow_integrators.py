import pytest
import torch
from torch import nn

from zoo.deep_linear import DeepLinearNet, RankOneFlow, Start, adaptive, balanced_rank_one_, draw_starts, euler_, rk4_

DIMS = [5, 3, 1, 4]
Z = torch.zeros(4, 5, dtype=torch.float64)
Z.diagonal()[:] = torch.tensor([3.0, 2.0, 1.0, 0.5])


def started(number=1, dims=DIMS, seed=0, start=None):
    generator = torch.Generator().manual_seed(seed)
    u, v, s = draw_starts([start or Start("random", number=number)], Z[None], generator)
    net = balanced_rank_one_(DeepLinearNet(dims, len(s)), u, v, s, generator)
    return net, RankOneFlow(Z, len(dims) - 1, u, v, s)


def targets(net):
    return Z.expand(net.num_replicas, -1, -1)


def steps(size, number=1):
    return torch.full((number, 1), size, dtype=torch.float64)


@pytest.mark.parametrize("dims", [[5, 1, 4], DIMS, [5, 3, 1, 6, 4]])
def test_euler_steps_are_gradient_descent_with_sgd_bit_for_bit(dims):
    net, _ = started(dims=dims)
    layers = [nn.Parameter(weight.detach().clone()) for weight in net.weights()]
    optimizer = torch.optim.SGD(layers, lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        product = layers[0]
        for weight in layers[1:]:
            product = torch.bmm(weight, product)
        ((product - Z) ** 2 / 2).sum().backward()
        optimizer.step()
    euler_(net, targets(net), steps(0.03), 200)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(net.weights(), layers))


def test_an_euler_replica_is_what_it_would_be_alone():
    several, _ = started(3)
    alone = DeepLinearNet(DIMS)
    alone.flat.data = several.flat.data[1:2].clone()
    sizes = torch.tensor([[0.03], [0.01], [0.02]], dtype=torch.float64)
    euler_(several, targets(several), sizes, 50)
    euler_(alone, targets(alone), sizes[1:2], 50)
    assert torch.equal(several.flat[1:2], alone.flat)


def error(net, flow, t):
    return torch.linalg.matrix_norm(net.product() - flow.solve_time([t]).W[:, 0]).max().item()


@pytest.mark.parametrize(("step_", "order"), [(euler_, 1), (rk4_, 4)])
def test_the_error_of_fixed_steps_is_of_their_order(step_, order):
    found = []
    for size in (0.02, 0.01):
        net, flow = started(4)
        step_(net, targets(net), steps(size, 4), round(2 / size))
        found.append(error(net, flow, 2.0))
    assert found[0] / found[1] == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_adaptive_steps_follow_the_closed_form(method):
    net, flow = started(4)
    times = torch.tensor([0.0, 0.5, 2.0, 6.0], dtype=torch.float64)
    states = adaptive(net, targets(net), times, method, rtol=1e-10, atol=1e-13)
    assert torch.equal(states[0], net.flat)  # not moved
    net.flat.data = states[-1]
    assert error(net, flow, 6.0) < 1e-7


def test_replicas_that_are_at_rest_do_not_spoil_the_tolerance():
    net, flow = started()
    crowd = DeepLinearNet(DIMS, 1000)
    crowd.flat.data[:] = started(start=Start("aligned", s=3.0))[0].flat
    crowd.flat.data[0] = net.flat[0]
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    alone, among = (adaptive(one, targets(one), times, "dopri5", 1e-6, 1e-9)[-1, :1] for one in (net, crowd))
    net.flat.data = alone
    expected = error(net, flow, 1.0)
    net.flat.data = among
    assert error(net, flow, 1.0) < 2 * expected  # a mean over all weights would let it grow thirtyfold
    assert expected < 1e-4


def test_the_flow_keeps_balancedness_and_momentum_does_not():
    kept, _ = started()
    final = adaptive(kept, targets(kept), torch.tensor([0.0, 3.0], dtype=torch.float64), "dopri8", 1e-11, 1e-14)[-1]
    kept.flat.data = final
    assert max(matrix.norm().item() for matrix in kept.balancedness()) < 1e-9
    lost, _ = started()
    optimizer = torch.optim.SGD([lost.flat], lr=1e-3, momentum=0.9)
    for _ in range(3000):
        lost.flat.grad = lost.flow_gradient(Z)
        optimizer.step()
    assert max(matrix.norm().item() for matrix in lost.balancedness()) > 1e-2
