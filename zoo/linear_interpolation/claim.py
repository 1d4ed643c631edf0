"""What the paper asserts of the loss between initial and final weights, and the runs that could refute it."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.claims import Check, Claim, Results, Run, Verdict, welch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANCE = math.log(10)
TREATMENTS = ["interpolate", "recompute", "final"]
GROUPS = {"B1": ["net.layer1"], "B2": ["net.layer2"], "B3": ["net.layer3"], "B4": ["net.layer4"], "fc": ["net.head"]}


def probe(groups: dict[str, list[str]] | None) -> dict[str, Any]:
    """The callback at the small scale: 26 positions."""
    arguments = {"num_alphas": 26, "buffers": TREATMENTS, "groups": groups}
    return {"class_path": "callbacks.LinearInterpolation", "init_args": arguments}


def initialiser(name: str, **arguments: Any) -> dict[str, Any]:
    """An initialiser of the room as an entry of the Trainer's callbacks."""
    return {"class_path": f"zoo.linear_interpolation.{name}", "init_args": arguments}


# Small: 10,000 images of MNIST; 4,000 of CIFAR-10 at 16 x 16, a narrow ResNet-10, 12 epochs.
MNIST = {"data.train_fraction": 1 / 6, "data.test_fraction": 0.2}
CIFAR = {
    "model.backbone": "resnet10",
    "model.milestones": [7, 10],
    "data.subset_per_class": 400,
    "data.test_fraction": 0.1,
    "data.resize": 16,
    "data.crop_padding": 2,
    "data.batch_size": 64,
    "trainer.max_epochs": 12,
}
LAYERS, WHOLE = {"trainer.callbacks": [probe(GROUPS)]}, {"trainer.callbacks": [probe(None)]}
SGD, ADAM = (
    {"model.optimizer": {"class_path": f"torch.optim.{name}", "init_args": {"lr": lr}}}
    for name, lr in (("SGD", 0.1), ("Adam", 0.01))
)
Kinds = dict[str, tuple[str, dict[str, Any], range]]
SMALL: Kinds = {
    "WD 0": ("interpolation_resnet_no_wd", CIFAR | LAYERS, range(1, 4)),
    "WD 5e-4": ("interpolation_resnet", CIFAR | WHOLE, range(1, 4)),
    "WD 5e-3": ("interpolation_resnet", CIFAR | LAYERS | {"model.optimizer.weight_decay": 5e-3}, range(1, 4)),
    "adversarial init": (
        "interpolation_resnet_adversarial",
        CIFAR | {"trainer.callbacks": [initialiser("AdversarialInit", batch_size=64), probe(None)]},
        range(1, 4),
    ),
    "barrier init": (
        "interpolation_resnet_barrier",
        CIFAR | {"trainer.callbacks": [initialiser("BarrierInit", alpha=0.3), probe(None)]},
        range(1, 4),
    ),
    "spiral": ("interpolation_spiral", {}, range(4, 8)),
    "MNIST, SGD": ("interpolation_mlp", MNIST | SGD, range(2, 5)),
    "MNIST, Adam": ("interpolation_mlp", MNIST | ADAM, range(2, 5)),
}
FULL: Kinds = {
    "WD 0": ("interpolation_resnet_no_wd", {}, range(10)),
    **{
        f"WD {wd}": ("interpolation_resnet", {"model.optimizer.weight_decay": float(wd)}, range(10))
        for wd in ("5e-5", "1e-4", "5e-4", "1e-3")
    },
    "adversarial init": ("interpolation_resnet_adversarial", {}, range(5)),
    "barrier init": ("interpolation_resnet_barrier", {}, range(5)),
    "spiral": SMALL["spiral"],
    "MNIST, SGD": ("interpolation_mlp", SGD, range(10)),
    "MNIST, Adam": ("interpolation_mlp", ADAM, range(10)),
}
PANELS = {  # what is measured at the small scale is not to be set beside the paper's
    "small": ("barrier of a small network, nats", "test accuracy of a small network, %"),
    "full": ("barrier, nats", "test accuracy, %"),
}
STRONG = {"small": "WD 5e-3", "full": "WD 5e-4"}  # the decay whose path is to be a plateau

