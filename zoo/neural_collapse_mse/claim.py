"""What the paper asserts of free features and of networks, and the runs that could refute it."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.claims import Check, Claim, Results, Run, Verdict, welch
from zoo.evidence import Values, at_most, below, chosen, draw_matrix, of_replicas, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEEDS = range(3)

# Free features. The decays of the bias are those of the recipe's replicas, in their order.
BIAS_DECAYS = (0.0, 0.01, 0.1, 1.0)
LARGE_DECAYS = {"model.weight_decay": 0.1, "model.feature_decay": 0.1, "trainer.max_epochs": 30}
FREE_BIAS = {"model.bias_decay": 0.0}
DIMENSIONS = (1, 2, 3)
RESCALED = ((5.0, 1.0), (1.0, 5.0), (5.0, 5.0))  # alpha and M
NEGATIVE = (18, 10, 4, 0)  # eigenvalues of the Hessian at the critical points of rank 0 to 3

# Networks: MNIST at the small scale; at the full one CIFAR-10, and CIFAR-100 where the paper has mini-ImageNet.
MNIST = {"MSE": "neural_collapse_mse", "CE": "neural_collapse_ce", "MSE, frozen ETF, d = 10": "neural_collapse_etf"}
CE = {"model.criterion": {"class_path": "torch.nn.CrossEntropyLoss"}}
BASE = {"model.backbone_args": {"stem": "imagenet"}, "data.augment": False}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {},
    "Adam": {"model.optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3, "weight_decay": 5e-4}}},
    "L-BFGS": {
        "model.optimizer": {
            "class_path": "torch.optim.LBFGS",
            "init_args": {"lr": 0.1, "history_size": 10, "line_search_fn": "strong_wolfe"},
        },
        "model.l2": 5e-4,
        "model.channels_last": False,  # L-BFGS flattens gradients
        "data.batch_size": 512,
    },
}
NARROW = (5, 8, 9, 10)
SEED = 6  # the authors'
PANEL = {"small": "MNIST, 1,000 images", "full": "CIFAR-10"}


DYING = {"model.optimizer.lr": 0.1}  # the rate of the other networks, at which features below the frozen frame die


def narrow(feature_dim: int) -> dict[str, Any]:
    """A ResNet-18 whose last block gives so many features."""
    return {
        "model.backbone": {
            "class_path": "zoo.neural_collapse_mse.NarrowResNet",
            "init_args": {"num_classes": 10, "feature_dim": feature_dim},
        }
    }


def low_dimension(num_features: int) -> dict[str, Any]:
    return FREE_BIAS | {"model.num_features": num_features}


def rescaled(alpha: float, target: float) -> dict[str, Any]:
    """Steps are shorter by alpha, as curvature is larger by it."""
    return FREE_BIAS | {"model.alpha": alpha, "model.M": target, "model.optimizer.lr": 0.5 / alpha}


def networks(scale: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Recipe and overrides of every network, by name."""
    if scale == "small":
        kinds: dict[str, tuple[str, dict[str, Any]]] = {name: (recipe, {}) for name, recipe in MNIST.items()}
        return kinds | {"MSE, frozen ETF, d = 10, lr 0.1": ("neural_collapse_etf", DYING)}
    losses: dict[str, dict[str, Any]] = {"MSE": {}, "CE": CE}
    of_resnet: dict[str, dict[str, Any]] = {}
    for loss, settings in losses.items():
        of_resnet[loss] = settings
        of_resnet[f"{loss}, frozen ETF, d = 512"] = settings | {"model.frozen": True}
        of_resnet[f"{loss}, frozen ETF, d = 10"] = settings | {"model.frozen": True} | narrow(10)
        for dimension in NARROW:
            of_resnet[f"{loss}, d = {dimension}"] = settings | narrow(dimension)
        for optimizer, others in OPTIMIZERS.items():
            of_resnet[f"{loss}, {optimizer}, no augmentation"] = settings | BASE | others
    grid = [(alpha, 1.0) for alpha in (1.0, 5.0, 15.0, 20.0)] + [(1.0, target) for target in (3.0, 5.0, 7.0, 10.0)]
    for alpha, target in grid:
        values: dict[str, Any] = {"model.criterion.alpha": alpha, "model.criterion.M": target}
        of_resnet[f"CIFAR-100: alpha {alpha:g}, M {target:g}"] = values | {
            "data.name": "cifar100",
            "model.optimizer.lr": 0.01,
        }
    return {name: ("neural_collapse_resnet", settings) for name, settings in of_resnet.items()}


