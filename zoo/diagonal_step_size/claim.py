"""What the paper asserts of large steps, and the runs that could refute it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.claims import Check, Claim, Results, Run, Verdict, setting
from zoo.evidence import Values, at_most, below, chosen, of_replicas, span, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SWEEP, CRITICAL = "diagonal_step_size", "diagonal_step_size_critical"
CENTRED = {"data.feature_mean": 0.0, "trainer.max_epochs": 46}
NOISY = {"data.noise_std": 0.1, "trainer.max_epochs": 52}
# Where a large step should not help: a start deep in the kernel regime, and inputs whose mean is small beside their
# spread.
LARGE_START = {"model.init_scale": 1.0, "trainer.max_epochs": 50}
SMALL_MEAN = LARGE_START | {"data.feature_mean": 1.0, "data.num_samples": 40, "data.num_features": 200}
DIVERGED = 2.0
FITTED = 1e-5  # loss below which a replica counts as one that has reached an interpolator

MEANS = (0.0, 0.5, 1.0, 2.0, 5.0)
MAP_SCALES = [round(float(scale), 4) for scale in np.geomspace(0.03, 3, 10)]
MAP: dict[str, Any] = {
    "data.num_problems": 10,
    "data.num_samples": 200,
    "data.num_features": 1000,
    "data.sparsity": 5,
    "model.init_scale": MAP_SCALES,
    "trainer.accelerator": "auto",
    "trainer.max_epochs": 58,
}


def maps() -> list[dict[str, Any]]:
    """Overrides of the sweeps over initial scales, one for each mean input."""
    return [MAP | {"data.feature_mean": mean} for mean in MEANS]


def runs(scale: str) -> list[Run]:
    """The longest first; a run has several problems, which are the repetitions."""
    kinds: list[tuple[str, dict[str, Any]]] = [(SWEEP, overrides) for overrides in maps()] if scale == "full" else []
    kinds += [(SWEEP, {}), (SWEEP, NOISY), (SWEEP, SMALL_MEAN), (SWEEP, LARGE_START), (CRITICAL, {}), (SWEEP, CENTRED)]
    return [Run(recipe, 0, overrides) for recipe, overrides in kinds]


class Sweep:
    """The table that runs of one kind have left.

    Args:
        found: Finished runs of a kind; their problems stand one after the other.
    """

    def __init__(self, found: Results) -> None:
        config = found[0].config
        self.found = found
        self.lr = [float(one) for one in setting(config, "model.lr")]
        scales = setting(config, "model.init_scale")
        self.scales = [scales] if isinstance(scales, float) else list(scales)
        self.num_settings = len(self.lr) * len(self.scales)

    def column(self, name: str) -> Values:
        """A column of the table, ``(problems, scales, step sizes)``."""
        values = np.concatenate([values for _, values in self.found.curves(f"table/{name}")])
        return values.reshape(-1, len(self.scales), len(self.lr))

    def at(self, name: str, lr: float, scale: int = 0) -> Values:
        """A column at one step size and the initial scale of this number, ``(problems,)``."""
        return self.column(name)[:, scale, self.lr.index(lr)]

    def flow(self, scale: int = 0) -> Values:
        """Population error of gradient flow's limit, ``(problems,)``."""
        return self.replicas("flow")[:, scale, 0]

    def reference(self, name: str) -> Values:
        """What outcomes of a problem are compared with, ``(problems,)``."""
        return np.concatenate([values for _, values in self.found.curves(f"reference/{name}")])

    def replicas(self, name: str) -> Values:
        """What the outcome of a replica is compared with, ``(problems, scales, step sizes)``."""
        return self.reference(name).reshape(-1, len(self.scales), len(self.lr))

    def ratio(self, lr: float, scale: int = 0) -> Values:
        """Population error at a step size over that of gradient flow, ``(problems,)``."""
        return self.at("population_error", lr, scale) / self.flow(scale)

    def rise(self) -> Values:
        """Highest loss over that of the start, ``(problems, scales, step sizes)``."""
        first = of_replicas(self.found, "peak_loss", 0)
        return self.column("peak_loss") / first.reshape(-1, len(self.scales), len(self.lr))

    def history(self, name: str, problem: int, lr: float, scale: int = 0) -> tuple[Values, Values]:
        """A measure of a replica of the first run over the steps."""
        replica = problem * self.num_settings + scale * len(self.lr) + self.lr.index(lr)
        return self.found.curves(f"{name}/{replica}")[0]


def sweep(results: Results, recipe: str = SWEEP, overrides: dict[str, Any] | None = None) -> Sweep:
    return Sweep(chosen(results, recipe, overrides))


