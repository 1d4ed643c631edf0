"""The figure of a run's paths."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from callbacks.path_result import PathResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOGARITHMIC = 30  # losses that differ by more than this factor are drawn on a logarithmic axis


def draw_paths(paths: Mapping[tuple[str, str, str], PathResult]) -> "Figure":
    """Draw losses over alpha: a row for each part of the data; a column for the whole network, and one for each group.

    Args:
        paths: By part of the data, treatment of the buffers and group.

    Example:
        >>> path = PathResult(alphas=[0, 1], loss=[2.0, 0.5])
        >>> [axes.get_title() for axes in draw_paths({("test", "interpolate", "all"): path}).axes]
        ['test: all']
    """
    import matplotlib
    from matplotlib.figure import Figure

    parts, treatments, groups = (list(dict.fromkeys(key[i] for key in paths)) for i in range(3))
    with matplotlib.rc_context(
        {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    ):
        size = (1.0 + 2.8 * len(groups), 0.6 + 2.6 * len(parts))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(parts), len(groups), squeeze=False, sharex=True)
        for axes, (part, group) in zip(grid.flat, ((part, group) for part in parts for group in groups)):
            for treatment in treatments:
                if (part, treatment, group) in paths:
                    paths[part, treatment, group].plot(axes, label=treatment)
            curves = [line.get_ydata() for line in axes.lines]
            if _spread(np.concatenate([np.asarray(curve, dtype=float) for curve in curves])) > LOGARITHMIC:
                axes.set_yscale("log")
            axes.set_title(f"{part}: {group}", fontsize="medium")
        if len(treatments) > 1:
            grid[0, 0].legend(frameon=False, fontsize="small", title="running statistics", title_fontsize="small")
    return figure


def _spread(values: np.ndarray) -> float:
    """The highest over the middle one of the finite values."""
    finite = values[np.isfinite(values) & (values > 0)]
    return float(finite.max() / np.median(finite)) if len(finite) else 1.0
