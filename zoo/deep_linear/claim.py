"""What the theory asserts of gradient flow on deep linear networks, and the runs that could refute it."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.claims import Check, Claim, Results, Run, Verdict
from zoo.evidence import Values, at_most, below, chosen, of_replicas, span, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIMS = {2: [5, 1, 4], 3: [5, 3, 1, 4], 4: [5, 3, 1, 6, 4]}
SIGMA = (3.0, 2.0, 1.0, 0.5)

# Starts of every kind, towards both targets; "null" is judged with the second one, whose last singular value is 0.
FAMILIES = ("random", "saddle", "anti", "opposite", "null")
REPLICA = {name: i for i, name in enumerate(FAMILIES)} | {"null": 2 * len(FAMILIES) - 1}
END = {"random": 12.0, "saddle": 12.0, "anti": 9.0}  # of the window: saddles repel what rounding puts off the way
ORIGIN_WINDOW = {
    "opposite": {2: (3.0, 8.0), 3: (30.0, 150.0), 4: (50.0, 400.0)},
    "null": {2: (4.0, 9.0), 3: (6.0, 30.0), 4: (10.0, 60.0)},
}
RATE_WINDOW = {"random": (6.0, 11.0), "saddle": (5.0, 11.0)}
EPOCHS = {2: 71, 3: 122, 4: 142}  # until t = 12, 150 and 400

# The second singular value nearer and nearer to the first, depth 3.
GAPS = (1.0, 0.3, 0.1, 0.03)
GAP_WINDOW = (8.0, 12.0)  # in units of the predicted time in which the distance falls by a factor of e
GAP_RUN = {
    "model.starts": [{"family": "random"}],
    "data.singular_values": [[SIGMA[0], SIGMA[0] - gap, *SIGMA[2:]] for gap in GAPS],
    "trainer.max_epochs": 135,  # until t = 290
}

# Starts near the origin and near the second singular value's saddle, those of the recipe.
SIZES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
EPSILONS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
STUCK_EPOCHS = {2: 75, 3: 111, 4: 158}  # until t = 30, 179 and 1,782

# Random starts, and gradient descent.
SEEDS = {"small": 256, "full": 4096}
SEED_DIMS = {
    "small": DIMS,
    "full": {2: [100, 1, 50], 3: [100, 30, 1, 50], 4: [100, 30, 1, 60, 50]},
}
SEED_EPOCHS = 2  # each of 12 units of time
STEP_SIZES = (0.03, 0.01, 0.003, 0.001)  # of the recipe


def families(depth: int) -> dict[str, Any]:
    """Overrides of the run of every kind of start."""
    return {
        "model.dims": DIMS[depth],
        "model.starts": [{"family": name} for name in FAMILIES],
        "model.rtol": 1e-12,
        "model.atol": 1e-18,  # well below the weights on the way to the origin
        "data.singular_values": [list(SIGMA), [*SIGMA[:3], 0.0]],
        "trainer.max_epochs": EPOCHS[depth],
    }


def stuck(depth: int) -> dict[str, Any]:
    """Overrides of the run of small starts and of starts near a saddle."""
    return {"model.dims": DIMS[depth], "trainer.max_epochs": STUCK_EPOCHS[depth]}


def seeds(depth: int, scale: str) -> dict[str, Any]:
    """Overrides of the run of random starts, by Runge-Kutta steps of 0.02; an epoch is 12 units of time."""
    dims = SEED_DIMS[scale][depth]
    return {
        "model.dims": dims,
        "model.starts": [{"family": "random", "number": SEEDS[scale]}],
        "model.integrator": "rk4",
        "model.steps_per_epoch": 600,
        "model.growth": 1.0,
        "trainer.max_epochs": SEED_EPOCHS,
        "data.input_dim": dims[0],
        "data.output_dim": dims[-1],
        "data.num_samples": max(64, 2 * dims[0]),
    }


def runs(scale: str) -> list[Run]:
    """The longest first."""
    kinds = [("deep_linear_stuck", stuck(depth)) for depth in (4, 3, 2)]
    kinds += [("deep_linear", families(depth)) for depth in (4, 3, 2)]
    kinds += [("deep_linear", seeds(depth, scale)) for depth in SEED_DIMS[scale]]
    kinds += [("deep_linear", GAP_RUN), ("deep_linear_gd", {})]
    return [Run(recipe, 0, overrides) for recipe, overrides in kinds]


def verdict(results: Results) -> Verdict:
    figures: dict[str, Values] = {}
    for depth in DIMS:
        for start in RATE_WINDOW:
            for measure in ("distance", "loss_gap"):
                name = f"rate over prediction: N = {depth}, {start}, {measure.replace('_', ' ')}"
                figures[name] = np.array([measured_rate(results, depth, start, measure)])
                figures[name] /= predicted_rate(depth, start, measure)
    checks = [closed_form(results), *conserved(results), limits(results), *random_starts(results)]
    checks += [
        final_rates(figures),
        rates_of_gaps(results),
        *origin_rates(results),
        *stuck_times(results),
        *monotone(results),
    ]
    checks += gradient_descent(results)
    return Verdict(figures, checks)


def curve(
    results: Results, overrides: dict[str, Any], name: str, replica: int, recipe: str = "deep_linear"
) -> tuple[Values, Values]:
    """A measure of a replica over time."""
    found = chosen(results, recipe, overrides)
    (_, time), (_, values) = found.curves(f"time/{replica}")[0], found.curves(f"{name}/{replica}")[0]
    return time, values


def family(results: Results, depth: int, start: str, name: str) -> tuple[Values, Values]:
    """A measure of a kind of start over time."""
    return curve(results, families(depth), name, REPLICA[start])


def within(window: tuple[float, float], time: Values, values: Values) -> tuple[Values, Values]:
    """The part of a curve within a window of time."""
    inside = (time >= window[0]) & (time <= window[1])
    return time[inside], values[inside]


def slope(x: Values, y: Values) -> float:
    """Of the straight line by least squares."""
    return float(np.polyfit(x, y, 1)[0])


# The theory's figures, from the start alone.


def predicted_rate(depth: int, start: str, measure: str) -> float:
    """Final rate: (sigma - lambda_2) sigma^(1 - 2 / N), twice that for the loss.

    Example:
        >>> predicted_rate(2, "random", "distance"), predicted_rate(4, "saddle", "loss_gap") == 2 * 2**0.5
        (1.0, True)
    """
    sigma, runner_up = {"random": SIGMA[:2], "saddle": SIGMA[1:3]}[start]
    return (sigma - runner_up) * sigma ** (1 - 2 / depth) * (2 if measure == "loss_gap" else 1)


def measured_rate(results: Results, depth: int, start: str, measure: str) -> float:
    """Slope of the logarithm within the window, above what rounding leaves of the loss."""
    time, values = within(RATE_WINDOW[start], *family(results, depth, start, measure))
    large = np.abs(values) > (1e-12 if measure == "loss_gap" else 0)
    return -slope(time[large], np.log(np.abs(values[large])))


# The checks.


def closed_form(results: Results) -> Check:
    worst = []
    for depth in DIMS:
        time, error = family(results, depth, "random", "flow_error")
        worst.append(within((0.0, 12.0), time, error)[1].max())
    statement = "the integrated weights' product is that of the closed form until t = 12, relative difference <= 1e-4"
    return Check(statement, below(worst, 1e-4), at_most(worst))


def conserved(results: Results) -> list[Check]:
    drift, second = (every_curve(results, name) for name in ("balancedness", "second_singular_value"))
    return [
        Check("balancedness drifts by at most 1e-6 under the flow", below(drift, 1e-6), at_most(drift)),
        Check("and the product keeps rank one: second singular value <= 1e-12", below(second, 1e-12), at_most(second)),
    ]


def every_curve(results: Results, name: str) -> Values:
    """All values of a measure, of all kinds of starts and all depths."""
    found = [curve(results, families(depth), name, i)[1] for depth in DIMS for i in range(2 * len(FAMILIES))]
    return np.concatenate(found)


def limits(results: Results) -> Check:
    """Three families at their singular values; the fourth on its way to the origin."""
    distances = [
        within((0.0, END[start]), *family(results, depth, start, "distance"))[1][-1] for start in END for depth in DIMS
    ]
    shares, falls = [], []
    for depth in DIMS:
        window = (0.0, ORIGIN_WINDOW["opposite"][depth][1])
        s = within(window, *family(results, depth, "opposite", "s"))[1]
        shares.append(s[-1] / s[0])
        falls.append(bool((np.diff(s) < 0).all()))
    statement = (
        "12 of 12 starts go where their signs and zeros say: global minimum and saddles within 1e-3, and the origin, "
        "with s falling below 1e-2 of its start"
    )
    evidence = f"distances {at_most(distances)}; shares of s {at_most(shares)}"
    return Check(statement, below(distances, 1e-3) and below(shares, 1e-2) and all(falls), evidence)


def random_starts(results: Results) -> list[Check]:
    """With two layers the rate is 1 only, and one start in thirty is still on its way at t = 12; deeper, one in 700."""
    number = SEEDS[results.scale]
    checks = []
    for depth in SEED_DIMS[results.scale]:
        found = chosen(results, "deep_linear", seeds(depth, results.scale))
        epochs = 2 if depth == 2 or results.scale == "full" else 1
        there = [int((of_replicas(found, "distance", at)[0] < 1e-3).sum()) for at in (1, 2)]
        distances, first = of_replicas(found, "distance", epochs)[0], of_replicas(found, "rho", 0)[0]
        checks.append(
            Check(
                f"N = {depth}: {number} random starts are within 1e-3 of the global minimum by t = {12 * epochs}",
                len(distances) == number and below(distances, 1e-3),
                f"{there[0]} at t = 12, {there[1]} at t = 24; {at_most(distances)}; {(first < 0).sum()} had rho(0) < 0",
            )
        )
    return checks


def final_rates(figures: dict[str, Values]) -> Check:
    ratios = np.concatenate(list(figures.values()))
    statement = (
        "distance and loss gap end with the predicted rates, (sigma - lambda_2) sigma^(1 - 2/N) and twice it, +- 2 %"
    )
    return Check(statement, below(np.abs(ratios - 1), 0.02), f"measured over predicted {span(ratios, 4)}")


def rates_of_gaps(results: Results) -> Check:
    ratios = []
    for i, gap in enumerate(GAPS):
        rate = gap * SIGMA[0] ** (1 / 3)
        window = GAP_WINDOW[0] / rate, GAP_WINDOW[1] / rate
        time, distance = within(window, *curve(results, GAP_RUN, "distance", i))
        ratios.append(-slope(time, np.log(distance)) / rate)
    gaps = ", ".join(f"{gap:g}" for gap in GAPS)
    statement = f"so it does for singular values {SIGMA[0]:g} and {SIGMA[0]:g} less {gaps}, N = 3, +- 2 %"
    evidence = ", ".join(f"{ratio:.4f}" for ratio in ratios)
    return Check(statement, below(np.abs(np.array(ratios) - 1), 0.02), evidence)


def origin_rates(results: Results) -> list[Check]:
    """s^(-p) is a straight line in time, and for N = 2 without a null component ln s is."""
    checks = []
    for start in ORIGIN_WINDOW:
        ratios = []
        for depth in DIMS:
            time, s = family(results, depth, start, "s")
            evenly = np.linspace(*ORIGIN_WINDOW[start][depth], 200)  # or the many early epochs would weigh the most
            line = np.interp(evenly, time, origin_line(depth, start, s))
            ratios.append(slope(evenly, line) / origin_slope(depth, start))
        holds = below(np.abs(np.array(ratios) - 1), 0.05) and abs(ratios[0] - 1) < 0.02
        law = "exponentially for N = 2, else as a power" if start == "opposite" else "as the power of a null component"
        statement = f"{start}: s falls to the origin {law}, at the predicted slope (N = 2: +- 2 %, else 5 %)"
        checks.append(Check(statement, holds, ", ".join(f"{ratio:.4f}" for ratio in ratios)))
    return checks


def origin_line(depth: int, start: str, s: Values) -> Values:
    """What of s is a straight line in time, on the way to the origin."""
    if start == "null":
        return s ** -(2 - 2 / depth)
    return -np.log(s) if depth == 2 else s ** -(1 - 2 / depth)


def origin_slope(depth: int, start: str) -> float:
    """Its slope."""
    if start == "null":
        return 2 * depth - 2
    return SIGMA[3] * (2 if depth == 2 else depth - 2)


def stuck_time(results: Results, depth: int) -> tuple[Values, Values]:
    """Times near the origin and near the saddle, of all sizes and of all epsilons."""
    times = of_replicas(chosen(results, "deep_linear_stuck", stuck(depth)), "stuck_time")[0]
    return times[: len(SIZES)], times[len(SIZES) :]


def stuck_times(results: Results) -> list[Check]:
    by_size, by_epsilon = [], []
    for depth in DIMS:
        small, near = stuck_time(results, depth)
        logs = np.log(SIZES)
        by_size.append(slope(logs, small) if depth == 2 else slope(logs, np.log(small)))
        expected = 1 / ((SIGMA[0] - SIGMA[1]) * SIGMA[1] ** (1 - 2 / depth))
        by_epsilon.append(-slope(np.log(EPSILONS), near) / expected)
    two, *others = by_size
    errors = [value + (1 - 2 / depth) for value, depth in zip(others, (3, 4))]
    ratios = np.array(by_epsilon)
    return [
        Check(
            "near the origin, N = 2: stuck time grows by 1 / (2 sigma_1) per ln(1 / s_0), +- 1 %",
            abs(-two * 2 * SIGMA[0] - 1) < 0.01,
            f"{-two:.5f}, predicted {1 / (2 * SIGMA[0]):.5f}",
        ),
        Check(
            "N = 3 and 4: it grows as s_0^-(1 - 2/N), exponent +- 0.02",
            below(np.abs(errors), 0.02),
            ", ".join(f"{value:.4f}" for value in others) + ", predicted -0.3333, -0.5000",
        ),
        Check(
            "near the saddle it grows by 1 / ((sigma_1 - sigma_2) sigma_2^(1 - 2/N)) per ln(1 / epsilon), +- 1 %",
            below(np.abs(ratios - 1), 0.01),
            f"measured over predicted {span(ratios, 4)}",
        ),
    ]


def monotone(results: Results) -> list[Check]:
    """Over whole trajectories, also after rounding has taken them off a saddle."""
    falls, rises = [], []
    for depth in DIMS:
        for i in range(2 * len(FAMILIES)):
            (_, s), (_, rho) = (curve(results, families(depth), name, i) for name in ("s", "rho"))
            falls.append(-np.diff(rho))
            shrinking = (rho < s)[1:] & (rho < s)[:-1]
            rises.append(np.diff(s)[shrinking])
    worst = [float(np.concatenate(values).max()) for values in (falls, rises)]
    return [
        Check("rho never decreases by more than 1e-9", worst[0] <= 1e-9, f"largest fall {max(0.0, worst[0]):.1e}"),
        Check("s never increases by more than 1e-9 while rho < s", worst[1] <= 1e-9, f"largest rise {worst[1]:.1e}"),
    ]


def at_time(results: Results, name: str, t: float) -> NDArray[np.float64]:
    """A measure of gradient descent at a time, for every step size, on the line between two epochs."""
    found = chosen(results, "deep_linear_gd")
    values = []
    for i in range(len(STEP_SIZES)):
        (_, time), (_, y) = found.curves(f"time/{i}")[0], found.curves(f"{name}/{i}")[0]
        values.append(np.interp(t, time, y))
    return np.array(values)


def gradient_descent(results: Results) -> list[Check]:
    drift, error = at_time(results, "balancedness", 6.0), at_time(results, "flow_error", 3.0)
    per_step = drift / np.array(STEP_SIZES)
    ratio = drift[1] / drift[3]
    orders = np.diff(np.log(error)) / np.diff(np.log(STEP_SIZES))
    return [
        Check(
            "gradient descent: drift of balancedness over the rate h is the same for h = 0.01 and 0.001, within 5 %",
            abs(per_step[1] / per_step[3] - 1) < 0.05 and abs(ratio - 10) < 0.5,
            ", ".join(f"{value:.3f}" for value in per_step) + f"; ratio of drifts {ratio:.2f}",
        ),
        Check("its distance from the flow at t = 3 is of order h", below(np.abs(orders - 1), 0.1), span(orders, 2)),
    ]


# The figure.


def figure(results: Results) -> "Figure":
    """Trajectories and their limits, rates, stuck times, and gradient descent."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(14, 8), layout="constrained")
    axes = drawing.subplots(2, 3)
    draw_trajectories(results, axes[0, 0])
    draw_distances(results, axes[0, 1])
    draw_origin(results, axes[0, 2])
    draw_plateaus(results, axes[1, 0])
    draw_stuck_times(results, axes[1, 1])
    draw_gradient_descent(results, axes[1, 2])
    return drawing


