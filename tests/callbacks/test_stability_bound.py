import math

import pytest
import torch
from torch.distributions import Normal

from callbacks.stability_bound import (
    CMIBound,
    ExpectedStabilityBound,
    IncoherenceBound,
    LiBound,
    discrepancy,
    incoherence,
    largest_distance,
    squared_norms,
)


def gradients(pairs=5, dim=7, seed=0):
    return torch.randn(2 * pairs, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_what_is_read_off_the_matrix_is_what_the_gradients_say():
    g = gradients()
    inside, outside, gram = g[:5], g[5:], g @ g.T
    torch.testing.assert_close(squared_norms(gram), (inside**2).sum(1))
    torch.testing.assert_close(discrepancy(gram), ((inside - outside) ** 2).sum(1))
    others = torch.stack([torch.cat([inside[:k], inside[k + 1 :]]).mean(0) for k in range(5)])
    torch.testing.assert_close(incoherence(gram), ((inside - others) ** 2).sum(1))
    torch.testing.assert_close(largest_distance(gram), torch.cdist(g, g).square().max())


def path(metric, steps=4, **options):
    """A path of other gradients and another alpha in every step."""
    grams = [(g := gradients(seed=step)) @ g.T for step in range(steps)]
    for step, gram in enumerate(grams):
        metric.update(gram, alpha=0.5 + step, **options)
    sums = {
        name: sum(f(gram) / (0.5 + step) ** 2 for step, gram in enumerate(grams))
        for name, f in {"D": discrepancy, "norm": squared_norms, "incoherence": incoherence}.items()
    }
    return metric.compute(), sums


def test_the_bound_is_that_of_theorem_two():
    found, sums = path(ExpectedStabilityBound(1000, 20))
    c = 2 * math.sqrt(5)
    torch.testing.assert_close(found["bound"], c / 1000 * sums["D"].sqrt().mean())
    torch.testing.assert_close(found["mean_inside"], c / 1000 * sums["D"].mean().sqrt())
    torch.testing.assert_close(found["unconditional"], sums["D"].sqrt().mean() / (2 * math.sqrt(1000 * 20)))
    assert found["mean_inside"] > found["bound"]  # by Jensen


def test_the_noise_and_the_loss_enter_the_bound():
    plain, _ = path(ExpectedStabilityBound(1000, 20))
    rough, _ = path(ExpectedStabilityBound(1000, 20, smoothness=9.0, loss_range=0.5))
    for name in ("bound", "mean_inside", "unconditional"):
        torch.testing.assert_close(rough[name], 1.5 * plain[name])
    tight, _ = path(ExpectedStabilityBound(1000, 20, constant="tight", divergence_constant=1.275))
    torch.testing.assert_close(tight["bound"], plain["bound"] * math.sqrt(1.275 / 0.98 / 20))


@pytest.mark.parametrize("batch_size", [600, 1000, None])
def test_more_than_half_of_the_samples_in_a_step_need_the_unconditional_bound(batch_size):
    found, sums = path(ExpectedStabilityBound(1000, batch_size))
    assert found["bound"] == found["unconditional"]
    torch.testing.assert_close(found["bound"], sums["D"].sqrt().mean() / 2 / math.sqrt(1000 * (batch_size or 1000)))


def test_the_other_bounds_are_their_formulas():
    found, sums = path(LiBound(1000))
    torch.testing.assert_close(found, 2 / 1000 * sums["norm"].mean().sqrt())
    found, sums = path(LiBound(1000, 20))
    torch.testing.assert_close(found, 8.12 / math.sqrt(2) / 1000 * sums["norm"].mean().sqrt())
    found, sums = path(IncoherenceBound(1000))
    torch.testing.assert_close(found, sums["incoherence"].sqrt().mean() / 2000)
    found, sums = path(IncoherenceBound(1000, 20))
    torch.testing.assert_close(found, sums["incoherence"].sqrt().mean() / 2 / math.sqrt(20_000))


def test_without_a_test_conditional_information_is_the_unconditional_bound_of_full_batches():
    found, _ = path(CMIBound(1000))
    expected, _ = path(ExpectedStabilityBound(1000))
    torch.testing.assert_close(found, expected["unconditional"])


def test_a_test_that_knows_leaves_nothing_and_one_that_errs_adds():
    blind, _ = path(CMIBound(1000))
    sure, _ = path(CMIBound(1000), log_ratio=torch.full((5,), 9.0))
    wrong, _ = path(CMIBound(1000), log_ratio=torch.full((5,), -9.0))
    assert sure < 1e-6
    torch.testing.assert_close(wrong, 2 * blind)


@pytest.mark.parametrize(
    "make",
    [ExpectedStabilityBound, LiBound, IncoherenceBound, lambda n, b: CMIBound(n)],
    ids=["ours", "li", "n", "cmi"],
)
def test_a_step_may_stand_for_several(make):
    def values(metric):
        found = metric.compute()
        return found if isinstance(found, torch.Tensor) else torch.stack([*found.values()])

    g = gradients()
    once, often = make(100, 10), make(100, 10)
    once.update(g @ g.T, alpha=0.3, weight=3)
    for _ in range(3):
        often.update(g @ g.T, alpha=0.3)
    torch.testing.assert_close(values(once), values(often))


def test_ours_is_below_incoherence_where_a_batch_is_small_enough():
    """For gradients of samples that are alike in law, the two cross at n / b = 8 c squared, 160."""
    g = gradients(pairs=1000, dim=3)
    for ratio, below in {120: False, 200: True}.items():
        ours, other = ExpectedStabilityBound(100 * ratio, 100), IncoherenceBound(100 * ratio, 100)
        for metric in (ours, other):
            metric.update(g @ g.T)
        assert bool(ours.compute()["bound"] < other.compute()) == below


def test_the_condition_is_counted_by_steps():
    g = torch.tensor([[0.0], [0.0], [1.0], [0.5]])  # the largest distance is 1: alpha must be at least sqrt(8)
    bound = ExpectedStabilityBound(100, 10)
    bound.update(g @ g.T, alpha=2.8, weight=3)
    bound.update(g @ g.T, alpha=2.9, weight=1)
    assert bound.compute()["condition_fraction"] == 0.25
    rough = ExpectedStabilityBound(100, 10, smoothness=4.0)
    rough.update(g @ g.T, alpha=2.9)
    assert rough.compute()["condition_fraction"] == 0


@pytest.mark.parametrize(("num_train", "batch_size"), [(2, 1), (4, 1), (4, 4)])
def test_no_test_tells_neighbours_apart_better_than_the_unconditional_bound_says(num_train, batch_size):
    """One step of SGLD on a line: the total variation, integrated, bounds the gap of any loss in [0, 1]."""
    x = torch.linspace(-15, 15, 60_001, dtype=torch.float64)
    others, z, fresh = torch.linspace(-1, 1, num_train - 1, dtype=torch.float64), 3.0, -2.0

    def density(last):  # a batch of one sample, or of all
        samples = torch.cat([others, torch.tensor([last], dtype=torch.float64)])
        means = samples if batch_size == 1 else samples.mean(0, keepdim=True)
        return Normal(means[:, None], 1.0).log_prob(x).exp().mean(0)

    variation = torch.trapezoid((density(z) - density(fresh)).abs(), x) / 2
    bound = ExpectedStabilityBound(num_train, batch_size)
    g = torch.tensor([[z], [fresh]], dtype=torch.float64)
    bound.update(g @ g.T)
    assert 0.05 < variation < bound.compute()["unconditional"]


def test_processes_add_their_pairs():
    whole, halves = ExpectedStabilityBound(100, 10), [ExpectedStabilityBound(100, 10) for _ in range(2)]
    g = gradients(pairs=6)
    whole.update(g @ g.T)
    for i, half in enumerate(halves):
        rows = torch.cat([g[3 * i : 3 * i + 3], g[6 + 3 * i : 9 + 3 * i]])
        half.update(rows @ rows.T)
    states = {id(getattr(halves[0], name)): getattr(halves[1], name) for name in ("sums", "satisfied", "steps")}
    halves[0].dist_sync_fn = lambda state, group: [state, states[id(state)]]
    halves[0].distributed_available_fn = lambda: True
    found = halves[0].compute()
    expected = whole.compute()
    for name in ("bound", "mean_inside", "unconditional"):
        torch.testing.assert_close(found[name], expected[name])
    assert len(halves[0].sums) == 3  # and has its own again


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LiBound(1), "num_train must be at least 2, got 1"),
        (lambda: LiBound(10, 11), r"batch_size must be in \[1, 10\], num_train, got 11"),
        (lambda: LiBound(10, 0), r"batch_size must be in \[1, 10\], num_train, got 0"),
        (lambda: LiBound(10, 5, loss_range=0.0), "loss_range must be > 0 and finite, got 0.0"),
        (lambda: LiBound(10, 5, loss_range=math.nan), "loss_range must be > 0 and finite, got nan"),
        (lambda: ExpectedStabilityBound(10, 5, smoothness=-1.0), "smoothness must be > 0 and finite, got -1.0"),
        (lambda: ExpectedStabilityBound(10, 5, constant="best"), "constant must be one of paper, tight, got 'best'"),
        (lambda: ExpectedStabilityBound(10, 5, divergence_constant=0.0), "divergence_constant must be > 0"),
        (lambda: LiBound(10).update(torch.eye(4), alpha=0.0), "alpha must be > 0, got 0.0"),
        (lambda: LiBound(10).update(torch.eye(4), alpha=math.nan), "alpha must be > 0, got nan"),
        (lambda: LiBound(10).update(torch.eye(3)), r"gram must be of shape \(2K, 2K\), got \(3, 3\)"),
        (lambda: LiBound(10).update(torch.ones(4, 2)), r"gram must be of shape \(2K, 2K\), got \(4, 2\)"),
        (lambda: IncoherenceBound(10).update(torch.eye(2)), "incoherence needs at least 2 pairs, got 1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
