import math

import numpy as np
import pytest

from zoo.claims import Measurement, Results, find_paper, setting
from zoo.extended_ufm.claim import BIAS, CLAIM, LAYERS, SMALL_STARTS, figure, networks, prediction, stationary

STEPS = [0.0, 10.0, 100.0]
LINEAR, ETF = (prediction(5e-3, 1e-3, 50, directions) for directions in (4, 3))


def free(run):
    """First and last values of the measures of free features, one for each replica."""
    replicas = setting(run.config(), "model.num_replicas")
    objective = LINEAR["objective"]
    found = {"objective": [objective] * replicas, "gap": [0.0] * replicas, "H2/nuclear_ratio": [1.0] * replicas}
    for level in ("H1", "H2"):
        found |= {f"{level}/{name}": [1e-15] * replicas for name in ("of", "etf", "alignment", "nc1")}
        found[f"{level}/norm"] = [LINEAR[f"{level}/norm"]] * replicas
    if run.overrides == BIAS:
        found["objective"] = [ETF["objective"]] * replicas
    if run.overrides == SMALL_STARTS:
        lost = [0.5] * 12 + [objective + (0.5 - objective) / 4] * 6 + [objective] * 6
        found["objective"] = lost
    if run.recipe == "extended_ufm_relu":
        found |= {"gap": [0.0] * 5 + [2e-3], "H1/of": [0.5] * 6}
        found["H2/nc1"] = [1e-15] * 5 + [1e-3]
    if run.recipe == "extended_ufm_threshold":
        values = [prediction(d, d, 10, 4)["objective"] for d in setting(run.config(), "model.feature_decay")]
        found |= {"objective": values, "gap": [value - min(value, 0.5) for value in values]}
    return found


def results(scale="small", change_free=None, change_network=None):
    """What runs would have left that find what the theory says, with changes."""
    kinds = {(recipe, str(settings)): name for name, (recipe, settings) in networks(scale).items()}
    measured = []
    for run in CLAIM.runs(scale):
        name, metrics = kinds.get((run.recipe, str(dict(run.overrides)))), {}
        if name is None:
            found = free(run) | (change_free(run) if change_free else {})
            curves = {
                f"{one}/{i}": (STEPS, [value, value, value])
                for one, values in found.items()
                for i, value in enumerate(values)
            }
            for level in ("H1", "H2"):
                for i in range(6):
                    curves[f"{level}/gram/{i}"] = ([float(k) for k in range(16)], np.eye(4).flatten().tolist())
        else:
            metrics = {"test/acc": 0.93, "train/acc": 1.0, "nc/features/of_features": 0.3, "nc/H1/of_features": 0.5}
            metrics["nc/features/of_classifier"] = 0.17 if name.endswith("no bias") else 0.32
            for i, level in enumerate(LAYERS):
                metrics |= {f"nc/{level}/nc1": 0.1 ** (1 + i), f"nc/{level}/trace_ratio": 0.5**i}
            metrics = metrics | (change_network(name) if change_network else {})
            curves = {
                f"nc/{level}/nc1": ([9.0, 199.0], [0.5, metrics.get(f"last/{level}", 0.01)])
                for level in ("H1", "features")
            }
            metrics |= {"nc/H1/nc1": 0.01}
        device = ("", "cpu", 1.0, {}, "code", "now")
        measured.append(Measurement(run.recipe, run.seed, dict(run.overrides), run.config(), metrics, *device, curves))
    return Results(measured, scale)


def failing(found):
    return [check.statement for check in CLAIM.verdict(found).checks if check.holds is False]


@pytest.mark.parametrize("scale", ["small", "full"])
def test_what_the_paper_says_is_reproduced(scale):
    assert failing(results(scale)) == []
    assert CLAIM.verdict(results(scale)).reproduced