LABEL = {
    "random": "random: global minimum",
    "saddle": "c1 = 0: saddle",
    "anti": "c1 = a1 + b1 = 0: saddle",
    "opposite": "c = 0: origin",
    "null": "c = 0, null component: origin",
}
LIMIT = {"random": SIGMA[0], "saddle": SIGMA[1], "anti": SIGMA[1], "opposite": 0.0, "null": 0.0}


def draw_trajectories(results: Results, axes: "Axes") -> None:
    """The singular value of the product, with its predicted limit."""
    for i, start in enumerate(FAMILIES):
        time, s = within((0.0, 8.0), *family(results, 3, start, "s"))
        axes.plot(time, s, color=f"C{i}", label=LABEL[start])
        axes.axhline(LIMIT[start], color=f"C{i}", linestyle=":", linewidth=0.8)
    axes.set(xlabel="t", ylabel="s", title="N = 3: the start tells the limit (dotted)")
    tidy(axes)


def draw_distances(results: Results, axes: "Axes") -> None:
    """The distance from the limit, with the predicted slope."""
    for i, depth in enumerate(DIMS):
        for start, style in (("random", "-"), ("saddle", "--")):
            time, distance = within((0.0, 12.0), *family(results, depth, start, "distance"))
            measured = measured_rate(results, depth, start, "distance")
            predicted = predicted_rate(depth, start, "distance")
            label = f"N = {depth}, {start}: {measured:.4f} / {predicted:.4f}"
            axes.semilogy(time, distance, style, color=f"C{i}", label=label)
            x, y = within(RATE_WINDOW[start], time, distance)
            axes.semilogy(x, 3 * y[0] * np.exp(-predicted * (x - x[0])), ":", color="black", linewidth=0.8)
    axes.set(xlabel="t", ylabel="distance from the limit", title="Rates, measured / predicted (dotted)")
    tidy(axes)


