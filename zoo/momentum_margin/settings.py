"""Step sizes and momenta side by side, and the table of what they led to."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Curves = Mapping[str, tuple[list[float], list[float]]]
Convention = Literal["ema", "heavy_ball"]
CONVENTIONS = ("ema", "heavy_ball")


class Setting(NamedTuple):
    """A step size and a momentum, in the form of :class:`~zoo.momentum_margin.optimizer.EMAMomentumSGD`."""

    lr: float
    momentum: float

    def __str__(self) -> str:
        return f"lr {self.lr:g}, momentum {self.momentum:g}"


def settings_of(
    lr: float | Sequence[float], momentum: float | Sequence[float], lr_convention: Convention = "ema"
) -> list[Setting]:
    """Settings from a step size, or one for each, and a momentum, or one for each.

    Args:
        lr: Step sizes, > 0.
        momentum: Momenta, in [0, 1).
        lr_convention: ``"ema"``, or ``"heavy_ball"`` for step sizes of ``torch.optim.SGD``, smaller by 1 - momentum.

    Raises:
        ValueError: If they differ in number, or one is out of range.

    Example:
        >>> [str(setting) for setting in settings_of(0.5, [0.0, 0.9])]
        ['lr 0.5, momentum 0', 'lr 0.5, momentum 0.9']
    """
    if lr_convention not in CONVENTIONS:
        raise ValueError(f"lr_convention must be one of {', '.join(CONVENTIONS)}, got {lr_convention!r}")
    lrs, momenta = ([value] if isinstance(value, (int, float)) else list(value) for value in (lr, momentum))
    count = max(len(lrs), len(momenta))
    for name, values in (("lr", lrs), ("momentum", momenta)):
        if len(values) not in (1, count) or not values:
            raise ValueError(f"{name} must be one number, or one for each of {count} settings, got {values}")
    for value in lrs:
        if not 0 < value < float("inf"):
            raise ValueError(f"lr must be > 0 and finite, got {value}")
    for value in momenta:
        if not 0 <= value < 1:
            raise ValueError(f"momentum must be in [0, 1), got {value}")
    pairs = zip(lrs * (count // len(lrs)), momenta * (count // len(momenta)))
    return [Setting(a / (1 - b) if lr_convention == "heavy_ball" else a, b) for a, b in pairs]


def sweep_table(curves: Curves, settings: Sequence[Any], at: int = -1) -> list[dict[str, Any]]:
    """What every replica has measured, a row each.

    Args:
        curves: ``final_curves`` of a :class:`~zoo.momentum_margin.descent.SweepHistory`.
        settings: Those of the module.
        at: Which point of the curves; the last one by default.

    Returns:
        Rows with ``problem``, ``setting`` and every measure by name.

    Example:
        >>> sweep_table({"loss/0": ([0, 9], [1.0, 0.5]), "loss/1": ([0, 9], [1.0, 0.2])}, ["GD", "GD+M"])
        [{'problem': 0, 'setting': 'GD', 'loss': 0.5}, {'problem': 0, 'setting': 'GD+M', 'loss': 0.2}]
    """
    rows: dict[int, dict[str, Any]] = {}
    for name, (_, values) in curves.items():
        measure, _, replica = name.rpartition("/")
        problem, setting = divmod(int(replica), len(settings))
        row = rows.setdefault(int(replica), {"problem": problem, "setting": str(settings[setting])})
        row[measure] = values[at]
    return [rows[replica] for replica in sorted(rows)]