def runs(scale: str) -> list[Run]:
    """The networks, which take longest, first."""
    kinds = [*networks(scale).values()]
    seeds = SEEDS if scale == "small" else (SEED,)
    trained = [Run(recipe, seed, settings) for recipe, settings in kinds for seed in seeds]
    free = [Run("ufm_mse_bias", seed) for seed in SEEDS]
    free += [Run("ufm_mse", 0), Run("ufm_mse", 0, LARGE_DECAYS), Run("ufm_saddles", 0)]
    free += [Run("ufm_mse_bias", 0, low_dimension(d)) for d in DIMENSIONS]
    free += [Run("ufm_mse_bias", 0, rescaled(*pair)) for pair in RESCALED]
    return trained + free


def verdict(results: Results) -> Verdict:
    figures = {f"{panel(results, name)}: {label(name)}": accuracy(results, name) for name in networks(results.scale)}
    checks = [*minima(results), nothing_left(results), *saddles(results), *dimensions(results), *rescaling(results)]
    checks += mnist(results) if results.scale == "small" else cifar(results)
    return Verdict(figures, checks)


def panel(results: Results, name: str) -> str:
    return "CIFAR-100" if name.startswith("CIFAR-100") else PANEL[results.scale]


def label(name: str) -> str:
    return name.removeprefix("CIFAR-100: ")


def accuracy(results: Results, name: str) -> Values:
    """Test accuracies of a network after the last epoch, in percent."""
    return 100 * chosen(results, *networks(results.scale)[name]).metric("test/acc")


def minima(results: Results) -> list[Check]:
    """Descent from random starts against the closed form."""
    without, biased = chosen(results, "ufm_mse"), chosen(results, "ufm_mse_bias")
    checks = []
    limits = {"gap": ("f - f*", 1e-10), "H1/gram_error": ("relative error of the Gram matrix", 1e-6)}
    for name, (title, limit) in {**limits, "H1/nc1": ("NC1", 1e-12)}.items():
        errors = np.abs(np.concatenate([of_replicas(of, name).ravel() for of in (without, biased)]))
        statement = f"descent finds the minimum in closed form: {title} below {limit:g} from every start"
        checks.append(Check(statement, below(errors, limit), f"{at_most(errors)} in {errors.size} starts"))
    frames = of_replicas(without, "H1/of")
    etf, bias = of_replicas(biased, "H1/etf")[:, 0], of_replicas(biased, "bias")[:, 0]
    return [
        *checks,
        Check(
            "without bias the means are an orthogonal frame: distance below 1e-6", below(frames, 1e-6), at_most(frames)
        ),
        Check("with a free bias they are a simplex ETF: distance below 1e-6", below(etf, 1e-6), at_most(etf)),
        Check("and the bias is 1 / K within 1e-6", below(np.abs(bias - 0.25), 1e-6), f"{bias.mean():.6f}"),
    ]


def nothing_left(results: Results) -> Check:
    weights = of_replicas(chosen(results, "ufm_mse", LARGE_DECAYS), "weights")
    statement = "decays beyond c = 1 leave nothing: norm of the weights below 1e-6 (c = 2.83)"
    return Check(statement, below(weights, 1e-6), at_most(weights))


def spectrum(results: Results, rank: int) -> Values:
    """Eigenvalues of the Hessian at the critical point of this rank, ``(172,)``."""
    return results.of("ufm_saddles").curves(f"hessian/{rank}")[0][1]


