import itertools
import math

import pytest
import torch

from zoo.efld.divergence import divergence_ratio, lecam_style_divergence, random_triples
from zoo.efld.noise import GaussianNoise, QuantizedNoise, SignNoise


def triple(dim, seed=0, diameter=1.0):
    return random_triples(7, dim, diameter, 0.5, torch.Generator().manual_seed(seed))


def test_the_gaussian_divergence_is_the_closed_form():
    reference, one, other = triple(3)
    a, b = one - reference, other - reference
    expected = (a * a).sum(1).exp() + (b * b).sum(1).exp() - 2 * (a * b).sum(1).exp()
    torch.testing.assert_close(lecam_style_divergence(reference, one, other, GaussianNoise()), expected)


@pytest.mark.parametrize(
    ("noise", "levels"),
    [(SignNoise(), [-1.0, 1.0]), (QuantizedNoise([-1.0, 0.5, 2.0]), [-1.0, 0.5, 2.0])],
)
def test_the_divergence_of_discrete_families_is_the_sum_over_all_outcomes(noise, levels):
    points = triple(3, diameter=3.0)
    outcomes = torch.tensor(list(itertools.product(levels, repeat=3)), dtype=torch.float64)

    def probability(theta):  # (7, outcomes)
        weights = torch.softmax(theta[..., None] * torch.tensor(levels, dtype=torch.float64), dim=-1)
        which = (outcomes[..., None] == torch.tensor(levels, dtype=torch.float64)).long().argmax(-1)
        return torch.stack([weights[:, j].index_select(1, which[:, j]) for j in range(3)]).prod(0)

    p, q, r = map(probability, points)
    torch.testing.assert_close(lecam_style_divergence(*points, noise), ((q - r) ** 2 / p).sum(1))


def test_the_gaussian_divergence_is_the_integral():
    reference, one, other = (torch.tensor([value], dtype=torch.float64) for value in (0.1, 0.6, -0.3))
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    p, q, r = (torch.exp(-((x - theta) ** 2) / 2) / math.sqrt(2 * math.pi) for theta in (reference, one, other))
    expected = torch.trapezoid((q - r) ** 2 / p, x)
    torch.testing.assert_close(lecam_style_divergence(reference, one, other, GaussianNoise()), expected)


def test_small_differences_keep_their_digits():
    one = torch.full((1,), 1e-7, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    found = lecam_style_divergence(zero, one, zero, GaussianNoise())
    assert found.item() == pytest.approx(1e-14, rel=1e-6)
    assert lecam_style_divergence(zero, one, one, GaussianNoise()) == 0


@pytest.mark.parametrize("dim", [1, 2, 10, 1000])
@pytest.mark.parametrize("noise", [GaussianNoise(), SignNoise()], ids=["gaussian", "sign"])
def test_the_ratio_of_theorem_one_stays_below_the_constants(dim, noise):
    ratio = divergence_ratio(random_triples(2000, dim, 8**-0.5, 1.0, torch.Generator().manual_seed(dim)), noise)
    assert ratio.max() <= 5  # the theorem
    assert ratio.max() <= noise.divergence_constant
    assert ratio.max() <= 9 / 8 * math.exp(1 / 8)  # proved for the Gaussian, and seen for signs


def test_the_gaussian_constant_is_reached_where_it_should_be():
    """Two points close to each other, as far as they may be from the reference, in the same direction."""
    reference = torch.zeros(1, dtype=torch.float64)
    one, other = reference + 8**-0.5, reference + 8**-0.5 - 1e-4
    ratio = lecam_style_divergence(reference, one, other, GaussianNoise()) / 1e-8
    assert ratio.item() == pytest.approx(GaussianNoise().divergence_constant, rel=1e-3)


def test_random_points_lie_in_the_ball():
    points = torch.stack(random_triples(1000, 4, diameter=0.5))
    assert points.norm(dim=-1).max() <= 0.25
    assert 0.1 < points.norm(dim=-1).mean() < 0.15


def test_balls_may_lie_anywhere():
    points = torch.stack(random_triples(4000, 3, diameter=0.01, center_std=2.0))
    assert (points[0] - points[1]).norm(dim=-1).max() <= 0.01
    torch.testing.assert_close(points[0].std(0), torch.full((3,), 2.0, dtype=torch.float64), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 1.0), "num_triples must be at least 1, got 0"),
        ((1, 0, 1.0), "dim must be at least 1, got 0"),
        ((1, 1, 0.0), "diameter must be > 0 and finite, got 0.0"),
        ((1, 1, math.nan), "diameter must be > 0 and finite, got nan"),
        ((1, 1, 1.0, -1.0), "center_std must be >= 0 and finite, got -1.0"),
    ],
)
def test_wrong_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_triples(*arguments)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape, got \(2,\), \(2,\), \(3,\)"):
        lecam_style_divergence(torch.zeros(2), torch.zeros(2), torch.zeros(3), SignNoise())
