import pytest
import torch

from zoo.auto_conjugate_gradient.projection import BALLS
from zoo.auto_conjugate_gradient.starts import image_noise


def images(seed, num=40, size=30):
    x = torch.rand(num, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[x < 0.1], x[x > 0.9] = 0, 1  # corners of the box
    return x


def length(norm, v):
    return v.abs().amax(1) if norm == "Linf" else v.norm(dim=1)


@pytest.mark.parametrize("norm", list(BALLS))
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eps", [1e-3, 0.1, 0.9])
def test_projections_lie_in_the_ball_and_move_nothing_that_does(norm, seed, eps):
    x = images(seed)
    ball = BALLS[norm].around(x, eps)
    v = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inside = ball.project(v.clone())
    assert (length(norm, inside - x) <= eps + 1e-12).all()
    assert ((inside >= 0) & (inside <= 1)).all()
    torch.testing.assert_close(ball.project(inside.clone()), inside)


def test_the_projection_into_the_box_is_the_nearest_point():
    x = images(0)
    ball = BALLS["Linf"].around(x, 0.1)
    v = x + torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    distance = (ball.project(v.clone()) - v).norm(dim=1)
    for seed in range(20):
        other = ball.random(torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        assert ((other - v).norm(dim=1) >= distance).all()


@pytest.mark.parametrize("norm", list(BALLS))
def test_the_steepest_point_beats_all_others_of_the_unit_ball(norm):
    gradient = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    ball = BALLS[norm].around(torch.full((5, 8), 0.5), 0.1)
    best = (ball.steepest(gradient) * gradient).sum(1)
    others = torch.randn(200, 5, 8, generator=torch.Generator().manual_seed(1))
    others /= others.abs().amax(2, keepdim=True) if norm == "Linf" else others.norm(dim=2, keepdim=True)
    assert ((others * gradient).sum(2) <= best + 1e-6).all()
    assert ball.steepest(torch.zeros(5, 8)).eq(0).all()


def test_noise_is_uniform_and_differs_by_image_restart_seed_and_pixel():
    x = torch.rand(50, 400, generator=torch.Generator().manual_seed(0))
    restart = torch.zeros(50, dtype=torch.long)
    noise = image_noise(x, 0, restart)
    assert noise.mean().item() == pytest.approx(0.5, abs=4 * (1 / 12 / noise.numel()) ** 0.5)
    counts = torch.histc(noise.float(), bins=20, min=0, max=1)
    expected = noise.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001
    for other in (image_noise(x, 1, restart), image_noise(x, 0, restart + 1), image_noise(x.flip(0), 0, restart)):
        assert (other == noise).float().mean() < 1e-3
        assert abs(torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1]) < 0.03


def test_noise_of_an_image_does_not_depend_on_its_batch():
    x, restart = torch.rand(7, 30), torch.arange(7) % 3
    whole = image_noise(x, 5, restart)
    parts = [image_noise(x[rows], 5, restart[rows]) for rows in (slice(0, 3), slice(3, 7))]
    assert whole.equal(torch.cat(parts))


def test_random_starts_of_an_l2_ball_lie_on_its_sphere_where_pixels_allow():
    x = torch.full((20, 500), 0.5, dtype=torch.float64)
    start = BALLS["L2"].around(x, 0.25).random(torch.rand(20, 500, dtype=torch.float64))
    torch.testing.assert_close((start - x).norm(dim=1), torch.full((20,), 0.25, dtype=torch.float64))
