"""What the paper asserts of label noise and of the linear theory, and the runs that could refute it."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.claims import Check, Claim, Results, Run, Verdict, welch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEEDS = range(3)
SUBSET: dict[str, Any] = {  # CIFAR-10N on a processor: 4,000 images, a network of 0.14 million weights
    "data.subset_per_class": 400,
    "data.test_fraction": 0.3,
    "data.val_fraction": 0.02,
    "data.crop_padding": 0,
    "data.batch_size": 64,
    "trainer.max_epochs": 24,
    "model.backbone": "cnn",
    "model.backbone_args": {
        "channels": [32, 64, 64, 128],
        "strides": [2, 1, 2, 2],
        "pool": 2,
        "hidden_channels": [],
    },
    "model.optimizer.lr": 0.05,
    "model.lr_schedule": "cosine",
    "model.milestones": [],
}
FAST_NOISE = {"model.alpha_u": 30.0, "model.alpha_v": 30.0, "model.init_std": 1e-3}
ASYMMETRIC = {
    "data.label_noise": {"class_path": "datamodules.AsymmetricNoise", "init_args": {"rate": 0.4, "flips": "mnist"}}
}
WORST = {"data.label_noise": {"class_path": "datamodules.HumanNoise", "init_args": {"kind": "worse"}}}
SYMMETRIC = {"data.label_noise": {"class_path": "datamodules.SymmetricNoise", "init_args": {"rate": 0.5}}}

RANKS, CORRUPTED = [2, 4, 8, 16], [2, 4, 8, 12, 16]
LARGE_LAMBDA = {"model.alpha": 0.5, "model.gamma": 1e-4, "trainer.max_epochs": 3}
SMALL_LAMBDA = {"model.alpha": 40.0, "model.gamma": 1e-4, "trainer.max_epochs": 30}
PHASES = {
    "model.gamma": 1e-8,
    "model.ranks": RANKS,
    "model.num_corrupted": CORRUPTED,
    "model.num_instances": 20,
    "trainer.max_epochs": 2,
}
CASE = "rank_4_4"
TOL = 1e-3  # relative error below which a signal counts as recovered, as in the recipe


def runs(scale: str) -> list[Run]:
    """Every method with every seed, the costly ones first."""
    kinds: list[tuple[str, dict[str, Any]]]
    if scale == "small":
        kinds = [("sop_cifar10n", SUBSET | FAST_NOISE), ("sop_cifar10n_ce", SUBSET)]
        kinds += [(recipe, noise) for noise in (SYMMETRIC, ASYMMETRIC) for recipe in ("sop_mnist", "sop_mnist_ce")]
    else:
        kinds = [("sop_plus", WORST), ("sop_plus", SYMMETRIC), ("sop_plus_ce", SYMMETRIC)]
        kinds += [("sop", SYMMETRIC), ("sop_ce", SYMMETRIC), ("sop_cifar10n", WORST), ("sop_cifar10n_ce", WORST)]
    kinds += [("sop_linear", SMALL_LAMBDA), ("sop_linear", PHASES), ("sop_linear", LARGE_LAMBDA)]
    return [Run(recipe, seed, settings) for recipe, settings in kinds for seed in SEEDS]


def verdict(results: Results) -> Verdict:
    checks = [*theory(results)]
    if results.scale == "small":
        figures = {
            f"{title}: {method}": accuracy(results, recipe, noise)
            for title, noise in {"MNIST, symmetric": SYMMETRIC, "MNIST, asymmetric": ASYMMETRIC}.items()
            for method, recipe in {"CE": "sop_mnist_ce", "SOP": "sop_mnist"}.items()
        }
        figures |= {
            "CIFAR-10N, 4,000 images: CE": accuracy(results, "sop_cifar10n_ce", {}),
            "CIFAR-10N, 4,000 images: SOP": accuracy(results, "sop_cifar10n", {}),
        }
        symmetric = results.of("sop_mnist", SYMMETRIC), results.of("sop_mnist_ce", SYMMETRIC)
        checks += [
            gain(figures, "MNIST, symmetric", 20.0),
            at_least("SOP reaches 86 % on MNIST, symmetric", figures["MNIST, symmetric: SOP"], 86.0),
            *no_late_drop(*symmetric),
            *detection(symmetric[0]),
            *memorization(*symmetric),
            gain(figures, "MNIST, asymmetric", 3.0),
            beside(figures, "CIFAR-10N, 4,000 images"),
        ]
    else:
        figures = {
            "CIFAR-10, symmetric: CE": accuracy(results, "sop_ce", {}),
            "CIFAR-10, symmetric: SOP": accuracy(results, "sop", {}),
            "CIFAR-10, symmetric: CE, PreActResNet-18": accuracy(results, "sop_plus_ce", {}),
            "CIFAR-10, symmetric: SOP+": accuracy(results, "sop_plus", SYMMETRIC),
            "CIFAR-10N, worst: CE": accuracy(results, "sop_cifar10n_ce", {}),
            "CIFAR-10N, worst: SOP": accuracy(results, "sop_cifar10n", {}),
            "CIFAR-10N, worst: SOP+": accuracy(results, "sop_plus", WORST),
        }
        symmetric = results.of("sop"), results.of("sop_ce")
        checks += [
            gain(figures, "CIFAR-10, symmetric", 10.0),
            *no_late_drop(*symmetric),
            *detection(symmetric[0]),
            *memorization(*symmetric),
            within("SOP+", figures["CIFAR-10N, worst: SOP+"], 93.24, 0.8),
            beside(figures, "CIFAR-10N, worst"),
        ]
    return Verdict(figures, checks)


def accuracy(results: Results, recipe: str, settings: dict[str, Any]) -> NDArray[np.float64]:
    """Test accuracies after the last epoch, in percent."""
    return 100 * results.of(recipe, settings).metric("test/acc")


def gain(figures: dict[str, NDArray[np.float64]], title: str, margin: float) -> Check:
    difference = welch(figures[f"{title}: SOP"], figures[f"{title}: CE"])
    statement = f"SOP beats cross-entropy on {title} by at least {margin:.0f} points (p < 0.05)"
    return Check(statement, difference.is_greater(margin), str(difference))


def beside(figures: dict[str, NDArray[np.float64]], title: str) -> Check:
    difference = welch(figures[f"{title}: SOP"], figures[f"{title}: CE"])
    return Check(f"SOP over cross-entropy on {title}, with people's worst labels", None, str(difference))


def at_least(statement: str, values: NDArray[np.float64], bound: float, digits: int = 2) -> Check:
    mean = float(values.mean())
    return Check(statement, mean >= bound, f"{mean:.{digits}f}")


def at_most(statement: str, values: NDArray[np.float64], bound: float, digits: int = 2) -> Check:
    mean = float(values.mean())
    return Check(statement, mean <= bound, f"{mean:.{digits}f}")


def within(name: str, values: NDArray[np.float64], paper: float, tolerance: float) -> Check:
    difference = float(values.mean()) - paper
    return Check(
        f"{name} within {tolerance} of the paper's {paper}", abs(difference) <= tolerance, f"{difference:+.2f}"
    )


def no_late_drop(sop: Results, ce: Results) -> list[Check]:
    """Accuracies on held-out images by their clean labels: the best epoch's less the last one's, in points."""
    lost = "val/clean_acc (lost)"
    return [
        at_most("SOP loses at most 1 point after its best epoch", 100 * sop.metric(lost), 1.0),
        at_least("cross-entropy loses at least 10 points after its best epoch", 100 * ce.metric(lost), 10.0),
    ]


def detection(sop: Results) -> list[Check]:
    return [
        at_least(f"u² > 0.5 finds wrong labels: {name} at least 0.85", sop.metric(f"noise/{name}"), 0.85)
        for name in ("precision", "recall")
    ]


def memorization(sop: Results, ce: Results) -> list[Check]:
    given = "memorization/given"
    return [
        at_most("SOP's network says the label as given for at most 65 % of the training set", sop.metric(given), 0.65),
        at_least("cross-entropy's for at least 95 %", ce.metric(given), 0.95),
    ]


def theory(results: Results) -> list[Check]:
    """The largest relative error of the signal over instances and seeds, and the distance to the convex program."""
    large, small = (results.of("sop_linear", settings) for settings in (LARGE_LAMBDA, SMALL_LAMBDA))
    error, distance = (float(large.metric(f"{name}/{CASE}").max()) for name in ("error", "distance"))
    failure, convex = float(small.metric(f"error/{CASE}").min()), small.metric(f"convex/{CASE}")
    return [
        Check("linear model, large lambda: relative error below 1e-4", error < 1e-4, f"{error:.1e}"),
        Check("and descent is the convex program: distance below 1e-4", distance < 1e-4, f"{distance:.1e}"),
        Check("small lambda: error above 0.2", failure > 0.2, f"{failure:.2f}"),
        Check("the convex program's own error there", None, f"{convex.min():.2f} to {convex.max():.2f}"),
    ]


def figure(results: Results) -> "Figure":
    """Accuracy over epochs, the noise that was found, and where the linear model recovers its signal."""
    from matplotlib.figure import Figure

    sop, ce = ("sop_mnist", "sop_mnist_ce") if results.scale == "small" else ("sop", "sop_ce")
    drawing = Figure(figsize=(13, 3.9), layout="constrained")
    left, middle, right = drawing.subplots(1, 3)
    draw_accuracy(left, results.of(sop, SYMMETRIC), results.of(ce, SYMMETRIC))
    draw_noise(middle, results.of(sop, SYMMETRIC))
    draw_phases(right, results.of("sop_linear", PHASES))
    return drawing


def draw_accuracy(axes: "Axes", sop: Results, ce: Results) -> None:
    for label, of, color in (("SOP", sop, "tab:blue"), ("cross-entropy", ce, "tab:red")):
        for i, (epochs, values) in enumerate(of.curves("val/clean_acc")):
            axes.plot(epochs, 100 * values, color=color, alpha=0.7, label=None if i else label)
    axes.set(xlabel="epoch", ylabel="accuracy, %", title="held-out images, clean labels")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)


def draw_noise(axes: "Axes", sop: Results) -> None:
    for label, name, color in (("wrong labels", "noise/wrong", "tab:red"), ("right labels", "noise/right", "tab:blue")):
        middles = sop.curves(name)[0][0]
        shares = np.mean([share for _, share in sop.curves(name)], axis=0)
        axes.bar(middles, shares, width=1 / len(middles), color=color, alpha=0.6, label=label)
    axes.set(xlabel="u²", ylabel="share of the labels", title="the noise that SOP found")
    axes.legend(frameon=False)


def draw_phases(axes: "Axes", linear: Results) -> None:
    """Where descent recovers the signal; a star where the convex program does for every instance."""
    recovered = [[linear.metric(f"recovered/rank_{rank}_{k}").mean() for k in CORRUPTED] for rank in RANKS]
    convex = [[linear.metric(f"convex/rank_{rank}_{k}").max() for k in CORRUPTED] for rank in RANKS]
    axes.imshow(recovered, vmin=0, vmax=1, cmap="Blues", aspect="auto", origin="lower")
    for row, values in enumerate(recovered):
        for column, value in enumerate(values):
            text = f"{value:.2f}" + ("*" if convex[row][column] < TOL else "")
            axes.text(column, row, text, ha="center", va="center", color="white" if value > 0.5 else "black")
    axes.set_xticks(range(len(CORRUPTED)), [str(k) for k in CORRUPTED])
    axes.set_yticks(range(len(RANKS)), [str(rank) for rank in RANKS])
    axes.set(xlabel="corrupted samples of 50", ylabel="rank", title="linear model: share recovered (* convex: all)")


CLAIM = Claim(
    statement="With a sparse over-parameterised noise vector for each training sample a network does not memorise "
    "wrong labels: its last epoch is far better than cross-entropy's, and the noise tells which labels are wrong",
    paper_figures={"CIFAR-10N, worst: SOP+": (93.24, 0.21)},
    runs=runs,
    verdict=verdict,
    figure=figure,
    unit="test accuracy, %",
)
