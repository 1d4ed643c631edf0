"""What callbacks measure after epochs, kept by step, logged, and given to the run's result."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor


class StepHistory(pl.Callback):
    """A callback that keeps what it records; checkpoints keep it too.

    Attributes:
        history: What was recorded, by step and name.
    """

    def __init__(self) -> None:
        self.history: dict[int, dict[str, float]] = {}

    @property
    def final_metrics(self) -> dict[str, float]:
        """What was recorded last."""
        return dict(self.history[max(self.history)]) if self.history else {}

    @property
    def final_curves(self) -> dict[str, tuple[list[float], list[float]]]:
        """Steps and values of everything that was recorded, by name."""
        steps = sorted(self.history)
        return {
            name: ([float(step) for step in steps], [self.history[step][name] for step in steps])
            for name in self.final_metrics
        }

    def record(self, trainer: pl.Trainer, results: Mapping[str, Tensor]) -> None:
        """Keep and log scalars."""
        step = trainer.global_step
        self.history[step] = dict(zip(results, torch.stack([*results.values()]).tolist()))
        trainer.callback_metrics.update(results)
        for logger in trainer.loggers:
            logger.log_metrics({**self.history[step], "epoch": trainer.current_epoch}, step=step - 1)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = dict(state_dict["history"])
