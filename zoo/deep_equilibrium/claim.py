"""What the paper asserts of initial weights, and the runs that could refute it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.claims import Check, Claim, Results, Run, Verdict
from zoo.evidence import Values, chosen, of_replicas, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RECIPES = {"iid": "deep_equilibrium_iid", "orthogonal": "deep_equilibrium", "goe": "deep_equilibrium_goe"}
COLORS = {"iid": "C3", "orthogonal": "C0", "goe": "C2"}

# Training: scales and replicas of each, by activation; they train side by side in one run.
SMALL = {
    "linear": ([0.7, 0.9, 0.95, 1.0, 1.1, 1.2], 5),
    "relu": ([1.0, 1.2, 1.4, 1.5], 8),
    "tanh": ([1.0, 1.5, 2.0, 2.5], 5),
}
GRID = sorted([0.95, *(round(0.1 * i, 1) for i in range(5, 21)), 2.5])
FULL = dict.fromkeys(("linear", "relu", "tanh", "hardtanh"), (GRID, 10))
LONG = {"model.width": 1024, "trainer.max_epochs": 10, "trainer.limit_train_batches": 1.0, "data.test_fraction": 1.0}

# Theory.
WIDTH = 256
MODERATE = [0.3, 0.5, 0.7]
THEORY_SCALES = [*MODERATE, 0.8, 0.9, 0.95]
DRAWS = {128: 800, 512: 120}  # further widths, and matrices of each

TRAINED, FAILED = 80.0, 60.0  # test accuracy in percent: at least, below


def sweeps(scale: str) -> dict[str, tuple[list[float], int]]:
    """Scales and replicas by activation."""
    return SMALL if scale == "small" else FULL


def training(scale: str, activation: str) -> dict[str, Any]:
    """Overrides of a recipe."""
    scales, num_replicas = sweeps(scale)[activation]
    settings = {"model.activation": activation, "model.sigma_w": scales, "model.num_replicas": num_replicas}
    return settings | (LONG if scale == "full" else {})


def theory(family: str) -> dict[str, Any]:
    """Overrides of the theory's recipe."""
    return {"model.family": family, "model.sigma_w": THEORY_SCALES}


def other_width(width: int) -> dict[str, Any]:
    """Overrides of the theory's recipe for iid matrices of another width."""
    return {
        "model.family": "iid",
        "model.sigma_w": [0.8],
        "model.width": width,
        "model.num_draws": DRAWS[width],
        "trainer.max_epochs": 1,
    }


def runs(scale: str) -> list[Run]:
    """The trainings, which take longest, first."""
    trained = [Run(recipe, 0, training(scale, kind)) for kind in sweeps(scale) for recipe in RECIPES.values()]
    of_theory = [theory(family) for family in RECIPES] + [other_width(width) for width in DRAWS]
    return trained + [Run("deep_equilibrium_theory", 0, settings) for settings in of_theory]


def verdict(results: Results) -> Verdict:
    figures = {
        f"linear, sigma_w {sigma:g}: {family}": accuracy(results, family, "linear", sigma)
        for sigma in (0.7, 0.95, 1.0)
        for family in RECIPES
    }
    figures |= {
        f"{kind}, sigma_w {sigma:g}: {family}": accuracy(results, family, kind, sigma)
        for kind, sigma in (("relu", 1.4), ("relu", 1.5), ("tanh", 2.0))
        for family in RECIPES
    }
    return Verdict(figures, [*moments(results), *linear(results), *nonlinear(results)])


def replicas(results: Results, family: str, activation: str, sigma: float) -> tuple[Results, range]:
    """The runs of a family, and the numbers of those of their replicas that are of a scale."""
    scales, num_replicas = sweeps(results.scale)[activation]
    first = scales.index(sigma) * num_replicas
    return chosen(results, RECIPES[family], training(results.scale, activation)), range(first, first + num_replicas)


def accuracy(results: Results, family: str, activation: str, sigma: float) -> Values:
    """Test accuracies in percent."""
    found, numbers = replicas(results, family, activation, sigma)
    return 100 * np.concatenate([found.metric(f"test/acc/{i}") for i in numbers])


def loss(results: Results, family: str, activation: str, sigma: float) -> Values:
    """Training losses of the last epoch: at the small scale, of its last 20 steps."""
    found, numbers = replicas(results, family, activation, sigma)
    return np.array([y[-1] for i in numbers for _, y in found.curves(f"train/loss/{i}")])


def in_words(values: Values, digits: int = 1) -> str:
    """Median, smallest and largest value."""
    low, mid, high = np.min(values), np.median(values), np.max(values)
    if high >= 1e4:
        return f"{mid:.1e} ({low:.1e} to {high:.1e})"
    return f"{mid:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def by_family(values: dict[str, Values], digits: int = 1) -> str:
    """All families in words."""
    return "; ".join(f"{family} {in_words(of, digits)}" for family, of in values.items())


