import math

import pytest
import torch

from zoo.deep_equilibrium import FixedPointSolver, deq_init_, fixed_point_solve
from zoo.deep_equilibrium.solvers import METHODS

F64 = torch.float64


def linear(width=3, batch=5, family="orthogonal", sigma_w=0.9, seed=0):
    """A linear map, and its fixed points by a dense solve."""
    generator = torch.Generator().manual_seed(seed)
    weight = deq_init_(torch.empty(width, width, dtype=F64), family, sigma_w, generator=generator)
    u = torch.randn(batch, width, dtype=F64, generator=generator)
    return lambda z: z @ weight.mT + u, torch.linalg.solve(torch.eye(width, dtype=F64) - weight, u.mT).mT


def start(batch=5, width=3):
    return torch.zeros(batch, width, dtype=F64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop_mode", ["rel", "abs"])
def test_every_method_finds_the_fixed_points(method, stop_mode):
    f, exact = linear()
    z, stats = fixed_point_solve(f, start(), method, max_iter=500, tol=1e-11, stop_mode=stop_mode)
    torch.testing.assert_close(z, exact, rtol=1e-8, atol=1e-8)
    assert stats.all_converged
    assert stats.converged.all()
    assert (stats.residual < 1e-11).all()


def test_acceleration_ends_in_as_many_steps_as_a_linear_map_has_dimensions():
    f, _ = linear()
    options = {"max_iter": 500, "tol": 1e-9, "ridge": 1e-14}
    steps = {m: fixed_point_solve(f, start(), m, **options)[1].num_evaluations for m in METHODS}
    assert steps["anderson"] <= 5  # d + 1 evaluations, and one to see it
    assert steps["broyden"] <= 8  # 2 d, and the first two
    assert steps["iteration"] > 100


def plain_anderson(f, z, num, history, beta, ridge):
    """By the bordered system with the whole Gram matrix, of a single sample."""
    values, states = [f(z)], [z]
    for _ in range(num):
        g = torch.stack([v - s for v, s in zip(values[-history:], states[-history:])])
        gram = g @ g.T
        gram = gram + ridge * gram.diagonal().diag()
        size = len(g)
        bordered = torch.zeros(size + 1, size + 1, dtype=F64)
        bordered[0, 1:] = bordered[1:, 0] = 1
        bordered[1:, 1:] = gram
        right = torch.zeros(size + 1, dtype=F64)
        right[0] = 1
        weights = torch.linalg.solve(bordered, right)[1:]
        mixed = beta * weights @ torch.stack(values[-history:]) + (1 - beta) * weights @ torch.stack(states[-history:])
        states.append(mixed)
        values.append(f(mixed))
    return values[-1]


@pytest.mark.parametrize(("history", "damping"), [(6, 1.0), (2, 0.7)])
def test_anderson_is_the_bordered_least_squares_problem(history, damping):
    generator = torch.Generator().manual_seed(0)
    weight, u = torch.randn(8, 8, dtype=F64, generator=generator) / 4, torch.randn(8, dtype=F64, generator=generator)
    f = lambda z: torch.tanh(z @ weight + u)  # noqa: E731
    expected = plain_anderson(f, torch.zeros(8, dtype=F64), 7, history, damping, 1e-4)
    z, stats = fixed_point_solve(
        f, torch.zeros(1, 8, dtype=F64), "anderson", max_iter=8, tol=1e-30, history=history, damping=damping, ridge=1e-4
    )
    assert stats.num_evaluations == 8
    torch.testing.assert_close(z[0], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("damping", [1.0, 0.6])
def test_broyden_is_the_update_of_the_inverse_jacobian(damping):
    generator = torch.Generator().manual_seed(0)
    weight, u = torch.randn(8, 8, dtype=F64, generator=generator) / 4, torch.randn(8, dtype=F64, generator=generator)
    f = lambda z: torch.tanh(z @ weight + u)  # noqa: E731
    x, inverse = torch.zeros(8, dtype=F64), -torch.eye(8, dtype=F64)
    for _ in range(7):
        g = f(x) - x
        step = -damping * inverse @ g
        x = x + step
        change = f(x) - x - g
        v = inverse.T @ step
        inverse = inverse + torch.outer(step - inverse @ change, v) / (v @ change)
    z, _ = fixed_point_solve(f, torch.zeros(1, 8, dtype=F64), "broyden", max_iter=8, tol=1e-30, damping=damping)
    torch.testing.assert_close(z[0], f(x), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", ["anderson", "broyden"])
def test_a_short_memory_is_used_again_and_again(method):
    f, exact = linear(width=20)
    z, stats = fixed_point_solve(f, start(5, 20), method, history=3, max_iter=600, tol=1e-10)
    assert stats.num_evaluations > 10
    torch.testing.assert_close(z, exact, rtol=1e-7, atol=1e-7)


def test_damping_tames_eigenvalues_below_minus_one_and_not_above_one():
    below = lambda z: -1.2 * z + 1  # noqa: E731
    assert not fixed_point_solve(below, start(), max_iter=100)[1].converged.any()
    z, stats = fixed_point_solve(below, start(), max_iter=100, tol=1e-10, damping=0.5)
    assert stats.all_converged
    torch.testing.assert_close(z, torch.full_like(z, 1 / 2.2))
    above = lambda z: 1.2 * z + 1  # noqa: E731
    assert not fixed_point_solve(above, start(), max_iter=100, damping=0.5)[1].converged.any()


def scaled(rates):
    """Samples that converge at rates of their own, to 1."""
    return lambda z: 1 + rates[:, None] * (z - 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_does_not_depend_on_the_others(method):
    rates = torch.tensor([0.1, 0.95, 1.5], dtype=F64)
    options = {"method": method, "max_iter": 60, "tol": 1e-8}
    together, stats = fixed_point_solve(scaled(rates), start(3, 2), **options)
    for i in range(3):
        alone, own = fixed_point_solve(scaled(rates[i : i + 1]), start(1, 2), **options)
        assert torch.equal(together[i : i + 1], alone)
        assert stats.num_iterations[i] == own.num_iterations[0]


def test_one_sample_that_does_not_converge_is_told_by_its_number():
    z, stats = fixed_point_solve(scaled(torch.tensor([0.1, 1.01, 0.5], dtype=F64)), start(3, 2), max_iter=50, tol=1e-8)
    assert stats.converged.tolist() == [True, False, True]
    assert not stats.all_converged
    assert stats.num_iterations.tolist() == [9, 50, 27]  # rate^(k - 1) (1 - rate) < 1e-8
    torch.testing.assert_close(z[[0, 2]], torch.ones(2, 2, dtype=F64), rtol=0, atol=1e-7)
    assert stats.residual[1] > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop_mode", ["rel", "abs"])
def test_what_is_not_finite_has_not_converged(method, stop_mode):
    bad = torch.tensor([math.nan, math.inf, 0.0], dtype=F64)
    z, stats = fixed_point_solve(lambda z: 0.5 * z + bad[:, None], start(3, 2), method, stop_mode="abs", max_iter=80)
    assert stats.converged.tolist() == [False, False, True]
    assert stats.residual.tolist()[:2] == [math.inf, math.inf]
    assert z[2].isfinite().all()
    late = lambda z: torch.where(z > 3, math.nan, z + 1)  # noqa: E731  # a NaN after some good steps
    _, stats = fixed_point_solve(late, start(1, 1), method, stop_mode=stop_mode, damping=0.5, max_iter=30)
    assert not stats.converged.any()


def test_growth_beyond_all_bounds_is_left_at_once():
    z, stats = fixed_point_solve(lambda z: 1e30 * z + 1, torch.zeros(2, 3), max_iter=1000)
    assert stats.num_evaluations < 10
    assert not stats.converged.any()
    assert z.shape == (2, 3)


@pytest.mark.parametrize("method", METHODS)
def test_no_evaluation_returns_the_start_and_claims_nothing(method):
    z, stats = fixed_point_solve(pytest.fail, torch.ones(2, 3), method, max_iter=0)
    assert torch.equal(z, torch.ones(2, 3))
    assert not stats.converged.any()
    assert stats.num_iterations.tolist() == [0, 0]
    assert not stats.all_converged


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0)])
def test_an_empty_batch_and_empty_states_are_solved(method, shape):
    z, stats = fixed_point_solve(lambda z: 2 * z, torch.zeros(shape), method)
    assert z.shape == shape
    assert stats.all_converged
    assert stats.residual.shape == shape[:1]


def test_a_start_at_zero_that_is_the_solution_has_converged():
    _, stats = fixed_point_solve(lambda z: 0.5 * z, start())
    assert stats.all_converged
    assert stats.num_evaluations == 1


def test_a_start_at_the_solution_takes_one_evaluation():
    f, exact = linear()
    _, stats = fixed_point_solve(f, exact, tol=1e-10)
    assert stats.num_evaluations == 1


def test_looking_seldom_only_goes_on_for_longer():
    f, exact = linear()
    _, often = fixed_point_solve(f, start(), max_iter=500, tol=1e-6)
    z, seldom = fixed_point_solve(f, start(), max_iter=500, tol=1e-6, check_every=7)
    assert (seldom.num_iterations % 7 == 0).all()
    assert ((seldom.num_iterations - often.num_iterations) % 7 == (-often.num_iterations) % 7).all()
    torch.testing.assert_close(z, exact, rtol=1e-4, atol=1e-4)
    _, cut = fixed_point_solve(f, start(), max_iter=10, tol=1e-6, check_every=7)
    assert cut.num_evaluations == 10
    assert cut.residual.isfinite().all()


def test_images_and_stacks_of_batches_are_samples_too():
    u = torch.randn(2, 3, 4, 4, dtype=F64)
    z, stats = fixed_point_solve(lambda z: 0.5 * z + u, torch.zeros_like(u), "anderson", tol=1e-10)
    torch.testing.assert_close(z, 2 * u)
    assert stats.residual.shape == (2,)
    _, stats = fixed_point_solve(lambda z: 0.5 * z + u, torch.zeros_like(u), tol=1e-10, batch_dims=2, max_iter=60)
    assert stats.residual.shape == (2, 3)
    z, stats = fixed_point_solve(torch.cos, torch.zeros(4, dtype=F64), "broyden", tol=1e-10)
    torch.testing.assert_close(z, torch.full((4,), 0.7390851332, dtype=F64))


def test_residuals_of_half_precision_are_measured_in_single():
    z, stats = fixed_point_solve(lambda z: 0.5 * z + 1, torch.zeros(2, 3, dtype=torch.bfloat16), "anderson", tol=1e-2)
    assert stats.all_converged
    assert stats.residual.dtype == torch.float32
    assert z.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "method must be one of iteration, anderson, broyden, got 'newton'"),
        ({"stop_mode": "max"}, "stop_mode must be one of rel, abs, got 'max'"),
        ({"max_iter": -1}, "max_iter must be at least 0, got -1"),
        ({"tol": 0.0}, "tol must be > 0, got 0.0"),
        ({"tol": math.nan}, "tol must be > 0, got nan"),
        ({"damping": 0.0}, r"damping must be in \(0, 1\], got 0.0"),
        ({"damping": 1.5}, r"damping must be in \(0, 1\], got 1.5"),
        ({"method": "anderson", "history": 0}, "history must be at least 1"),
        ({"history": 3}, "left out for iteration, got 3"),
        ({"ridge": 0.0}, "ridge must be > 0, got 0.0"),
        ({"check_every": 0}, "check_every must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FixedPointSolver(**options)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"batch_dims must be in \[1, 2\], the axes of the state, got 3"):
        fixed_point_solve(torch.cos, torch.zeros(2, 3), batch_dims=3)
    with pytest.raises(ValueError, match=r"f must keep the shape \(2, 3\) of the state, got \(2,\)"):
        fixed_point_solve(lambda z: z.sum(1), torch.zeros(2, 3))
