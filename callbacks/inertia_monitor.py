"""The inertia of an optimizer that adapts it: how wide it spreads, and how much of it is clipped."""

from collections.abc import Sequence

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class InertiaMonitor(pl.Callback):
    """Logs statistics of the inertia at the end of training epochs.

    The names are those of the optimizer's own, below ``inertia/``; for Adai ``inertia/vbar`` (the mean of the corrected
    squared gradients), ``inertia/quantile_0.5`` and so on, ``inertia/share_at_0`` and ``inertia/share_at_max`` (the
    parts of the parameters whose inertia is clipped at an end). With several such optimizers the second one's are below
    ``inertia_1/``.

    Works with any optimizer that has ``inertia_statistics(q)``, which returns scalar tensors by name, none before its
    first step.

    Args:
        quantiles: Probabilities of the quantiles, in [0, 1].
        every_n_epochs: Log after every so many epochs; the statistics sort all parameters.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[InertiaMonitor(quantiles=[0.5])], logger=False)
    """

    def __init__(self, quantiles: Sequence[float] = QUANTILES, every_n_epochs: int = 1) -> None:
        for q in quantiles:
            if not 0 <= q <= 1:
                raise ValueError(f"quantiles must lie in [0, 1], got {q}")
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.quantiles = tuple(quantiles)
        self.every_n_epochs = every_n_epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not _monitored(trainer):
            names = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers) or "none"
            raise MisconfigurationException(
                f"InertiaMonitor needs an optimizer with inertia_statistics, such as Adai, got {names}"
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        for i, optimizer in enumerate(_monitored(trainer)):
            folder = f"inertia_{i}" if i else "inertia"
            statistics = optimizer.inertia_statistics(self.quantiles)  # type: ignore[attr-defined]
            pl_module.log_dict({f"{folder}/{name}": value for name, value in statistics.items()})


def _monitored(trainer: pl.Trainer) -> list[object]:
    return [optimizer for optimizer in trainer.optimizers if hasattr(optimizer, "inertia_statistics")]
