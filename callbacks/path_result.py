"""The loss on the line between two states of a network, and the numbers that describe its shape."""

import csv
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASELINES = ("linear", "endpoints", "start")
Curve = NDArray[np.float64]


class Bump(NamedTuple):
    """A stretch of the path that lies above a loss which the path has reached before.

    Attributes:
        start: Position of the last point before the rise.
        height: Highest loss of the stretch, minus the loss at ``start``.
        width: Distance from ``start`` to the first point whose loss is below that of ``start``, or to the end.
    """

    start: float
    height: float
    width: float


@dataclass(frozen=True, eq=False)
class PathResult:
    """Loss and accuracy at positions alpha from one state (0) to another (1).

    Args:
        alphas: Positions, ascending, shape ``(n,)`` with ``n >= 2``.
        loss: Mean loss at each, shape ``(n,)``; may be infinite, not NaN.
        accuracy: Share of right predictions at each, shape ``(n,)``; ``None`` where the targets are not classes.
        num_classes: Number of classes C; ``None`` where the targets are not classes.
        gauss_length: Mean length of the logits' Gauss map in radians; see :func:`~callbacks.path.gauss_length`.
        metrics: Further measures by name, each of shape ``(n,)``.
        buffers: How statistics of normalisation layers were treated; see :func:`~callbacks.path.lerp_state`.
        groups: Modules that moved, the rest being at its final values; ``None`` if all moved.

    Raises:
        ValueError: If there are fewer than two positions, they do not ascend, or a loss is NaN.

    Example:
        >>> path = PathResult(alphas=[0, 0.5, 1], loss=[2.0, 3.0, 0.0])
        >>> path.min_delta(), path.barrier(), path.is_monotonic(), path.is_monotonic(tol=1.0)
        (1.0, 2.0, False, True)
    """

    alphas: Curve
    loss: Curve
    accuracy: Curve | None = None
    num_classes: int | None = None
    gauss_length: float = math.nan
    metrics: Mapping[str, Curve] = field(default_factory=dict)
    buffers: str = "interpolate"
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "alphas", check_alphas(self.alphas))
        object.__setattr__(self, "loss", np.asarray(self.loss, dtype=np.float64))
        curves = {"loss": self.loss, **self.metrics}
        if self.accuracy is not None:
            object.__setattr__(self, "accuracy", np.asarray(self.accuracy, dtype=np.float64))
            curves["accuracy"] = self.accuracy
        for name, curve in curves.items():
            if np.shape(curve) != self.alphas.shape:
                raise ValueError(
                    f"{name} must have one value for each of the {len(self)} alphas, got {np.shape(curve)}"
                )
        if np.isnan(self.loss).any():
            alpha = self.alphas[np.isnan(self.loss)][0]
            raise ValueError(f"loss must not be NaN, got NaN at alpha = {alpha:.4g}: the network overflows there")

    def __len__(self) -> int:
        return len(self.alphas)

    def min_delta(self) -> float:
        r"""The most that the loss rises above a value it has reached before: 0 if and only if the path is monotonic.

        .. math:: \min\Delta = \max_{i \le j} (L_j - L_i)

        Source:
            Lucas et al., *On Monotonic Linear Interpolation of Neural Network Parameters*, ICML 2021, definition of
            the Delta-monotonic path. In closed form, so that a rise at the very last point counts too.
        """
        return float(_excess(self.loss, np.minimum.accumulate(self.loss)).max())

    def is_monotonic(self, tol: float = 0.0) -> bool:
        """Whether the loss never rises by more than ``tol`` above a value it has reached before."""
        return self.min_delta() <= tol

    def barrier(self, baseline: str = "linear") -> float:
        r"""The most that the loss rises above a baseline; 0 if it lies below everywhere.

        .. math:: \max_\alpha \big[ L(\alpha) - ((1 - \alpha) L(0) + \alpha L(1)) \big]

        With a high loss at the start it can be 0 while :meth:`min_delta` is not.

        Args:
            baseline: ``"linear"``, the straight line between the ends as above; ``"endpoints"``, the higher of the two;
                ``"start"``, the first.

        Raises:
            ValueError: If the baseline is none of these.

        Source:
            Frankle et al., *Linear Mode Connectivity and the Lottery Ticket Hypothesis*, ICML 2020 (``"endpoints"`` is
            a stricter form, for ends of unlike losses).
        """
        return float(self._above(baseline).max())

    def barrier_position(self) -> float:
        """The alpha at which the path is highest above the straight line between its ends; 0 if it never is."""
        return float(self.alphas[self._above("linear").argmax()])

    def _above(self, baseline: str) -> Curve:
        first, last = self.loss[0], self.loss[-1]
        if baseline == "linear":
            position = (self.alphas - self.alphas[0]) / (self.alphas[-1] - self.alphas[0])
            with np.errstate(invalid="ignore"):  # 0 x infinity at an end is that end's own loss
                line = np.where(position == 0, first, np.where(position == 1, last, first + position * (last - first)))
            return _excess(self.loss, line)
        if baseline == "endpoints":
            return _excess(self.loss, np.full(len(self), max(first, last)))
        if baseline == "start":
            return _excess(self.loss, np.full(len(self), first))
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}, got {baseline!r}")

    def bumps(self) -> list[Bump]:
        """Every bump of the path; the highest of them is :meth:`min_delta` high.

        Source:
            Lucas et al., ICML 2021. Unlike the scan that they published, a rise at the very last point is a bump.
        """
        found: list[Bump] = []
        here = 0
        while here < len(self) - 1:
            if self.loss[here + 1] <= self.loss[here]:
                here += 1
                continue
            below = np.flatnonzero(self.loss[here + 1 :] < self.loss[here])
            end = here + 1 + int(below[0]) if len(below) else len(self) - 1
            height = self.loss[here : end + 1].max() - self.loss[here]
            found.append(Bump(float(self.alphas[here]), float(height), float(self.alphas[end] - self.alphas[here])))
            here = end
        return found

    def drop_position(self, level: float | None = None) -> float:
        """The first alpha whose loss is below a level; NaN if there is none.

        Args:
            level: In the loss's unit; ``None`` for half-way from chance, ``log C``, to the final loss.
        """
        if level is None:
            level = (self._chance() + self.loss[-1]) / 2
        below = np.flatnonzero(self.loss < level)
        return float(self.alphas[below[0]]) if len(below) else math.nan

    def plateau_fraction(self, level: float | None = None, atol: float = 0.05) -> float:
        """Share of the positions whose loss is within ``atol`` of a level; ``None`` for chance, ``log C``."""
        level = self._chance() if level is None else level
        return float((np.abs(self.loss - level) < atol).mean())

    def _chance(self) -> float:
        if self.num_classes is None:
            raise ValueError("level must be given where the targets are not classes, got None")
        return math.log(self.num_classes)

    def summary(self) -> dict[str, float]:
        """The numbers above by name; those that refer to chance only where there are classes."""
        middle = float(np.interp((self.alphas[0] + self.alphas[-1]) / 2, self.alphas, self.loss))
        numbers = {
            "loss_start": float(self.loss[0]),
            "loss_middle": middle,
            "loss_end": float(self.loss[-1]),
            "min_delta": self.min_delta(),
            "barrier": self.barrier(),
            "gauss_length": self.gauss_length,
        }
        if self.num_classes is not None:
            numbers |= {"drop_position": self.drop_position(), "plateau_fraction": self.plateau_fraction()}
        return numbers

    def columns(self) -> dict[str, Curve]:
        """What was measured, by name: ``alpha``, ``loss``, ``accuracy`` if there is one, and the other metrics."""
        accuracy = {} if self.accuracy is None else {"accuracy": self.accuracy}
        return {"alpha": self.alphas, "loss": self.loss, **accuracy, **self.metrics}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row for each position, under a header."""
        columns = self.columns()
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*(curve.tolist() for curve in columns.values())))

    def plot(self, axes: "Axes | None" = None, **line: object) -> "Axes":
        """Draw the loss over alpha.

        Args:
            axes: Where to draw; a new figure if ``None``.
            **line: Properties of matplotlib's line, such as ``label``.
        """
        if axes is None:
            from matplotlib.figure import Figure

            axes = Figure(layout="constrained").subplots()
        axes.plot(self.alphas, self.loss, **line)  # type: ignore[arg-type]
        axes.set_xlabel("alpha")
        axes.set_ylabel("loss")
        return axes


def check_alphas(alphas: object) -> Curve:
    """Positions on a path as an array.

    Raises:
        ValueError: Unless they are finite, ascending and at least two.
    """
    array = np.asarray(alphas, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"alphas must be at least 2 positions, got {alphas!r}")
    if not np.isfinite(array).all() or not (np.diff(array) > 0).all():
        raise ValueError(f"alphas must be finite and ascending, got {array.tolist()}")
    return array


def _excess(loss: Curve, reference: Curve) -> Curve:
    """How far a loss lies above a reference, at least 0; infinite minus infinite is 0."""
    above = loss > reference
    return np.subtract(loss, reference, where=above, out=np.zeros_like(loss))
