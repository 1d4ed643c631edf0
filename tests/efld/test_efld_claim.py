import json
from pathlib import Path

import numpy as np
import pytest

from zoo.claims import Measurement, Results, find_paper
from zoo.efld.claim import CLAIM, HORIZONS, RATES, SEEDS, SGLD, figure, random_labels, sgld, signs

PATHS = ("bound/stability", "bound/unconditional", "bound/li", "bound/incoherence", "gap/gap")
SOUND = {
    "gap/train_error": 0.09,
    "test/acc": 0.9,
    "gap/val_error": 0.1,
    "gap/gap": 0.01,
    "bound/stability": 0.45,
    "bound/unconditional": 1.1,
    "bound/li": 0.55,
    "bound/incoherence": 0.7,
    "bound/condition_fraction": 0.0,
    "discrepancy/mean": 800.0,
    "discrepancy/squared_norm": 400.0,
    "discrepancy/largest_distance": 150.0,
}


def key(recipe, overrides):
    return recipe, json.dumps(overrides, sort_keys=True, default=str)


def worlds(scale):
    """What each kind of run would have measured if the claim held."""
    found = {key(*sgld(scale, name)): dict(SOUND) for name in SGLD[scale]}
    if scale == "small":
        found[key(*sgld("small", "n = 10,000"))] |= {"bound/incoherence": 0.4}
    for i, rate in enumerate(RATES):
        more = {"gap/train_error": 0.0, "bound/stability": 10.0 + i, "gap/val_error": 0.2 + 0.1 * i}
        found[key(*random_labels(scale, rate))] = SOUND | more | {"discrepancy/mean": 900.0 + i}
    for alpha, error, bound in zip(
        (1.0, 0.1, 0.01, 1e-3, 1e-5), (0.9, 0.3, 0.08, 0.06, 0.05), (0.01, 0.2, 7.0, 60.0, 6000.0)
    ):
        more = {"gap/train_error": error, "test/acc": 1 - error, "bound/stability": bound}
        found[key(*signs(scale, alpha))] = SOUND | more
    found[key(*signs(scale, 0))] = SOUND | {"test/acc": 0.945}
    return found


def theory(name, lhs=10.0, growth=1.0, ratio=1.2):
    if name == "efld_divergence":
        return {f"ratio/{family}/{i}": ratio for family in ("gaussian", "sign", "quantized") for i in range(4)}
    values = {t: lhs * (1000 / t) ** 0.5 for t in HORIZONS}
    values[HORIZONS[-1]] *= growth
    measured = {f"convergence/mean_squared_gradient/{i}": values[HORIZONS[i % 3]] for i in range(6)}
    return measured | {f"convergence/bound/{i}": 100.0 * (1000 / HORIZONS[i % 3]) ** 0.5 for i in range(6)}


def results(scale="small", changed=None, **of_theory):
    """The runs of a world; ``changed`` maps a kind of run to metrics that differ in it."""
    world = worlds(scale)
    for kind, metrics in (changed or {}).items():
        world[key(*json.loads(kind))] |= metrics
    measured = []
    for run in CLAIM.runs(scale):
        metrics, curves = world.get(key(run.recipe, dict(run.overrides)), SOUND), {}
        if run.recipe in ("efld_divergence", "noisy_sign_quadratic"):
            curves = {name: ([0.0, 1.0], [0.0, value]) for name, value in theory(run.recipe, **of_theory).items()}
        else:
            curves = {name: ([500.0, 1000.0], [metrics[name] / 2, metrics[name]]) for name in PATHS}
        rest = (run.config(), dict(metrics), "", "cpu", 1.0, {}, "c", "now", curves)
        measured.append(Measurement(run.recipe, run.seed, dict(run.overrides), *rest))
    return Results(measured, scale)


def failing(found):
    return [check.statement for check in CLAIM.verdict(found).checks if check.holds is False]


def kind(recipe, overrides):
    return json.dumps([recipe, overrides])


@pytest.mark.parametrize("scale", ["small", "full"])
def test_a_world_in_which_the_paper_is_right_reproduces_it(scale):
    verdict = CLAIM.verdict(results(scale))
    assert failing(results(scale)) == []
    assert verdict.reproduced
    beside = [check.statement for check in verdict.checks if check.holds is None]
    assert any("orders of magnitude" in statement for statement in beside)
    assert all(len(values) == len(SEEDS[scale]) for values in verdict.figures.values())


LARGE_N, SMALL_N = kind(*sgld("small", "n = 50,000")), kind(*sgld("small", "n = 10,000"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({LARGE_N: {"test/acc": 0.4}}, "n = 50,000: training error and bound exceed"),
        ({LARGE_N: {"gap/train_error": 0.6}}, "n = 50,000: training error and bound stay below 1"),
        ({LARGE_N: {"bound/li": 0.4}}, "n = 50,000: the bound is below Li's"),
        ({LARGE_N: {"bound/li": float("nan")}}, "n = 50,000: the bound is below Li's"),
        ({LARGE_N: {"bound/incoherence": 0.4}}, "n = 50,000: the bound is below that by incoherence"),
        ({SMALL_N: {"bound/incoherence": 0.7}}, "n = 10,000: the bound is above that by incoherence"),
        ({SMALL_N: {"discrepancy/mean": 40.0}}, "the mean discrepancy is 1 to 3 times"),
        ({kind(*random_labels("small", 0.3)): {"gap/train_error": 0.02}}, "learnt by heart: training error"),
        ({kind(*random_labels("small", 0.6)): {"bound/stability": 10.5}}, "the bound grows"),
        ({kind(*random_labels("small", 0.6)): {"discrepancy/mean": 900.0}}, "the discrepancy grows"),
        ({kind(*random_labels("small", 0.0)): {"gap/val_error": 0.5}}, "the error on fresh samples grows"),
        ({kind(*signs("small", 0)): {"test/acc": 0.9}}, "sign-SGD's within 0.015"),
        ({kind(*signs("small", 0.01)): {"test/acc": 0.6}}, "its test error grows"),
        ({kind(*signs("small", 0.01)): {"bound/stability": 0.2}}, "its bound falls"),
        ({kind(*signs("small", 0.1)): {"test/acc": 0.4}}, "at alpha 0.1 and 1 training error and bound"),
    ],
)
def test_each_statement_can_fail(changed, told):
    statements = failing(results(changed=changed))
    assert any(told in statement for statement in statements)
    assert not CLAIM.verdict(results(changed=changed)).reproduced


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ratio": 1.3}, "the divergence is at most"),
        ({"lhs": 101.0}, "below the theorem's bound"),
        ({"growth": 1.11}, "it falls as 1 / sqrt"),
    ],
)
def test_the_theory_can_fail(options, told):
    (statement,) = failing(results(**options))
    assert told in statement


def test_one_seed_is_enough_to_refute():
    found = results()
    for one in found:
        if one.recipe == "sgld" and one.seed == 3 and not one.overrides:
            one.metrics["bound/li"] = 0.1
    assert failing(found) == ["SGLD, n = 50,000: the bound is below Li's"]


@pytest.mark.parametrize("scale", ["small", "full"])
def test_the_figure_is_drawn(scale, tmp_path):
    figure(results(scale)).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("scale", ["small", "full"])
def test_every_run_is_a_recipe_and_another_one(scale):
    runs = CLAIM.runs(scale)
    assert len({run.command() for run in runs}) == len(runs)
    assert {Path(find_paper("efld").room / f"{run.recipe}.yaml").is_file() for run in runs} == {True}
    assert np.isin([run.seed for run in runs], SEEDS[scale]).all()
    assert not {run.seed for run in runs} & {0, 1}
