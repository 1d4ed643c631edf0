import pytest
import torch

from zoo.deep_equilibrium import DEQ, FixedPointSolver, InjectionCell, jacobian_penalty

F64 = torch.float64


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_penalty_is_the_squared_norm_of_the_jacobian_over_the_width(activation):
    torch.manual_seed(0)
    cell = InjectionCell(6, activation, "iid", 0.9).to(F64)
    z, u = torch.randn(2, 6, dtype=F64), torch.randn(2, 6, dtype=F64)
    penalty = jacobian_penalty(lambda z: cell(z, u), z, num_vectors=40_000)
    slope = torch.autograd.functional.jacobian(lambda z: cell(z, u).sum(0), z)  # (6, 2, 6)
    torch.testing.assert_close(penalty, slope.square().sum((0, 2)) / 6, rtol=0.03, atol=0)


def test_its_gradient_is_that_of_the_norm():
    weight = torch.randn(4, 4, dtype=F64, requires_grad=True)
    penalty = jacobian_penalty(lambda z: z @ weight, torch.zeros(1, 4, dtype=F64), num_vectors=40_000)
    torch.testing.assert_close(torch.autograd.grad(penalty.sum(), weight)[0], weight.detach() / 2, rtol=0.1, atol=0.02)


def test_it_goes_with_the_implicit_gradient_in_one_backward():
    torch.manual_seed(0)
    cell = InjectionCell(6, "tanh", "iid", 0.5).to(F64)
    deq = DEQ(cell, FixedPointSolver(tol=1e-10, max_iter=200))
    u = torch.randn(2, 6, dtype=F64, requires_grad=True)
    z = deq(u)
    penalty = jacobian_penalty(lambda z: cell(z, u), z, generator=torch.Generator().manual_seed(0)).mean()
    (together,) = torch.autograd.grad(z.sum() + penalty, cell.weight)
    (alone,) = torch.autograd.grad(deq(u).sum(), cell.weight)
    again = jacobian_penalty(lambda z: cell(z, u), z, generator=torch.Generator().manual_seed(0)).mean()
    torch.testing.assert_close(together, alone + torch.autograd.grad(again, cell.weight)[0])


def test_it_may_be_measured_without_gradients_and_of_stacks():
    cell = InjectionCell(3, "linear", "orthogonal", 0.5, num_replicas=2)
    with torch.no_grad():
        penalty = jacobian_penalty(lambda z: cell(z, torch.zeros(2, 4, 3)), torch.zeros(2, 4, 3), 2000, batch_dims=2)
    assert penalty.shape == (2, 4)
    torch.testing.assert_close(penalty, torch.full((2, 4), 0.25), rtol=0.1, atol=0)


def test_no_vector_is_refused():
    with pytest.raises(ValueError, match="num_vectors must be at least 1, got 0"):
        jacobian_penalty(torch.cos, torch.zeros(1, 1), num_vectors=0)
