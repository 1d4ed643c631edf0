"""The figure of neural collapse over epochs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]
# Panels, and what their solid and dashed lines show.
PANELS = {
    "NC1: scatter within classes": ("nc1", "trace_ratio"),
    "NC2: distance from a simplex ETF": ("nc2_features", "nc2_classifier"),
    "NC3: classifier against class means": ("nc3", "self_duality"),
    "NC4: nearest class centre disagrees": ("ncc_agreement",),
}
DRAWN = tuple(result for results in PANELS.values() for result in results)
LEGENDS = {
    "nc1": r"$\mathrm{tr}(\Sigma_W \Sigma_B^\dagger) / K$",
    "trace_ratio": r"$\mathrm{tr}\,\Sigma_W / \mathrm{tr}\,\Sigma_B$",
    "nc2_features": "class means",
    "nc2_classifier": "classifier",
    "nc3": "distance from a simplex ETF",
    "self_duality": "self-duality",
}
STYLES: tuple[Literal["-", "--"], ...] = ("-", "--")
LOGARITHMIC = 30  # values that spread by more than this factor are drawn on a logarithmic axis


def draw_collapse(curves: Mapping[str, Mapping[str, Curve]]) -> "Figure":
    """Draw NC1 to NC4 over epochs, a colour for each layer.

    Args:
        curves: Epochs and values by layer and result; results that are not there are left out.

    Example:
        >>> figure = draw_collapse({"features": {"nc1": ([0, 1], [1.0, 0.1])}})
        >>> [axes.get_title() for axes in figure.axes]
        ['NC1: scatter within classes']
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    there = {result for of_layer in curves.values() for result in of_layer}
    panels = {title: results for title, results in PANELS.items() if there & set(results)}
    map_ = matplotlib.colormaps["viridis"].reversed()
    colours = {layer: map_((i + 1) / len(curves)) for i, layer in enumerate(curves)}
    with matplotlib.rc_context(
        {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    ):
        figure = Figure(figsize=(3.4 * len(panels), 3.6), layout="constrained")
        for axes, (title, results) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
            axes.set_title(title, fontsize="medium")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            for layer, of_layer in curves.items():
                _draw(axes, of_layer, results, colours[layer])
            _scale(axes)
            if len(results) > 1:
                lines = [Line2D([], [], color="black", linestyle=style) for _, style in zip(results, STYLES)]
                axes.legend(lines, [LEGENDS[result] for result in results], frameon=False, fontsize="small")
        if len(curves) > 1:
            lines = [Line2D([], [], color=colour) for colour in colours.values()]
            figure.legend(lines, list(colours), loc="outside lower center", ncols=len(colours), frameon=False)
    return figure


def _draw(axes: "Axes", curves: Mapping[str, Curve], results: Sequence[str], colour: Any) -> None:
    for result, style in zip(results, STYLES):
        if result in curves:
            epochs, values = curves[result]
            values = [1 - value for value in values] if result == "ncc_agreement" else values
            marker = "." if len(epochs) < 30 else ""
            axes.plot(epochs, values, color=colour, linestyle=style, marker=marker, linewidth=1.2)


def _scale(axes: "Axes") -> None:
    """A logarithmic axis where positive values spread far; else one from zero up."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() > LOGARITHMIC * finite.min():
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
