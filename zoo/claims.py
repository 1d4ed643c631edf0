"""What a paper asserts and how it is re-measured: pure description. Does not import torch, so that it lists at once."""

import copy
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from zoo.recipes import ROOMS, did_you_mean, find_recipe, title
from zoo.statistics import Difference, NotEnoughRuns, welch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Check",
    "Claim",
    "Difference",
    "Measurement",
    "NotEnoughRuns",
    "Paper",
    "Results",
    "Run",
    "UnknownPaperError",
    "Verdict",
    "find_paper",
    "papers",
    "welch",
]

SCALES = ("small", "full")


class UnknownPaperError(ValueError):
    """There is no claim of this name."""


@dataclass(frozen=True)
class Run:
    """One training of a recipe, exactly as ``python train.py`` does it.

    Args:
        recipe: Name of the recipe.
        seed: Its ``seed_everything``.
        overrides: Values that win over the recipe's, by option without the dashes: ``{"trainer.max_epochs": 300}``.

    Example:
        >>> print(Run("gcn", seed=3, overrides={"data.name": "citeseer"}).command())
        python train.py --model gcn --seed_everything 3 --data.name citeseer
    """

    recipe: str
    seed: int
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def words(self) -> list[str]:
        """The run's arguments besides its recipe, for the command line."""
        values = {"seed_everything": self.seed, **self.overrides}
        words = [[f"--{key}", value if isinstance(value, str) else json.dumps(value)] for key, value in values.items()]
        return [word for pair in words for word in pair]

    def command(self, seed: object = None) -> str:
        """What a user types for this run.

        Args:
            seed: Stands in the seed's place, as ``"S"`` does for any of several seeds.
        """
        words = self.words() if seed is None else ["--seed_everything", str(seed), *self.words()[2:]]
        return " ".join(["python train.py --model", self.recipe, *words])

    def config(self) -> dict[str, Any]:
        """The whole configuration: the recipe with the overrides and the seed in their places.

        Raises:
            UnknownRecipeError: If there is no such recipe.
        """
        config = copy.deepcopy(_content(find_recipe(self.recipe).path))
        for key, value in {"seed_everything": self.seed, **self.overrides}.items():
            *path, last = key.split(".")
            node = config
            for part in path:
                node = _child(_arguments(node, part), part)
            _arguments(node, last)[last] = value
        return config


@lru_cache
def _content(recipe: Path) -> dict[str, Any]:
    return yaml.safe_load(recipe.read_text(encoding="utf-8"))


def _arguments(node: dict[str, Any], key: str) -> dict[str, Any]:
    """Where the value of ``key`` stands: among the ``init_args``, in the configuration of a class."""
    return _child(node, "init_args") if "class_path" in node and key not in ("class_path", "init_args") else node


def _child(node: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(node.get(key), dict):
        node[key] = {}
    return node[key]


def setting(config: Mapping[str, Any], key: str) -> Any:
    """The value of an option in a configuration, ``None`` if it is not there.

    Example:
        >>> setting({"model": {"class_path": "zoo.Net", "init_args": {"lr": 0.1}}}, "model.lr")
        0.1
    """
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping):
            return None
        node = node[part] if part in node else (node.get("init_args") or {}).get(part)
    return node


@dataclass(frozen=True)
class Measurement:
    """A finished run, as it is kept.

    Args:
        recipe: Name of the recipe.
        seed: Of the run.
        overrides: Values that won over the recipe's.
        config: The whole configuration.
        metrics: What was measured, by name: in the test, and in the last epoch of the training.
        data: The data in one line, a stand-in named as one.
        device: Where it ran.
        seconds: Wall time.
        versions: Of Python and the packages that compute.
        code: Hash of our source files that the run imports.
        finished: Time of day, ISO 8601, UTC.
        curves: Values of metrics over epochs, and the curves of callbacks: x and y by name.
    """

    recipe: str
    seed: int
    overrides: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, float]
    data: str
    device: str
    seconds: float
    versions: dict[str, str]
    code: str
    finished: str
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)


