"""What the paper asserts, and the runs that could refute it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.claims import Check, Claim, Results, Run, Verdict
from zoo.evidence import Values, at_most, below, chosen, of_replicas, span, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = tuple[str, dict[str, Any]]

SEEDS = range(10, 13)  # nothing was chosen on these
RADII = (36, 72, 108, 144, 180, 216)  # of the recipes, in 255ths

# Layers by themselves: the largest error in each precision.
LAYERS: dict[str, tuple[Kind, float]] = {
    "float32": (("orthogonal_layers", {}), 1e-5),
    "float64": (("orthogonal_layers", {"trainer.precision": "64-true"}), 1e-10),
}

# CIFAR-10. Small: 5,000 images, an eighth to a quarter of the width, 5 epochs.
SMALL = {
    "model.base_channels": 8,
    "model.optimizer.lr": 4e-3,
    "data.subset_per_class": 500,
    "data.test_fraction": 0.2,
    "data.batch_size": 128,
    "trainer.max_epochs": 5,
}
DEPTHS = {"small": (5, 15), "full": (5, 10, 15, 20, 30, 40)}
PLAIN = "plain, depth 5"
FIGURES = {"clean": "acc", "attacked, 36/255": "adversarial_acc", "certified, 36/255": "certified_36"}


def networks(scale: str) -> dict[str, Kind]:
    """Recipe and overrides of every network, by name, the deepest first."""
    settings = SMALL if scale == "small" else {}
    deep: dict[str, Kind] = {
        f"depth {depth}": ("paraunitary_lipconvnet", settings | {"model.depth": depth})
        for depth in reversed(DEPTHS[scale])
    }
    return deep | {PLAIN: ("lipconvnet_unconstrained", settings)}


def runs(scale: str) -> list[Run]:
    """The longest first."""
    kinds = [*networks(scale).values(), *(kind for kind, _ in LAYERS.values())]
    return [Run(recipe, seed, settings) for recipe, settings in kinds for seed in SEEDS]


def verdict(results: Results) -> Verdict:
    found = {name: chosen(results, *kind) for name, kind in networks(results.scale).items()}
    figures = {
        f"{title}: {name}": 100 * one.metric(f"test/{metric}")
        for title, metric in FIGURES.items()
        for name, one in found.items()
    }
    orthogonal = {name: one for name, one in found.items() if name != PLAIN}
    checks = [check for precision in LAYERS for check in layers(results, precision)]
    checks += [stays_orthogonal(orthogonal), never_stretches(orthogonal)]
    checks += [certificate_holds(name, one) for name, one in found.items()]
    checks += small(orthogonal) if results.scale == "small" else deeper(orthogonal)
    return Verdict(figures, [*checks, *plain(found)])


def layers(results: Results, precision: str) -> list[Check]:
    """All singular values, and that each layer keeps the norms that it can keep."""
    kind, limit = LAYERS[precision]
    one = chosen(results, *kind)
    errors = np.stack([of_replicas(one, "orthogonality_error", at) for at in (0, -1)])
    grown = np.stack([of_replicas(one, f"{side}_norm") for side in ("input", "gradient")])
    kept = np.abs(grown - 1).min(axis=0)
    number = errors.shape[-1]
    return [
        Check(
            f"{precision}: all singular values of {number} kinds of layers are within {limit:g} of 1, at the start and "
            "after 100 steps of Adam",
            below(errors, limit),
            at_most(errors),
        ),
        Check(
            f"{precision}: each layer keeps the norm of inputs or of gradients, and makes none longer, within 1e-5",
            below(kept, 1e-5) and below(grown, 1 + 1e-5),
            f"off by {at_most(kept)}; longest {grown.max():.7f}",
        ),
    ]


def stays_orthogonal(orthogonal: dict[str, Results]) -> Check:
    names = ("orthogonality/error_at_start", "orthogonality/error")
    errors = np.concatenate([one.metric(name) for one in orthogonal.values() for name in names])
    statement = "networks: all singular values of all layers are within 1e-5 of 1, before and after training"
    return Check(statement, below(errors, 1e-5), at_most(errors))


def never_stretches(orthogonal: dict[str, Results]) -> Check:
    ratios = np.concatenate([one.metric("test/lipschitz") for one in orthogonal.values()])
    statement = "networks: no pair of images is torn apart, by attacks or power iteration: at most 1.0001 times as far"
    return Check(statement, below(ratios, 1 + 1e-4), span(ratios))


def certificate_holds(name: str, one: Results) -> Check:
    certified, attacked, clean = (
        100 * one.metric(f"test/{part}") for part in ("certified_36", "adversarial_acc", "acc")
    )
    holds = bool((certified <= attacked).all() and (attacked <= clean).all())
    evidence = f"{span(certified, 1)}; {span(attacked, 1)}; {span(clean, 1)}"
    return Check(f"{name}: certified <= attacked <= clean accuracy on the same images, %", holds, evidence)


def small(orthogonal: dict[str, Results]) -> list[Check]:
    """What 5 epochs on 5,000 images can tell; they cannot tell whether depth helps."""
    shallow, deep = orthogonal["depth 5"], orthogonal["depth 15"]
    clean, certified, deep_clean = (
        100 * values
        for values in (shallow.metric("test/acc"), shallow.metric("test/certified_36"), deep.metric("test/acc"))
    )
    gap = 100 * (shallow.metric("train/acc") - shallow.metric("test/acc"))
    return [
        Check("depth 5: clean accuracy at least 36 %", bool((clean >= 36).all()), span(clean, 1)),
        Check("depth 5: certified at 36/255 at least 17 %", bool((certified >= 17).all()), span(certified, 1)),
        Check("depth 5: training accuracy less than 5 points above test", below(gap, 5), f"{span(gap, 1)} points"),
        Check("depth 15 trains: clean accuracy at least 28 %", bool((deep_clean >= 28).all()), span(deep_clean, 1)),
    ]


def deeper(orthogonal: dict[str, Results]) -> list[Check]:
    """Whether more layers certify more; the paper says so of residual networks, which are not these."""
    means = {name: 100 * one.metric("test/certified_36").mean() for name, one in orthogonal.items()}
    evidence = ", ".join(f"{name} {mean:.1f}" for name, mean in means.items())
    return [Check("certified at 36/255 by depth, %", None, evidence)]


def plain(found: dict[str, Results]) -> list[Check]:
    """The same network without constraint has no certificate to speak of."""
    one, ours = found[PLAIN], found["depth 5"]
    certified, bound = 100 * one.metric("test/certified_36"), one.metric("test/lipschitz_bound")
    stretch = one.metric("test/lipschitz")
    less = 100 * (ours.metric("test/adversarial_acc") - one.metric("test/adversarial_acc"))
    return [
        Check("plain convolutions: less than 1 % is certified at 36/255", below(certified, 1), span(certified, 1)),
        Check("plain convolutions: Lipschitz bound; largest stretch", None, f"{span(bound, 0)}; {span(stretch, 1)}"),
        Check("orthogonal less plain, accuracy under attack, points", None, span(less, 1)),
    ]


def figure(results: Results) -> "Figure":
    """Singular values of the trained layers, and accuracy over the radius of perturbations."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 4), layout="constrained")
    values, accuracy = drawing.subplots(1, 2)
    draw_singular_values(results, values)
    draw_certified(results, accuracy)
    return drawing


