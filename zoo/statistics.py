"""The comparison of two means over seeds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

SIGNIFICANCE = 0.05


class NotEnoughRuns(ValueError):
    """There are too few runs to say anything."""


@dataclass(frozen=True)
class Difference:
    """The difference of two means, with Welch's interval.

    Args:
        mean: The first mean minus the second.
        low: Lower end of the interval.
        high: Upper end.
        p: Of the two-sided test that the means are equal.
        n: Number of values on each side.
        confidence: Of the interval.

    Example:
        >>> print(welch([2.0, 3.0, 5.0], [1.0, 2.0, 3.0]))
        +1.33 (95 % interval -1.79 to +4.45, Welch p = 0.28, n = 3 and 3)
    """

    mean: float
    low: float
    high: float
    p: float
    n: tuple[int, int]
    confidence: float = 0.95

    def __str__(self) -> str:
        interval = f"{self.confidence:.0%}".replace("%", " %") + f" interval {self.low:+.2f} to {self.high:+.2f}"
        return f"{self.mean:+.2f} ({interval}, Welch p = {self.p:.2g}, n = {self.n[0]} and {self.n[1]})"

    def is_greater(self, margin: float = 0.0) -> bool:
        """Whether the first mean is larger by at least ``margin``, and by more than chance (p < 0.05)."""
        return self.mean >= margin and self.mean > 0 and self.p < SIGNIFICANCE


def welch(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Difference:
    r"""Compare two means without assuming equal variances.

    .. math:: t = \frac{\bar a - \bar b}{\sqrt{s_a^2 / n_a + s_b^2 / n_b}}

    Args:
        a: Independent values, shape ``(n_a,)``.
        b: Independent values, shape ``(n_b,)``.
        confidence: Of the interval, between 0 and 1.

    Returns:
        The difference of the means, its interval and the p-value of the two-sided test. Values without any spread on
        both sides are compared exactly: p is 0 or 1.

    Raises:
        NotEnoughRuns: If a side has fewer than two values.

    Source:
        Welch, *The generalization of Student's problem when several different population variances are involved*,
        Biometrika 1947; :func:`scipy.stats.ttest_ind` with ``equal_var=False``.
    """
    from scipy import stats

    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if min(len(a), len(b)) < 2:
        raise NotEnoughRuns(f"a comparison needs at least two runs on each side, got {len(a)} and {len(b)}")
    mean = float(a.mean() - b.mean())
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return Difference(mean, mean, mean, float(mean == 0), (len(a), len(b)), confidence)
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(confidence)
    return Difference(mean, float(low), float(high), float(test.pvalue), (len(a), len(b)), confidence)
