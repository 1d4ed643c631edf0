"""The default figure of a claim."""

from collections.abc import Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def draw_figures(figures: Mapping[str, Mapping[str, Any]], unit: str = "") -> Figure:
    """Draw our means with standard deviations and every run, beside the paper's figures.

    Args:
        figures: By name; what stands before a colon in the name is the panel. Each has ``values``, ``mean``, ``std``,
            ``paper`` and ``paper_std``.
        unit: Label of the axis.
    """
    panels: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, figure in figures.items():
        title, _, label = name.rpartition(": ")
        panels.setdefault(title, {})[label] = figure
    widths = [1 + len(panel) for panel in panels.values()]
    drawing = Figure(figsize=(1.5 + 0.8 * sum(widths), 4), layout="constrained")
    legend: dict[str, Artist] = {}
    for i, (title, panel) in enumerate(panels.items()):
        axes = drawing.add_subplot(1, len(panels), i + 1, title=title)
        _draw_panel(axes, panel)
        legend |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels())}
    drawing.axes[0].set_ylabel(unit)
    drawing.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=2, frameon=False)
    return drawing


def _draw_panel(axes: Axes, figures: Mapping[str, Mapping[str, Any]]) -> None:
    for position, figure in enumerate(figures.values()):
        values = figure["values"]
        axes.plot([position - 0.12] * len(values), values, ".", color="tab:blue", alpha=0.35, markersize=5)
        if values:
            axes.errorbar(
                position - 0.12,
                figure["mean"],
                figure["std"] or 0.0,
                fmt="o",
                color="tab:blue",
                capsize=4,
                label="ours: mean ± std, dots are runs",
            )
        if figure["paper"] is not None:
            axes.errorbar(
                position + 0.12,
                figure["paper"],
                figure["paper_std"] or 0.0,
                fmt="D",
                color="black",
                capsize=4,
                markersize=5,
                label="paper",
            )
    axes.set_xticks(range(len(figures)), list(figures), rotation=20 if len(figures) > 3 else 0)
    axes.set_xlim(-0.6, len(figures) - 0.4)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