# The paper's, full protocol. Accuracies in words on the authors' poster; curves read off its vector graphics.
PAPER_ACC = {
    "WD 0": 90.0, "WD 5e-5": 90.8, "WD 1e-4": 91.3, "WD 5e-4": 92.2, "WD 1e-3": 92.0,
    "adversarial init": 89.7, "barrier init": 91.1,
}  # fmt: skip
PAPER_BARRIER: dict[str, float | tuple[float, float]] = {
    "WD 0": (0.68, 0.63), "WD 5e-5": (0.31, 0.20), "WD 1e-4": (0.25, 0.12), "WD 5e-4": (1.91, 0.01),
    "WD 1e-3": (1.96, 0.02), "adversarial init": (1.18, 1.05), "barrier init": (0.04, 0.05),
    "spiral": (0.87, 0.26), "MNIST, SGD": (0.24, 0.01),
}  # fmt: skip
PAPER_ALPHAS = [0.0, 0.25, 0.5, 0.75, 0.9, 1.0]
PAPER_PATHS = {
    "WD 0": [2.87, 2.73, 1.97, 0.61, 0.48, 0.53],
    "WD 5e-4": [2.77, 2.30, 2.30, 2.31, 2.31, 0.34],
    "MNIST, SGD": [2.30, 1.98, 0.87, 0.16, 0.10, 0.10],
    "spiral": [0.69, 0.73, 1.06, 0.68, 0.03, 0.00],
}


def kinds(scale: str) -> Kinds:
    """Recipe, overrides and seeds by name."""
    return SMALL if scale == "small" else FULL


def runs(scale: str) -> list[Run]:
    """All runs, the longest first."""
    return [Run(recipe, seed, settings) for recipe, settings, seeds in kinds(scale).values() for seed in seeds]


def of(results: Results, name: str) -> Results:
    """The runs of one kind."""
    recipe, settings, _ = kinds(results.scale)[name]
    return results.of(recipe, settings)


def number(results: Results, name: str, metric: str, buffers: str = "interpolate", part: str = "test") -> NDArray:
    """A number of the whole network's path, one for each run."""
    return of(results, name).metric(f"path/{part}/{buffers}/all/{metric}")


def accuracy(results: Results, name: str) -> NDArray[np.float64]:
    """Test accuracies in percent."""
    return 100 * of(results, name).metric("test/acc")


def verdict(results: Results) -> Verdict:
    names = list(kinds(results.scale))
    resnets = [name for name in names if not name.startswith(("MNIST", "spiral"))]
    barrier, acc = PANELS[results.scale]
    figures = {f"{barrier}: {name}": number(results, name, "barrier") for name in names}
    figures |= {f"{acc}: {name}": accuracy(results, name) for name in resnets}
    checks = [*mlp_checks(results), spiral_has_a_barrier(results)]
    checks += small_checks(results) if results.scale == "small" else full_checks(results)
    checks += [shown_beside(results, name) for name in ("adversarial init", "barrier init")]
    checks += [layer_wise(results, name) for name in ("WD 0", STRONG[results.scale])]
    return Verdict(figures, [*checks, distance(results)])


def mlp_checks(results: Results) -> list[Check]:
    deltas = number(results, "MNIST, SGD", "min_delta", part="train")
    middles = number(results, "MNIST, SGD", "loss_middle")
    barriers = number(results, "MNIST, SGD", "barrier")
    lengths = [number(results, f"MNIST, {name}", "gauss_length") for name in ("SGD", "Adam")]
    ratio = lengths[1].mean() / lengths[0].mean()
    low, high = (0.7, 1.1) if results.scale == "small" else (0.5, 1.1)
    return [
        Check("MNIST, SGD: the training loss falls all along the path (min-Delta <= 0.001)",
              bool((deltas <= 1e-3).all()), in_words(deltas, 4)),
        Check(f"MNIST, SGD: test loss half-way between {low} and {high}",
              bool(((low <= middles) & (middles <= high)).all()), in_words(middles)),
        Check("MNIST, SGD: barrier below 0.1", bool((barriers < 0.1).all()), in_words(barriers)),
        Check("MNIST: Adam's logits turn more than 1.5 times as far as SGD's (Gauss length)", bool(ratio > 1.5),
              f"{ratio:.2f} times: {lengths[1].mean():.2f} and {lengths[0].mean():.2f} rad"),
    ]  # fmt: skip


