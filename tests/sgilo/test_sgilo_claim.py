import numpy as np
import pytest
from matplotlib.figure import Figure

from zoo.claims import Measurement, Results
from zoo.sgilo.claim import (
    GAUSSIAN,
    INPAINTING,
    MIDDLE,
    NAMES,
    PROBLEMS,
    draw_errors,
    draw_images,
    paired,
    reconstruction_checks,
    reconstruction_runs,
)

USUAL = {"csgm": 0.03, "ilo_30": 0.028, "ilo_100": 0.026, "ilo": 0.035, "sgilo": 0.02, "no_prior": 0.035}
USUAL |= {"gaussian": 0.0205, "gaussian_05": 0.0206, "proximity": 0.021, "proximity_05": 0.0215}


def results(**changes):
    """What the runs of these mean errors would have left; every solver is off by the same on the same image."""
    measured = []
    for (task, m), run in zip(PROBLEMS, reconstruction_runs("small")):
        number = 64 * (5 if m in MIDDLE and task == "random_inpainting" else 3)
        noise = np.random.default_rng(m).uniform(-0.01, 0.01, number)
        noise -= noise.mean()
        index = [float(i) for i in range(number)]
        curves = {f"mse/{name}/{m}": (index, list(value + noise)) for name, value in (USUAL | changes).items()}
        for name in (*NAMES, "measured", "truth"):
            curves |= {f"image/{name}/{m}/{i}": ([1.0, 2.0, 2.0], [0.0, 1.0, 0.5, 0.2]) for i in range(6)}
        config = run.config()
        measured.append(
            Measurement(run.recipe, run.seed, dict(run.overrides), config, {}, "data", "cpu", 1.0, {}, "", "", curves)
        )
    return Results(measured, "small")


def holds(checks):
    return [check.holds for check in checks if check.holds is not None]


def test_errors_in_the_order_of_the_paper_reproduce_every_statement():
    checks = reconstruction_checks(results(csgm=0.04))
    assert holds(checks) == [True] * 5
    assert len(checks) == 5 + len(PROBLEMS)  # and a comparison for each problem


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"csgm": 0.021}, 0),  # 0.95 of CSGM's from 80, and 0.70 from 160
        ({"csgm": 0.04, "ilo": 0.022}, 1),
        ({"csgm": 0.04, "ilo_30": 0.0205}, 2),
        ({"csgm": 0.04, "no_prior": 0.022}, 3),
        ({"csgm": 0.04, "gaussian": 0.018}, 4),
        ({"csgm": 0.04, "proximity_05": 0.018}, 4),
    ],
)
def test_a_smaller_error_of_another_refutes_the_statement_about_it(changes, failed):
    checks = reconstruction_checks(results(**changes))
    assert not holds(checks)[failed]


def test_images_are_compared_in_pairs():
    mean, half = paired(results(), "sgilo", "gaussian", 80)
    assert mean == pytest.approx(-0.5)
    assert half < 1e-9  # though the errors themselves spread widely


def test_images_and_errors_are_drawn():
    drawing = Figure()
    draw_images(results(), drawing, 80, num_images=3)
    assert len(drawing.axes) == 3 * 9  # measured, seven solvers, truth
    axes = Figure().subplots()
    draw_errors(results(), axes, "random_inpainting", INPAINTING)
    draw_errors(results(), axes, "gaussian", GAUSSIAN)
    assert len(axes.containers) == 14