def linear(results: Results) -> list[Check]:
    """Linear networks, whose edge is at 1."""
    below, near, at = (
        {family: accuracy(results, family, "linear", sigma) for family in RECIPES} for sigma in (0.7, 0.95, 1.0)
    )
    medians = [float(np.median(values)) for values in below.values()]
    stable = all(near[family].min() >= TRAINED for family in ("orthogonal", "goe"))
    return [
        Check(
            "linear, sigma_w 0.7: the families' median accuracies are within 2 points",
            max(medians) - min(medians) <= 2,
            by_family(below),
        ),
        Check(
            "linear, 0.95: every orthogonal and GOE network is right on 80 % or more, an iid one on less than 60 %",
            stable and near["iid"].min() < FAILED,
            f"{by_family(near)}; {(near['iid'] < FAILED).sum()} of {near['iid'].size} iid ones below 60 %",
        ),
        Check(
            "linear, 1.0: the median GOE network is right on 80 % or more, the median iid one on less than 60 %",
            bool(np.median(at["goe"]) >= TRAINED and np.median(at["iid"]) < FAILED),
            by_family(at),
        ),
    ]


def nonlinear(results: Results) -> list[Check]:
    """ReLU, whose edge is at the square root of 2, and tanh, which saturates."""
    edge, beyond = ({family: loss(results, family, "relu", sigma) for family in RECIPES} for sigma in (1.4, 1.5))
    tanh = {family: loss(results, family, "tanh", 2.0) for family in RECIPES}
    at, over, saturated = (
        {family: float(np.median(values)) for family, values in of.items()} for of in (edge, beyond, tanh)
    )
    return [
        Check(
            "ReLU, 1.4: the median loss is larger for iid than for orthogonal, and for that than for GOE",
            at["iid"] > at["orthogonal"] > at["goe"],
            f"{by_family(edge, 3)}; iid over orthogonal {at['iid'] / at['orthogonal']:.2f}",
        ),
        Check(
            "ReLU, 1.5: the same, iid by a factor of more than 1.15",
            over["iid"] > 1.15 * over["orthogonal"] and over["orthogonal"] > over["goe"],
            f"{by_family(beyond, 3)}; iid over orthogonal {over['iid'] / over['orthogonal']:.2f}",
        ),
        Check(
            "tanh, 2.0: the median loss of GOE networks is below half of that of iid ones",
            saturated["goe"] < 0.5 * saturated["iid"],
            by_family(tanh, 3),
        ),
    ]


def length_map(family: str, sigma: Values) -> Values:
    """Length of the state over that of the injection, squared, for wide linear networks."""
    gap = 1 - sigma**2
    return 2 / (np.sqrt(gap) + gap) if family == "goe" else 1 / gap


def second_moment(family: str, sigma: Values) -> Values:
    """Second moment of the squared singular values of (I - W)^-1."""
    gap = 1 - sigma**2
    return {"iid": gap**-4, "orthogonal": (1 + sigma**2) / gap**3, "goe": gap**-2.5}[family]


def fluctuation(family: str, sigma: Values) -> Values:
    """Relative standard deviation of the squared length over directions of the injection."""
    return np.sqrt(2 / WIDTH * (second_moment(family, sigma) / length_map(family, sigma) ** 2 - 1))


def measured(results: Results, name: str, settings: dict[str, Any]) -> Values:
    """A measure of the theory's recipe, by scale: the median over the runs."""
    return np.median(of_replicas(chosen(results, "deep_equilibrium_theory", settings), name), axis=0)


def moments(results: Results) -> list[Check]:
    """What random matrices have in common, and what not."""
    sigma = np.array(THEORY_SCALES)
    names = ("matrix/length_map", "matrix/second_moment", "matrix/fluctuation", "iteration/residual")
    found = {family: {name: measured(results, name, theory(family)) for name in names} for family in RECIPES}
    lengths = {family: of["matrix/length_map"] / length_map(family, sigma) - 1 for family, of in found.items()}
    seconds = {family: of["matrix/second_moment"] / second_moment(family, sigma) - 1 for family, of in found.items()}
    ratio = (1 + seconds["iid"]) / (1 + seconds["orthogonal"])
    spread = {family: of["matrix/fluctuation"][-1] for family, of in found.items()}
    residual = {family: of["iteration/residual"][-1] / sigma[-1] ** 80 for family, of in found.items()}
    return [
        within(
            f"the length map is that of the theory within 5 % for sigma_w of 0.3 to 0.7 (N = {WIDTH})", lengths, 0.05
        ),
        within("and its second moment within 9 %", seconds, 0.09),
        Check(
            "iid exceeds orthogonal in the second moment by 1 / (1 - s²) / (1 + s²), s = sigma_w, within 10 %",
            bool((np.abs(ratio[: len(MODERATE)] - 1) < 0.1).all()),
            "over the theory " + ", ".join(f"{value:.3f}" for value in ratio[: len(MODERATE)]),
        ),
        width_matters(results, seconds["iid"][THEORY_SCALES.index(0.8)]),
        Check(
            "relative spread of |z|² at sigma_w = 0.95, measured (theory)",
            None,
            ", ".join(
                f"{family} {value:.2f} ({fluctuation(family, sigma[-1:])[0]:.2f})" for family, value in spread.items()
            ),
        ),
        Check(
            "squared residual after 40 iterations, over sigma_w^80",
            None,
            ", ".join(f"{family} {value:.2g}" for family, value in residual.items()),
        ),
    ]


