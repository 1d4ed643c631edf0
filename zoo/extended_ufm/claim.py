"""What the paper asserts of the extended model, and the runs that could refute it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.claims import Check, Claim, Results, Run, Verdict
from zoo.evidence import Values, at_most, below, chosen, draw_matrix, of_replicas, span, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEEDS = range(3)
NUM_CLASSES, SAMPLES, WEIGHT_DECAY, FEATURE_DECAY = 4, 50, 5e-3, 1e-3  # of the recipes of free features

# Free features.
BIAS = {"model.bias": True}
STDS = (0.001, 0.01, 0.03, 0.05)
STARTS = 6  # of each
SMALL_STARTS = {
    "model.init_std": [std for std in STDS for _ in range(STARTS)],
    "model.num_replicas": len(STDS) * STARTS,
    "trainer.max_epochs": 44,
}

# Networks: MNIST at the small scale, and a ResNet on MNIST and CIFAR-10 at the full one.
LAYERS = ("layer 1", "layer 2", "layer 3", "features")
STRONG: dict[str, Any] = {
    "model.optimizer.weight_decay": 1e-2,
    "trainer.max_epochs": 200,
    "model.milestones": [60, 120, 180],
}
HEADS = {"no bias": False, "bias": True}
DECAYS = {"decay 0.002": {}, "decay 0.01": STRONG}
DATA = {"MNIST": {"data.name": "mnist", "model.backbone.input_shape": [1, 28, 28]}, "CIFAR-10": {}}
FULL_DECAYS = {"decay 0.0005": {}, "decay 0.002": {"model.optimizer.weight_decay": 2e-3}}


def networks(scale: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Recipe and overrides of every network, by name."""
    if scale == "small":
        return {
            f"{decay}: {head}": ("extended_ufm_mnist", settings | {"model.backbone_args.head_bias": bias})
            for decay, settings in DECAYS.items()
            for head, bias in HEADS.items()
        }
    return {
        f"{data}, {decay}: {head}": (
            "extended_ufm_resnet",
            source | settings | {"model.backbone.head_bias": bias},
        )
        for data, source in DATA.items()
        for decay, settings in FULL_DECAYS.items()
        for head, bias in HEADS.items()
    }


def runs(scale: str) -> list[Run]:
    """The networks, which take longest, first."""
    seeds = SEEDS if scale == "small" else range(1)
    trained = [Run(recipe, seed, settings) for recipe, settings in networks(scale).values() for seed in seeds]
    free: list[tuple[str, dict[str, Any]]] = [
        ("extended_ufm_relu", {}),
        ("extended_ufm", {}),
        ("extended_ufm", SMALL_STARTS),
        ("extended_ufm", BIAS),
        ("extended_ufm_threshold", {}),
    ]
    return trained + [Run(recipe, 0, settings) for recipe, settings in free]


def verdict(results: Results) -> Verdict:
    figures = {name: 100 * chosen(results, *kind).metric("test/acc") for name, kind in networks(results.scale).items()}
    checks = [*linear(results), *free_bias(results), *small_starts(results), *threshold(results), *relu(results)]
    checks += mnist(results) if results.scale == "small" else resnet(results)
    return Verdict(figures, checks)


def stationary(strength: float) -> float:
    r"""The largest root of :math:`\sigma^{1/3} (1 - \sigma) = x`, from the quartic in :math:`\sigma^{1/3}`.

    Example:
        >>> round(stationary(0.2439), 6)
        0.729
    """
    roots = np.roots([1.0, 0.0, 0.0, -1.0, strength])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9) ** 3)