def verdict(results: Results) -> Verdict:
    wide, centred = sweep(results), sweep(results, overrides=CENTRED)
    everything = [wide, centred, sweep(results, CRITICAL)]
    everything += [sweep(results, overrides=overrides) for overrides in (NOISY, LARGE_START, SMALL_MEAN)]
    figures: dict[str, Values] = {}
    for name, one in {"mean 5": wide, "centred": centred}.items():
        figures |= {f"{name}: {lr} η₀": 100 * one.ratio(lr) for lr in (0.5, 1.5)}
        figures |= {f"{name}: minimum l2": 100 * one.reference("min_l2") / one.flow()}
    checks = [
        large_steps_help(wide),
        large_steps_hurt(centred),
        small_steps_are_the_flow(wide),
        *critical(everything[2]),
        *stable(everything),
        invariant(everything),
        beyond_twice(wide),
        spike(wide),
        *why_large_steps_help(wide),
        *where_it_ends(results),
    ]
    if results.scale == "full":
        checks += [of_map(sweep(results, overrides=overrides), mean) for overrides, mean in zip(maps(), MEANS)]
    return Verdict(figures, checks)


def large_steps_help(wide: Sweep) -> Check:
    ratios = wide.ratio(1.5)
    statement = "inputs of mean 5: at 1.5 η₀ the population error is at most 0.2 of gradient flow's, on every problem"
    return Check(statement, bool((ratios <= 0.2).all()), span(ratios))


def large_steps_hurt(centred: Sweep) -> Check:
    ratios = centred.ratio(1.5)
    statement = "centred inputs: at 1.5 η₀ it is at least 1.2 of gradient flow's, on every problem"
    return Check(statement, bool((ratios >= 1.2).all()), span(ratios))


def small_steps_are_the_flow(wide: Sweep) -> Check:
    distances = wide.at("flow_distance", 0.25)
    statement = "at 0.25 η₀ no coordinate is more than 0.01 from gradient flow's limit"
    return Check(statement, bool((distances <= 0.01).all()), at_most(distances))


def critical(found: Sweep) -> list[Check]:
    """Step sizes around the critical one, from a start of scale 0.05."""
    losses = {lr: found.at("loss", lr) for lr in (0.98, 1.02)}
    error = found.at("population_error", 0.98)
    means = [float(found.at("population_error", lr).mean()) for lr in (0.05, 0.25, 0.5, 0.8, 0.95)]
    evidence = f"loss {at_most(losses[0.98])}, error {at_most(error)}"
    return [
        Check(
            "scale 0.05, 0.98 η_c: descent interpolates (loss at most 1e-4) and recovers β* (error at most 1e-3)",
            bool((losses[0.98] <= 1e-4).all() and (error <= 1e-3).all()),
            evidence,
        ),
        Check(
            "scale 0.05, 1.02 η_c: it does not, the loss stays above 1e-2",
            bool((losses[1.02] >= 1e-2).all() and (found.at("status", 1.02) != DIVERGED).all()),
            span(losses[1.02]),
        ),
        Check(
            "scale 0.05: the mean error falls over 0.05, 0.25, 0.5, 0.8 and 0.95 η_c",
            bool((np.diff(means) < 0).all()),
            ", ".join(f"{mean:.1e}" for mean in means),
        ),
        Check(
            "at 0.98 η_c the weighted l1 norm's share of its bound",
            None,
            span(found.at("bound_ratio", 0.98)),
        ),
    ]


def stable(sweeps: Sequence[Sweep]) -> list[Check]:
    """That what has converged is stable, and so obeys the bound."""
    checks = []
    names = {"sharpness_ratio": "η λ / 2", "bound_ratio": "η Σ x̄² |β|"}
    for column, shown in names.items():
        values = np.concatenate([fitted(one, column) for one in sweeps])
        statement = f"wherever the loss is below {FITTED:g}: {shown} is at most 1.001"
        checks.append(
            Check(statement, below(values, 1.001), f"at most {values.max(initial=0):.4f} (n = {values.size})")
        )
    return checks


def fitted(one: Sweep, column: str) -> Values:
    """A column where the loss is small, ``(n,)``."""
    return one.column(column)[(one.column("loss") < FITTED) & (one.column("status") != DIVERGED)]


def invariant(sweeps: Sequence[Sweep]) -> Check:
    errors = np.concatenate([one.column("balance_error").ravel() for one in sweeps])
    statement = "u² - v² is what the product of |1 - η² g²| makes of it, within 1e-6 of u² + v²"
    return Check(statement, below(errors, 1e-6), at_most(errors))


def beyond_twice(wide: Sweep) -> Check:
    beyond = [lr for lr in wide.lr if lr > 2]
    diverged = np.stack([wide.at("status", lr) == DIVERGED for lr in beyond])
    steps = np.stack([wide.at("last_step", lr) for lr in beyond])
    inside = np.stack([wide.at("status", lr) != DIVERGED for lr in wide.lr if lr < 2])
    return Check(
        "inputs of mean 5: every replica above 2 η₀ diverges, and none below",
        bool(diverged.all() and inside.all()),
        f"{diverged.sum()} of {diverged.size} above, {(~inside).sum()} of {inside.size} below; after "
        f"{span(steps[diverged], 0)} steps",
    )