def saddles(results: Results) -> list[Check]:
    weight_decay, feature_decay, num_classes, samples = 5e-3, 1e-3, 4, 6
    spread = math.sqrt((weight_decay - feature_decay) ** 2 / 4 + 1 / (num_classes**2 * samples))
    theory = (weight_decay + feature_decay) / 2 - spread
    errors = np.array([abs(spectrum(results, rank)[0] - theory) for rank in range(3)])
    found = tuple(int((spectrum(results, rank) < -1e-9).sum()) for rank in range(4))
    left = np.abs(of_replicas(results.of("ufm_saddles"), "gap"))
    start = np.array([results.of("ufm_saddles").curves(f"gradient/{rank}")[0][1][0] for rank in range(4)])
    lowest = f"the smallest eigenvalue of the Hessian at the saddles is {theory:.7f} within 1e-8"
    counts = f"negative eigenvalues at ranks 0 to 3 are {', '.join(map(str, NEGATIVE))}"
    return [
        Check("the saddles in closed form are critical: gradient below 1e-12", below(start, 1e-12), at_most(start)),
        Check(lowest, below(errors, 1e-8), at_most(errors)),
        Check(counts, found == NEGATIVE, ", ".join(map(str, found))),
        Check("descent leaves each of them for the minimum: f - f* below 1e-10", below(left, 1e-10), at_most(left)),
    ]


def floor(num_features: int, num_classes: int) -> float:
    """How far from a simplex ETF class means in few dimensions stay."""
    return math.sqrt(2 - 2 * math.sqrt(min(num_features / (num_classes - 1), 1)))


def dimensions(results: Results) -> list[Check]:
    found = {d: chosen(results, "ufm_mse_bias", low_dimension(d)) for d in DIMENSIONS}
    gaps = np.abs([of_replicas(of, "gap") for of in found.values()])
    errors = np.abs([of_replicas(of, "H1/etf") - floor(d, 4) for d, of in found.items()])
    statement = "with d < K - 1 features NC2 stays at sqrt(2 - 2 sqrt(d / (K - 1))), within 1e-6; K - 1 suffice"
    return [
        Check("with d = 1, 2, 3 descent finds the minimum: f - f* below 1e-10", below(gaps, 1e-10), at_most(gaps)),
        Check(statement, below(errors, 1e-6), at_most(errors)),
    ]


def rescaling(results: Results) -> list[Check]:
    checks = []
    for alpha, target in RESCALED:
        found = chosen(results, "ufm_mse_bias", rescaled(alpha, target))
        off = math.sqrt(50 * 5e-3 * 1e-3)  # c / K
        expected = {"diagonal": target - 3 * off / alpha, "off_diagonal": off}
        errors = np.array([np.abs(of_replicas(found, name) - value).max() for name, value in expected.items()])
        logits = " and ".join(f"{value:.6f}" for value in expected.values())
        statement = f"rescaled loss, alpha = {alpha:g}, M = {target:g}: logits are {logits} within 1e-6"
        checks.append(Check(statement, below(errors, 1e-6), at_most(errors)))
    return checks


def mnist(results: Results) -> list[Check]:
    """The networks, seed by seed, and MSE beside cross-entropy."""
    mse, ce = (chosen(results, MNIST[name]) for name in ("MSE", "CE"))
    early = np.array([y[list(x).index(9)] for x, y in mse.curves("nc/nc1")])
    least = {"train/acc": 0.999, "test/acc": 0.90, "nc/ncc_agreement": 0.995}
    most = {"nc/nc1": 0.005, "nc/nc2_features": 0.20, "nc/nc3": 0.02}
    checks = [
        Check(
            f"MSE: {name} at least {limit} for every seed", bool((mse.metric(name) >= limit).all()), listed(mse, name)
        )
        for name, limit in least.items()
    ]
    checks += [
        Check(f"MSE: {name} at most {limit} for every seed", bool((mse.metric(name) <= limit).all()), listed(mse, name))
        for name, limit in most.items()
    ]
    bias, shrinkage = np.abs(mse.metric("nc/nc4_bias") - math.sqrt(0.1)), early / mse.metric("nc/nc1")
    gap = float(accuracy(results, "MSE").mean() - accuracy(results, "CE").mean())
    frozen = float(accuracy(results, "MSE, frozen ETF, d = 10").mean() - accuracy(results, "MSE").mean())
    duality = {name: float(of.metric("nc/nc3").mean()) for name, of in {"MSE": mse, "CE": ce}.items()}
    return [
        *checks,
        Check("MSE: the mean feature's logits have norm sqrt(1 / K) within 0.02", below(bias, 0.02), at_most(bias)),
        Check(
            "MSE: NC1 falls more than tenfold after epoch 10", bool((shrinkage > 10).all()), f"{shrinkage.min():.0f}"
        ),
        Check("MSE's mean accuracy within 1.5 points of cross-entropy's", abs(gap) <= 1.5, f"{gap:+.2f}"),
        Check(
            "MSE's mean NC3 is less than half of cross-entropy's",
            duality["MSE"] < duality["CE"] / 2,
            f"{duality['MSE']:.4f} and {duality['CE']:.4f}",
        ),
        Check(
            "a frozen ETF on 10 features (lr 0.05) is within 1.5 points of 128 learned",
            abs(frozen) <= 1.5,
            f"{frozen:+.2f}",
        ),
        Check(
            "the same at lr 0.1, where some of the ten ReLU features die: test/acc",
            None,
            listed(chosen(results, *networks("small")["MSE, frozen ETF, d = 10, lr 0.1"]), "test/acc"),
        ),
        Check(
            "accuracy of MSE over cross-entropy", None, str(welch(accuracy(results, "MSE"), accuracy(results, "CE")))
        ),
    ]