def prediction(weight_decay: float, feature_decay: float, samples: int, directions: int) -> dict[str, float]:
    """Singular value, objective and squared norms at the stationary point of two layers with this many directions."""
    kappa = (samples * feature_decay * weight_decay**2) ** (1 / 3)
    sigma = stationary(NUM_CLASSES * kappa)
    weighted = kappa * sigma ** (2 / 3)
    cost = (sigma - 1) ** 2 / (2 * NUM_CLASSES) + 1.5 * weighted
    first = weighted / (samples * feature_decay)
    second = first * weighted / weight_decay
    return {"sigma": sigma, "objective": directions * cost, "H1/norm": first, "H2/norm": second}


def linear(results: Results) -> list[Check]:
    found = chosen(results, "extended_ufm")
    expected = prediction(WEIGHT_DECAY, FEATURE_DECAY, SAMPLES, NUM_CLASSES)
    excess = np.abs(of_replicas(found, "objective") - expected["objective"])
    frames = np.concatenate([of_replicas(found, f"{layer}/of") for layer in ("H1", "H2")])
    norms = np.concatenate([np.abs(of_replicas(found, name) - expected[name]) for name in ("H1/norm", "H2/norm")])
    aligned = np.concatenate([of_replicas(found, f"{layer}/alignment") for layer in ("H1", "H2")])
    return [
        Check(
            "two linear layers: descent finds the minimum, f - f* below 1e-10", below(excess, 1e-10), at_most(excess)
        ),
        Check("both levels are orthogonal frames: distance below 1e-6", below(frames, 1e-6), at_most(frames)),
        Check("their squared norms are those of the closed form within 1e-6", below(norms, 1e-6), at_most(norms)),
        Check("the weights above each are parallel to it: below 1e-6", below(aligned, 1e-6), at_most(aligned)),
    ]


def free_bias(results: Results) -> list[Check]:
    found = chosen(results, "extended_ufm", BIAS)
    frames = np.concatenate([of_replicas(found, f"{layer}/etf") for layer in ("H1", "H2")])
    excess = of_replicas(found, "objective") - prediction(WEIGHT_DECAY, FEATURE_DECAY, SAMPLES, 3)["objective"]
    statement = "with a free bias both levels are simplex ETFs: distance below 1e-6"
    return [
        Check(statement, below(frames, 1e-6), at_most(frames)),
        Check("and f - f* is below 1e-10", below(np.abs(excess), 1e-10), at_most(np.abs(excess))),
    ]


def by_std(results: Results) -> dict[float, Values]:
    """Final objective of every start, by its standard deviation."""
    objectives = of_replicas(chosen(results, "extended_ufm", SMALL_STARTS), "objective")
    return {std: objectives[:, i * STARTS : (i + 1) * STARTS].ravel() for i, std in enumerate(STDS)}


def small_starts(results: Results) -> list[Check]:
    best = prediction(WEIGHT_DECAY, FEATURE_DECAY, SAMPLES, NUM_CLASSES)["objective"]
    objectives = by_std(results)
    trapped, free = np.abs(objectives[0.01] - 0.5), np.abs(objectives[0.05] - best)
    lost = np.sort((objectives[0.03] - best) / ((0.5 - best) / NUM_CLASSES)).round(2)
    return [
        Check("starts of std 0.01 end at zero: f = 0.5 within 1e-3", below(trapped, 1e-3), at_most(trapped)),
        Check("starts of std 0.05 reach the minimum: f - f* below 1e-6", below(free, 1e-6), at_most(free)),
        Check("starts of std 0.03 lose so many of the four directions", None, ", ".join(f"{one:g}" for one in lost)),
    ]


