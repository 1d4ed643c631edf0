"""A progress bar over epochs, with the time left."""

import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

REFRESH_SECONDS = 0.25


class EpochProgressBar(ProgressBar):
    """One bar for the whole training. It reads the metrics a few times a second, so that short steps are not held up.

    Nothing is drawn where the output is not a terminal.
    """

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._refreshed = 0.0
        self._enabled = True

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        console = Console(stderr=True)
        if not self._enabled or not console.is_terminal:
            return
        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # what the narrow terminal leaves
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[done]}"),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn("left"),
            TextColumn("{task.fields[metrics]}", table_column=rest),
        )
        self._progress = Progress(*columns, console=console, expand=True)
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        description = type(pl_module).__name__
        self._task = self._progress.add_task(
            description, total=epochs, completed=trainer.current_epoch, done="", metrics=""
        )
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress is None or time.monotonic() - self._refreshed < REFRESH_SECONDS:
            return
        self._refresh(trainer, trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None:
            self._refresh(trainer, trainer.current_epoch)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _refresh(self, trainer: Trainer, epochs: float) -> None:
        assert self._progress is not None
        self._refreshed = time.monotonic()
        epochs_in_all = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        metrics = "  ".join(f"{name} {float(value):.3f}" for name, value in trainer.progress_bar_metrics.items())
        done = f"epoch {int(epochs)}/{epochs_in_all}"
        self._progress.update(self._task, completed=epochs, done=done, metrics=metrics)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