def spiral_has_a_barrier(results: Results) -> Check:
    barriers = number(results, "spiral", "barrier")
    return Check("spirals: barrier above 0.2 in every run", bool((barriers > 0.2).all()), in_words(barriers))


def small_checks(results: Results) -> list[Check]:
    plain, strong = (number(results, name, "barrier") for name in ("WD 0", STRONG["small"]))
    drops = {name: number(results, name, "drop_position") for name in ("WD 0", STRONG["small"])}
    exploded = number(results, STRONG["small"], "loss_start", "final")
    recomputed = {name: number(results, name, "barrier", "recompute") for name in ("WD 0", "WD 5e-4", STRONG["small"])}
    gap = strong.mean() - plain.mean()
    cost = welch(accuracy(results, STRONG["small"]), accuracy(results, "WD 0"))
    return [
        Check("strong weight decay raises the barrier by more than 0.3 nats", bool(gap > 0.3), f"by {gap:.2f}"),
        Check("with it the loss drops after alpha = 0.9, without before 0.7",
              bool((drops[STRONG["small"]] > 0.9).all() and (drops["WD 0"] < 0.7).all()),
              "; ".join(f"{name}: {in_words(values)}" for name, values in drops.items())),
        Check("with running statistics recomputed on the way every barrier is below 0.1",
              bool(all((values < 0.1).all() for values in recomputed.values())),
              "; ".join(f"{name}: {in_words(values)}" for name, values in recomputed.items())),
        Check("with the final running statistics the loss at the start is above 100",
              bool((exploded > 100).all()), ", ".join(f"{value:.3g}" for value in exploded)),
        Check("the plateau costs no accuracy (at most 1 point)", cost.mean > -1.0, str(cost)),
    ]  # fmt: skip


def full_checks(results: Results) -> list[Check]:
    middles, deltas = number(results, "WD 5e-4", "loss_middle"), number(results, "WD 0", "min_delta")
    gain = welch(accuracy(results, "WD 5e-4"), accuracy(results, "WD 0"))
    sweep = [name for name in FULL if name.startswith("WD")]
    barriers, accuracies = (
        np.array([values(results, name).mean() for name in sweep])
        for values in (lambda results, name: number(results, name, "barrier"), accuracy)
    )
    correlation = rank_correlation(barriers, accuracies)
    return [
        Check("weight decay 5e-4: a plateau at chance (loss half-way within 0.03 of log 10)",
              bool((abs(middles - CHANCE) < 0.03).all()), in_words(middles)),
        Check("without weight decay the path rises (min-Delta above 0.15 on average)",
              bool(deltas.mean() > 0.15), in_words(deltas)),
        Check("the plateau comes with the better accuracy: by at least 1 point", gain.is_greater(1.0), str(gain)),
        Check("a higher barrier does not go with a lower accuracy, over five weight decays",
              correlation >= 0, f"rank correlation {correlation:+.2f}"),
    ]  # fmt: skip


def shown_beside(results: Results, name: str) -> Check:
    """What another start changes; decides nothing."""
    pairs = {
        "loss at the start": (number(results, name, "loss_start"), number(results, "WD 0", "loss_start")),
        "barrier": (number(results, name, "barrier"), number(results, "WD 0", "barrier")),
    }
    words = [f"{what} {ours.mean():.2f} (standard: {standard.mean():.2f})" for what, (ours, standard) in pairs.items()]
    gain = welch(accuracy(results, name), accuracy(results, "WD 0"))
    return Check(f"{name} against the standard one, no weight decay", None, f"{', '.join(words)}, accuracy {gain}")


def layer_wise(results: Results, name: str) -> Check:
    """Barriers when one stage moves and the rest is at its final values; decides nothing."""
    chosen = of(results, name)
    barriers = {group: chosen.metric(f"path/test/interpolate/{group}/barrier") for group in GROUPS}
    words = ", ".join(f"{group} {values.mean():.2f}" for group, values in barriers.items())
    return Check(f"barriers of single stages, {name} (the paper: B2 and B3 are the highest)", None, words)


