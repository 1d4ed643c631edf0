"""What the paper asserts of ACG beside APGD, and the attacks that could refute it."""

from typing import TYPE_CHECKING, Any

from zoo.claims import Check, Claim, Results, Run, Verdict
from zoo.evidence import chosen, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEED = 0
TITLES = {
    "acg": "ACG",
    "apgd": "APGD",
    "textbook": "ACG, textbook sign",
    "clamped": "ACG, beta >= 0",
    "gradient_ascent": "APGD without momentum",
}
COLORS = {name: f"C{i}" for i, name in enumerate(TITLES)}
RECIPES = {
    "CIFAR-10": "auto_conjugate_gradient",
    "MNIST": "auto_conjugate_gradient_mnist",
    "variants": "attack_variants",
    "restarts": "attack_restarts",
}
FULL = {
    "data.test_fraction": 1.0,
    "data.crop_padding": 4,
    "model.training.backbone": "preact_resnet18",
    "model.training.backbone_args": {},
    "model.training.num_steps": 10,
    "model.training.relative_step_size": 0.25,
    "model.training.lr": 0.1,
    "model.training.max_epochs": 30,
}

PAPER: dict[str, float | tuple[float, float]] = {  # from the authors' repository; another network than ours
    "success on Ding2020MMA, %: ACG, 1 run": 53.40,
    "success on Ding2020MMA, %: ACG, 5 runs": 55.77,
}


def overrides(comparison: str, scale: str) -> dict[str, Any]:
    """Of a comparison's recipe: the full scale has a larger network on CIFAR-10, and all of its test images."""
    return {} if scale == "small" or comparison == "MNIST" else FULL


def runs(scale: str) -> list[Run]:
    """The networks' trainings are in the first two: the others wait for them, or find them in the cache."""
    return [Run(recipe, SEED, overrides(name, scale)) for name, recipe in RECIPES.items()]


def of(results: Results, comparison: str) -> Results:
    """The run of a comparison."""
    return chosen(results, RECIPES[comparison], overrides(comparison, results.scale))


def value(results: Results, comparison: str, metric: str) -> float:
    """What the run of a comparison measured."""
    return float(of(results, comparison).metric(metric)[0])


def verdict(results: Results) -> Verdict:
    figures = {
        f"{data}, {title}: {TITLES[name]}": [scale * value(results, where(data, name), f"test/{metric}/{name}")]
        for title, metric, scale in (("% broken", "success", 100), ("100 x Diversity Index", "diversity_index", 100))
        for data in ("CIFAR-10", "MNIST")
        for name in TITLES
    }
    checks = [
        more_diverse(results, "CIFAR-10"),
        more_diverse(results, "MNIST"),
        stronger(results),
        larger_margins(results),
        same_gradients(results),
        same_time(results),
        clamping_is_ascent(results),
        sound(results),
        *shown(results),
    ]
    return Verdict(figures, checks)


def where(data: str, attack: str) -> str:
    """The comparison that an attack on a network was in."""
    return "variants" if data == "CIFAR-10" and attack not in ("acg", "apgd") else data


def more_diverse(results: Results, data: str) -> Check:
    acg, apgd = (value(results, data, f"test/diversity_index/{name}") for name in ("acg", "apgd"))
    statement = f"{data}: ACG's Diversity Index is at least 1.5 times APGD's"
    return Check(statement, acg >= 1.5 * apgd, f"{acg:.3f} and {apgd:.3f}, {acg / apgd:.2f} times")


def discordant(results: Results, comparison: str, one: str, other: str) -> tuple[int, int]:
    """Images that only one of two attacks broke."""
    pairs = ((one, other), (other, one))
    won, lost = (int(value(results, comparison, f"test/only/{a}_not_{b}")) for a, b in pairs)
    return won, lost


def mcnemar(won: int, lost: int) -> float:
    """McNemar's exact test: the probability of so many wins or more, were both attacks as good."""
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0


def in_words(results: Results, comparison: str, one: str, other: str) -> str:
    """Broken images, and those that only one attack broke."""
    won, lost = discordant(results, comparison, one, other)
    first, second = (int(value(results, comparison, f"test/num_broken/{name}")) for name in (one, other))
    attacked = int(value(results, comparison, f"test/num_attacked/{one}"))
    only = f"{won} only by the one, {lost} only by the other, exact McNemar p = {mcnemar(won, lost):.2g}"
    return f"{first} and {second} of {attacked}; {only}"


def stronger(results: Results) -> Check:
    won, lost = discordant(results, "CIFAR-10", "acg", "apgd")
    enough = value(results, "CIFAR-10", "test/num_attacked/acg") >= 800
    return Check(
        "CIFAR-10: of at least 800 images ACG breaks more than APGD, by more than chance (one-sided p < 0.05)",
        enough and won > lost and mcnemar(won, lost) < 0.05,
        in_words(results, "CIFAR-10", "acg", "apgd"),
    )


def larger_margins(results: Results) -> Check:
    acg, apgd = (value(results, "CIFAR-10", f"test/margin/{name}") for name in ("acg", "apgd"))
    pairs = (("acg", "apgd"), ("apgd", "acg"))
    higher, lower = (int(value(results, "CIFAR-10", f"test/higher/{a}_than_{b}")) for a, b in pairs)
    evidence = f"{acg:.3f} and {apgd:.3f}; ACG's is the larger on {higher} images, APGD's on {lower}"
    return Check("CIFAR-10: ACG's mean largest margin is at least APGD's", acg >= apgd, evidence)