def threshold(results: Results) -> list[Check]:
    found = chosen(results, "extended_ufm_threshold")
    decays = found[0].config["model"]["init_args"]["feature_decay"]
    factors = [16 * NUM_CLASSES**3 * 10 * decay**3 for decay in decays]
    expected = np.array([prediction(decay, decay, 10, NUM_CLASSES)["objective"] for decay in decays])
    start, gap, end = (
        of_replicas(found, "objective", 0)[0],
        of_replicas(found, "gap", 0)[0],
        of_replicas(found, "objective")[0],
    )
    best = np.where(np.array(factors) < 1, expected, 0.5)
    errors = np.abs(start - expected)
    return [
        Check(
            "off zero the stationary point has the value of the formula within 1e-9",
            below(errors, 1e-9),
            at_most(errors),
        ),
        Check(
            "zero is the minimum where 16 K^3 n times the decays is above 1, and only there",
            bool((np.abs(start - gap - best) < 1e-9).all() and ((expected > 0.5) == (np.array(factors) > 1)).all()),
            ", ".join(f"{factor:.2f}: {value:.7f}" for factor, value in zip(factors, start)),
        ),
        Check(
            "it is a local minimum on both sides: descent returns to it from 1e-3 away, f within 1e-9",
            below(np.abs(end - start), 1e-9),
            at_most(np.abs(end - start)),
        ),
    ]


def good(found: Results) -> NDArray[np.bool_]:
    """Which replicas have reached the minimum, ``(runs, replicas)``."""
    return of_replicas(found, "gap") < 1e-8


def relu(results: Results) -> list[Check]:
    found = chosen(results, "extended_ufm_relu")
    reached, gaps = good(found), of_replicas(found, "gap")

    def of_good(name: str) -> Values:
        return of_replicas(found, name)[reached]

    nuclear = np.abs(of_good("H2/nuclear_ratio") - 1)
    return [
        Check(
            "ReLU: at least four of six starts reach f*",
            bool((reached.sum(1) >= 4).all()),
            f"{reached.sum()} of {reached.size}",
        ),
        Check("and none ends below it by 1e-9", bool((gaps > -1e-9).all()), f"lowest f - f* {gaps.min():.1e}"),
        Check(
            "ReLU: the later level has collapsed, NC1 below 1e-10",
            below(of_good("H2/nc1"), 1e-10),
            at_most(of_good("H2/nc1")),
        ),
        Check("to an orthogonal frame: distance below 1e-6", below(of_good("H2/of"), 1e-6), at_most(of_good("H2/of"))),
        Check(
            "parallel to the last weights: below 1e-6",
            below(of_good("H2/alignment"), 1e-6),
            at_most(of_good("H2/alignment")),
        ),
        Check("nuclear norms before and after the ReLU agree to 1e-6", below(nuclear, 1e-6), at_most(nuclear)),
        Check("the earlier level's distance from an orthogonal frame", None, span(of_good("H1/of"))),
    ]


def mnist(results: Results) -> list[Check]:
    """All networks, seed by seed."""
    found = {name: chosen(results, *kind) for name, kind in networks("small").items()}
    weak = [of for name, of in found.items() if name.startswith("decay 0.002")]
    accuracy = np.concatenate([of.metric("train/acc") for of in found.values()])
    last = np.concatenate([of.metric("nc/features/nc1") for of in weak])
    checks = [
        Check(
            "MNIST: training accuracy at least 0.999 in every run",
            bool((accuracy >= 0.999).all()),
            f"{accuracy.min():.4f}",
        ),
        *(falls_with_depth(list(found.values()), measure) for measure in ("nc1", "trace_ratio")),
        Check("NC1 of the last layer below 0.005 at decay 0.002", below(last, 0.005), at_most(last)),
    ]
    for decay in DECAYS:
        distance = {head: found[f"{decay}: {head}"].metric("nc/features/of_classifier") for head in HEADS}
        holds = below(distance["no bias"], 0.25) and bool((distance["bias"] > 0.28).all())
        statement = f"{decay}: the classifier is near an orthogonal frame without bias (< 0.25), not with one (> 0.28)"
        checks.append(Check(statement, holds, "; ".join(f"{head} {span(values)}" for head, values in distance.items())))
    features = {head: found[f"decay 0.01: {head}"].metric("nc/features/of_features") for head in HEADS}
    evidence = "; ".join(f"{head} {span(values)}" for head, values in features.items())
    return [*checks, Check("the features' distance from an orthogonal frame, decay 0.01", None, evidence)]


