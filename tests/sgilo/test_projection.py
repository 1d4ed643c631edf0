import math

import pytest
import torch
from scipy.optimize import minimize

from zoo.sgilo import project_l1_ball


def by_quadratic_program(x, radius):
    """The projection by a general solver, over positive and negative parts."""
    n = len(x)
    found = minimize(
        lambda parts: ((parts[:n] - parts[n:] - x) ** 2).sum(),
        [0.01] * (2 * n),
        bounds=[(0, None)] * (2 * n),
        constraints=[{"type": "ineq", "fun": lambda parts: radius - parts.sum()}],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    ).x
    return torch.from_numpy(found[:n] - found[n:])


def test_the_projection_is_that_of_a_quadratic_program_in_five_dimensions():
    x = 2 * torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([by_quadratic_program(one.numpy(), 1.5) for one in x])
    torch.testing.assert_close(project_l1_ball(x, 1.5), expected, rtol=0, atol=1e-6)


def test_projecting_twice_changes_nothing_and_samples_inside_stay_as_they_are():
    x = torch.randn(6, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0] *= 1e-3
    once = project_l1_ball(x, 4.0)
    torch.testing.assert_close(project_l1_ball(once, 4.0), once)
    assert torch.equal(once[0], x[0])
    torch.testing.assert_close(once[1:].flatten(1).abs().sum(1), torch.full((5,), 4.0, dtype=torch.float64))


def test_every_sample_has_its_own_radius_center_and_threshold():
    generator = torch.Generator().manual_seed(0)
    x, center = torch.randn(2, 4, 7, generator=generator)
    radius = torch.tensor([0.5, 1.0, 2.0, math.inf])
    together = project_l1_ball(x, radius, center)
    for i in range(4):
        alone = project_l1_ball(x[i : i + 1] - center[i], float(radius[i])) + center[i]
        torch.testing.assert_close(together[i : i + 1], alone)
    assert torch.equal(together[3], x[3])


def test_equal_coordinates_shrink_equally():
    torch.testing.assert_close(project_l1_ball(torch.ones(1, 4), 1.0), torch.full((1, 4), 0.25))


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan])
def test_a_radius_must_be_positive(radius):
    with pytest.raises(ValueError, match="radius must be > 0"):
        project_l1_ball(torch.ones(1, 2), radius)


def test_radii_must_be_as_many_as_samples():
    with pytest.raises(ValueError, match="radius must be one number, or one for each of 3 samples"):
        project_l1_ball(torch.ones(3, 2), torch.ones(2))