@pytest.mark.parametrize(
    ("recipe", "overrides", "changes", "fails"),
    [
        ("extended_ufm", {}, {"objective": [0.08] * 6}, "two linear layers: descent finds the minimum"),
        ("extended_ufm", {}, {"H1/of": [0.5] * 6}, "both levels are orthogonal frames"),
        ("extended_ufm", {}, {"H2/norm": [0.5] * 6}, "their squared norms are those of the closed form"),
        ("extended_ufm", {}, {"H1/alignment": [math.nan] * 6}, "the weights above each are parallel to it"),
        ("extended_ufm", BIAS, {"H2/etf": [0.5] * 6}, "with a free bias both levels are simplex ETFs"),
        ("extended_ufm", BIAS, {"objective": [0.5] * 6}, "and f - f* is below 1e-10"),
        ("extended_ufm", SMALL_STARTS, {"objective": [0.4] * 24}, "starts of std 0.01 end at zero"),
        ("extended_ufm", SMALL_STARTS, {"objective": [0.5] * 24}, "starts of std 0.05 reach the minimum"),
        ("extended_ufm_threshold", {}, {"objective": [0.5] * 5}, "off zero the stationary point has the value"),
        ("extended_ufm_threshold", {}, {"gap": [0.0] * 5}, "zero is the minimum where"),
        ("extended_ufm_relu", {}, {"gap": [0.0] * 3 + [1.0] * 3}, "ReLU: at least four of six starts"),
        ("extended_ufm_relu", {}, {"gap": [-1e-6] + [0.0] * 5}, "and none ends below it"),
        ("extended_ufm_relu", {}, {"H2/nc1": [1e-3] * 6}, "ReLU: the later level has collapsed"),
        ("extended_ufm_relu", {}, {"H2/of": [0.5] * 6}, "to an orthogonal frame"),
        ("extended_ufm_relu", {}, {"H2/alignment": [0.5] * 6}, "parallel to the last weights"),
        ("extended_ufm_relu", {}, {"H2/nuclear_ratio": [1.1] * 6}, "nuclear norms before and after"),
    ],
)
def test_each_statement_on_free_features_can_fail(recipe, overrides, changes, fails):
    def change(run):
        return changes if run.recipe == recipe and dict(run.overrides) == overrides else {}

    assert any(statement.startswith(fails) for statement in failing(results(change_free=change)))


def test_what_goes_away_from_the_local_minimum_is_seen():
    found = results()
    (run,) = (one for one in found if one.recipe == "extended_ufm_threshold")
    run.curves["objective/4"] = (STEPS, [*run.curves["objective/4"][1][:2], 0.5])
    assert any(statement.startswith("it is a local minimum on both sides") for statement in failing(found))


@pytest.mark.parametrize(
    ("name", "changes", "fails"),
    [
        ("decay 0.01: bias", {"train/acc": 0.99}, "MNIST: training accuracy"),
        ("decay 0.01: bias", {"nc/layer 2/nc1": 0.2}, "nc1 falls from layer to layer"),
        ("decay 0.01: bias", {"nc/layer 3/trace_ratio": 0.9}, "trace_ratio falls from layer to layer"),
        ("decay 0.002: no bias", {"nc/features/nc1": 0.009}, "NC1 of the last layer"),
        ("decay 0.01: no bias", {"nc/features/of_classifier": 0.3}, "decay 0.01: the classifier is near"),
        ("decay 0.002: bias", {"nc/features/of_classifier": 0.2}, "decay 0.002: the classifier is near"),
    ],
)
def test_each_statement_on_networks_can_fail(name, changes, fails):
    found = results(change_network=lambda of: changes if of == name else {})
    assert any(statement.startswith(fails) for statement in failing(found))


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"last/H1": 0.2}, "CIFAR-10, decay 0.002: bias: NC1 of both levels falls"),
        ({"nc/features/of_features": 0.6}, "CIFAR-10, decay 0.002: bias: the later level is nearer"),
    ],
)
def test_each_statement_of_the_full_scale_can_fail(changes, fails):
    found = results("full", change_network=lambda of: changes if of == "CIFAR-10, decay 0.002: bias" else {})
    assert any(statement.startswith(fails) for statement in failing(found))


def test_predictions_of_two_layers_are_those_known():
    assert LINEAR["sigma"] == pytest.approx(0.956264, abs=5e-7)
    assert LINEAR["objective"] == pytest.approx(0.0636909215, abs=5e-11)
    assert LINEAR["H1/norm"] == pytest.approx(0.2091150335, abs=5e-11)
    assert LINEAR["H2/norm"] == pytest.approx(0.4372909725, abs=5e-11)
    assert stationary(0.43359375) == pytest.approx(27 / 64)


def test_the_threshold_lies_between_the_decays_of_the_recipe():
    (run,) = (one for one in CLAIM.runs("small") if one.recipe == "extended_ufm_threshold")
    decays = np.array(setting(run.config(), "model.feature_decay"))
    assert setting(run.config(), "model.weight_decay") == [[decay, decay] for decay in decays]
    np.testing.assert_allclose(16 * 64 * 10 * decays**3, [0.8, 0.98, 1.02, 1.2, 1.6], rtol=1e-4)


@pytest.mark.parametrize("scale", ["small", "full"])
def test_the_figure_is_drawn(scale, tmp_path):
    drawing = figure(results(scale))
    drawing.savefig(tmp_path / "figure.png")
    assert len(drawing.axes) == 9


def test_the_room_is_found_by_its_name():
    assert find_paper("extended_ufm").claim.statement == CLAIM.statement