def listed(results: Results, name: str) -> str:
    return ", ".join(f"{value:.4f}" for value in results.metric(name))


def cifar(results: Results) -> list[Check]:
    """One run of each kind, as in the paper."""
    found = {name: chosen(results, *kind) for name, kind in networks("full").items()}
    points = {name: float(accuracy(results, name).mean()) for name in found}
    nc1 = {name: found[name].curves("nc/nc1")[0][1] for name in ("MSE", "CE")}
    checks = [
        Check(
            f"{name}: NC1 falls more than tenfold after epoch 10", bool(y[0] > 10 * y[-1]), f"{y[0]:.2g} to {y[-1]:.2g}"
        )
        for name, y in nc1.items()
    ]
    for d in NARROW:
        distance = float(found[f"MSE, d = {d}"].metric("nc/nc2_features").mean())
        statement = f"MSE, d = {d}: NC2 of the features within 0.1 of {floor(d, 10):.3f}"
        checks.append(Check(statement, abs(distance - floor(d, 10)) <= 0.1, f"{distance:.3f}"))
    frozen, gap = points["MSE, frozen ETF, d = 10"] - points["MSE"], points["MSE"] - points["CE"]
    alphas = {name: value for name, value in points.items() if name.startswith("CIFAR-100")}
    best = max(alphas, key=lambda name: alphas[name])
    return [
        *checks,
        Check("MSE's accuracy within 1.5 points of cross-entropy's", abs(gap) <= 1.5, f"{gap:+.2f}"),
        Check("a frozen ETF on 10 features within 1 point of 512 learned", abs(frozen) <= 1.0, f"{frozen:+.2f}"),
        Check("the best rescaling on CIFAR-100 (the paper: mini-ImageNet)", None, f"{best}: {alphas[best]:.2f}"),
    ]


