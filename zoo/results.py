"""What a command leaves behind: a table on the console, ``results.json`` and ``curves.png`` in the log folder."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from zoo.files import whole, write_json
from zoo.logs import read_curve


@dataclass
class Result:
    """The outcome of one command.

    Args:
        recipe: Name of the recipe, or of the configuration.
        verb: ``"train"``, ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
        metrics: What was measured, by name.
        data: The data in one line, a stand-in named as one.
        seed: Of the run.
        device: Where it ran.
        seconds: Wall time of fit and evaluation.
        checkpoint: What was evaluated, or is the best; ``None`` where nothing was saved.
        folder: The log folder; ``None`` in a ``fast_dev_run``.
        predictions: File of what ``predict`` gave, a list with one entry a batch.
        stopped: Whether Ctrl-C ended the run.
        last_epoch: What the last epoch measured, beside what is tested afterwards.
        curves: Values of metrics over epochs, and the curves that callbacks have drawn: x and y by name.
    """

    recipe: str
    verb: str
    data: str
    seed: int
    device: str
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    folder: str | None = None
    predictions: str | None = None
    stopped: bool = False
    last_epoch: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)

    def table(self) -> Table:
        """The result as a table of two columns."""
        table = Table(title=f"{self.recipe}: {self.verb}", show_header=False, title_justify="left")
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in sorted(self.metrics.items()):
            table.add_row(name, _text(value))
        table.add_section()
        for name, value in sorted(self.last_epoch.items()):
            table.add_row(f"{name} (last epoch)", _text(value))
        table.add_section()
        table.add_row("data", f"[bold red]{self.data}[/]" if "STAND-IN" in self.data else self.data)
        table.add_row("seed", str(self.seed))
        table.add_row("time", f"{self.seconds:.1f} s on {self.device}")
        table.add_row("checkpoint", self.checkpoint or "none")
        if self.predictions:
            table.add_row("predictions", self.predictions)
        table.add_row("log folder", self.folder or "none")
        return table

    def save(self, path: Path) -> None:
        """Write the result as JSON, whole or not at all; the curves stand in other files."""
        content = asdict(self)
        del content["curves"]
        write_json(path, content)


def _text(value: float) -> str:
    if value.is_integer() and value > 1:
        return f"{value:,.0f}"
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def draw_curves(folder: Path, title: str, main_metric: str | None, best: str | None = "val/loss") -> Path | None:
    """Draw losses and the main metric over epochs from the run's ``metrics.csv``, with the best epoch marked.

    Args:
        folder: The run's folder; the figure is its ``curves.png``.
        title: Of the figure.
        main_metric: A metric such as ``"val/acc"``, drawn with its training and test counterparts that were logged
            over epochs; ``None`` for the losses alone.
        best: The metric whose smallest value marks the best epoch; ``None`` marks none.

    Returns:
        The figure's path, ``None`` if nothing was logged.
    """
    curves = {name: read_curve(folder, name) for name in ("train/loss", "val/loss", *_parts(main_metric))}
    curves = {name: curve for name, curve in curves.items() if len(curve[0]) > 1}
    if not curves:
        return None
    losses = [name for name in curves if name.endswith("/loss")]
    others = [name for name in curves if name not in losses]
    groups = [group for group in (losses, others) if group]
    with matplotlib.rc_context(
        {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    ):
        figure = Figure(figsize=(5.0 * len(groups), 3.8), layout="constrained")
        figure.suptitle(title, fontsize="medium")
        for axes, names in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups):
            _draw(axes, {name: curves[name] for name in names}, _best_epoch(curves, best))
        with whole(folder / "curves.png") as partial:
            figure.savefig(partial, format="png", dpi=150)
    return folder / "curves.png"


def _parts(metric: str | None) -> list[str]:
    if metric is None:
        return []
    name = metric.rpartition("/")[2]
    return [f"train/{name}", metric]


def _best_epoch(curves: dict[str, tuple[list[int], list[float]]], metric: str | None) -> int | None:
    if metric not in curves:
        return None
    epochs, values = curves[metric]
    return epochs[values.index(min(values))]


def _draw(axes: Axes, curves: dict[str, tuple[list[int], list[float]]], best_epoch: int | None) -> None:
    for name, (epochs, values) in curves.items():
        axes.plot(epochs, values, label=name, linewidth=1.2)
    if best_epoch is not None:
        axes.axvline(best_epoch, color="black", linestyle=":", linewidth=1, label=f"best epoch ({best_epoch})")
    axes.set_xlabel("epoch")
    axes.legend(frameon=False)
