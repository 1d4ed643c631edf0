import math

import numpy as np
import pytest
from scipy import stats

from zoo.statistics import NotEnoughRuns, welch

A = np.array([84.1, 83.2, 84.9, 83.8, 85.0])
B = np.array([81.6, 82.4, 80.9, 81.1, 82.0, 81.7, 82.9])


def test_welch_is_scipys_test_and_interval():
    ours, theirs = welch(A, B), stats.ttest_ind(A, B, equal_var=False)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-12)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-12)
    assert ours.n == (5, 7)


def test_welch_by_the_textbook():
    """Formulas written out, with the t distribution alone from scipy."""
    parts = [values.var(ddof=1) / len(values) for values in (A, B)]
    error = math.sqrt(sum(parts))
    df = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (A, B)))
    mean = A.mean() - B.mean()
    reach = stats.t.ppf(0.995, df) * error
    ours = welch(A, B, confidence=0.99)
    assert ours.mean == pytest.approx(mean)
    assert (ours.low, ours.high) == pytest.approx((mean - reach, mean + reach))
    assert ours.p == pytest.approx(2 * stats.t.sf(abs(mean / error), df))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        one = welch(rng.normal(2.0, 1.0, 5), rng.normal(1.0, 3.0, 12), confidence=0.9)
        covered += one.low <= 1.0 <= one.high
    assert 870 <= covered <= 930  # 900 expected, three standard deviations either side


def test_a_difference_must_be_large_and_beyond_chance():
    assert welch(A, B).is_greater()
    assert welch(A, B).is_greater(margin=1.0)
    assert not welch(A, B).is_greater(margin=3.0)
    assert not welch(B, A).is_greater()
    assert not welch([2.0, 9.0], [1.0, 3.0]).is_greater()  # larger, but two noisy values say nothing


def test_values_without_spread_are_compared_exactly():
    same, other = welch([1.0, 1.0], [1.0, 1.0, 1.0]), welch([1.0, 1.0], [0.5, 0.5])
    assert (same.mean, same.p) == (0.0, 1.0)
    assert (other.mean, other.low, other.high, other.p) == (0.5, 0.5, 0.5, 0.0)


def test_what_is_not_a_number_is_never_greater():
    assert not welch([1.0, float("nan")], [0.0, 0.1]).is_greater()


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [])])
def test_one_value_has_no_spread(a, b):
    with pytest.raises(NotEnoughRuns, match=f"at least two runs on each side, got {len(a)} and {len(b)}"):
        welch(a, b)