class Results(Sequence[Measurement]):
    """The finished runs of a claim.

    Args:
        measurements: One for each run.
        scale: ``"small"`` or ``"full"``.
    """

    def __init__(self, measurements: Iterable[Measurement], scale: str = "small") -> None:
        self._measurements = tuple(measurements)
        self.scale = scale

    def __len__(self) -> int:
        return len(self._measurements)

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self._measurements)

    def __getitem__(self, index: Any) -> Any:
        return self._measurements[index]

    def of(self, recipe: str, settings: Mapping[str, Any] | None = None) -> "Results":
        """The runs of a recipe in whose configuration these options have these values.

        Args:
            recipe: Name of the recipe.
            settings: Values by option without the dashes, whether from the recipe or overridden.

        Raises:
            NotEnoughRuns: If there is none.
        """
        wanted = dict(settings or {})
        found = [
            one
            for one in self
            if one.recipe == recipe and all(setting(one.config, key) == value for key, value in wanted.items())
        ]
        if not found:
            raise NotEnoughRuns(f"there is no finished run of {recipe} with {wanted or 'any settings'}")
        return Results(found, self.scale)

    def metric(self, name: str) -> NDArray[np.float64]:
        """The values of a metric, one for each run, shape ``(n,)``.

        Raises:
            KeyError: If a run has no such metric.
        """
        for one in self:
            if name not in one.metrics:
                raise KeyError(
                    f"no metric {name!r} in a run of {one.recipe}, which has {', '.join(sorted(one.metrics))}"
                )
        return np.array([one.metrics[name] for one in self])

    def curves(self, name: str) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """A metric over epochs, or a curve that a callback has drawn: x and y, one pair for each run.

        Raises:
            KeyError: If a run has no such curve.
        """
        for one in self:
            if name not in one.curves:
                raise KeyError(f"no curve {name!r} in a run of {one.recipe}, which has {', '.join(sorted(one.curves))}")
        return [(np.array(one.curves[name][0], float), np.array(one.curves[name][1], float)) for one in self]


@dataclass(frozen=True)
class Check:
    """One statement of a claim, judged.

    Args:
        statement: What is asserted.
        holds: Whether it does; ``None`` for what is shown beside and decides nothing.
        evidence: The numbers behind it.
    """

    statement: str
    holds: bool | None
    evidence: str

    def __post_init__(self) -> None:
        if self.holds is not None:
            object.__setattr__(self, "holds", bool(self.holds))  # NumPy's own is not written as JSON


@dataclass(frozen=True)
class Verdict:
    """What the runs say about a claim: it is reproduced if every check that decides holds.

    Args:
        figures: Measured values by name, one for each run, shape ``(n,)``; shown as mean ± std beside the paper's.
        checks: The statements, judged.

    Raises:
        ValueError: If no check decides anything.
    """

    figures: Mapping[str, ArrayLike]
    checks: Sequence[Check]

    def __post_init__(self) -> None:
        if all(check.holds is None for check in self.checks):
            raise ValueError("a verdict needs at least one check that can fail")

    @property
    def reproduced(self) -> bool:
        """Whether every check that decides holds."""
        return all(check.holds for check in self.checks if check.holds is not None)


@dataclass(frozen=True)
class Claim:
    """A paper's claim and what could refute it.

    A name of a figure may begin with a group, ``"Cora: GCN"``; each group has a panel of its own in the default figure.

    Args:
        statement: What the paper asserts, in one sentence.
        paper_figures: The paper's figures by name: a mean, or mean and standard deviation.
        runs: The runs of a scale: ``"small"``, minutes on two CPU cores, or ``"full"``, the paper's own protocol.
        verdict: Judges the finished runs.
        figure: Draws them; ``None`` for the default, ours with error bars beside the paper's as marks.
        unit: Of the figures.
    """

    statement: str
    paper_figures: Mapping[str, float | tuple[float, float]]
    runs: Callable[[str], list[Run]]
    verdict: Callable[[Results], Verdict]
    figure: "Callable[[Results], Figure] | None" = None
    unit: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper whose room holds a claim.

    Args:
        room: Its folder.
    """

    room: Path

    @property
    def name(self) -> str:
        """What ``reproduce.py`` calls it."""
        return self.room.name

    @property
    def title(self) -> str:
        """From the first line of the room's docstring."""
        return title(self.room)

    @cached_property
    def claim(self) -> Claim:
        """The ``CLAIM`` of the room's ``claim.py``, which is loaded without the room, and so without torch."""
        spec = importlib.util.spec_from_file_location(f"zoo.{self.name}.claim", self.room / "claim.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.CLAIM


def papers() -> dict[str, Paper]:
    """All papers with a claim, by name.

    Example:
        >>> papers()["local_augmentation"].title
        'Local Augmentation for Graph Neural Networks (Liu et al., ICML 2022)'
    """
    return {path.parent.name: Paper(path.parent) for path in sorted(ROOMS.glob("*/claim.py"))}


def find_paper(name: str) -> Paper:
    """The paper of this name.

    Raises:
        UnknownPaperError: If it has no claim; the message offers the nearest names.
    """
    known = papers()
    if name in known:
        return known[name]
    hint = did_you_mean(name, known) or "python reproduce.py lists them all."
    raise UnknownPaperError(f"there is no paper {name!r}; {hint}")


def with_seeds(runs: Sequence[Run], n: int) -> list[Run]:
    """The same recipes and overrides with the seeds 0 to ``n - 1``.

    Example:
        >>> [run.seed for run in with_seeds([Run("gcn", 7), Run("gcn", 8)], 3)]
        [0, 1, 2]
    """
    kinds = {(run.recipe, json.dumps(run.overrides, sort_keys=True)): run for run in runs}
    return [Run(run.recipe, seed, run.overrides) for seed in range(n) for run in kinds.values()]
