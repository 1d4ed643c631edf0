import numpy as np
import pytest

from zoo.adaptive_inertia.claim import (
    CLAIM,
    CURVATURES,
    DIFFUSION,
    ESCAPE,
    PAPER,
    POWER,
    SHARPNESS,
    figure,
    trainings,
)
from zoo.claims import Measurement, Results, find_paper

SMALL = {"AdaiW": 48.0, "Adai": 49.0, "SGDM": 48.0, "Adam": 50.0}
FULL = {"AdaiW": 4.6, "Adai": 4.7, "SGDM": 5.0, "Adam": 6.5, "Adam, lr 1e-4": 6.6, "AdamW": 5.1}
SLOPES = dict.fromkeys(ESCAPE, 5.6)


def results(errors, scale="small", slopes=SLOPES, exits=100.0, sgd_power=1.0, adam_power=0.0, median=0.95):
    """What runs would have left that follow the laws, with a little spread between seeds."""
    rng = np.random.default_rng(0)
    training = {(recipe, str(settings)): name for name, (recipe, settings) in trainings(scale).items()}
    escape = {str(settings): name for name, settings in ESCAPE.items()}
    saddle = {str(settings): name for name, settings in DIFFUSION.items()}
    measured = []
    for run in CLAIM.runs(scale):
        key = str(dict(run.overrides))
        if run.recipe == "escape_time":
            name = escape[key]
            x = SHARPNESS ** -POWER[name]
            logs = slopes[name] * x - POWER[name] * np.log(SHARPNESS) + rng.normal(0, 0.02, len(x))
            metrics = {f"escape/log_time_k{k:g}": log for k, log in zip(SHARPNESS, logs)}
            metrics |= {f"escape/exits_k{k:g}": exits for k in SHARPNESS}
        elif run.recipe == "saddle_diffusion":
            power = {"SGD": sgd_power, "Adam": adam_power}.get(saddle[key], 1.0)
            metrics = {f"saddle/displacement_{h:g}": 0.04 * abs(h) ** power for h in CURVATURES}
        else:
            error = errors[training[run.recipe, key]] + rng.normal(0, 0.05)
            metrics = {"test/acc": 1 - error / 100, "test/loss": 1.3}
            metrics |= {"inertia/quantile_0.5": median, "inertia/quantile_0.05": 0.7}
        measured.append(
            Measurement(
                run.recipe, run.seed, dict(run.overrides), run.config(), metrics, "", "cpu", 1.0, {}, "c", "now"
            )
        )
    return Results(measured, scale)


def failing(verdict):
    return [check.statement for check in verdict.checks if check.holds is False]


@pytest.mark.parametrize(("scale", "errors"), [("small", SMALL), ("full", FULL)])
def test_what_the_paper_says_is_reproduced(scale, errors):
    verdict = CLAIM.verdict(results(errors, scale))
    assert failing(verdict) == []
    assert verdict.reproduced
    assert (set(PAPER) <= set(verdict.figures)) == (scale == "full")  # another protocol is no match for the paper's


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({"slopes": SLOPES | {"Adai": 3.0}}, "Adai's log escape time follows 1 / H: it falls by 2.9 to 3.8"),
        ({"slopes": SLOPES | {"Adam": 9.0}}, "Adam's log escape time follows 1 / sqrt(H): it falls by 1.9 to 2.4"),
        ({"slopes": SLOPES | {"Adai": 4.9, "Adam": 6.2}}, "Adai prefers flat minima more than Adam"),
        ({"exits": 20.0}, "every well was left 30 times or more"),
        ({"sgd_power": 0.5}, "near a saddle SGD moves as the curvature"),
        ({"adam_power": 0.2}, "near a saddle Adam moves alike in all flat directions"),
        ({"median": 0.999}, "the median inertia is 0.90 to 0.98"),
        ({"errors": SMALL | {"AdaiW": 54.0}}, "AdaiW at ten times SGDM's rate is within 5 points of it"),
        ({"errors": SMALL | {"AdaiW": 61.0, "SGDM": 61.0}}, "AdaiW errs on less than 60 %"),
    ],
)
def test_each_statement_can_fail(change, fails):
    verdict = CLAIM.verdict(results(**({"errors": SMALL} | change)))
    assert not verdict.reproduced
    assert any(statement.startswith(fails) for statement in failing(verdict))


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({"SGDM": 6.0}, "the baseline is sound"),
        ({"AdaiW": 5.3}, "AdaiW errs at most 0.2 points more than SGDM"),
        ({"Adam, lr 1e-4": 5.2}, "AdaiW errs at least 0.8 points less than the better Adam"),
    ],
)
def test_each_statement_of_the_full_scale_can_fail(change, fails):
    statements = failing(CLAIM.verdict(results(FULL | change, "full")))
    assert any(statement.startswith(fails) for statement in statements)


def test_a_small_difference_to_sgd_decides_nothing_at_the_small_scale():
    assert CLAIM.verdict(results(SMALL | {"AdaiW": 50.0})).reproduced


def test_every_configuration_has_at_least_three_seeds():
    for scale in ("small", "full"):
        runs = CLAIM.runs(scale)
        kinds = {(run.recipe, str(dict(run.overrides))) for run in runs}
        assert len(runs) == 3 * len(kinds)
        assert len(kinds) == len(trainings(scale)) + len(ESCAPE) + len(DIFFUSION)


def test_the_full_scale_is_the_papers_protocol():
    (config, *_) = (run.config() for run in CLAIM.runs("full") if run.recipe == "adaiw")
    assert config["trainer"]["max_epochs"] == 200
    model = config["model"]["init_args"]
    assert (model["backbone"], model["milestones"]) == ("resnet18", [80, 160])
    assert config["data"]["init_args"]["batch_size"] == 128


@pytest.mark.parametrize(("scale", "errors"), [("small", SMALL), ("full", FULL)])
def test_the_figure_has_a_panel_for_each_experiment(scale, errors, tmp_path):
    drawing = figure(results(errors, scale))
    drawing.savefig(tmp_path / "figure.png")
    assert len(drawing.axes) == 3
    assert [text.get_text() for text in drawing.axes[2].get_xticklabels()] == list(trainings(scale))


def test_the_room_is_found_by_its_name():
    assert find_paper("adaptive_inertia").claim.statement == CLAIM.statement