def same_gradients(results: Results) -> Check:
    cases = [(data, name) for data in ("CIFAR-10", "MNIST") for name in ("acg", "apgd")]
    counts = [value(results, data, f"test/gradients/{name}") for data, name in cases]
    evidence = ", ".join(f"{TITLES[name]} on {data} {count:g}" for (data, name), count in zip(cases, counts))
    return Check(
        "both compute 101 gradients an image in 100 iterations", all(count == 101 for count in counts), evidence
    )


def same_time(results: Results) -> Check:
    ratios = {
        data: value(results, data, "test/seconds/acg") / value(results, data, "test/seconds/apgd")
        for data in ("CIFAR-10", "MNIST")
    }
    evidence = ", ".join(f"{ratio:.2f} times on {data}" for data, ratio in ratios.items())
    return Check("CIFAR-10: ACG takes at most 1.15 times APGD's time", ratios["CIFAR-10"] <= 1.15, evidence)


def clamping_is_ascent(results: Results) -> Check:
    broken, index = (
        [value(results, "variants", f"test/{what}/{name}") for name in ("clamped", "gradient_ascent")]
        for what in ("num_broken", "diversity_index")
    )
    ratio = index[0] / index[1]
    return Check(
        "CIFAR-10: with beta cut off at 0 ACG is ascent without momentum: broken images within 2, index within 20 %",
        abs(broken[0] - broken[1]) <= 2 and 0.8 <= ratio <= 1.2,
        f"{broken[0]:.0f} and {broken[1]:.0f} broken, indices {index[0]:.3f} and {index[1]:.3f}",
    )


def sound(results: Results) -> Check:
    found = [
        (measured, number)
        for one in results
        for measured, number in one.metrics.items()
        if measured.startswith(("test/num_contradicted/", "test/num_outside/"))
    ]
    total = sum(number for _, number in found)
    return Check(
        "every result lies in the ball and the pixel range to 1e-6, and its class is as told when looked at again",
        bool(found) and total == 0,
        f"{total:.0f} exceptions in {len(found) // 2} attacks",
    )


def shown(results: Results) -> list[Check]:
    """What decides nothing."""
    wins = in_words(results, "MNIST", "acg", "apgd")
    textbook = in_words(results, "variants", "textbook", "gradient_ascent")
    return [
        Check("MNIST: broken by ACG and by APGD", None, wins),
        Check("CIFAR-10: broken by ACG with the textbook's sign, and by APGD without momentum", None, textbook),
        *(
            Check(f"{data}: broken after 10, 25, 50 and 100 iterations", None, early(results, data))
            for data in ("CIFAR-10", "MNIST")
        ),
        Check("CIFAR-10: ACG in one run and APGD in five", None, in_words(results, "restarts", "acg_1", "apgd_5")),
        Check("CIFAR-10: ACG in five runs and APGD in five", None, in_words(results, "restarts", "acg_5", "apgd_5")),
    ]


def early(results: Results, data: str) -> str:
    """Success over iterations, in words."""
    parts = []
    for name in ("acg", "apgd"):
        rates = of(results, data).curves(f"success/{name}")[0][1]
        parts.append(f"{TITLES[name]} " + ", ".join(f"{100 * rates[k]:.1f} %" for k in (10, 25, 50, 100)))
    return "; ".join(parts)


def figure(results: Results) -> "Figure":
    """Success and Diversity Index over iterations on both networks, and two search paths."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(13, 7.5), layout="constrained")
    grid = drawing.subplots(2, 3)
    for row, data in enumerate(("CIFAR-10", "MNIST")):
        for axes, what, label in zip(grid[row], ("success", "diversity_index"), ("broken, %", "Diversity Index")):
            draw_curves(results, axes, data, what)
            axes.set(xlabel="iteration", ylabel=label)
            axes.set_title(data, fontsize="medium")
            tidy(axes, legend=row == 0)
        draw_paths(results, grid[row, 2], data)
    return drawing


def draw_curves(results: Results, axes: "Axes", data: str, what: str) -> None:
    """One curve for each attack."""
    for name, title in TITLES.items():
        x, y = of(results, where(data, name)).curves(f"{what}/{name}")[0]
        first = 3 if what == "success" else 0  # before that all are alike
        axes.plot(x[first:], y[first:] * (100 if what == "success" else 1), color=COLORS[name], label=title, lw=1.3)


def draw_paths(results: Results, axes: "Axes", data: str) -> None:
    """The search points for the first attacked image, in the plane in which they spread most."""
    for name in ("apgd", "acg"):
        x, y = of(results, data).curves(f"path/{name}/0")[0]
        axes.plot(x, y, ".-", color=COLORS[name], lw=0.5, ms=4, alpha=0.7, label=TITLES[name])
    axes.plot(0, 0, "k*", ms=9, label="start")
    axes.set(xlabel="first direction, eps", ylabel="second direction, eps")
    axes.set_title(f"{data}: search points for one image", fontsize="medium")
    tidy(axes)


CLAIM = Claim(
    statement="With as many gradients ACG's search points spread more than APGD's, and it breaks more images of a "
    "robust network",
    paper_figures=PAPER,
    runs=runs,
    verdict=verdict,
    figure=figure,
)