def distance(results: Results) -> Check:
    """Whether the distance of the ends tells the barrier, over all ResNets; decides nothing."""
    names = [name for name in kinds(results.scale) if not name.startswith(("MNIST", "spiral"))]
    moved = np.array([of(results, name).metric("path/relative_distance").mean() for name in names])
    barriers = np.array([number(results, name, "barrier").mean() for name in names])
    words = ", ".join(f"{name} {d:.2f}" for name, d in zip(names, moved))
    evidence = f"rank correlation {rank_correlation(moved, barriers):+.2f}; relative distances: {words}"
    return Check("distance of the ends and barrier, over kinds of run", None, evidence)


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's coefficient.

    Example:
        >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([0.1, 10.0, 0.2]))
        0.5
    """
    from scipy.stats import spearmanr

    return round(float(spearmanr(x, y).statistic), 9)


def in_words(values: NDArray[np.float64], digits: int = 2) -> str:
    """All values, or their range if they are many."""
    if len(values) > 5:
        return f"{values.min():.{digits}f} to {values.max():.{digits}f}, mean {values.mean():.{digits}f}"
    return ", ".join(f"{value:.{digits}f}" for value in values)


def figure(results: Results) -> "Figure":
    """The paths, every run and their mean; the paper's as marks, from its full protocol."""
    from matplotlib.figure import Figure

    decays = [name for name in kinds(results.scale) if name.startswith("WD")]
    drawing = Figure(figsize=(15, 7.5), layout="constrained")
    (top, bottom) = drawing.subplots(2, 3)
    titles = {"interpolate": "interpolated", "recompute": "recomputed"}
    for axes, (buffers, how) in zip(top, titles.items()):
        draw_paths(axes, results, decays, f"path/test/{buffers}/all/loss", f"ResNet, running statistics {how}")
    draw_marks(top[0], {name: PAPER_PATHS[name] for name in ("WD 0", "WD 5e-4")}, decays)
    others = ["WD 0", "adversarial init", "barrier init"]
    draw_paths(top[2], results, others, "path/test/interpolate/all/loss", "ResNet without weight decay, by start")
    names = [name for name in kinds(results.scale) if name.startswith("MNIST")]
    draw_paths(bottom[0], results, names, "path/test/interpolate/all/loss", "MLP on MNIST")
    draw_marks(bottom[0], {"MNIST, SGD": PAPER_PATHS["MNIST, SGD"]}, names)
    draw_paths(bottom[1], results, ["spiral"], "path/test/interpolate/all/loss", "MLP on spirals")
    draw_marks(bottom[1], {"spiral": PAPER_PATHS["spiral"]}, ["spiral"])
    draw_layers(bottom[2], results)
    return drawing


def draw_paths(axes: "Axes", results: Results, names: list[str], curve: str, title: str) -> None:
    for i, name in enumerate(names):
        pairs = of(results, name).curves(curve)
        for alphas, losses in pairs:
            axes.plot(alphas, losses, color=f"C{i}", alpha=0.3, linewidth=0.7)
        axes.plot(pairs[0][0], np.mean([losses for _, losses in pairs], axis=0), color=f"C{i}", label=name)
    finish(axes, title)


def draw_marks(axes: "Axes", paths: Mapping[str, list[float]], names: list[str]) -> None:
    for name, losses in paths.items():
        axes.plot(PAPER_ALPHAS, losses, "D", color=f"C{names.index(name)}", markersize=5, label=f"{name}, the paper")
    axes.legend(frameon=False, fontsize="small")


def draw_layers(axes: "Axes", results: Results) -> None:
    name = STRONG[results.scale]
    for i, group in enumerate(GROUPS):
        pairs = of(results, name).curves(f"path/test/interpolate/{group}/loss")
        axes.plot(pairs[0][0], np.mean([losses for _, losses in pairs], axis=0), color=f"C{i}", label=group)
    finish(axes, f"single stages, {name}")


def finish(axes: "Axes", title: str) -> None:
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("alpha, from initial (0) to final weights (1)")
    axes.set_ylabel("test loss, nats")
    axes.legend(frameon=False, fontsize="small")


CLAIM = Claim(
    statement="The shape of the loss on the line from initial to final weights does not tell how well a network "
    "generalises: weight decay makes it a plateau at chance with a drop at the very end, and accuracy does not fall",
    paper_figures={
        **{f"{PANELS['full'][0]}: {name}": value for name, value in PAPER_BARRIER.items()},
        **{f"{PANELS['full'][1]}: {name}": value for name, value in PAPER_ACC.items()},
    },
    runs=runs,
    verdict=verdict,
    figure=figure,
)
