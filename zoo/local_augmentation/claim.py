"""What the paper asserts on Cora and CiteSeer (table 1), and the runs that could refute it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.claims import Check, Claim, Difference, Results, Run, Verdict, welch

DATA = {"cora": "Cora", "citeseer": "CiteSeer"}
BASELINES = {"GCN": "gcn", "GAT": "gat"}
AUGMENTED = {"LA-GCN": "local_aug_gcn", "LA-GAT": "local_aug_gat"}
CONTROLS = {"GCN control": "local_aug_control", "GAT control": "local_aug_gat"}  # own features, no generator
RECIPES = AUGMENTED | CONTROLS | BASELINES
PAPER: dict[str, float | tuple[float, float]] = {
    "Cora: GCN": (81.5, 0.5),
    "Cora: LA-GCN": (84.6, 0.5),
    "Cora: GAT": (83.0, 0.7),
    "Cora: LA-GAT": (84.7, 0.4),
    "CiteSeer: GCN": (70.3, 0.7),
    "CiteSeer: LA-GCN": (74.7, 0.5),
    "CiteSeer: GAT": (72.5, 0.7),
    "CiteSeer: LA-GAT": (73.7, 0.5),
}
# A weak baseline or a broken generator would make the comparison worthless.
BAND = (80.5, 82.3)  # of a sound GCN on Cora, percent
LOSSES = {"generator/loss_first": (100, 115), "generator/loss_last": (50, 56)}  # on Cora, nats per pair
WITHIN = {"Cora: LA-GCN": 0.8, "CiteSeer: LA-GCN": 1.0}  # of the paper's figure, points, with the paper's protocol

SEEDS = {"small": {"baseline": 10, "augmented": 5}, "full": {"baseline": 100, "augmented": 20}}
NUM_GENERATORS = 5


def overrides(method: str, data: str, scale: str) -> dict[str, Any]:
    """The protocol of a method; small: 200 epochs of two passes for all, and a generator that is not selected."""
    settings: dict[str, Any] = {"data.name": data}
    if method in BASELINES:
        return settings
    if scale == "small":
        settings |= {"trainer.max_epochs": 200, "model.num_samples": 2}
    else:
        settings |= {"trainer.max_epochs": 1000 if "GAT" in method else 2000}
    if method in AUGMENTED:
        return settings | {"model.generator.criterion": "last" if scale == "small" else "bald"}
    return settings | {"model.generator": None}


def runs(scale: str) -> list[Run]:
    """Every method on both graphs, the costly ones first."""
    return [
        Run(recipe, seed, overrides(method, data, scale) | generator)
        for method, recipe in RECIPES.items()
        for generator in generators(method, scale)
        for seed in range(SEEDS[scale]["augmented" if method in AUGMENTED else "baseline"])
        for data in DATA
    ]


def generators(method: str, scale: str) -> list[dict[str, int]]:
    """At full scale the augmented runs share five generators: what one of them is worth may be luck."""
    if scale == "small" or method not in AUGMENTED:
        return [{}]
    return [{"model.generator.seed": seed} for seed in range(NUM_GENERATORS)]


def verdict(results: Results) -> Verdict:
    figures = {
        f"{title}: {method}": accuracy(results, method, data)
        for data, title in DATA.items()
        for method in ("GCN", "GCN control", "LA-GCN", "GAT", "GAT control", "LA-GAT")
    }
    checks = [sound_baseline(figures["Cora: GCN"]), sound_generator(results)]
    for baseline, margin in {"GCN": 1.0, "GAT": 0.0}.items():
        checks += [gain(results, data, baseline, margin) for data in DATA]
    if results.scale == "full":
        checks += [paper_is_reached(name, figures[name]) for name in WITHIN]
        checks += [spread(results, method, data) for method in AUGMENTED for data in DATA]
    checks += [share(results, data, baseline) for baseline in BASELINES for data in DATA]
    return Verdict(figures, checks)


def of(results: Results, method: str, data: str, generator: dict[str, int] | None = None) -> Results:
    """The runs of a method on a graph, with one generator or with any."""
    return results.of(RECIPES[method], overrides(method, data, results.scale) | (generator or {}))


def accuracy(results: Results, method: str, data: str, generator: dict[str, int] | None = None) -> NDArray[np.float64]:
    """Test accuracies in percent."""
    return 100 * of(results, method, data, generator).metric("test/acc")


def by_generator(results: Results, method: str, data: str) -> list[NDArray[np.float64]]:
    """The accuracies of a method, one array for each generator."""
    return [accuracy(results, method, data, generator) for generator in generators(method, results.scale)]


def advantage(results: Results, data: str, baseline: str, other: str) -> Difference:
    """LA over another method; with several generators, each one's mean is one value: their variance counts."""
    groups = by_generator(results, f"LA-{baseline}", data)
    values = groups[0] if len(groups) == 1 else np.array([group.mean() for group in groups])
    return welch(values, accuracy(results, other, data))