def falls_with_depth(found: Sequence[Results], measure: str) -> Check:
    values = [np.stack([of.metric(f"nc/{layer}/{measure}") for layer in LAYERS]) for of in found]
    means = np.concatenate(values, axis=1).mean(axis=1)
    holds = all(bool((np.diff(one, axis=0) < 0).all()) for one in values)
    return Check(f"{measure} falls from layer to layer in every run", holds, ", ".join(f"{one:.2g}" for one in means))


def resnet(results: Results) -> list[Check]:
    """Collapse at both levels, and the later one's frame."""
    checks = []
    for name, kind in networks("full").items():
        found = chosen(results, *kind)
        ratios = {level: found.curves(f"nc/{level}/nc1")[0][1] for level in ("H1", "features")}
        holds = all(bool(y[0] > 10 * y[-1]) for y in ratios.values())
        evidence = "; ".join(f"{level} {y[0]:.2g} to {y[-1]:.2g}" for level, y in ratios.items())
        checks.append(Check(f"{name}: NC1 of both levels falls more than tenfold after epoch 10", holds, evidence))
        distances = {level: float(found.metric(f"nc/{level}/of_features").mean()) for level in ratios}
        evidence = ", ".join(f"{level} {value:.3f}" for level, value in distances.items())
        nearer = distances["features"] < distances["H1"]
        checks.append(Check(f"{name}: the later level is nearer to an orthogonal frame", nearer, evidence))
    return checks


