"""What the paper asserts, and the runs that could refute it."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.claims import Check, Claim, Results, Run, Verdict
from zoo.evidence import Values, chosen, of_replicas, span, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Reconstruction: images of MNIST from few measurements.
CONTROLS = ("gaussian", "gaussian_05", "proximity", "proximity_05")
BALLS = ("ilo_30", "ilo_100", "ilo")
NAMES = {
    "csgm": "CSGM",
    "ilo_30": "ILO, r = 30",
    "ilo_100": "ILO, r = 100",
    "ilo": "ILO, r = inf",
    "sgilo": "SGILO",
    "gaussian": "Gaussian prior",
    "gaussian_05": "Gaussian prior, sigma_eff 0.05",
    "proximity": "proximity",
    "proximity_05": "proximity, w = 0.5",
    "no_prior": "no prior",
}
DRAWN = ("csgm", *BALLS, "gaussian", "proximity", "sgilo")
MIDDLE = (80, 160, 320)  # pixels of 784: where statements about an advantage are tested, on more images
INPAINTING = (20, 40, *MIDDLE)
GAUSSIAN = (40, 80, 160)
FEWER: dict[str, Any] = {"data.num_draws": 3}
LARGE = {"data.num_images": 200, "data.num_draws": 5, "model.training.num_steps": 20_000}
SUPER_RESOLUTION = 49  # measurements where the image is four times smaller

# The theory: Langevin chains on the codes of random generators.
NETS = 20
MEASUREMENTS = (20, 40, 60, 80, 120, 240)
CODE_SIZE = 20
EXPANSIONS = (1.5, 2, 3, 6)
LAW_BETAS = {120: [1e4, 1e3], 720: [1e4]}  # by number of measurements
LAW_NETS = 3
APART: dict[str, Any] = {"model.coupled": False, "model.starts": ["random"]}
RECOVERY = APART | {
    "model.num_measurements": list(MEASUREMENTS),
    "model.inverse_temperature": [1e4, None],
    "model.num_nets": NETS,
    "model.steps_per_epoch": 100,
    "trainer.max_epochs": 15,
}
MIXING_BETAS = (1e3, 1e4)
MIXING = {"model.inverse_temperature": list(MIXING_BETAS), "model.num_nets": NETS}


def expansion(factor: float) -> dict[str, Any]:
    """Networks whose layers widen by a factor, all of their output being seen."""
    return APART | {
        "model.widths": [CODE_SIZE, round(CODE_SIZE * factor), round(CODE_SIZE * factor**2)],
        "model.num_measurements": None,
        "model.inverse_temperature": 1e4,
        "model.step_size": 0.15,
        "model.starts": ["random", "opposite"],
        "model.num_nets": NETS,
        "model.steps_per_epoch": 100,
        "trainer.max_epochs": 10,
    }


def law(num_measurements: int) -> dict[str, Any]:
    """Chains that run for long enough to tell their stationary law."""
    return APART | {
        "model.num_measurements": num_measurements,
        "model.inverse_temperature": LAW_BETAS[num_measurements],
        "model.num_nets": LAW_NETS,
        "model.num_chains": 32,
        "model.burn_in": 1500,
        "model.steps_per_epoch": 500,
        "trainer.max_epochs": 9,
    }


def theory_runs(scale: str) -> list[Run]:
    """The longest first."""
    kinds: list[tuple[str, dict[str, Any]]] = [("sgilo_theory", law(720)), ("sgilo_theory", MIXING)]
    kinds += [("sgilo_theory", RECOVERY), ("sgilo_theory", law(120))]
    kinds += [("sgilo_theory", expansion(factor)) for factor in reversed(EXPANSIONS)]
    kinds += [("sgilo_field", {})]
    return [Run(recipe, seed, settings) for recipe, settings in kinds for seed in range(1 if scale == "small" else 3)]


def theory_checks(results: Results) -> list[Check]:
    """Recovery, stationary law, mixing, the field, and networks that do not expand."""
    return [*recovery(results), *stationary_law(results), *mixing(results), field(results), *expansions(results)]


def recovered(results: Results) -> Values:
    """Share of codes that are found, by number of measurements, with noise and without, ``(M, 2)``."""
    found = of_replicas(chosen(results, "sgilo_theory", RECOVERY), "found")
    return found.reshape(-1, len(MEASUREMENTS), 2).mean(axis=0)


def recovery(results: Results) -> list[Check]:
    noisy, descent = recovered(results).T
    enough = np.array(MEASUREMENTS) >= 4 * CODE_SIZE
    shares = ", ".join(f"{m}: {share:.2f}" for m, share in zip(MEASUREMENTS, noisy))
    return [
        Check(
            "random networks, Langevin from a random start: at least 0.95 of the codes are found from 80 measurements "
            "on, at most 0.10 from 20, as many as the code has numbers",
            bool((noisy[enough] >= 0.95).all() and noisy[0] <= 0.1),
            shares,
        ),
        Check("the same by descent", None, ", ".join(f"{m}: {share:.2f}" for m, share in zip(MEASUREMENTS, descent))),
    ]


def second_moments(results: Results, num_measurements: int) -> dict[float, Values]:
    """Squared distance from the code over the predicted one, of every network, by inverse temperature."""
    ratios = of_replicas(chosen(results, "sgilo_theory", law(num_measurements)), "second_moment")
    betas = LAW_BETAS[num_measurements]
    return {beta: ratios.reshape(-1, len(betas))[:, i] for i, beta in enumerate(betas)}


def stationary_law(results: Results) -> list[Check]:
    cold = np.concatenate([second_moments(results, m)[1e4] for m in LAW_BETAS])
    within = (cold >= 0.95) & (cold <= 1.12)
    errors = np.concatenate(
        [of_replicas(chosen(results, "sgilo_theory", law(m)), "error").ravel() for m in LAW_BETAS]
    )  # at the last step
    return [
        Check(
            "their squared distance from the code is that of exp(-beta f) near it, 0.95 to 1.12 of the predicted one, "
            "for at least 5 of 6 networks at beta = 10,000",
            bool(within.mean() >= 5 / 6),
            ", ".join(f"{ratio:.3f}" for ratio in cold),
        ),
        Check(
            "the same at beta = 1,000, where the wells are less quadratic",
            None,
            span(second_moments(results, 120)[1e3]),
        ),
        Check("chains that are elsewhere at the end", None, f"{(errors > 0.5).sum()} of {errors.size}"),
    ]


def distances(results: Results) -> Values:
    """The largest distance of coupled chains at the end, ``(nets, betas)``."""
    return of_replicas(chosen(results, "sgilo_theory", MIXING), "distance").reshape(-1, len(MIXING_BETAS))


def contraction(results: Results) -> tuple[Values, Values]:
    """What chains that meet lose of their distance in a step, once they are near, and the predicted loss, ``(n,)``."""
    losses, predicted = [], []
    found = chosen(results, "sgilo_theory", MIXING)
    for i in range(0, NETS * len(MIXING_BETAS), len(MIXING_BETAS)):
        for (steps, distance), (_, slowest) in zip(found.curves(f"distance/{i}"), found.curves(f"slowest/{i}")):
            last_far = int(np.flatnonzero(distance >= 1e-2)[-1])
            near = (np.arange(len(steps)) > last_far) & (distance > 1e-10)
            if near.sum() > 1:
                losses.append(1 - np.exp(np.polyfit(steps[near], np.log(distance[near]), 1)[0]))
                predicted.append(slowest[0])
    return np.array(losses), np.array(predicted)


def mixing(results: Results) -> list[Check]:
    warm, cold = distances(results).T
    losses, predicted = contraction(results)
    ratios = losses / predicted
    return [
        Check(
            "chains from far and opposite starts with the same noise are within 0.001 of each other after 4,000 steps, "
            "in at least 9 of 10 networks, at beta = 1,000",
            bool((warm < 1e-3).mean() >= 0.9),
            f"{(warm < 1e-3).sum()} of {warm.size}",
        ),
        Check("the same at beta = 10,000", None, f"{(cold < 1e-3).sum()} of {cold.size}"),
        Check(
            "near the code they approach each other by the smallest eigenvalue of the Hessian, within 30 %",
            bool(len(ratios) > 0 and (np.abs(ratios - 1) <= 0.3).all()),
            f"{span(ratios)} of the predicted loss, which is {span(predicted)} a step",
        ),
    ]


def field(results: Results) -> Check:
    errors = of_replicas(chosen(results, "sgilo_field"), "field_error").mean(axis=0)
    return Check(
        "the gradient comes nearer to its limit as layers widen, to less than 0.35 of its length at a factor of 60",
        bool((np.diff(errors) < 0).all() and errors[-1] < 0.35),
        ", ".join(f"{error:.2f}" for error in errors),
    )


def expanded(results: Results) -> NDArray[np.float64]:
    """Share of codes that are found by expansion, from random and from opposite starts, ``(E, 2)``."""
    found = [of_replicas(chosen(results, "sgilo_theory", expansion(factor)), "found") for factor in EXPANSIONS]
    return np.stack([one.reshape(-1, 2).mean(axis=0) for one in found])


def expansions(results: Results) -> list[Check]:
    random, opposite = expanded(results).T
    return [
        Check(
            "networks whose layers widen by 1.5 only: at most 0.2 of the codes are found",
            bool(random[0] <= 0.2),
            f"{random[0]:.2f}",
        ),
        Check(
            "found from a random and from the opposite start, by expansion",
            None,
            ", ".join(f"{f:g}: {a:.2f} and {b:.2f}" for f, a, b in zip(EXPANSIONS, random, opposite)),
        ),
    ]


def draw_mixing(results: Results, axes: "Axes") -> None:
    """The largest distance between coupled chains, network by network."""
    found = chosen(results, "sgilo_theory", MIXING)
    for i in range(NETS * len(MIXING_BETAS)):
        net, beta = divmod(i, len(MIXING_BETAS))
        label = f"beta {MIXING_BETAS[beta]:,.0f}" if net == 0 else None
        for steps, distance in found.curves(f"distance/{i}"):
            axes.semilogy(steps, np.maximum(distance, 1e-17), color=f"C{beta}", alpha=0.6, label=label)
            label = None
    axes.set(xlabel="step", ylabel="largest distance, relative", title="Random networks: coupled chains meet")
    tidy(axes)


def draw_recovery(results: Results, axes: "Axes") -> None:
    """Share of codes that are found, by number of measurements."""
    for shares, name in zip(recovered(results).T, ("Langevin, beta 10,000", "descent")):
        axes.semilogx(MEASUREMENTS, shares, "o-", label=name)
    axes.set_xticks(MEASUREMENTS, [str(m) for m in MEASUREMENTS])
    axes.minorticks_off()
    axes.set(xlabel="measurements", ylabel="share found", title=f"Random networks: codes of {CODE_SIZE} numbers")
    tidy(axes)


# Reconstruction.


def problem(scale: str, task: str, m: int) -> dict[str, Any]:
    """Overrides of the recipe, whose own problem is inpainting of 80 pixels."""
    settings: dict[str, Any] = {} if m in MIDDLE and task == "random_inpainting" else dict(FEWER)
    if task == "average_pooling":
        settings |= {"data.task": task, "data.num_measurements": None, "data.factor": 4}
    elif task != "random_inpainting":
        settings |= {"data.task": task, "data.num_measurements": m}
    elif m != 80:
        settings |= {"data.num_measurements": m}
    return settings | (LARGE if scale == "full" else {})


PROBLEMS = [
    *(("random_inpainting", m) for m in (*MIDDLE, 20, 40)),
    *(("gaussian", m) for m in GAUSSIAN),
    ("average_pooling", SUPER_RESOLUTION),
]


def reconstruction_runs(scale: str) -> list[Run]:
    """The first one trains the generator and the score, which the others take from the cache."""
    return [Run("sgilo", 0, problem(scale, task, m)) for task, m in PROBLEMS]


def errors(results: Results, solver: str, m: int, task: str = "random_inpainting") -> Values:
    """Mean squared error of a pixel, image by image, shape ``(images,)``."""
    found = chosen(results, "sgilo", problem(results.scale, task, m))
    return np.concatenate([y for _, y in found.curves(f"mse/{solver}/{m}")])


def ratio(results: Results, solver: str, others: str | tuple[str, ...], m: int) -> float:
    """Mean error of a solver over that of another, or of the best of several."""
    others = (others,) if isinstance(others, str) else others
    return float(errors(results, solver, m).mean() / min(errors(results, other, m).mean() for other in others))


def paired(results: Results, solver: str, other: str, m: int, task: str = "random_inpainting") -> tuple[float, float]:
    """Mean of the difference of errors on the same images, and half of its 95 % interval, times 1,000."""
    difference = 1e3 * (errors(results, solver, m, task) - errors(results, other, m, task))
    return float(difference.mean()), float(1.96 * difference.std(ddof=1) / np.sqrt(difference.size))


def reconstruction_checks(results: Results) -> list[Check]:
    """SGILO beside CSGM and ILO, beside no prior at all, and beside the controls."""
    csgm = {m: ratio(results, "sgilo", "csgm", m) for m in (80, 160)}
    ilo = {m: ratio(results, "sgilo", "ilo", m) for m in (80, 160)}
    balls = [ratio(results, "sgilo", BALLS, m) for m in MIDDLE]
    without = ratio(results, "no_prior", "sgilo", 80)
    controls = [ratio(results, "sgilo", CONTROLS, m) for m in MIDDLE]
    return [
        Check(
            "MNIST, inpainting: SGILO's error is at most 0.95 of CSGM's from 80 pixels, 0.70 from 160",
            csgm[80] <= 0.95 and csgm[160] <= 0.70,
            in_words(csgm),
        ),
        Check(
            "and at most 0.85 of that of ILO without a ball, from 80 and 160 pixels",
            max(ilo.values()) <= 0.85,
            in_words(ilo),
        ),
        Check(
            "and at most 0.96 of ILO's with the best of three radii, on average over 80, 160 and 320 pixels",
            bool(np.mean(balls) <= 0.96),
            f"{np.mean(balls):.3f} ({in_words(dict(zip(MIDDLE, balls)))})",
        ),
        Check(
            "a prior matters: without it the error from 80 pixels is at least 1.15 times as large",
            without >= 1.15,
            f"{without:.2f} times",
        ),
        Check(
            "SGILO's error is at most 1.05 of that of the best control, on average over 80, 160 and 320 pixels: more "
            "is not claimed of the learned score",
            bool(np.mean(controls) <= 1.05),
            f"{np.mean(controls):.3f} ({in_words(dict(zip(MIDDLE, controls)))})",
        ),
        *(
            differences(results, task, m)
            for task, m in sorted(PROBLEMS, key=lambda one: (one[0] != PROBLEMS[0][0], one))
        ),
    ]


def in_words(by_count: dict[int, float]) -> str:
    """Ratios by number of measurements."""
    return ", ".join(f"{m}: {value:.3f}" for m, value in by_count.items())


def differences(results: Results, task: str, m: int) -> Check:
    """How SGILO compares with every other solver on the same images; it decides nothing."""
    number = errors(results, "sgilo", m, task).size
    others = [other for other in NAMES if other != "sgilo"]
    found = {NAMES[other]: paired(results, "sgilo", other, m, task) for other in others}
    return Check(
        f"{task.replace('_', ' ')}, {m} measurements, {number} images: SGILO's error minus others', paired, x 1,000",
        None,
        "; ".join(f"{name} {mean:+.2f} ± {half:.2f}" for name, (mean, half) in found.items()) + " (95 % interval)",
    )


def runs(scale: str) -> list[Run]:
    """The one that trains, then those that need nothing of it, then the others."""
    first, *others = reconstruction_runs(scale)
    return [first, *theory_runs(scale), *others]


def verdict(results: Results) -> Verdict:
    """Reconstruction and theory; the figures are means over draws of images and masks."""
    figures = {
        f"{m} pixels: {name}": 1e3 * errors(results, solver, m).reshape(-1, images_of_a_draw(results)).mean(axis=1)
        for m in (40, 80, 160)
        for solver, name in NAMES.items()
    }
    return Verdict(figures, [*reconstruction_checks(results), *theory_checks(results)])


def images_of_a_draw(results: Results) -> int:
    """Number of images that share a draw."""
    return 64 if results.scale == "small" else LARGE["data.num_images"]


def figure(results: Results) -> "Figure":
    """Above images side by side, below error over measurements, mixing and recovery."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(15, 11), layout="constrained")
    halves: Any = drawing.subfigures(2, 1, height_ratios=(1.25, 1))
    top, bottom = halves
    draw_images(results, top, 80, num_images=6)
    axes = bottom.subplots(1, 4)
    draw_errors(results, axes[0], "random_inpainting", INPAINTING)
    draw_errors(results, axes[1], "gaussian", GAUSSIAN)
    draw_mixing(results, axes[2])
    draw_recovery(results, axes[3])
    for one in axes:
        one.title.set_fontsize("medium")
    return drawing