def spike(wide: Sweep) -> Check:
    rise = wide.rise()[:, 0, wide.lr.index(1.5)]
    statement = "at 1.5 η₀ the loss first rises to so many times that of the start"
    return Check(statement, None, span(rise, 1))


def why_large_steps_help(wide: Sweep) -> list[Check]:
    """Whether it is the bound that is active there, or the shrunken scale."""
    shown = [i for i, lr in enumerate(wide.lr) if 1 < lr < 2]
    shares = wide.column("bound_ratio")[:, 0, shown].max(0)
    errors = wide.column("population_error").mean(0)[0, shown]
    ratios = errors / wide.replicas("effective_flow").mean(0)[0, shown]
    return [
        Check("from 1.1 to 1.95 η₀ the weighted l1 norm's share of its bound", None, span(shares)),
        Check("and the mean error over that of gradient flow from the effective scale", None, span(ratios)),
    ]


def where_it_ends(results: Results) -> list[Check]:
    """Label noise, and two settings in which a large step is not expected to help; they decide nothing."""
    checks = []
    kinds = {
        "label noise 0.1": NOISY,
        "scale 1": LARGE_START,
        "scale 1, mean 1, 40 samples of 200 features": SMALL_MEAN,
    }
    for name, overrides in kinds.items():
        one = sweep(results, overrides=overrides)
        best = [lr for lr in one.lr if 1 < lr < 2 and (one.at("status", lr) != DIVERGED).all()]
        means = {lr: float(one.ratio(lr).mean()) for lr in best}
        evidence = ", ".join(f"{lr:g} η₀: {mean:.3f}" for lr, mean in means.items())
        checks.append(Check(f"{name}: mean error over that of gradient flow", None, evidence or "all diverge"))
    return checks


def of_map(one: Sweep, mean: float) -> Check:
    ratios = {scale: best_ratio(one, i) for i, scale in enumerate(one.scales)}
    evidence = ", ".join(f"{scale:g}: {ratio:.3f}" for scale, ratio in ratios.items())
    return Check(
        f"d = 1000, mean {mean:g}: best error of steps above η₀ over gradient flow's, by scale", None, evidence
    )


def best_ratio(one: Sweep, scale: int) -> float:
    """The smallest mean ratio of step sizes above the threshold that converge on every problem; NaN if none does."""
    converging = [lr for lr in one.lr if lr > 1 and (one.at("status", lr, scale) != DIVERGED).all()]
    return min((float(one.ratio(lr, scale).mean()) for lr in converging), default=float("nan"))


def figure(results: Results) -> "Figure":
    """Errors over step sizes, with the thresholds; loss and sharpness over steps; at the full scale the maps."""
    from matplotlib.figure import Figure

    rows = 2 if results.scale == "full" else 1
    drawing = Figure(figsize=(13, 4 + 4 * rows), layout="constrained")
    top, *rest = drawing.subfigures(rows, 1, squeeze=False, height_ratios=[2, 1][:rows])[:, 0]
    (errors, around), (losses, ratios) = top.subplots(2, 2)
    draw_errors(results, errors)
    draw_critical(results, around)
    draw_losses(results, losses)
    draw_sharpness(results, ratios)
    if rest:
        for axes, overrides, mean in zip(rest[0].subplots(1, len(MEANS)), maps(), MEANS):
            draw_map(sweep(results, overrides=overrides), mean, axes)
    return drawing


def draw_errors(results: Results, axes: "Axes") -> None:
    """Population error over the step size in units of the start's threshold, non-centred and centred."""
    for color, (name, overrides) in zip(("C0", "C1"), {"mean 5": None, "centred": CENTRED}.items()):
        one = sweep(results, overrides=overrides)
        errors = np.where(one.column("status") == DIVERGED, np.nan, one.column("population_error"))[:, 0]
        shown = [i for i in range(len(one.lr)) if np.isfinite(errors[:, i]).all()]  # converged on every problem
        axes.plot(one.lr, errors.T, ".", color=color, alpha=0.3)
        axes.plot([one.lr[i] for i in shown], errors[:, shown].mean(0), "-", color=color, label=name)
        axes.axhline(one.flow().mean(), color=color, linestyle="--", linewidth=0.9, label=f"{name}, gradient flow")
        if overrides is None:
            relative = one.reference("critical") / one.replicas("init_sharpness")[:, 0, 0]
            right = axes.get_xlim()[1]
            where = f"η_c = {relative.mean():.1f} η₀" + (", beyond the axis" if relative.mean() > right else "")
            if relative.mean() <= right:
                axes.axvline(relative.mean(), color="C2", linestyle=":")
            axes.plot([], [], ":", color="C2", label=where)
    for threshold in (1, 2):
        axes.axvline(threshold, color="black", linestyle=":", linewidth=0.9)
    axes.set(yscale="log", xlabel="step size / η₀", ylabel="population error")
    axes.set_title("Scale 0.3; dotted: η₀ and 2 η₀", fontsize="medium")
    tidy(axes)