def figure(results: Results) -> "Figure":
    """Free features: descent, Gram matrices, starts, threshold; networks: layers and the classifier's frame."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(14, 8), layout="constrained")
    top, bottom = drawing.subfigures(2, 1)  # type: ignore[misc]
    left, middle, right = top.subfigures(1, 3)
    draw_descent(results, left.subplots())
    draw_grams(results, middle)
    draw_starts(results, right.subplots())
    below_left, below_middle, below_right = bottom.subplots(1, 3)
    draw_threshold(results, below_left)
    draw_layers(results, below_middle)
    draw_frames(results, below_right)
    return drawing


def draw_descent(results: Results, axes: "Axes") -> None:
    """NC1 and the distance from an orthogonal frame, level by level, of the linear and the ReLU model."""
    for i, (name, recipe) in enumerate({"linear": "extended_ufm", "ReLU": "extended_ufm_relu"}.items()):
        found = chosen(results, recipe)
        first = int(np.argmax(good(found)[0]))  # a replica that has reached the minimum
        for level, style in {"H1": "--", "H2": "-"}.items():
            x, y = found.curves(f"{level}/nc1/{first}")[0]
            axes.loglog(x[1:], y[1:], style, color=f"C{2 * i}", label=f"NC1, {name}, {level}")
            x, y = found.curves(f"{level}/of/{first}")[0]
            axes.loglog(x[1:], y[1:], style, color=f"C{2 * i + 1}", label=f"OF distance, {name}, {level}")
    axes.set(xlabel="step", title="Two layers: both levels collapse")
    tidy(axes)


def draw_grams(results: Results, place: Any) -> None:
    """Inner products of the class means, divided by the largest."""
    found, biased = chosen(results, "extended_ufm_relu"), chosen(results, "extended_ufm", BIAS)
    first = int(np.argmax(good(found)[0]))
    kinds = {"ReLU, H1": found.curves(f"H1/gram/{first}"), "ReLU, H2": found.curves(f"H2/gram/{first}")}
    kinds |= {"linear, bias, H1": biased.curves("H1/gram/0"), "linear, bias, H2": biased.curves("H2/gram/0")}
    for axes, (name, ((_, values), *_)) in zip(place.subplots(2, 2).flat, kinds.items()):
        draw_matrix(axes, values.reshape(NUM_CLASSES, NUM_CLASSES), name)


def draw_starts(results: Results, axes: "Axes") -> None:
    """Where starts of several sizes end."""
    best = prediction(WEIGHT_DECAY, FEATURE_DECAY, SAMPLES, NUM_CLASSES)["objective"]
    for lost in range(NUM_CLASSES + 1):
        axes.axhline(best + lost * (0.5 - best) / NUM_CLASSES, color="black", linewidth=0.6, linestyle=":")
    for i, (std, values) in enumerate(by_std(results).items()):
        axes.plot(i + np.linspace(-0.2, 0.2, len(values)), np.sort(values), "o", alpha=0.7)
        axes.text(i, 0.53, f"{std:g}", ha="center")
    axes.set(xlabel="standard deviation of the start", ylabel="objective at the end", xticks=[], ylim=(0, 0.57))
    axes.set_title("Small starts lose directions (dotted: 0 to 4)")
    tidy(axes, legend=False)


def draw_threshold(results: Results, axes: "Axes") -> None:
    """The objective at the stationary point off zero, beside that of zero."""
    xs = np.linspace(0.5, 1.67, 200)
    decays = (xs / 16 / NUM_CLASSES**3 / 10) ** (1 / 3)
    axes.plot(xs, [prediction(decay, decay, 10, NUM_CLASSES)["objective"] for decay in decays], label="closed form")
    found = chosen(results, "extended_ufm_threshold")
    factors = [16 * NUM_CLASSES**3 * 10 * d**3 for d in found[0].config["model"]["init_args"]["feature_decay"]]
    axes.plot(factors, of_replicas(found, "objective")[0], "o", label="where descent ends")
    axes.axhline(0.5, color="black", linewidth=0.8, label="zero")
    axes.set(xlabel="16 K³ n times the decays", ylabel="objective", title="The local minimum off zero")
    tidy(axes)


def draw_layers(results: Results, axes: "Axes") -> None:
    """NC1 at the end, layer by level."""
    levels = LAYERS if results.scale == "small" else ("H1", "features")
    for i, (name, kind) in enumerate(networks(results.scale).items()):
        values = np.stack([chosen(results, *kind).metric(f"nc/{level}/nc1") for level in levels])
        axes.semilogy(range(1, len(levels) + 1), values, "o-", color=f"C{i}", alpha=0.6)
        axes.semilogy([], [], "o-", color=f"C{i}", label=name)
    axes.set(xlabel="layer", ylabel="NC1", title="Networks: deeper layers collapse more")
    axes.set_xticks(range(1, len(levels) + 1))
    tidy(axes)


def draw_frames(results: Results, axes: "Axes") -> None:
    """Distance of the classifier and of the features from an orthogonal frame."""
    names = list(networks(results.scale))
    for measure, mark in {"of_classifier": "o", "of_features": "x"}.items():
        for i, name in enumerate(names):
            values = chosen(results, *networks(results.scale)[name]).metric(f"nc/features/{measure}")
            label = {"of_classifier": "classifier", "of_features": "features"}[measure]
            axes.plot([i] * len(values), values, mark, color=f"C{i}", alpha=0.7, label=None if i else label)
    axes.axhline(0.32036, color="black", linestyle=":", linewidth=0.8, label="simplex ETF")
    axes.set_xticks(range(len(names)), [name.replace(": ", "\n") for name in names], fontsize="small")
    axes.set(ylabel="distance", title="Networks: distance from an orthogonal frame")
    tidy(axes)


CLAIM = Claim(
    statement="With free features below two layers, squared error and weight decay, both levels collapse to orthogonal "
    "frames (with a free bias to simplex ETFs); with a ReLU between them it is the later level that is a frame; and in "
    "networks later layers collapse more, and a classifier without bias is near an orthogonal frame",
    paper_figures={},
    runs=runs,
    verdict=verdict,
    figure=figure,
    unit="test accuracy, %",
)