def draw_origin(results: Results, axes: "Axes") -> None:
    """How s falls on the way to the origin."""
    for i, depth in enumerate(DIMS):
        for start, style in (("opposite", "-"), ("null", "--")):
            time, s = within((0.05, ORIGIN_WINDOW[start][depth][1]), *family(results, depth, start, "s"))
            axes.loglog(time, s, style, color=f"C{i}", label=f"N = {depth}, {start}")
    axes.set(xlabel="t", ylabel="s", title="To the origin: exponential only for N = 2")
    tidy(axes)


def draw_plateaus(results: Results, axes: "Axes") -> None:
    """The singular value from small starts and from near a saddle."""
    for i in range(0, len(SIZES), 2):
        time, s = curve(results, stuck(3), "s", i, "deep_linear_stuck")
        axes.semilogx(time[1:], s[1:], color=f"C{i // 2}", label=f"s0 = {SIZES[i]:.0e}")
    for i in range(0, len(EPSILONS), 3):
        time, s = curve(results, stuck(3), "s", len(SIZES) + i, "deep_linear_stuck")
        axes.semilogx(time[1:], s[1:], "--", color=f"C{3 + i // 3}", label=f"near saddle, c1 = {EPSILONS[i]:.0e}")
    axes.set(xlabel="t", ylabel="s", title="N = 3: stuck near the origin and near a saddle")
    tidy(axes)