def gain(results: Results, data: str, baseline: str, margin: float) -> Check:
    difference = advantage(results, data, baseline, baseline)
    at_least = f"by at least {margin:.0f} point, " if margin else ""
    statement = f"LA-{baseline} beats {baseline} on {DATA[data]} ({at_least}p < 0.05)"
    return Check(statement, difference.is_greater(margin), str(difference))


def share(results: Results, data: str, baseline: str) -> Check:
    difference = advantage(results, data, baseline, f"{baseline} control")
    return Check(f"the generator's own share: LA-{baseline} over its control on {DATA[data]}", None, str(difference))


def sound_baseline(values: NDArray[np.float64]) -> Check:
    mean, (low, high) = float(values.mean()), BAND
    return Check(f"the baseline is sound: GCN on Cora between {low} and {high}", low <= mean <= high, f"{mean:.2f}")


def sound_generator(results: Results) -> Check:
    """The losses of Cora's generator in its first and last epoch, as every run on it reports them."""
    losses = {name: of(results, "LA-GCN", "cora").metric(name) for name in LOSSES}
    holds = all(bool(((low <= losses[name]) & (losses[name] <= high)).all()) for name, (low, high) in LOSSES.items())
    bands = " and ".join(f"{low} to {high}" for low, high in LOSSES.values())
    evidence = ", ".join(f"{values.mean():.1f}" for values in losses.values())
    return Check(f"the generator is sound: its first and last loss on Cora are {bands} nats per pair", holds, evidence)


def paper_is_reached(name: str, values: NDArray[np.float64]) -> Check:
    mean, tolerance = float(values.mean()), WITHIN[name]
    paper = PAPER[name][0]  # type: ignore[index]
    statement = f"{name} within {tolerance} of the paper's {paper}"
    return Check(statement, abs(mean - paper) <= tolerance, f"{mean - paper:+.2f}")


def spread(results: Results, method: str, data: str) -> Check:
    between, within = variance_components(by_generator(results, method, data))
    evidence = f"std {np.sqrt(between):.2f} between generators, {np.sqrt(within):.2f} between seeds"
    return Check(f"what {method} varies by on {DATA[data]}", None, evidence)


def variance_components(groups: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    r"""Split a variance into that between groups and that within, by the one-way analysis of variance.

    .. math:: \hat\sigma^2_\text{within} = \overline{s_g^2}, \qquad
              \hat\sigma^2_\text{between} = \max\big(0,\; s^2_{\bar x} - \overline{s_g^2 / n_g}\big)

    Args:
        groups: The values of each group, at least two.

    Returns:
        The variance between groups and the one within.

    Example:
        >>> variance_components([np.array([0.0, 2.0]), np.array([10.0, 12.0])])
        (49.0, 2.0)
    """
    within = np.array([group.var(ddof=1) for group in groups])
    of_means = np.var([group.mean() for group in groups], ddof=1)
    between = of_means - (within / [len(group) for group in groups]).mean()
    return float(max(between, 0.0)), float(within.mean())


CLAIM = Claim(
    statement="A network that sees freshly generated neighbours' features beside its own has a higher test accuracy: "
    "LA-GCN than GCN, and LA-GAT than GAT, on Cora and CiteSeer (public split)",
    paper_figures=PAPER,
    runs=runs,
    verdict=verdict,
    unit="test accuracy, %",
)