def draw_singular_values(results: Results, axes: "Axes") -> None:
    """All layers of the first run, in descending order."""
    kinds = networks(results.scale)
    for color, name in (("C3", PLAIN), ("C0", "depth 5")):
        curves = chosen(results, *kinds[name])[0].curves
        layers = [curve for key, curve in curves.items() if key.startswith("orthogonality/net.")]
        for i, (x, y) in enumerate(layers):
            axes.plot(x, y, color=color, lw=1, label=None if i else name)
    axes.set(yscale="log", xlabel="position among the singular values of a layer", ylabel="singular value")
    axes.set_title(f"Layers after training, seed {SEEDS[0]}", fontsize="medium")
    tidy(axes)


def draw_certified(results: Results, axes: "Axes") -> None:
    """Certified accuracy over the radius, mean and range; crosses: accuracy under attack."""
    for i, (name, kind) in enumerate(reversed(networks(results.scale).items())):
        one = chosen(results, *kind)
        rows: list[Values] = [one.metric("test/acc"), *(one.metric(f"test/certified_{radius}") for radius in RADII)]
        shares = 100 * np.stack(rows, axis=1)
        x = (0, *RADII)
        axes.plot(x, shares.mean(0), "o-", ms=3, color=f"C{i}", label=name)
        axes.fill_between(x, shares.min(0), shares.max(0), color=f"C{i}", alpha=0.2, lw=0)
        axes.plot(36, 100 * one.metric("test/adversarial_acc").mean(), "x", color=f"C{i}")
    axes.set(xlabel="radius in the l2 norm, 255ths", ylabel="certified accuracy, %", ylim=(0, None))
    axes.set_title("CIFAR-10; crosses: accuracy under attack", fontsize="medium")
    tidy(axes)


CLAIM = Claim(
    statement="A convolution made of paraunitary factors is orthogonal up to rounding, strided, dilated, grouped and "
    "transposed ones too, and stays so in training; networks of such layers train, deep ones too, stretch no "
    "distance, and their margins certify a part of their accuracy",
    paper_figures={},  # the paper's tables are not known to us
    runs=runs,
    verdict=verdict,
    figure=figure,
    unit="%",
)
