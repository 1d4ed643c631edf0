import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call

from zoo.deep_equilibrium import DEQ, ConvergenceError, ConvergenceWarning, FixedPointSolver, InjectionCell
from zoo.deep_equilibrium.activation import ACTIVATIONS
from zoo.deep_equilibrium.solvers import METHODS

F64 = torch.float64
EXACT = FixedPointSolver(max_iter=500, tol=1e-13)


class AnyFunction(nn.Module):
    """A function of a user, whose Jacobian autograd has to find: two layers, and two inputs."""

    def __init__(self, width=5, p=0.0):
        super().__init__()
        self.first, self.second = nn.Linear(width, 7), nn.Linear(7, width)
        self.dropout = nn.Dropout(p)

    def forward(self, z, x, y=0.0):
        return 0.5 * torch.sin(self.second(self.dropout(torch.tanh(self.first(z))))) + x + y


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def layer(kind, solver=EXACT, **options):
    f = AnyFunction() if kind == "any" else InjectionCell(5, kind, "iid", sigma_w=0.5)
    return DEQ(f.to(F64), solver, **options)


def inputs(batch=3):
    return torch.randn(batch, 5, dtype=F64, requires_grad=True)


def gradients(deq, x, weights):
    """Of a weighted sum of the states: in the input and in all parameters."""
    return torch.autograd.grad((deq(x) * weights).sum(), [x, *deq.parameters()])


KINDS = ["any", *ACTIVATIONS]


