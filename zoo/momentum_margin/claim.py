"""What the paper asserts of small margins, and the runs that could refute it."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.claims import Check, Claim, Results, Run, Verdict
from zoo.evidence import Values, at_most, below, chosen, of_replicas, span, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = tuple[str, dict[str, Any]]

GD: Kind = ("momentum_margin_gd", {})
GDM: Kind = ("momentum_margin", {})
ADAM: Kind = ("momentum_margin_adam", {})
LRS, MOMENTA = [1.0, 1.0, 1.0, 1.0, 3.0, 10.0], [0.5, 0.8, 0.9, 0.95, 0.0, 0.0]
SWEEP: Kind = ("momentum_margin", {"model.lr": LRS, "model.momentum": MOMENTA})
# A tenth of the step size needs ten times the steps: 20,697.
NULL_MOMENTA = [0.0, 0.9, 0.99]
NULL: Kind = (
    "momentum_margin",
    {"model.lr": 0.1, "model.momentum": NULL_MOMENTA, "data.num_problems": 3, "trainer.max_epochs": 56},
)
SETTINGS: list[tuple[Kind, list[float], list[float]]] = [
    (GD, [1.0], [0.0]),
    (GDM, [1.0], [0.99]),
    (SWEEP, LRS, MOMENTA),
    (NULL, [0.1] * 3, NULL_MOMENTA),
]
BOTH = {"model.momentum": [0.0, 0.99]}
EQUAL: Kind = ("momentum_margin", BOTH | {"data.beta": 0.5})
QUIET: Kind = ("momentum_margin", BOTH | {"data.noise_norm": 1.0})
TEACHERS: dict[str, Kind] = {
    teacher: ("momentum_teacher", {} if teacher == "linear" else {"data.teacher": teacher})
    for teacher in ("linear", "relu")
}
EARLY = 318  # steps: large margins are fit, and the noise of small ones has not grown

# The theory's coefficient of the feature once the large margins are fit and momentum has carried it on.
ALPHA, BETA, SMALL_FRACTION, LAUNCH = 1.0, 0.1, 0.1, 2.2

# Full scale: CIFAR-10, by batch; the step size is chosen by the validation accuracy.
BATCHES: dict[str, dict[str, Any]] = {
    "128": {},
    "1000": {"data.batch_size": 1000},
    "full": {"data.batch_size": 1000, "trainer.accumulate_grad_batches": 45},
}
CIFAR_LRS, CIFAR_MOMENTA = (0.03, 0.1, 0.3, 1.0), (0.0, 0.9)


def runs(scale: str) -> list[Run]:
    """The longest first."""
    kinds = [NULL, SWEEP, *TEACHERS.values(), GD, GDM, QUIET, ADAM, EQUAL]
    found = [Run(recipe, 0, settings) for recipe, settings in kinds]
    if scale == "small":
        return found
    cells = [(batch, lr, momentum) for batch in BATCHES for lr in CIFAR_LRS for momentum in CIFAR_MOMENTA]
    return [Run("momentum_resnet", 0, resnet(*cell)) for cell in cells] + found


def resnet(batch: str, lr: float, momentum: float) -> dict[str, Any]:
    """Overrides of a training on CIFAR-10."""
    return BATCHES[batch] | {"model.optimizer.lr": lr, "model.optimizer.momentum": momentum}


def verdict(results: Results) -> Verdict:
    small = {"GD": last(results, GD, "test/acc_small"), "GD+M": last(results, GDM, "test/acc_small")}
    figures: dict[str, Any] = {f"small margin: {name}": values.ravel() for name, values in small.items()}
    figures |= {
        f"large margin: {name}": last(results, kind, "test/acc_large").ravel()
        for name, kind in {"GD": GD, "GD+M": GDM}.items()
    }
    for teacher, kind in TEACHERS.items():
        for name, values in zip(("GD", "GD+M"), last(results, kind, "test/acc", 2).T):
            figures[f"{teacher} teacher: {name}"] = values
    checks = [fits(results, "GD", GD), fits(results, "GD+M", GDM), *memorises_or_learns(small)]
    checks += [large_margins(results), feature(results), noise(results), control(results), null(results)]
    checks += [alike(results, name) for name in TEACHERS]
    checks += [early(results), adam(results), little_noise(results), law(results)]
    return Verdict(figures, checks + (cifar(results) if results.scale == "full" else []))


def last(results: Results, kind: Kind, name: str, settings: int = 1) -> Values:
    """What a measure came to, ``(problems, settings)``."""
    return of_replicas(chosen(results, *kind), name)[0].reshape(-1, settings)


def fits(results: Results, name: str, kind: Kind) -> Check:
    accuracy, loss = last(results, kind, "train/acc"), last(results, kind, "train/loss_small")
    holds = bool((accuracy == 1).all()) and below(loss, 0.02)
    evidence = f"accuracy {span(accuracy)}, loss {at_most(loss)}, after {span(last(results, kind, 'updates'), 0)} steps"
    return Check(f"{name} fits all training samples, loss of small margins at most 0.02", holds, evidence)


def memorises_or_learns(small: Mapping[str, Values]) -> list[Check]:
    return [
        Check(
            "GD does not learn small margins: held-out accuracy at most 0.70 in every problem",
            below(small["GD"], 0.70 + 1e-9),
            in_words(small["GD"]),
        ),
        Check(
            "GD+M does: at least 0.95 in every problem", bool((small["GD+M"] >= 0.95).all()), in_words(small["GD+M"])
        ),
    ]


def large_margins(results: Results) -> Check:
    values = np.concatenate([last(results, kind, "test/acc_large") for kind in (GD, GDM)])
    return Check("both learn large margins: at least 0.99", bool((values >= 0.99).all()), span(values))


def feature(results: Results) -> Check:
    ratio = last(results, GDM, "feature/max") / last(results, GD, "feature/max")
    return Check("GD+M has at least 3 times as much of the feature", bool((ratio >= 3).all()), span(ratio, 1))


def noise(results: Results) -> Check:
    ratio = last(results, GD, "noise/small") / last(results, GDM, "noise/small")
    statement = "GD has memorised at least 10 times as much noise of small margins"
    return Check(statement, bool((ratio >= 10).all()), span(ratio, 1))


def control(results: Results) -> Check:
    values = last(results, EQUAL, "test/acc_small", 2)
    statement = "with a small margin of 0.5 both learn: at least 0.98"
    return Check(statement, bool((values >= 0.98).all()), span(values))


def null(results: Results) -> Check:
    by_momentum = dict(zip(NULL_MOMENTA, last(results, NULL, "test/acc_small", 3).T))
    statement = "momentum 0.9 at lr 0.1, as little lr / (1 - momentum) as GD, does not learn either: at most 0.70"
    evidence = "; ".join(f"momentum {momentum:g}: {in_words(values)}" for momentum, values in by_momentum.items())
    return Check(statement, below(by_momentum[0.9], 0.70 + 1e-9), evidence)


def alike(results: Results, name: str) -> Check:
    gd, gdm = last(results, TEACHERS[name], "test/acc", 2).T
    gap = abs(float(gd.mean() - gdm.mean()))
    statement = f"{name} teacher of Gaussian inputs: GD and GD+M differ by at most 0.01"
    return Check(statement, gap <= 0.01, f"{gap:.4f}: GD {in_words(gd)}, GD+M {in_words(gdm)}")


def early(results: Results) -> Check:
    """Before noise is memorised the sign of the feature decides, and so GD is right as well."""
    found = chosen(results, *GD)
    steps = found.curves("test/acc_small/0")[0][0]
    values = of_replicas(found, "test/acc_small", int(np.flatnonzero(steps == EARLY)[0]))
    return Check(f"GD's accuracy on small margins after {EARLY} steps, before it memorises", None, in_words(values))


def adam(results: Results) -> Check:
    small, large = (last(results, ADAM, f"test/acc_{margin}") for margin in ("small", "large"))
    return Check("Adam, lr 0.001", None, f"small margins {in_words(small)}, large ones {in_words(large)}")


def little_noise(results: Results) -> Check:
    gd = last(results, QUIET, "test/acc_small", 2)[:, 0]
    return Check("with noise of length 1.0, too little to memorise in time, GD learns", None, in_words(gd))


def law(results: Results) -> Check:
    """The coefficient after 500 / lr steps, before small margins have added much to it."""
    evidence = []
    for kind, lrs, momenta in SETTINGS:
        steps = chosen(results, *kind).curves("feature/max/0")[0][0]
        at = int(np.abs(steps - 500 / lrs[0]).argmin())
        reached = of_replicas(chosen(results, *kind), "feature/max", at)[0].reshape(-1, len(lrs)).mean(axis=0)
        for lr, momentum, value in zip(lrs, momenta, reached):
            if momentum >= 0.9:
                evidence.append(f"{value:.1f} for {reach(lr, momentum):.1f} (lr {lr:g}, momentum {momentum:g})")
    return Check("the feature's coefficient after 500 / lr steps, and by theory", None, ", ".join(evidence))


def reach(lr: float, momentum: float) -> float:
    """Coefficient of the feature after the large margins are fit, as in ``predict_regime``."""
    return LAUNCH / ALPHA + math.sqrt(2 * lr * (1 - SMALL_FRACTION) * math.log(2) / (1 - momentum))


def accuracies(results: Results) -> dict[tuple[float, float], Values]:
    """Accuracy on small margins in each problem, by lr and momentum."""
    found: dict[tuple[float, float], Values] = {}
    for kind, lrs, momenta in SETTINGS:
        found |= dict(zip(zip(lrs, momenta), last(results, kind, "test/acc_small", len(lrs)).T))
    return found


def cifar(results: Results) -> list[Check]:
    """Test errors with the step size that the validation prefers."""
    checks = []
    for batch in BATCHES:
        tested = []
        for momentum in CIFAR_MOMENTA:
            trained = [chosen(results, "momentum_resnet", resnet(batch, lr, momentum)) for lr in CIFAR_LRS]
            best = max(trained, key=lambda one: float(one.metric("val/acc").mean()))
            tested.append(100 * float(best.metric("test/acc").mean()))
        evidence = "{:.2f} % without, {:.2f} % with".format(*tested)
        checks.append(Check(f"CIFAR-10, batch {batch}: momentum 0.9 is better", tested[1] > tested[0], evidence))
    return checks


def in_words(values: Values) -> str:
    """Mean, standard deviation, range and number of values."""
    values = values.ravel()
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread} ({span(values)}, n = {len(values)})"


def figure(results: Results) -> "Figure":
    """What is learnt and what memorised; the accuracy that follows; and all settings beside the theory."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(14, 4.2), layout="constrained")
    left, middle, right = drawing.subplots(1, 3)
    draw_coefficients(results, left)
    draw_accuracy(results, middle)
    draw_settings(results, right)
    return drawing


