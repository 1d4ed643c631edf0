"""Rates of convergence, fitted to what a training logs."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pytorch_lightning as pl
from numpy.typing import ArrayLike
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

Transform = Literal["log", "power"]


def fitted_rate(time: ArrayLike, values: ArrayLike, transform: Transform = "log", power: float = 1.0) -> float:
    r"""Rate of an exponential or a polynomial decay, by least squares on a straight line.

    - ``"log"``: r in :math:`y \sim e^{-r t}`, from :math:`\ln |y|`.
    - ``"power"``: c in :math:`y \approx (c t + \text{const})^{-p}`, from :math:`y^{-1/p}`; a fit of logarithms to
      logarithms would be biased by the constant.

    Args:
        time: Shape ``(n,)``.
        values: Shape ``(n,)``, not 0, and positive for a power.
        transform: ``"log"`` or ``"power"``.
        power: The p of a power.

    Returns:
        The rate; NaN with fewer than two different times, or where a value cannot be transformed.

    Example:
        >>> t = np.linspace(1, 2, 5)
        >>> round(fitted_rate(t, 7 * np.exp(-3 * t)), 6), round(fitted_rate(t, (2 * t + 5) ** -0.5, "power", 0.5), 6)
        (3.0, 2.0)
    """
    time, values = np.asarray(time, dtype=float), np.asarray(values, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        line = -np.log(np.abs(values)) if transform == "log" else values ** (-1 / power)
    if len(np.unique(time)) < 2 or not np.isfinite(line).all():
        return math.nan
    centred = time - time.mean()
    return float(centred @ line / (centred @ centred))


class RateFit(pl.Callback):
    """Fits the rate at which a measure decays within a window of time, for every replica.

    ``final_metrics`` has the mean over replicas as ``rate/<metric>``, and with several replicas the rate of each,
    ``rate/<metric>/<replica>``; nothing where a window has too few points.

    The measure is taken from ``found``, values ``(R,)`` by name, if the module has it, and otherwise from what was
    logged, after every epoch.

    Args:
        metric: Name of the measure.
        window: First and last time.
        time: Name of the measure that is the time; ``None`` for the number of epochs.
        transform: ``"log"`` for exponential decay, ``"power"`` for a power of time; see :func:`fitted_rate`.
        power: The power.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[RateFit("train/loss", window=(10, 50))], logger=False)
    """

    def __init__(
        self,
        metric: str,
        window: Sequence[float],
        time: str | None = None,
        transform: Transform = "log",
        power: float = 1.0,
    ) -> None:
        if len(window) != 2 or not window[0] < window[1]:
            raise ValueError(f"window must be two ascending times, got {list(window)}")
        if transform not in get_args(Transform):
            raise ValueError(f"transform must be one of {', '.join(get_args(Transform))}, got {transform!r}")
        if not power > 0:
            raise ValueError(f"power must be > 0, got {power}")
        self.metric, self.time, self.transform, self.power = metric, time, transform, power
        self.window = (float(window[0]), float(window[1]))
        self.points: list[tuple[list[float], list[float]]] = []  # times and values of all replicas, by epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = self._measure(trainer, pl_module, self.metric)
        times = (
            [trainer.current_epoch + 1.0] * len(values)
            if self.time is None
            else self._measure(trainer, pl_module, self.time)
        )
        self.points.append((times if len(times) == len(values) else times * len(values), values))

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str) -> list[float]:
        found = getattr(pl_module, "found", {})
        value = found[name] if name in found else trainer.callback_metrics.get(name)
        if not isinstance(value, Tensor):
            known = ", ".join(sorted({*found, *trainer.callback_metrics})) or "nothing"
            raise MisconfigurationException(f"RateFit: there is no measure {name!r}, but {known}")
        return value.flatten().tolist()

    @property
    def final_metrics(self) -> dict[str, float]:
        """The rates by name."""
        if not self.points:
            return {}
        times, values = (np.array(side) for side in zip(*self.points))
        low, high = self.window
        rates = []
        for t, y in zip(times.T, values.T):
            inside = (t >= low) & (t <= high)
            rates.append(fitted_rate(t[inside], y[inside], self.transform, self.power))
        name = f"rate/{self.metric}"
        each = {f"{name}/{i}": rate for i, rate in enumerate(rates)} if len(rates) > 1 else {}
        shown = {name: float(np.mean(rates))} | each
        return {key: rate for key, rate in shown.items() if math.isfinite(rate)}

    def state_dict(self) -> dict[str, object]:
        return {"points": self.points}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self.points = state_dict["points"]  # type: ignore[assignment]