@pytest.mark.parametrize("kind", KINDS)
def test_the_implicit_gradient_is_that_of_a_dense_solve(kind):
    deq, x, g = layer(kind), inputs(1), torch.randn(1, 5, dtype=F64)
    z = deq(x).detach()
    jacobian = torch.autograd.functional.jacobian(lambda z: deq.f(z, x)[0], z)[:, 0]
    y = torch.linalg.solve(torch.eye(5, dtype=F64) - jacobian.T, g[0])
    expected = torch.autograd.grad((deq.f(z, x) * y).sum(), [x, *deq.parameters()])
    torch.testing.assert_close(gradients(deq, x, g), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_implicit_gradient_is_that_of_full_unrolling(kind):
    deq, x, g = layer(kind), inputs(), torch.randn(3, 5, dtype=F64)
    unrolled = DEQ(deq.f, EXACT, gradient="unrolled")
    torch.testing.assert_close(gradients(deq, x, g), gradients(unrolled, x, g), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(deq(x), unrolled(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_gradcheck_passes(kind, gradient):
    deq, x = layer(kind, gradient=gradient), inputs(2)
    names = [name for name, _ in deq.named_parameters()]

    def state(x, *values):
        return functional_call(deq, dict(zip(names, values)), (x,))

    values = [value.detach().requires_grad_() for value in deq.parameters()]
    assert torch.autograd.gradcheck(state, (x, *values), eps=1e-6, atol=1e-6)


def test_the_unrolled_gradient_may_be_differentiated_again():
    deq, x = layer("tanh", FixedPointSolver(max_iter=60, tol=1e-12), gradient="unrolled"), inputs(2)
    assert torch.autograd.gradgradcheck(deq, (x,), atol=1e-5)


def test_the_implicit_gradient_refuses_to_be_differentiated_again():
    with pytest.raises(RuntimeError, match=r"cannot be differentiated once more .*gradient='unrolled'"):
        layer("tanh")(inputs()).sum().backward(create_graph=True)


@pytest.mark.parametrize("kind", ["any", "tanh"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_gradient_forward_and_backward(kind, method):
    deq, x, g = layer(kind), inputs(), torch.randn(3, 5, dtype=F64)
    other = DEQ(deq.f, FixedPointSolver(method, max_iter=500, tol=1e-11))
    torch.testing.assert_close(gradients(other, x, g), gradients(deq, x, g), rtol=1e-6, atol=1e-8)
    assert other.forward_stats.all_converged
    assert other.backward_stats.all_converged


@pytest.mark.parametrize("kind", ["any", "relu"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_phantom_gradient_is_the_truncated_neumann_series(kind, steps):
    deq, x, g = layer(kind), inputs(), torch.randn(3, 5, dtype=F64)
    phantom = DEQ(deq.f, EXACT, gradient="phantom", phantom_steps=steps)
    truncated = DEQ(deq.f, EXACT, FixedPointSolver(max_iter=steps - 1, tol=1e-30))  # from g: a term a step
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        torch.testing.assert_close(gradients(phantom, x, g), gradients(truncated, x, g), rtol=1e-7, atol=1e-9)
    assert phantom.backward_stats is None


def test_a_damped_phantom_gradient_is_a_mixture():
    deq, x, g = layer("tanh"), inputs(), torch.randn(3, 5, dtype=F64)
    whole, half = (
        gradients(DEQ(deq.f, EXACT, gradient="phantom", phantom_damping=damping), x, g) for damping in (1.0, 0.5)
    )
    torch.testing.assert_close(half, tuple(gradient / 2 for gradient in whole))


def test_a_second_backward_through_a_retained_graph_gives_the_same():
    deq, x = layer("any"), inputs()
    loss = deq(x).square().sum()
    first, second = (torch.autograd.grad(loss, [x, *deq.parameters()], retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_parameters_get_their_gradients_by_backward_and_the_state_keeps_none():
    deq, x = layer("tanh"), inputs()
    expected = gradients(deq, x, torch.ones(3, 5, dtype=F64))
    deq(x).sum().backward()
    torch.testing.assert_close((x.grad, deq.f.weight.grad), expected)


@pytest.mark.parametrize("kind", ["any", "tanh"])
def test_without_gradients_there_is_no_graph_and_the_same_state(kind):
    deq, x = layer(kind), inputs()
    trained = deq(x)
    for no_graph in (torch.no_grad, torch.inference_mode):
        with no_graph():
            z = deq.eval()(x)
        assert z.grad_fn is None
        assert torch.equal(z, trained)


def test_several_inputs_and_a_start_of_ones_own():
    deq, x, y = layer("any"), inputs(), inputs()
    z = deq(x, y)
    torch.testing.assert_close(deq.f(z, x, y), z)
    deq(x, y, z0=z)
    assert deq.forward_stats.num_evaluations == 1
    assert torch.autograd.grad(deq(x, y).sum(), y)[0].abs().sum() > 0


def test_a_function_without_inputs_needs_a_start():
    deq = DEQ(torch.cos, FixedPointSolver(max_iter=100, tol=1e-6))
    torch.testing.assert_close(deq(z0=torch.zeros(2, 1)), torch.full((2, 1), 0.7390851))
    with pytest.raises(ValueError, match="z0 must be given where f has no inputs"):
        deq()


def test_convolutions_are_functions_too():
    convolution = nn.Conv2d(2, 2, 3, padding=1, dtype=F64)
    deq = DEQ(lambda z, x: 0.5 * torch.tanh(convolution(z)) + x, EXACT)
    x = torch.randn(2, 2, 4, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(deq, (x,), atol=1e-6)


def test_a_stack_of_networks_solves_as_each_alone():
    cell = InjectionCell(5, "tanh", "iid", torch.tensor([0.3, 0.6]), num_replicas=2).to(F64)
    deq = DEQ(cell, EXACT, batch_dims=2)
    u = torch.randn(2, 3, 5, dtype=F64, requires_grad=True)
    together = torch.autograd.grad(deq(u).sum(), [u, cell.weight])
    assert deq.forward_stats.residual.shape == (2, 3)
    for i in range(2):
        single = InjectionCell(5, "tanh").to(F64)
        single.weight.data.copy_(cell.weight[i])
        alone = torch.autograd.grad(DEQ(single, EXACT)(u[i]).sum(), [u, single.weight])
        torch.testing.assert_close((together[0][i], together[1][i]), (alone[0][i], alone[1]))


# What does not converge.


def test_a_forward_solve_that_falls_short_warns_once_with_its_figures():
    deq = layer("linear", FixedPointSolver(max_iter=3, tol=1e-12))
    with pytest.warns(ConvergenceWarning, match=r"forward solve .* for 3 of 3 samples in 3 evaluations: largest"):
        deq(inputs())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deq(inputs())
    assert not deq.forward_stats.converged.any()


def test_a_backward_solve_that_falls_short_warns_too():
    deq = layer("tanh", backward_solver=FixedPointSolver(max_iter=2, tol=1e-12))
    with pytest.warns(ConvergenceWarning, match="backward solve has not converged for 3 of 3"):
        deq(inputs()).sum().backward()


def test_falling_short_may_be_an_error_or_be_left_to_the_statistics():
    short = FixedPointSolver(max_iter=3, tol=1e-12)
    with pytest.raises(ConvergenceError, match="the forward solve has not converged"):
        layer("linear", short, if_not_converged="error")(inputs())
    deq = layer("linear", EXACT, backward_solver=short, if_not_converged="error")
    with pytest.raises(ConvergenceError, match="the backward solve has not converged"):
        deq(inputs()).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deq = layer("linear", short, if_not_converged="ignore")
        deq(inputs())
    assert not deq.forward_stats.all_converged


@pytest.mark.parametrize("method", METHODS)
def test_at_the_edge_of_a_linear_orthogonal_network_iteration_does_not_converge(method):
    cell = InjectionCell(64, "linear", "orthogonal", sigma_w=1.0)
    deq = DEQ(cell, FixedPointSolver(method), if_not_converged="ignore")
    z = deq(torch.randn(8, 64))
    assert z.isfinite().all()
    assert not deq.forward_stats.converged.any()


def test_one_sample_may_fail_alone():
    deq = DEQ(lambda z, rate: rate * z + 1, FixedPointSolver(max_iter=60, tol=1e-8), if_not_converged="ignore")
    rate = torch.tensor([[0.5], [1.2], [0.3]], dtype=F64, requires_grad=True)
    z = deq(rate)
    assert deq.forward_stats.converged.tolist() == [True, False, True]
    z[[0, 2]].sum().backward()
    torch.testing.assert_close(rate.grad[[0, 2]], (1 - rate.detach()[[0, 2]]) ** -2, rtol=1e-6, atol=0)
    assert deq.backward_stats.converged.tolist() == [True, True, True]  # the gradient of the second is 0


def test_nan_inputs_are_not_solved():
    x = inputs()
    deq = layer("tanh", if_not_converged="ignore")
    with torch.no_grad():
        x[1] = torch.nan
        z = deq(x)
    assert deq.forward_stats.converged.tolist() == [True, False, True]
    assert z[[0, 2]].isfinite().all()


# Edges.


def test_no_forward_evaluation_is_one_application_to_the_start():
    deq, x = layer("tanh", FixedPointSolver(max_iter=0)), inputs()
    torch.testing.assert_close(deq(x), torch.tanh(x))
    assert not deq.forward_stats.converged.any()


@pytest.mark.parametrize("kind", ["any", "tanh"])
@pytest.mark.parametrize("gradient", ["implicit", "phantom", "unrolled"])
def test_an_empty_batch_has_an_empty_state_and_no_gradient(kind, gradient):
    deq, x = layer(kind, gradient=gradient), inputs(0)
    z = deq(x)
    assert z.shape == (0, 5)
    z.sum().backward()
    assert all(not parameter.grad.any() for parameter in deq.parameters())


def test_frozen_parameters_leave_the_gradient_of_the_input():
    deq, x, g = layer("tanh"), inputs(), torch.ones(3, 5, dtype=F64)
    expected = gradients(deq, x, g)[0]
    deq.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(deq(x).sum(), x)[0], expected)
    assert not deq(x.detach()).requires_grad


@pytest.mark.parametrize("kind", ["any", "tanh"])
def test_under_autocast_the_solve_is_in_single_precision(kind):
    deq = layer(kind, FixedPointSolver(max_iter=200, tol=1e-6)).float()
    x = torch.randn(3, 5, requires_grad=True)
    expected = torch.autograd.grad(deq(x).sum(), [x, *deq.parameters()])
    with torch.autocast("cpu", torch.bfloat16):
        z = deq(x)
    assert z.dtype == torch.float32
    assert deq.forward_stats.all_converged
    torch.testing.assert_close(torch.autograd.grad(z.sum(), [x, *deq.parameters()]), expected)
    with torch.autocast("cpu", torch.bfloat16):
        z = deq(x.bfloat16())
    assert z.dtype == torch.float32
    assert deq.forward_stats.all_converged


def test_dropout_draws_one_mask_for_a_solve_and_another_for_the_next():
    deq, x = DEQ(AnyFunction(p=0.5).to(F64), EXACT), inputs()
    first, second = deq(x), deq(x)
    assert deq.forward_stats.all_converged
    assert (first - second).abs().max() > 1e-3
    state = torch.get_rng_state()
    z = deq(x)
    torch.set_rng_state(state)
    torch.testing.assert_close(deq.f(z, x), z)  # the state belongs to the first mask that is drawn
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    deq(x)
    assert torch.equal(torch.get_rng_state(), after)  # one evaluation's draws, however many there were
    assert torch.autograd.grad(deq(x).sum(), x)[0].isfinite().all()


def test_a_checkpoint_has_the_parameters_and_nothing_of_a_solve():
    deq = layer("any")
    deq(inputs()).sum().backward()
    assert set(deq.state_dict()) == {f"f.{name}" for name, _ in deq.f.named_parameters()}
    again = copy.deepcopy(deq)
    torch.save(deq, io.BytesIO())
    x = inputs()
    assert torch.equal(again(x), deq(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "exact"}, "gradient must be one of implicit, phantom, unrolled, got 'exact'"),
        ({"gradient": "unrolled", "solver": FixedPointSolver("broyden")}, "'broyden', only iteration"),
        ({"phantom_steps": 0}, "phantom_steps must be at least 1, got 0"),
        ({"phantom_damping": 0.0}, r"phantom_damping must be in \(0, 1\], got 0.0"),
        ({"if_not_converged": "stop"}, "if_not_converged must be one of warn, error, ignore, got 'stop'"),
        ({"batch_dims": 0}, "batch_dims must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DEQ(torch.cos, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"activation": "gelu"}, "activation must be one of linear, relu, tanh, hardtanh, got 'gelu'"),
        ({"num_replicas": 0}, "num_replicas must be at least 1, got 0"),
        ({"sigma_w": -1.0}, "sigma_w must be >= 0"),
    ],
)
def test_cells_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        InjectionCell(**{"width": 4} | options)


# The peer.


@pytest.mark.parametrize(
    ("method", "peer"), [("iteration", "fixed_point_iter"), ("anderson", "anderson"), ("broyden", "broyden")]
)
def test_torchdeq_finds_the_same_states_and_gradients(method, peer):
    torchdeq = pytest.importorskip("torchdeq")
    deq = layer("tanh", FixedPointSolver(method, max_iter=200, tol=1e-10))
    options = {"f_max_iter": 200, "b_max_iter": 200, "f_tol": 1e-10, "b_tol": 1e-10}
    other = torchdeq.get_deq(ift=True, f_solver=peer, b_solver=peer, f_stop_mode="rel", b_stop_mode="rel", **options)
    x, g = inputs(), torch.randn(3, 5, dtype=F64)
    states, _ = other(lambda z: deq.f(z, x), torch.zeros(3, 5, dtype=F64))
    torch.testing.assert_close(states[-1], deq(x), rtol=1e-7, atol=1e-8)
    expected = torch.autograd.grad((states[-1] * g).sum(), [x, *deq.parameters()])
    torch.testing.assert_close(gradients(deq, x, g), expected, rtol=1e-6, atol=1e-7)
