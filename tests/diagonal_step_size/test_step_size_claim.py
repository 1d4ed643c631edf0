import numpy as np
import pytest

from zoo.claims import Measurement, Results, find_paper, setting
from zoo.diagonal_step_size.claim import (
    CENTRED,
    CLAIM,
    CRITICAL,
    DIVERGED,
    LARGE_START,
    MEANS,
    NOISY,
    SMALL_MEAN,
    figure,
)


def as_the_paper_says(run, lr, scale, problem):
    """What a replica would have left, by column; flow's error is 0.25 for the large scale and 0.01 for the others."""
    row = {"population_error": 0.25, "loss": 1e-8, "status": 0.0, "last_step": -1.0, "flow_distance": 0.001}
    row |= {"sharpness_ratio": 0.9, "bound_ratio": 0.5, "balance_error": 1e-12, "peak_loss": 40.0}
    if run.recipe == CRITICAL:
        row["population_error"] = 0.01 * (1 - 0.999 * lr) if lr < 1 else 3.0
        row["loss"] = 1e-6 if lr < 1 else 1.0
    elif dict(run.overrides) == CENTRED:
        row["population_error"] *= 1 + max(0, lr - 0.5)
    elif lr > 1:
        row |= {"population_error": 0.02 + 0.001 * problem, "peak_loss": 800.0}
    if lr > 2:
        row |= {"status": DIVERGED, "last_step": 7.0, "loss": 40.0}
    return row


def results(scale="small", change=None):
    """Finished runs whose replicas are as the paper says, but for what ``change(run, lr, scale, row)`` does to them."""
    measured = []
    for run in CLAIM.runs(scale):
        config = run.config()
        lrs, scales = setting(config, "model.lr"), setting(config, "model.init_scale")
        scales = [scales] if isinstance(scales, float) else scales
        num_problems = setting(config, "data.num_problems")
        rows = []
        for problem in range(num_problems):
            for alpha in scales:
                for lr in lrs:
                    row = as_the_paper_says(run, lr, alpha, problem)
                    if change:
                        change(run, lr, alpha, row)
                    rows.append(row)
        curves = {f"table/{name}": [row[name] for row in rows] for name in rows[0]}
        flow = 0.01 if run.recipe == CRITICAL else 0.25
        of_replicas = {"flow": flow, "effective_flow": 0.02, "init_sharpness": 0.002}
        curves |= {f"reference/{name}": [value] * len(rows) for name, value in of_replicas.items()}
        curves |= {
            f"reference/{name}": [value] * num_problems for name, value in (("min_l2", 0.4), ("critical", 0.003))
        }
        curves = {name: (list(range(len(y))), y) for name, y in curves.items()}
        for i, row in enumerate(rows):
            curves[f"peak_loss/{i}"] = ([0, 1], [40.0, row["peak_loss"]])
            curves |= {f"{name}/{i}": ([0, 1], [1.5, 0.9]) for name in ("train/loss", "sharpness_ratio")}
        measured.append(
            Measurement(run.recipe, 0, dict(run.overrides), config, {}, "", "cpu", 1.0, {}, "c", "now", curves)
        )
    return Results(measured, scale)


def failing(verdict):
    return [check.statement for check in verdict.checks if check.holds is False]


@pytest.mark.parametrize("scale", ["small", "full"])
def test_what_the_paper_says_of_step_sizes_is_reproduced(scale):
    verdict = CLAIM.verdict(results(scale))
    assert failing(verdict) == []
    assert verdict.reproduced
    np.testing.assert_allclose(verdict.figures["mean 5: 1.5 η₀"], [8.0, 8.4, 8.8, 9.2, 9.6])
    assert sum(check.statement.startswith("d = 1000") for check in verdict.checks) == (5 if scale == "full" else 0)


def is_wide(run):
    return run.recipe != CRITICAL and not run.overrides


def one(column, value, lr, of=is_wide):
    """A change of a column at one step size."""

    def change(run, rate, scale, row):
        if of(run) and rate == lr:
            row[column] = value

    return change


def is_centred(run):
    return dict(run.overrides) == CENTRED


def is_critical(run):
    return run.recipe == CRITICAL


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (one("population_error", 0.051, 1.5), "inputs of mean 5: at 1.5 η₀"),
        (one("population_error", 0.29, 1.5, is_centred), "centred inputs: at 1.5 η₀"),
        (one("flow_distance", 0.011, 0.25), "at 0.25 η₀ no coordinate"),
        (one("loss", 2e-4, 0.98, is_critical), "scale 0.05, 0.98 η_c"),
        (one("population_error", 2e-3, 0.98, is_critical), "scale 0.05, 0.98 η_c"),
        (one("loss", 1e-3, 1.02, is_critical), "scale 0.05, 1.02 η_c"),
        (one("population_error", 0.006, 0.8, is_critical), "scale 0.05: the mean error falls"),
        (one("sharpness_ratio", 1.01, 0.9, is_centred), "wherever the loss is below 1e-05: η λ / 2"),
        (
            one("bound_ratio", 1.01, 0.9, lambda run: dict(run.overrides) == NOISY),
            "wherever the loss is below 1e-05: η Σ",
        ),
        (one("balance_error", 1e-5, 0.5, lambda run: dict(run.overrides) == SMALL_MEAN), "u² - v² is what"),
        (one("balance_error", float("nan"), 0.5, lambda run: dict(run.overrides) == LARGE_START), "u² - v² is what"),
        (one("status", 0.0, 2.2), "inputs of mean 5: every replica above 2 η₀ diverges"),
        (one("status", DIVERGED, 1.95), "inputs of mean 5: every replica above 2 η₀ diverges"),
    ],
)
def test_each_statement_on_step_sizes_can_fail(change, fails):
    verdict = CLAIM.verdict(results(change=change))
    assert not verdict.reproduced
    assert [statement for statement in failing(verdict) if statement.startswith(fails)]


def test_what_has_not_settled_need_not_be_stable():
    def change(run, lr, scale, row):
        if lr == 1.9:
            row |= {"loss": 0.1, "sharpness_ratio": 1.3, "bound_ratio": 1.2}

    assert CLAIM.verdict(results(change=change)).reproduced


@pytest.mark.parametrize(("scale", "panels"), [("small", 4), ("full", 4 + 2 * len(MEANS))])
def test_the_figure_marks_the_thresholds(scale, panels, tmp_path):
    drawing = figure(results(scale))
    drawing.savefig(tmp_path / "figure.png", dpi=30)
    assert len(drawing.axes) == panels  # a map has a colour bar
    errors, around = drawing.axes[:2]
    marks = [line.get_xdata()[0] for line in errors.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert {1, 2, 1.5} <= {round(float(mark), 6) for mark in marks}  # the critical one is at 0.003 / 0.002
    assert "its η₀ = 0.67 η_c" in [text.get_text() for text in around.get_legend().get_texts()]


def test_the_recipes_take_as_many_steps_as_they_say():
    for run in CLAIM.runs("small"):
        config = run.config()
        steps = 5 * (1.2 ** config["trainer"]["max_epochs"] - 1)
        assert config["model"]["init_args"]["growth"] == 1.2
        assert steps >= (40_000 if run.recipe == CRITICAL else 20_000)
        if not run.overrides and run.recipe != CRITICAL:
            assert steps >= 150_000


def test_the_room_of_step_sizes_is_found_by_its_name():
    assert find_paper("diagonal_step_size").claim.statement == CLAIM.statement
