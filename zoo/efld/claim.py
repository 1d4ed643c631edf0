"""What the paper asserts of its bound and of noisy sign-SGD, and the runs that could refute it."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.claims import Check, Claim, Results, Run, Verdict
from zoo.evidence import chosen, of_replicas, span, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]
Kind = tuple[str, dict[str, Any]]  # a recipe and its overrides

SEEDS = {"small": (2, 3), "full": range(2, 7)}  # seeds 0 and 1 were used up when thresholds were set

# The larger network, whose width, pooling and layers public bounds for Langevin dynamics use on MNIST.
LARGE = {
    "model.backbone.channels": [32, 64],
    "model.backbone.stride": 1,
    "model.backbone.pool": 2,
    "model.backbone.hidden_channels": [128],
}
PROBE = {"class_path": "callbacks.GradientDiscrepancy", "init_args": {"num_pairs": 256, "every_n_steps": 50}}
PROBES = {"trainer.callbacks": [PROBE, {"class_path": "callbacks.GeneralizationGap"}]}

# SGLD on 50,000 and 10,000 images: 500 and 100 times the batch.
RARELY = [
    {"class_path": "callbacks.GradientDiscrepancy"},
    {"class_path": "callbacks.GeneralizationGap", "init_args": {"every_n_epochs": 10}},
]
FEWER: dict[str, Any] = {
    "data.train_fraction": 0.2,
    "trainer.max_epochs": 30,
    "trainer.check_val_every_n_epoch": 10,
    "trainer.callbacks": RARELY,
    "model.optimizer.lr": 0.01,
    "model.optimizer.alpha": 0.2,
    "model.lr_decay": 0.96,
    "model.decay_every_n_steps": 60,
}
LONG = {"trainer.max_epochs": 60, "model.lr_decay": 0.96, "model.decay_every_n_steps": 500}
SGLD: dict[str, dict[str, dict[str, Any]]] = {
    "small": {"n = 50,000": {}, "n = 10,000": FEWER},
    "full": {
        "MNIST": LARGE | PROBES | LONG,
        "Fashion-MNIST": LARGE | PROBES | LONG | {"data.name": "fashion_mnist"},
        "Fashion-MNIST, alpha 0.1": LARGE
        | PROBES
        | LONG
        | {"data.name": "fashion_mnist", "model.optimizer.alpha": 0.1},
        "CIFAR-10": LARGE
        | PROBES
        | LONG
        | {"data.name": "cifar10", "model.backbone.input_shape": [3, 32, 32], "model.optimizer.lr": 0.01},
    },
}

# Random labels: learnt by heart, and not.
RATES = (0.0, 0.3, 0.6)
UNLEARNT = "n = 10,000, 60 % random labels"


def noise(rate: float) -> dict[str, Any]:
    """Label noise as an override."""
    return {"data.label_noise": {"class_path": "datamodules.SymmetricNoise", "init_args": {"rate": rate}}}


# Noisy sign-SGD; alpha 0 stands for sign-SGD.
ALPHAS = {"small": (1.0, 0.1, 0.01, 1e-5), "full": (1.0, 0.1, 0.01, 1e-3, 1e-5)}
PLAIN_SIGNS = {
    "model.optimizer": {"class_path": "zoo.efld.SignSGD", "init_args": {"lr": 1e-3}},
    "trainer.callbacks": [{"class_path": "callbacks.GeneralizationGap"}],
}
LONG_SIGNS = {"trainer.max_epochs": 30, "model.decay_every_n_steps": 1000}

TRAIN, BOUND, LI, INCOHERENCE = "gap/train_error", "bound/stability", "bound/li", "bound/incoherence"
HORIZONS, NOISES = (100, 1000, 10000), 2
LIMITS = {"gaussian": 9 / 8 * np.exp(1 / 8), "sign": 5.0, "quantized": 5.0}
STANDARD_ERRORS = 2.0  # of a test error, which a bound may fall short of


def sgld(scale: str, name: str) -> Kind:
    return "sgld", SGLD[scale][name]


def random_labels(scale: str, rate: float) -> Kind:
    longer = LARGE | {"data.train_fraction": 0.2, "trainer.max_epochs": 1000, "model.optimizer.lr": 0.01}
    more = {"model.optimizer.alpha": 0.2, "model.lr_decay": 0.995, "model.min_lr_ratio": 0.05}
    return "efld_random_labels", noise(rate) | (longer | more if scale == "full" else {})


def signs(scale: str, alpha: float) -> Kind:
    longer = LARGE | LONG_SIGNS if scale == "full" else {}
    if alpha == 0:
        return "noisy_sign_sgd", longer | PLAIN_SIGNS
    return "noisy_sign_sgd", longer | (PROBES if scale == "full" else {}) | {"model.optimizer.alpha": alpha}


def runs(scale: str) -> list[Run]:
    """Everything with every seed, the longest first."""
    kinds = [sgld(scale, name) for name in SGLD[scale]]
    if scale == "small":
        kinds.append(("sgld", FEWER | noise(0.6)))
    kinds += [random_labels(scale, rate) for rate in RATES]
    kinds += [signs(scale, alpha) for alpha in (*ALPHAS[scale], 0)]
    kinds += [("efld_divergence", {}), ("noisy_sign_quadratic", {})]
    return [Run(recipe, seed, settings) for recipe, settings in kinds for seed in SEEDS[scale]]


def verdict(results: Results) -> Verdict:
    names = list(SGLD[results.scale])
    figures = {f"{name}: {what}": of(results, sgld(results.scale, name), key) for name in names for what, key in SHOWN}
    checks = [*theory(results), *[check for name in names for check in sgld_checks(results, name)]]
    checks += sharpness(results)
    checks += [*label_checks(results), *sign_checks(results)]
    return Verdict(figures, checks)


SHOWN = {
    "training error": TRAIN,
    "test error": "test/error",
    "bound": BOUND,
    "Li": LI,
    "incoherence": INCOHERENCE,
}.items()


def of(results: Results, kind: Kind, metric: str) -> Values:
    """A metric of all seeds; errors are one less the accuracies."""
    found = chosen(results, *kind)
    if metric.endswith("/error"):
        return 1 - found.metric(metric.removesuffix("error") + "acc")
    return found.metric(metric)


def theory(results: Results) -> list[Check]:
    searches, descents = chosen(results, "efld_divergence"), chosen(results, "noisy_sign_quadratic")
    ratios = {name: of_replicas(searches, f"ratio/{name}").max() for name in LIMITS}
    found = of_replicas(descents, "convergence/mean_squared_gradient")
    bound = of_replicas(descents, "convergence/bound")
    scaled = found.reshape(-1, NOISES, len(HORIZONS)) * np.sqrt(HORIZONS)
    growth = scaled[..., 2] / scaled[..., 1]
    return [
        Check(
            "the divergence is at most 5 times the squared distance, for Gaussian noise 1.275 times",
            all(ratios[name] <= limit for name, limit in LIMITS.items()),
            ", ".join(f"{name} {value:.3f}" for name, value in ratios.items()),
        ),
        Check(
            "noisy sign-SGD on quadratics: the mean squared gradient is below the theorem's bound",
            bool((found <= bound).all()),
            f"at most {(found / bound).max():.3f} of it",
        ),
        Check(
            "it falls as 1 / sqrt(T): from T = 1,000 to 10,000 the product with sqrt(T) grows by at most 10 %",
            bool((growth <= 1.1).all()),
            f"factors of {span(growth)}",
        ),
    ]


def sgld_checks(results: Results, name: str) -> list[Check]:
    kind = sgld(results.scale, name)
    train, test, bound = (of(results, kind, key) for key in (TRAIN, "test/error", BOUND))
    li, other = of(results, kind, LI), of(results, kind, INCOHERENCE)
    small_batches = name != "n = 10,000"
    checks = [
        Check(
            f"SGLD, {name}: training error and bound exceed the test error",
            covers(train, bound, test),
            span(train + bound),
        ),
        Check(f"SGLD, {name}: the bound is below Li's", bool((bound < li).all()), f"{span(bound)} against {span(li)}"),
        Check(
            f"SGLD, {name}: the bound is {'below' if small_batches else 'above'} that by incoherence, as n / b says",
            bool(((bound < other) == small_batches).all()),
            f"{span(bound)} against {span(other)}",
        ),
    ]
    if small_batches:
        statement = f"SGLD, {name}: training error and bound stay below 1"
        checks.insert(1, Check(statement, bool((train + bound < 1).all()), span(train + bound)))
    return checks


def covers(train: Values, bound: Values, test: Values, images: int = 10_000) -> bool:
    """Whether training error and bound are not below the test error by more than chance."""
    error = np.sqrt(test * (1 - test) / images)
    return bool((train + bound >= test - STANDARD_ERRORS * error).all())


def sharpness(results: Results) -> list[Check]:
    """What the paper gives as reasons, and what its value is worth."""
    kinds = [sgld(results.scale, name) for name in SGLD[results.scale]]
    ratios = np.concatenate(
        [of(results, k, "discrepancy/mean") / of(results, k, "discrepancy/squared_norm") for k in kinds]
    )
    held = np.concatenate([of(results, kind, "bound/condition_fraction") for kind in kinds])
    farthest = np.concatenate([of(results, kind, "discrepancy/largest_distance") for kind in kinds])
    fallback = of(results, kinds[0], "bound/unconditional")
    return [
        Check(
            "SGLD: the mean discrepancy is 1 to 3 times the mean squared gradient (theory: at most 2)",
            bool(((ratios >= 1) & (ratios <= 3)).all()),
            span(ratios, 2),
        ),
        Check(
            "the paper's: the discrepancy is 2 to 4 orders of magnitude below the squared gradient",
            None,
            f"not seen: it is {span(ratios, 2)} times as large",
        ),
        Check(
            "share of steps that satisfy the theorem's condition, alpha >= sqrt(8) times the largest distance",
            None,
            f"{span(held, 2)}: it asks for an alpha of {span(np.sqrt(8) * farthest, 0)} at the end, so that the bound "
            "is the value of a formula",
        ),
        Check("SGLD: the bound that needs no condition", None, f"{span(fallback)} ({first_name(results)})"),
    ]


def first_name(results: Results) -> str:
    """The first of the trainings by SGLD."""
    return next(iter(SGLD[results.scale]))


def label_checks(results: Results) -> list[Check]:
    kinds = [random_labels(results.scale, rate) for rate in RATES]
    train = np.stack([of(results, kind, TRAIN) for kind in kinds])
    grown = {
        "bound": np.stack([of(results, kind, BOUND) for kind in kinds]),
        "discrepancy": np.stack([of(results, kind, "discrepancy/mean") for kind in kinds]),
        "error on fresh samples": np.stack([of(results, kind, "gap/val_error") for kind in kinds]),
    }
    li, other = (np.stack([of(results, kind, key) for kind in kinds]) for key in (LI, INCOHERENCE))
    checks = [
        Check(
            "random labels are learnt by heart: training error at most 0.01", bool((train <= 0.01).all()), span(train)
        ),
        *(
            Check(f"and with their share of 0, 0.3, 0.6 the {name} grows, for each seed", rises(values), by_row(values))
            for name, values in grown.items()
        ),
        Check(
            "random labels: the bound over Li's and over that by incoherence",
            None,
            f"{span(grown['bound'] / li, 1)} and {span(grown['bound'] / other, 1)}: the loosest of the three",
        ),
    ]
    if results.scale == "small":
        clean, random = (
            of(results, sgld("small", "n = 10,000"), BOUND),
            of(results, ("sgld", FEWER | noise(0.6)), BOUND),
        )
        statement = f"where labels are not learnt by heart ({UNLEARNT}), the bound beside that of clean labels"
        checks.append(Check(statement, None, f"{span(random)} beside {span(clean)}"))
    return checks


def rises(rows: Values) -> bool:
    """Whether values grow strictly from row to row, in every column."""
    return bool((np.diff(rows, axis=0) > 0).all())


def by_row(rows: Values) -> str:
    """The span of each row, in words."""
    digits = 3 if rows.max() < 10 else 0
    return "; ".join(span(row, digits) for row in rows)


def sign_checks(results: Results) -> list[Check]:
    alphas = ALPHAS[results.scale]

    def values(metric: str, alphas: tuple[float, ...]) -> Values:
        return np.stack([of(results, signs(results.scale, alpha), metric) for alpha in alphas])

    test, bound = values("test/error", alphas), values(BOUND, alphas)
    gap = np.abs(test[-1] - values("test/error", (0.0,))[0])
    large = values(TRAIN, alphas[:2]) + bound[:2]
    return [
        Check(
            "noisy sign-SGD, alpha 1e-5: the test error is sign-SGD's within 0.015",
            bool((gap <= 0.015).all()),
            span(gap, 4),
        ),
        Check("its test error grows from alpha 0.01 over 0.1 to 1", rises(test[2::-1]), by_row(test[2::-1])),
        Check(
            "its bound falls as alpha grows, 1e-5 to 1",
            rises(bound),
            "; ".join(f"{row.mean():.4g}" for row in bound[::-1]),
        ),
        Check(
            "at alpha 0.1 and 1 training error and bound exceed the test error, but for chance",
            all(covers(total, np.zeros_like(total), error) for total, error in zip(large, test)),
            f"{by_row(large[::-1])} against {by_row(test[1::-1])}",
        ),
    ]


def figure(results: Results) -> "Figure":
    """Bounds along the training, at its end, under random labels, and for noisy signs."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(12, 8), layout="constrained")
    panels = drawing.subplots(2, 2).flatten()
    for draw, axes in zip((draw_training, draw_bounds, draw_labels, draw_signs), panels):
        draw(results, axes)
        tidy(axes)
    return drawing