def draw_images(results: Results, top: Any, m: int, num_images: int) -> None:
    """One row for what was measured, each solver, and the truth; one column for each image."""
    found = chosen(results, "sgilo", problem(results.scale, "random_inpainting", m))
    rows = {"measured": "measured"} | {solver: NAMES[solver] for solver in NAMES if solver in DRAWN}
    rows |= {"truth": "truth"}
    grid = top.subplots(num_images, len(rows), squeeze=False)
    for column, (name, title) in enumerate(rows.items()):
        for i in range(num_images):
            shape, pixels = found.curves(f"image/{name}/{m}/{i}")[0]
            axes = grid[i, column]
            axes.imshow(pixels.reshape(shape.astype(int))[0], cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        grid[0, column].set_title(title, fontsize="medium")
    top.suptitle(f"{m} of 784 pixels, noise 0.05: the first images of the first draw")


def draw_errors(results: Results, axes: "Axes", task: str, counts: tuple[int, ...]) -> None:
    """Mean error over the number of measurements, with its standard error."""
    styles = {"sgilo": "o-", "gaussian": "s--", "proximity": "d--", "csgm": "v:"}
    for solver in DRAWN:
        values = [errors(results, solver, m, task) for m in counts]
        deviations = [value.std(ddof=1) / np.sqrt(value.size) for value in values]
        means = [value.mean() for value in values]
        axes.errorbar(counts, means, deviations, fmt=styles.get(solver, "x:"), markersize=4, label=NAMES[solver])
    axes.set(xscale="log", yscale="log", xlabel="measurements", ylabel="mean squared error")
    axes.set_xticks(counts, [str(m) for m in counts])
    axes.minorticks_off()
    axes.set_title("MNIST, inpainting" if task == "random_inpainting" else "MNIST, Gaussian measurements")
    tidy(axes)


CLAIM = Claim(
    statement="A learned prior of an intermediate latent gives better images from few measurements than CSGM and ILO, "
    "whose constraint it replaces; and Langevin chains on the codes of random expansive networks mix fast, by the law "
    "of the posterior",
    paper_figures={},
    runs=runs,
    verdict=verdict,
    figure=figure,
    unit="mean squared error of a pixel, x 1,000",
)
