"""The folder of a run: ``logs/<recipe>/version_N``, with TensorBoard events and ``metrics.csv``."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only

from zoo.files import write_text


def new_version(runs: Path) -> Path:
    """Make the next free folder ``version_N`` in ``runs``; safe when several runs start at once.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [new_version(Path(folder)).name for _ in range(2)]
        ['version_0', 'version_1']
    """
    for number in count():
        folder = runs / f"version_{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError  # the count does not end


def loggers(folder: Path, first_step: int = 0) -> list[Logger]:
    """TensorBoard and CSV loggers that share the run's folder.

    Args:
        folder: The run's folder.
        first_step: Step from which a resumed run goes on; what was logged at it and later is replaced.
    """
    place = {"save_dir": folder.parent.parent, "name": folder.parent.name, "version": folder.name}
    tensorboard = TensorBoardLogger(**place, default_hp_metric=False, purge_step=first_step or None)  # type: ignore[arg-type]
    return [tensorboard, ContinuedCSVLogger(folder, first_step)]


class WholeWriter(ExperimentWriter):
    """Writes a ``metrics.csv`` that never lacks rows it had; Lightning's empties it for a metric that is new.

    Args:
        log_dir: The run's folder; what lies there stays until it is replaced.
    """

    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes the file."""

    def save(self) -> None:
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        if self._record_new_keys() or not path.is_file():
            write_text(path, _table(self.metrics_keys, [*read_rows(path.parent), *self.metrics], header=True))
        else:
            with path.open("a", newline="", encoding="utf-8") as file:
                file.write(_table(self.metrics_keys, self.metrics, header=False))
        self.metrics = []

    def keep(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Leave only these rows, and the columns that have values in them."""
        self.metrics_keys = sorted({name for row in rows for name, value in row.items() if value})
        kept = [{name: row[name] for name in self.metrics_keys} for row in rows]
        write_text(Path(self.metrics_file_path), _table(self.metrics_keys, kept, header=True))


def _table(names: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class ContinuedCSVLogger(CSVLogger):
    """A CSVLogger that keeps what a resumed run has logged before; Lightning's own begins an empty file.

    Args:
        folder: The run's folder.
        first_step: Rows of this step and later ones are dropped.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        super().__init__(folder.parent.parent, name=folder.parent.name, version=folder.name)
        rows = read_rows(folder)
        if getattr(rank_zero_only, "rank", 0) == 0:
            self._experiment = writer = WholeWriter(self.log_dir)
            if rows:
                writer.keep([row for row in rows if int(row["step"]) < first_step])


def read_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the run's ``metrics.csv``, empty if there is none; a last row that was cut short is left out."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if line.endswith("\n")))


def read_curve(folder: Path, metric: str) -> tuple[list[int], list[float]]:
    """Epochs and values of a metric in the run's ``metrics.csv``."""
    rows = [row for row in read_rows(folder) if row.get(metric)]
    return [int(row["epoch"]) for row in rows], [float(row[metric]) for row in rows]


def read_curves(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Epochs and values of every metric that the run's ``metrics.csv`` has at more than one epoch."""
    rows = read_rows(folder)
    names = {name for row in rows for name in row} - {"epoch", "step"}
    curves = {name: read_curve(folder, name) for name in sorted(names)}
    return {name: curve for name, curve in curves.items() if len(set(curve[0])) > 1}
