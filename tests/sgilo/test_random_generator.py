import math

import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from zoo.sgilo import RandomProblems, RandomReLUGenerator, expected_gradient, laplace_covariance


def test_at_every_split_prefix_and_suffix_make_up_the_whole():
    net = RandomReLUGenerator((3, 7, 12, 20))
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for split in (1, 2):
        state = net.prefix(z, split)
        assert state.shape == (4, *net.latent_shape(split))
        torch.testing.assert_close(net.suffix(state, split), net(z))
    assert torch.equal(net.between(net.prefix(z, 1), 1, 2), net.prefix(z, 2))
    with pytest.raises(ValueError, match="split must be from 1 to 2, got 3"):
        net.prefix(z, 3)


def test_the_networks_of_a_seed_are_the_same_however_many():
    few, many = (RandomReLUGenerator((3, 8, 20), num_nets=num, seed=4) for num in (1, 3))
    assert torch.equal(few.weight1[0], many.weight1[0])
    assert not torch.equal(many.weight1[0], many.weight1[1])
    z = torch.randn(3, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alone = RandomReLUGenerator((3, 8, 20), seed=4)
    torch.testing.assert_close(many(z)[0], alone(z[0]))


def test_he_weights_keep_lengths_and_the_others_halve_squares_with_every_layer():
    z = torch.randn(1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for scale, ratio in (("he", 1.0), ("hand_voroninski", 0.25)):
        nets = RandomReLUGenerator((10, 400, 800), scale, num_nets=20)
        squares = nets(z.expand(20, 1, 10)).square().sum(-1).mean() / z.square().sum()
        assert squares.item() == pytest.approx(ratio, rel=0.1)


def test_the_jacobian_is_that_of_automatic_differentiation():
    net = RandomReLUGenerator((4, 9, 16))
    z = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_autograd = torch.func.vmap(torch.func.jacrev(lambda one: net(one.unsqueeze(0))[0]))(z)
    torch.testing.assert_close(net.active_jacobian(z), by_autograd)


def test_the_gradient_and_hessian_of_problems_are_those_of_automatic_differentiation():
    problems = RandomProblems((4, 12, 30), num_measurements=[6, 20], num_nets=3, seed=1)
    z = torch.randn(3, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (by_autograd,) = torch.autograd.grad(problems.objective(z).sum(), z)
    torch.testing.assert_close(problems.gradient(z.detach()), by_autograd)
    for setting in range(2):

        def objective(code, setting=setting):
            codes = problems.truth.expand(3, 2, 1, 4).clone()
            codes[1, setting, 0] = code
            return problems.objective(codes)[1, setting, 0]

        hessian = torch.autograd.functional.hessian(objective, problems.truth[1, 0, 0])
        torch.testing.assert_close(problems.hessian()[1, setting], hessian)


def test_a_setting_uses_the_first_rows_as_a_problem_of_its_own_would():
    problems = RandomProblems((3, 10, 25), num_measurements=[5, 15], num_nets=2)
    z = torch.randn(2, 2, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = problems.matrix[:, :5] / math.sqrt(5)
    residual = (problems.generator(z[:, 0]) - problems.generator(problems.truth[:, 0])) @ matrix.mT
    torch.testing.assert_close(problems.objective(z)[:, 0], residual.square().sum(-1) / 2)


def test_where_all_is_seen_the_measurement_is_the_identity():
    problems = RandomProblems((3, 10, 25), None, num_nets=2)
    z = torch.ones(2, 1, 1, 3, dtype=torch.float64)
    x, target = problems.generator(z[:, 0]), problems.generator(problems.truth[:, 0])
    torch.testing.assert_close(problems.objective(z)[:, 0], (x - target).square().sum(-1) / 2)
    torch.testing.assert_close(problems.hessian()[:, 0], problems.generator.hessian(problems.truth[:, 0])[:, 0])


@pytest.mark.parametrize("scale", ["he", "hand_voroninski"])
def test_the_mean_gradient_of_wide_networks_is_the_closed_form(scale):
    z = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    truth = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    nets = RandomReLUGenerator((5, 300, 600, 900), scale, num_nets=40)
    layers = nets.layers(z.expand(40, 1, 5))
    mean = nets.pull_back(layers, layers[-1] - nets(truth.expand(40, 1, 5))).mean(0)
    limit = expected_gradient(z, truth, depth=3, weight_scale=scale)
    assert (mean - limit).norm() < 0.1 * limit.norm()
    assert (mean - 1.5 * limit).norm() > 0.1 * limit.norm()


def test_the_field_vanishes_at_the_truth_and_once_more_on_the_opposite_ray():
    truth = torch.tensor([3.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(
        expected_gradient(truth, truth, 2), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-6
    )
    share = torch.linspace(0.01, 1, 1000, dtype=torch.float64).unsqueeze(1)
    along = (expected_gradient(-share * truth, truth, 2) * -truth).sum(1)
    changes = (along[1:].sign() != along[:-1].sign()).sum()
    assert (changes.item(), along[0].item() < 0, along[-1].item() > 0) == (1, True, True)


def test_the_covariance_is_the_fixed_point_of_one_step():
    root = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hessian = root @ root.mT / 4 + 0.1 * torch.eye(4, dtype=torch.float64)
    step_size, beta = 0.3, 50.0
    step = torch.eye(4, dtype=torch.float64) - step_size * hessian
    noise = 2 * step_size / beta * torch.eye(4, dtype=torch.float64)
    fixed_point = torch.from_numpy(solve_discrete_lyapunov(step.numpy(), noise.numpy()))
    torch.testing.assert_close(laplace_covariance(hessian, beta, step_size), fixed_point)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomReLUGenerator((3,)), "widths must be at least 2 numbers"),
        (lambda: RandomReLUGenerator((3, 0)), "widths must be at least 2 numbers, each at least 1"),
        (lambda: RandomReLUGenerator((3, 4), "xavier"), "weight_scale must be one of he, hand_voroninski"),
        (lambda: RandomReLUGenerator((3, 4), num_nets=0), "num_nets must be at least 1, got 0"),
        (lambda: RandomProblems((3, 4), []), "num_measurements must be at least 1"),
        (lambda: RandomProblems((3, 4), [0]), "num_measurements must be at least 1"),
        (lambda: expected_gradient(torch.ones(2), torch.ones(2), 0), "depth must be at least 1, got 0"),
        (lambda: laplace_covariance(torch.eye(2), 0.0), "inverse_temperature must be > 0, got 0.0"),
        (lambda: laplace_covariance(4 * torch.eye(2), 1.0, 0.5), "step_size must be below 0.5, 2 over"),
        (lambda: laplace_covariance(torch.diag(torch.tensor([1.0, 0.0])), 1.0), "hessian must be positive definite"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