def draw_critical(results: Results, axes: "Axes") -> None:
    """Population error over the step size in units of the critical one, from two scales."""
    found = sweep(results, CRITICAL)
    unit = found.reference("critical").mean()
    start = found.replicas("init_sharpness")
    for i, scale in enumerate(found.scales):
        errors = np.where(found.column("status") == DIVERGED, np.nan, found.column("population_error"))[:, i]
        axes.plot(found.lr, errors.mean(0), ".-", color=f"C{i}", label=f"scale {scale:g}")
        axes.axhline(found.flow(i).mean(), color=f"C{i}", linestyle="--", linewidth=0.9, label="its gradient flow")
        threshold = start[:, i, 0].mean() / unit
        if threshold < 1.25:
            axes.axvline(threshold, color=f"C{i}", linestyle=":", linewidth=0.9, label=f"its η₀ = {threshold:.2f} η_c")
    axes.axvline(1, color="black", linestyle=":", linewidth=0.9)
    axes.set(yscale="log", xlabel="step size / η_c", ylabel="population error")
    axes.set_title("Mean 5; dotted: η_c", fontsize="medium")
    tidy(axes)


def draw_losses(results: Results, axes: "Axes") -> None:
    """The loss over the steps, below and above the threshold."""
    wide = sweep(results)
    for i, lr in enumerate((0.5, 1.1, 1.5, 1.9)):
        steps, losses = wide.history("train/loss", 0, lr)
        axes.loglog(steps + 1, losses, color=f"C{i}", label=f"{lr:g} η₀")
    axes.set(xlabel="step + 1", ylabel="loss")
    axes.set_title("Problem 0, mean 5, scale 0.3", fontsize="medium")
    tidy(axes)


def draw_sharpness(results: Results, axes: "Axes") -> None:
    """Sharpness in units of what is stable, over the steps."""
    wide, found = sweep(results), sweep(results, CRITICAL)
    for i, lr in enumerate((0.5, 1.5)):
        axes.plot(*wide.history("sharpness_ratio", 0, lr), color=f"C{i}", label=f"scale 0.3, {lr:g} η₀")
    for i, lr in enumerate((0.5, 0.98, 1.05), start=2):
        axes.plot(*found.history("sharpness_ratio", 0, lr), color=f"C{i}", label=f"scale 0.05, {lr:g} η_c")
    axes.axhline(1, color="black", linestyle=":", linewidth=0.9)
    axes.set(xscale="symlog", xlabel="step", ylabel="η λ / 2", xlim=(0, None), ylim=(0, 2.2))
    axes.set_title("Problem 0, mean 5: sharpness; dotted: the most that is stable", fontsize="medium")
    tidy(axes)


def draw_map(one: Sweep, mean: float, axes: "Axes") -> None:
    """Population error over gradient flow's, by scale and step size, with the lines of the thresholds."""
    flow = np.stack([one.flow(i) for i in range(len(one.scales))], axis=1)[:, :, None]
    ratios = np.where(one.column("status") == DIVERGED, np.nan, one.column("population_error") / flow).mean(0)
    image = axes.pcolormesh(one.lr, one.scales, np.log10(ratios), cmap="RdBu_r", vmin=-2, vmax=2, shading="nearest")
    start = one.replicas("init_sharpness")[:, :, 0].mean(0)
    relative = one.reference("critical").mean() / start
    axes.plot(relative, one.scales, "k--", linewidth=0.9, label="η_c")
    for threshold in (1, 2):
        axes.axvline(threshold, color="black", linestyle=":", linewidth=0.9)
    axes.set(yscale="log", xlabel="step size / η₀", ylabel="scale", xlim=(min(one.lr), max(one.lr)))
    axes.set_title(f"mean {mean:g}: log₁₀ of error / flow's", fontsize="medium")
    axes.legend(frameon=False, fontsize="small")
    axes.figure.colorbar(image, ax=axes)


CLAIM = Claim(
    statement="Where inputs are not centred, a large step size alone takes gradient descent on diagonal linear "
    "networks from the kernel regime to sparse predictors, as stable interpolators have a small weighted l1 norm; with "
    "centred inputs it does not",
    paper_figures={},
    runs=runs,
    verdict=verdict,
    figure=figure,
    unit="% of gradient flow's population error",
)