def within(statement: str, errors: dict[str, Values], limit: float) -> Check:
    """Whether relative errors at moderate scales are below a limit."""
    largest = {family: np.abs(error[: len(MODERATE)]).max() for family, error in errors.items()}
    evidence = ", ".join(f"{family} within {error:.1%}" for family, error in largest.items())
    return Check(statement, max(largest.values()) < limit, evidence)


def width_matters(results: Results, error: float) -> Check:
    """Nearer to the edge the median of iid matrices is above the theory, which is that of infinite width."""
    theory_value = second_moment("iid", np.array([0.8]))[0]
    errors = {WIDTH: error} | {
        width: measured(results, "matrix/second_moment", other_width(width))[0] / theory_value - 1 for width in DRAWS
    }
    by_width = [errors[width] for width in sorted(errors)]
    return Check(
        "sigma_w = 0.8, iid: the second moment nears the theory as the width grows",
        bool((np.diff(np.abs(by_width)) < 0).all()),
        ", ".join(f"{value:+.1%} at N = {width}" for width, value in sorted(errors.items())),
    )


def figure(results: Results) -> "Figure":
    """Above the theory and its measurement; below the accuracy of trained networks over the scale."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(14, 8), layout="constrained")
    top, bottom = drawing.subplots(2, 3)
    draw_theory(results, top[0], "matrix/length_map", length_map, "|z|² / |u|²", "Length of the state (lines: theory)")
    draw_theory(results, top[1], "matrix/fluctuation", fluctuation, "relative deviation", "Its spread over inputs")
    draw_accuracy(results, top[2], "linear", by_variance=True)
    for axes, (activation, edge) in zip(bottom, {"linear": 1.0, "relu": 2**0.5, "tanh": None}.items()):
        draw_accuracy(results, axes, activation, edge)
    return drawing


def draw_theory(results: Results, axes: "Axes", name: str, curve: Any, label: str, title: str) -> None:
    """Medians over the matrices beside the closed form."""
    fine = np.linspace(0.25, 0.97, 200)
    for family, color in COLORS.items():
        style = "--" if family == "orthogonal" else "-"  # its length map lies on that of iid
        axes.semilogy(fine, curve(family, fine), style, color=color)
        axes.semilogy(THEORY_SCALES, measured(results, name, theory(family)), "o", color=color, label=family)
    axes.set(xlabel="sigma_w = spectral radius", ylabel=label, title=title)
    tidy(axes)


def draw_accuracy(
    results: Results, axes: "Axes", activation: str, edge: float | None = None, by_variance: bool = False
) -> None:
    """Every replica's accuracy, and the medians."""
    scales = sweeps(results.scale)[activation][0]
    for family, color in COLORS.items():
        x = np.array(scales) * (0.5 if by_variance and family == "goe" else 1.0)
        values = [accuracy(results, family, activation, sigma) for sigma in scales]
        for position, of in zip(x, values):
            axes.plot([position] * len(of), of, ".", color=color, alpha=0.4)
        axes.plot(x, [np.median(of) for of in values], "-", color=color, label=family)
    if edge is not None:
        axes.axvline(edge, color="black", linestyle=":", linewidth=0.8)
    name = "ReLU" if activation == "relu" else activation
    if by_variance:
        axes.set(
            xlabel="sigma_w of entries of variance sigma_w² / N", title=f"{name}: the same, by variance of entries"
        )
    else:
        axes.set(xlabel="sigma_w = spectral radius", title=f"{name}: networks trained on MNIST")
    axes.set(ylabel="test accuracy, %", ylim=(0, 100))
    tidy(axes)


CLAIM = Claim(
    statement="Linear deep equilibrium networks of one spectral radius have a length that varies most for independent "
    "Gaussian weights, and orthogonal and GOE weights train stably nearer to the edge of stability than these do; with "
    "ReLU and tanh, too",
    paper_figures={},
    runs=runs,
    verdict=verdict,
    figure=figure,
    unit="test accuracy, %",
)
