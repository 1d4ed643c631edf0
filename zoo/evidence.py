"""What claims about many replicas of a run share: choosing runs, judging values, drawing. Does not import torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.claims import NotEnoughRuns, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = NDArray[np.float64]


def chosen(results: Results, recipe: str, overrides: Mapping[str, Any] | None = None) -> Results:
    """The runs of a recipe with these overrides and no others, but for the refusal of stand-ins.

    Raises:
        NotEnoughRuns: If there is none.
    """
    wanted = dict(overrides or {})
    found = [
        one
        for one in results.of(recipe)
        if {key: value for key, value in one.overrides.items() if key != "data.if_unavailable"} == wanted
    ]
    if not found:
        raise NotEnoughRuns(f"there is no finished run of {recipe} with exactly {wanted or 'no overrides'}")
    return Results(found, results.scale)


def of_replicas(results: Results, name: str, at: int = -1) -> Values:
    """Values of a measure that runs keep replica by replica, as curves ``<name>/<replica>``.

    Args:
        results: Runs with equally many replicas.
        name: Of the measure.
        at: Which point of the curves; the last one by default.

    Returns:
        Shape ``(runs, replicas)``.
    """
    number = sum(f"{name}/{i}" in results[0].curves for i in range(len(results[0].curves)))
    return np.array([[y[at] for _, y in results.curves(f"{name}/{i}")] for i in range(max(1, number))]).T


def below(values: ArrayLike, limit: float) -> bool:
    """Whether there are values and all are below the limit; NaN is not.

    Example:
        >>> below([1e-9, 1e-7], 1e-6), below([float("nan")], 1.0), below([], 1.0)
        (True, False, False)
    """
    values = np.asarray(values)
    return values.size > 0 and bool((values < limit).all())


def at_most(values: ArrayLike) -> str:
    """The largest value, in words.

    Example:
        >>> at_most([1e-9, 3e-7]), at_most([])
        ('at most 3.0e-07', 'no values')
    """
    values = np.asarray(values)
    return f"at most {values.max():.1e}" if values.size else "no values"


def span(values: ArrayLike, digits: int = 3) -> str:
    """Smallest and largest value, in words.

    Example:
        >>> span([0.25, 0.5, 0.125])
        '0.125 to 0.500'
    """
    values = np.asarray(values)
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}" if values.size else "no values"


def draw_matrix(axes: "Axes", matrix: Values, title: str) -> None:
    """A matrix of inner products, divided by its largest entry, with its numbers."""
    shown = matrix / matrix.max()
    axes.imshow(shown, cmap="RdBu", vmin=-1, vmax=1)
    for row, column in np.ndindex(shown.shape):
        value = round(float(shown[row, column]), 2) + 0.0  # no minus before 0
        color = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=7, color=color)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize="medium")


def tidy(axes: "Axes", legend: bool = True) -> None:
    """A light grid, two spines, and a small legend."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize="small")