def draw_coefficients(results: Results, axes: "Axes") -> None:
    """The feature's coefficient and the noise of small margins over the steps, problem by problem."""
    for i, (name, kind) in enumerate({"GD": GD, "GD+M": GDM}.items()):
        draw_replicas(results, kind, "feature/max", axes, "-", f"C{i}", f"{name}: feature")
        draw_replicas(results, kind, "noise/small", axes, "--", f"C{i}", f"{name}: noise of small margins")
    axes.axhline(1 / BETA, color="black", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="largest product with a filter")
    axes.set_title("Momentum learns the feature (dotted: 1 / beta), GD the noise", fontsize="medium")
    tidy(axes)


def draw_accuracy(results: Results, axes: "Axes") -> None:
    """Held-out accuracy by margin over the steps."""
    for i, (name, kind) in enumerate({"GD": GD, "GD+M": GDM}.items()):
        draw_replicas(results, kind, "test/acc_small", axes, "-", f"C{i}", f"{name}: small margins")
        draw_replicas(results, kind, "test/acc_large", axes, ":", f"C{i}", f"{name}: large margins")
    axes.set(xscale="log", xlabel="step", ylabel="held-out accuracy", ylim=(0.3, 1.03))
    axes.set_title("GD unlearns small margins when it fits them", fontsize="medium")
    tidy(axes)