CURVES = {
    "discrepancy (the paper's)": BOUND,
    "discrepancy, unconditional": "bound/unconditional",
    "gradient norm (Li et al.)": LI,
    "incoherence (Negrea et al.)": INCOHERENCE,
}


def draw_training(results: Results, axes: "Axes") -> None:
    """The bounds over steps, and the gap they are about."""
    name = first_name(results)
    found = chosen(results, *sgld(results.scale, name))
    for i, (label, key) in enumerate(CURVES.items()):
        for j, (x, y) in enumerate(found.curves(key)):
            axes.plot(x, y, f"C{i}", label=None if j else label)
    for j, (x, y) in enumerate(found.curves("gap/gap")):
        axes.plot(x, np.abs(y), "k--", label=None if j else "measured gap (absolute)")
    axes.set(yscale="log", xlabel="step", title=f"SGLD on MNIST, {name}")


def draw_bounds(results: Results, axes: "Axes") -> None:
    """The bounds after the last step."""
    names = list(SGLD[results.scale])
    for i, (label, key) in enumerate(CURVES.items()):
        for j, name in enumerate(names):
            values = of(results, sgld(results.scale, name), key)
            axes.plot(np.full(len(values), j + 0.15 * (i - 1.5)), values, f"C{i}o", label=None if j else label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.set(yscale="log", title="Bounds after the last step (above 1 they say nothing)")


def draw_labels(results: Results, axes: "Axes") -> None:
    """What grows with the share of random labels."""
    kinds = [random_labels(results.scale, rate) for rate in RATES]
    for i, (label, key) in enumerate(CURVES.items()):
        values = np.stack([of(results, kind, key) for kind in kinds])
        axes.plot(RATES, values.mean(1), f"C{i}o-", label=label)
    errors = np.stack([of(results, kind, "gap/gap") for kind in kinds])
    axes.plot(RATES, errors.mean(1), "ks--", label="measured gap")
    axes.set(yscale="log", xlabel="share of labels drawn at random", title="Random labels, learnt by heart")


def draw_signs(results: Results, axes: "Axes") -> None:
    """Noisy signs over alpha."""
    alphas = ALPHAS[results.scale]
    for label, key, mark in (("test error", "test/error", "ks--"), ("bound", BOUND, "C0o-")):
        values = np.stack([of(results, signs(results.scale, alpha), key) for alpha in alphas])
        axes.plot(alphas, values.mean(1), mark, label=label)
    plain = of(results, signs(results.scale, 0), "test/error")
    axes.axhline(plain.mean(), color="gray", linewidth=0.8, label="sign-SGD, test error")
    axes.set(xscale="log", yscale="log", xlabel="alpha", title="Noisy sign-SGD")


CLAIM = Claim(
    statement="The formula of the bound by gradient discrepancy over n (its condition on alpha is checked beside): "
    "training error and bound exceed the test error and stay below 1 for SGLD; the bound is below those by gradient "
    "norms and, for large n / b, by incoherence; it grows with random labels that are learnt by heart, and falls as "
    "alpha grows while noisy sign-SGD, which is sign-SGD where alpha is small, errs more",
    paper_figures={},
    runs=runs,
    verdict=verdict,
    figure=figure,
)
