import math

import pytest
import torch

from zoo.deep_equilibrium import (
    FixedPointSolver,
    deq_init_,
    length_map,
    length_second_moment,
    mean_field_fixed_point,
    norm_fluctuation,
)
from zoo.deep_equilibrium.activation import ACTIVATIONS
from zoo.deep_equilibrium.initialisation import FAMILIES

F64 = torch.float64


def moments(family, sigma_w, normalization="spectral", num=24, width=192):
    """Medians over matrices; the mean of Gaussian ones is infinite."""
    weight = deq_init_(
        torch.empty(num, width, width, dtype=F64), family, sigma_w, normalization, torch.Generator().manual_seed(1)
    )
    inverse = torch.linalg.inv(torch.eye(width, dtype=F64) - weight)
    first, second = inverse.square().sum((1, 2)) / width, (inverse.mT @ inverse).square().sum((1, 2)) / width
    return first.median().item(), second.median().item()


@pytest.mark.parametrize("sigma_w", [0.3, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_have_the_moments_of_the_theory(family, sigma_w):
    first, second = moments(family, sigma_w)
    assert first == pytest.approx(length_map(family, sigma_w), rel=0.05)
    assert second == pytest.approx(length_second_moment(family, sigma_w), rel=0.09)


def test_the_goe_of_equal_variance_is_that_of_half_the_radius():
    first, second = moments("goe", 0.35, "variance")
    assert first == pytest.approx(length_map("goe", 0.35, "variance"), rel=0.05)
    assert second == pytest.approx(length_second_moment("goe", 0.35, "variance"), rel=0.09)
    assert length_map("goe", 0.35, "variance") == length_map("goe", 0.7)


def test_the_length_map_of_the_goe_has_its_series():
    x = 0.05**2
    series = sum(math.comb(2 * k + 1, k) * x**k for k in range(12))
    assert length_map("goe", 0.05, "variance") == pytest.approx(series, rel=1e-12)
    assert length_map("goe", 0.0) == 1.0


@pytest.mark.parametrize("family", ["iid", "orthogonal", "goe"])
def test_the_spread_over_directions_is_that_of_the_theory(family):
    width, sigma_w = 192, 0.7
    generator = torch.Generator().manual_seed(0)
    weight = deq_init_(torch.empty(20, width, width, dtype=F64), family, sigma_w, generator=generator)
    u = torch.nn.functional.normalize(torch.randn(20, width, 400, dtype=F64, generator=generator), dim=1)
    lengths = torch.linalg.solve(torch.eye(width, dtype=F64) - weight, u).square().sum(1)
    measured = (lengths.std(1) / lengths.mean(1)).median().item()
    assert measured == pytest.approx(norm_fluctuation(family, sigma_w, width), rel=0.08)


def test_iid_matrices_have_the_length_of_orthogonal_ones_and_more_spread():
    assert length_map("iid", 0.9) == length_map("orthogonal", 0.9)
    ratio = length_second_moment("iid", 0.9) / length_second_moment("orthogonal", 0.9)
    assert ratio == pytest.approx(1 / (1 - 0.81) / (1 + 0.81))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sigma_w", [1.0, 1.3])
def test_everything_is_infinite_from_the_edge_on(family, sigma_w):
    assert length_map(family, sigma_w) == length_second_moment(family, sigma_w) == math.inf
    assert norm_fluctuation(family, sigma_w, 100) == math.inf
    assert length_map("goe", 0.5, "variance") == math.inf


@pytest.mark.parametrize("family", ["iid", "orthogonal", "goe"])
def test_the_mean_field_of_linear_units_is_the_length_map(family):
    field = mean_field_fixed_point("linear", 0.8, 1.5, family)
    assert field.q == pytest.approx(1.5**2 * length_map(family, 0.8), rel=1e-6)


@pytest.mark.parametrize("family", ["iid", "orthogonal", "goe"])
@pytest.mark.parametrize(("activation", "sigma_w"), [("tanh", 1.4), ("relu", 1.0), ("hardtanh", 1.0)])
def test_large_networks_have_the_mean_square_of_the_theory(activation, sigma_w, family):
    phi = {"tanh": torch.tanh, "relu": torch.relu, "hardtanh": torch.nn.functional.hardtanh}[activation]
    generator = torch.Generator().manual_seed(0)
    weight = deq_init_(torch.empty(6, 400, 400, dtype=F64), family, sigma_w, generator=generator)
    u = torch.randn(6, 20, 400, dtype=F64, generator=generator)
    solver = FixedPointSolver(max_iter=400, tol=1e-8)
    z, stats = solver(lambda z: phi(torch.baddbmm(u, z, weight.mT)), torch.zeros_like(u), batch_dims=2)
    assert stats.all_converged
    field = mean_field_fixed_point(activation, sigma_w, 1.0, family)
    assert z.square().mean().item() == pytest.approx(field.q, rel=0.04)
    assert field.chi < 1


def test_without_the_echo_symmetric_weights_would_be_shorter():
    echo = mean_field_fixed_point("tanh", 1.4, 1.0, "goe").q
    none = mean_field_fixed_point("tanh", 0.7, 1.0, "iid").q  # as variable entries, no echo
    assert echo > 1.2 * none


@pytest.mark.parametrize("family", ["iid", "goe"])
def test_relu_units_lose_stability_at_the_square_root_of_two_or_later(family):
    assert mean_field_fixed_point("relu", 1.40, 1.0, family).chi < 1
    assert mean_field_fixed_point("relu", 1.45, 1.0, "iid").q == math.inf
    assert mean_field_fixed_point("relu", 2.0, 1.0, family).q == math.inf


def test_all_activations_and_no_injection():
    for activation in ACTIVATIONS:
        assert mean_field_fixed_point(activation, 0.5, 0.0).q == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("gelu", 0.5, 1.0), ValueError, "activation must be one of linear, relu, tanh, hardtanh, got 'gelu'"),
        (("tanh", float("nan"), 1.0), ValueError, "sigma_w must be >= 0, got nan"),
        (("tanh", 0.5, -1.0), ValueError, "sigma_u must be >= 0, got -1.0"),
        (("tanh", 0.5, 1.0, "other"), ValueError, "family must be one of"),
        (("tanh", 0.5, 1.0, "iid", "spectral", 2), ValueError, "num_quadrature must be at least 3, got 2"),
        (("tanh", 0.5, 1.0, "symmetric_orthogonal"), NotImplementedError, "symmetric_orthogonal"),
    ],
)
def test_what_the_mean_field_does_not_know_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        mean_field_fixed_point(*arguments)


def test_arguments_of_the_linear_theory_are_checked():
    with pytest.raises(ValueError, match=r"sigma_w must be >= 0, got -0\.1"):
        length_map("iid", -0.1)
    with pytest.raises(ValueError, match="normalization must be one of"):
        length_second_moment("iid", 0.1, "none")
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        norm_fluctuation("iid", 0.1, 0)