def draw_replicas(results: Results, kind: Kind, name: str, axes: "Axes", style: str, color: str, label: str) -> None:
    """A thin line for each problem, and the mean."""
    found = chosen(results, *kind)
    number = len(last(results, kind, name))
    curves = [found.curves(f"{name}/{i}")[0] for i in range(number)]
    steps = curves[0][0]
    for _, values in curves:
        axes.plot(steps, values, style, color=color, linewidth=0.5, alpha=0.4)
    axes.plot(steps, np.mean([values for _, values in curves], axis=0), style, color=color, label=label)


def draw_settings(results: Results, axes: "Axes") -> None:
    """Accuracy on small margins over lr / (1 - momentum)."""
    for (lr, momentum), accuracy in accuracies(results).items():
        ratio = np.full(len(accuracy), lr / (1 - momentum))
        mark = {0.1: "^", 1.0: "o"}.get(lr, "s")
        axes.plot(ratio, accuracy, mark, color="C0" if momentum == 0 else "C1", alpha=0.5)
    for mark, name in {"^": "lr 0.1", "o": "lr 1", "s": "lr 3 and 10"}.items():
        axes.plot([], [], mark, color="gray", label=name)
    axes.plot([], [], "o", color="C0", label="without momentum")
    axes.plot([], [], "o", color="C1", label="with momentum")
    axes.set(xscale="log", xlabel="lr / (1 - momentum)", ylabel="accuracy on small margins", ylim=(0.3, 1.03))
    axes.set_title("All step sizes and momenta", fontsize="medium")
    tidy(axes)


CLAIM = Claim(
    statement="Where a few samples hold the feature at a small margin, gradient descent fits them by their noise and "
    "gradient descent with momentum by the feature, both to zero training error, so that only the latter is right on "
    "new ones; where there are no such margins the two are alike",
    paper_figures={},
    runs=runs,
    verdict=verdict,
    figure=figure,
    unit="held-out accuracy",
)