def draw_stuck_times(results: Results, axes: "Axes") -> None:
    """Times against the size of the start, with the laws."""
    for i, depth in enumerate(DIMS):
        small, near = stuck_time(results, depth)
        axes.loglog(SIZES, small, "o", color=f"C{i}", label=f"N = {depth}, size s0")
        axes.loglog(EPSILONS, near, "x", color=f"C{i}", label=f"N = {depth}, c1 near the saddle")
        sizes = np.array(SIZES)
        if depth == 2:
            law = small[-1] + np.log(sizes[-1] / sizes) / (2 * SIGMA[0])
        else:
            law = small[0] * (sizes / sizes[0]) ** -(1 - 2 / depth)
        axes.loglog(sizes, law, ":", color="black", linewidth=0.8)
    axes.set(xlabel="s0, or c1", ylabel="stuck time", title="Stuck times and their laws (dotted)")
    tidy(axes)


def draw_gradient_descent(results: Results, axes: "Axes") -> None:
    """Drift and distance from the flow against the learning rate."""
    axes.loglog(STEP_SIZES, at_time(results, "balancedness", 6.0), "o-", label="drift of balancedness, t = 6")
    axes.loglog(STEP_SIZES, at_time(results, "flow_error", 3.0), "s-", label="relative distance from the flow, t = 3")
    axes.loglog(STEP_SIZES, STEP_SIZES, ":", color="black", linewidth=0.8, label="h")
    axes.set(xlabel="learning rate h", title="Gradient descent: of order h")
    tidy(axes)


CLAIM = Claim(
    statement="With a one-neuron layer, whitened data and any balanced start, gradient flow on a deep linear network "
    "goes where the start alone says, to the global minimum or to a saddle, with predictable rates that go from "
    "polynomial to exponential, after a predictable time near the origin or a saddle; and gradient descent follows it",
    paper_figures={},
    runs=runs,
    verdict=verdict,
    figure=figure,
    unit="measured / predicted",
)
