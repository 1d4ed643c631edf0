"""When training passes from one phase to the next, and when every group of samples is fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl


class StopWhenGroupsFit(pl.Callback):
    """Ends the training where the losses of all groups of samples are small.

    A mean over all samples is small long before a rare group is fit. A group without samples, whose loss is NaN, counts
    as fit.

    Args:
        tol: What all of them must be below, > 0.
        monitors: Names of the losses, logged for the epoch.

    Raises:
        ValueError: If an argument is out of range, or (at the end of an epoch) a loss has never been logged.

    Example:
        >>> trainer = pl.Trainer(callbacks=[StopWhenGroupsFit(tol=0.05)], logger=False)
    """

    def __init__(self, tol: float = 0.01, monitors: Sequence[str] = ("train/loss_large", "train/loss_small")) -> None:
        if not tol > 0:
            raise ValueError(f"tol must be > 0, got {tol}")
        if not monitors:
            raise ValueError("monitors must name at least one loss, got none")
        self.tol, self.monitors = tol, tuple(monitors)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        losses = [_logged(trainer, monitor) for monitor in self.monitors]
        fit = all(math.isnan(loss) or loss < self.tol for loss in losses)
        trainer.should_stop = trainer.should_stop or trainer.strategy.reduce_boolean_decision(fit)


@dataclass(frozen=True)
class Phase:
    """A metric on the other side of a threshold.

    Args:
        monitor: Name of the metric, logged for the epoch.
        below: The phase begins where it is below this.
        above: The phase begins where it is above this.

    Raises:
        ValueError: If not exactly one of the two is given.
    """

    monitor: str
    below: float | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        if (self.below is None) == (self.above is None):
            raise ValueError(f"exactly one of below and above must be given, got {self.below} and {self.above}")

    def has_begun(self, value: float) -> bool:
        """Whether a value is on the other side."""
        return value < self.below if self.below is not None else value > self.above  # type: ignore[operator]


class PhaseRecorder(pl.Callback):
    """Records when each phase begins: the step at the end of the first epoch in which its metric is past the threshold.

    ``final_metrics`` has them as ``phase/<name>``, without those that have not begun. A resumed run goes on with what
    it had.

    Args:
        phases: Phases by name.
        clock: Name of a logged metric that tells the step, as ``"steps"`` of a simulation, which takes many in an
            epoch; ``None`` for the Trainer's count.

    Raises:
        ValueError: If there are no phases, or (at the end of an epoch) a metric has never been logged.

    Example:
        >>> recorder = PhaseRecorder({"fit": Phase("train/loss", below=0.1)})
        >>> trainer = pl.Trainer(callbacks=[recorder], logger=False)
    """

    def __init__(self, phases: Mapping[str, Phase], clock: str | None = None) -> None:
        if not phases:
            raise ValueError("phases must name at least one phase, got none")
        self.phases, self.clock = dict(phases), clock
        self.begun: dict[str, float] = {}

    @property
    def final_metrics(self) -> dict[str, float]:
        """The step at which each phase began."""
        return {f"phase/{name}": step for name, step in self.begun.items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, phase in self.phases.items():
            if name not in self.begun and phase.has_begun(_logged(trainer, phase.monitor)):
                self.begun[name] = float(trainer.global_step if self.clock is None else _logged(trainer, self.clock))

    def state_dict(self) -> dict[str, Any]:
        return {"begun": self.begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.begun = dict(state_dict["begun"])


def _logged(trainer: pl.Trainer, monitor: str) -> float:
    """The value of a metric.

    Raises:
        ValueError: If there is none of this name.
    """
    if monitor not in trainer.callback_metrics:
        known = ", ".join(sorted(trainer.callback_metrics)) or "none"
        raise ValueError(f"monitor must be a metric that is logged, one of {known}, got {monitor!r}")
    return float(trainer.callback_metrics[monitor])