def figure(results: Results) -> "Figure":
    """Free features above: descent, Gram matrices, Hessians; below: saddles, few dimensions, networks."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(14, 8), layout="constrained")
    top, bottom = drawing.subfigures(2, 1)  # type: ignore[misc]
    descent, grams, hessian = top.subfigures(1, 3, width_ratios=[1, 1.15, 1])
    draw_descent(results, descent.subplots())
    draw_grams(results, grams)
    draw_spectra(results, hessian.subplots())
    leaving, few, networks_axes = bottom.subplots(1, 3)
    draw_leaving(results, leaving)
    draw_dimensions(results, few)
    draw_networks(results, networks_axes)
    return drawing


def above_round_off(values: Values) -> Values:
    """Values for a logarithmic axis, where 0 and what round-off makes of it are the smallest."""
    return np.maximum(np.abs(values), 1e-17)


def draw_descent(results: Results, axes: "Axes") -> None:
    """Objective above the minimum, and NC1, over steps."""
    kinds = {"no bias": (chosen(results, "ufm_mse"), 0)}
    kinds |= {
        f"bias, decay {d:g}": (chosen(results, "ufm_mse_bias"), i) for i, d in enumerate(BIAS_DECAYS) if d != 0.01
    }
    for i, (name, (of, replica)) in enumerate(kinds.items()):
        for measure, style in {"gap": "-", "H1/nc1": ":"}.items():
            x, y = of.curves(f"{measure}/{replica}")[0]
            axes.loglog(x[1:], above_round_off(y[1:]), style, color=f"C{i}", label=name if style == "-" else None)
    axes.set(xlabel="step", title="Descent; dotted: NC1", ylabel="f - f*")
    tidy(axes)


def draw_grams(results: Results, place: Any) -> None:
    """Inner products of the class means, divided by the largest."""
    kinds = {"no bias: OF": ("ufm_mse", 0), "decay 0.1": ("ufm_mse_bias", 2), "free bias: ETF": ("ufm_mse_bias", 0)}
    axes = place.subplots(1, 3)
    for one, (name, (recipe, replica)) in zip(axes, kinds.items()):
        product = chosen(results, recipe).curves(f"H1/gram/{replica}")[0][1]
        draw_matrix(one, product.reshape(4, 4), name)


def draw_spectra(results: Results, axes: "Axes") -> None:
    """Eigenvalues of the Hessian, from the smallest on, at the critical points of every rank."""
    for rank in range(len(NEGATIVE)):
        values = spectrum(results, rank)
        axes.plot(
            values[:40],
            ".",
            color=f"C{rank}",
            markersize=10 - 2 * rank,
            label=f"rank {rank}: {(values < -1e-9).sum()} negative",
        )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="index", ylabel="eigenvalue", title="Hessian at the critical points")
    tidy(axes)


def draw_leaving(results: Results, axes: "Axes") -> None:
    """Objective above the minimum over steps, from each saddle."""
    for rank in range(3):
        x, y = chosen(results, "ufm_saddles").curves(f"gap/{rank}")[0]
        axes.loglog(x[1:], above_round_off(y[1:]), color=f"C{rank}", label=f"from rank {rank}")
    axes.set(xlabel="step", ylabel="f - f*", title="Descent from the saddles, moved by 1e-6")
    tidy(axes)


def draw_dimensions(results: Results, axes: "Axes") -> None:
    """How near few dimensions come to a simplex ETF, and how near they can."""
    xs = np.linspace(1, 3, 100)
    axes.plot(xs, [math.sqrt(2 - 2 * math.sqrt(x / 3)) for x in xs], "k:", label="sqrt(2 - 2 sqrt(d / (K - 1)))")
    found = [of_replicas(chosen(results, "ufm_mse_bias", low_dimension(d)), "H1/etf").max() for d in DIMENSIONS]
    axes.plot(DIMENSIONS, found, "o", label="free features, K = 4")
    axes.set(xlabel="dimensions d", ylabel="NC2", title="Few dimensions", xticks=DIMENSIONS)
    tidy(axes)


def draw_networks(results: Results, axes: "Axes") -> None:
    """NC1 to NC3 over epochs, MSE beside cross-entropy."""
    for name, style in {"MSE": "-", "CE": "--"}.items():
        of = chosen(results, *networks(results.scale)[name])
        for i, measure in enumerate(("nc1", "nc2_features", "nc3")):
            for j, (x, y) in enumerate(of.curves(f"nc/{measure}")):
                axes.semilogy(
                    x + 1, y, style, color=f"C{i}", alpha=0.7, label=None if j else f"{measure[:3].upper()}, {name}"
                )
    axes.set(xlabel="epoch", title=PANEL[results.scale])
    tidy(axes)


CLAIM = Claim(
    statement="With features as free parameters the squared error with weight decay has collapsed global minima and no "
    "others, and every other critical point is a strict saddle; networks trained with it collapse and are as accurate "
    "as with cross-entropy, and may have a frozen simplex ETF for their last layer",
    paper_figures={},
    runs=runs,
    verdict=verdict,
    figure=figure,
    unit="test accuracy, %",
)
