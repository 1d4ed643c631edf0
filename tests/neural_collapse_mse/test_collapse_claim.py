import math

import numpy as np
import pytest

from zoo.claims import Measurement, NotEnoughRuns, Results, find_paper, setting
from zoo.evidence import chosen, of_replicas
from zoo.neural_collapse_mse.claim import (
    CLAIM,
    DIMENSIONS,
    FREE_BIAS,
    LARGE_DECAYS,
    NEGATIVE,
    figure,
    floor,
    low_dimension,
    networks,
    rescaled,
)

STEPS = [0.0, 10.0, 100.0]
LOWEST = 3e-3 - math.sqrt(4e-6 + 1 / 96)
NETWORK = {
    "test/acc": 0.93,
    "train/acc": 1.0,
    "nc/nc1": 0.001,
    "nc/nc2_features": 0.1,
    "nc/nc3": 0.005,
    "nc/ncc_agreement": 1.0,
    "nc/nc4_bias": math.sqrt(0.1),
}


def free(run):
    """Last values of the measures of free features, one for each replica."""
    overrides, replicas = dict(run.overrides), setting(run.config(), "model.num_replicas")
    found = {"gap": 1e-16, "gradient": 1e-16, "H1/gram_error": 1e-15, "H1/nc1": 1e-30, "H1/of": 0.3, "H1/etf": 0.3}
    if run.recipe == "ufm_mse":
        found |= {"H1/of": 1e-15, "weights": 0.0 if overrides == LARGE_DECAYS else 3.0}
    if run.recipe == "ufm_mse_bias" and overrides == {}:
        found |= {"H1/etf": 1e-15, "bias": 0.25}
    for d in DIMENSIONS:
        if overrides == low_dimension(d):
            found["H1/etf"] = floor(d, 4)
    if "model.alpha" in overrides:
        off = math.sqrt(50 * 5e-6)
        found |= {"off_diagonal": off, "diagonal": overrides["model.M"] - 3 * off / overrides["model.alpha"]}
    return {name: [value] * replicas for name, value in found.items()}


def curves_of(run, found):
    curves = {
        f"{name}/{i}": (STEPS, [1e-16 if name == "gradient" else 1.0, 0.5, value])
        for name, values in found.items()
        for i, value in enumerate(values)
    }
    for i in range(4):
        curves[f"H1/gram/{i}"] = ([float(k) for k in range(16)], np.eye(4).flatten().tolist())
        if run.recipe == "ufm_saddles":
            values = [LOWEST] * NEGATIVE[i] + [1e-3] * (172 - NEGATIVE[i])
            curves[f"hessian/{i}"] = ([float(k) for k in range(172)], values)
    return curves


def results(scale="small", change_free=None, change_network=None, change_curves=None):
    """What runs would have left that find what the theory says, with changes."""
    kinds = {(recipe, str(settings)): name for name, (recipe, settings) in networks(scale).items()}
    measured = []
    for run in CLAIM.runs(scale):
        name = kinds.get((run.recipe, str(dict(run.overrides))))
        if name is None:
            found = free(run) | (change_free(run) if change_free else {})
            metrics, curves = {}, curves_of(run, found)
        else:
            metrics = NETWORK | ({"nc/nc3": 0.1} if name == "CE" else {})
            for d in (5, 8, 9, 10):
                metrics |= {"nc/nc2_features": floor(d, 10)} if name == f"MSE, d = {d}" else {}
            metrics = metrics | (change_network(name) if change_network else {})
            metrics["test/acc"] += 0.001 * run.seed
            curves = {
                f"nc/{one}": ([9.0, 19.0, 149.0], [0.5, 0.1, metrics.get(f"nc/{one}", 0.1)])
                for one in ("nc1", "nc2_features", "nc3")
            }
        if change_curves:
            change_curves(run, curves)
        device = ("", "cpu", 1.0, {}, "code", "now")
        measured.append(Measurement(run.recipe, run.seed, dict(run.overrides), run.config(), metrics, *device, curves))
    return Results(measured, scale)


def failing(found):
    return [check.statement for check in CLAIM.verdict(found).checks if check.holds is False]


@pytest.mark.parametrize("scale", ["small", "full"])
def test_what_the_paper_says_is_reproduced(scale):
    assert failing(results(scale)) == []
    assert CLAIM.verdict(results(scale)).reproduced


def saddle_curve(name, value):
    def change(run, curves):
        if run.recipe == "ufm_saddles":
            x, y = curves[name]
            curves[name] = (x, [value, *y[1:]])

    return change


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"H1/gram_error": [1e-3] * 4}, "descent finds the minimum in closed form: relative error of the Gram matrix"),
        ({"H1/nc1": [math.nan] * 4}, "descent finds the minimum in closed form: NC1"),
        ({"bias": [0.3] * 4}, "and the bias is 1 / K"),
        ({"H1/etf": [1e-3] * 4}, "with a free bias they are a simplex ETF"),
    ],
)
def test_each_statement_on_biased_free_features_can_fail(changes, fails):
    found = results(change_free=lambda run: changes if run.recipe == "ufm_mse_bias" and not run.overrides else {})
    assert any(statement.startswith(fails) for statement in failing(found))


@pytest.mark.parametrize(
    ("recipe", "overrides", "changes", "fails"),
    [
        ("ufm_mse", {}, {"gap": [1e-5] * 3}, "descent finds the minimum in closed form: f - f*"),
        ("ufm_mse", {}, {"H1/of": [0.518] * 3}, "without bias the means are an orthogonal frame"),
        ("ufm_mse", LARGE_DECAYS, {"weights": [1e-3] * 3}, "decays beyond c = 1 leave nothing"),
        ("ufm_saddles", {}, {"gap": [0.1] * 4}, "descent leaves each of them for the minimum"),
        ("ufm_mse_bias", low_dimension(2), {"gap": [1e-3] * 4}, "with d = 1, 2, 3 descent finds the minimum"),
        ("ufm_mse_bias", low_dimension(2), {"H1/etf": [0.5] * 4}, "with d < K - 1 features NC2 stays at"),
        ("ufm_mse_bias", rescaled(5.0, 1.0), {"diagonal": [0.9] * 4}, "rescaled loss, alpha = 5, M = 1"),
    ],
)
def test_each_statement_on_free_features_can_fail(recipe, overrides, changes, fails):
    def change(run):
        return changes if run.recipe == recipe and dict(run.overrides) == overrides else {}

    assert any(statement.startswith(fails) for statement in failing(results(change_free=change)))


@pytest.mark.parametrize(
    ("name", "value", "fails"),
    [
        ("hessian/1", LOWEST - 1e-6, "the smallest eigenvalue of the Hessian"),
        ("hessian/3", -1.0, "negative eigenvalues at ranks 0 to 3"),
        ("gradient/2", 1e-6, "the saddles in closed form are critical"),
    ],
)
def test_each_statement_on_saddles_can_fail(name, value, fails):
    found = results(change_curves=saddle_curve(name, value))
    assert any(statement.startswith(fails) for statement in failing(found))


@pytest.mark.parametrize(
    ("name", "changes", "fails"),
    [
        ("MSE", {"train/acc": 0.99}, "MSE: train/acc"),
        ("MSE", {"test/acc": 0.89}, "MSE: test/acc"),
        ("MSE", {"nc/ncc_agreement": 0.99}, "MSE: nc/ncc_agreement"),
        ("MSE", {"nc/nc1": 0.01}, "MSE: nc/nc1"),
        ("MSE", {"nc/nc2_features": 0.3}, "MSE: nc/nc2_features"),
        ("MSE", {"nc/nc3": 0.03}, "MSE: nc/nc3"),
        ("MSE", {"nc/nc4_bias": 0.0}, "MSE: the mean feature's logits"),
        ("MSE", {"nc/nc1": 0.2}, "MSE: NC1 falls more than tenfold"),
        ("CE", {"test/acc": 0.90}, "MSE's mean accuracy within 1.5 points"),
        ("CE", {"nc/nc3": 0.008}, "MSE's mean NC3 is less than half"),
        ("MSE, frozen ETF, d = 10", {"test/acc": 0.90}, "a frozen ETF on 10 features"),
    ],
)
def test_each_statement_on_networks_can_fail(name, changes, fails):
    found = results(change_network=lambda of: changes if of == name else {})
    assert any(statement.startswith(fails) for statement in failing(found))


@pytest.mark.parametrize(
    ("name", "changes", "fails"),
    [
        ("MSE", {"nc/nc1": 0.2}, "MSE: NC1 falls more than tenfold"),
        ("MSE, d = 5", {"nc/nc2_features": 0.1}, "MSE, d = 5: NC2 of the features"),
        ("CE", {"test/acc": 0.90}, "MSE's accuracy within 1.5 points"),
        ("MSE, frozen ETF, d = 10", {"test/acc": 0.91}, "a frozen ETF on 10 features within 1 point"),
    ],
)
def test_each_statement_of_the_full_scale_can_fail(name, changes, fails):
    found = results("full", change_network=lambda of: changes if of == name else {})
    assert any(statement.startswith(fails) for statement in failing(found))


def test_the_full_scale_is_the_papers_protocol():
    configs = [run.config() for run in CLAIM.runs("full") if run.recipe == "neural_collapse_resnet"]
    assert len(configs) == len(networks("full")) == 28
    (plain,) = (one for one in configs if setting(one, "model.backbone") == "resnet18" and one == configs[0])
    assert plain["trainer"]["max_epochs"] == 200
    assert plain["seed_everything"] == 6
    assert plain["model"]["init_args"]["milestones"] == [40, 80, 120, 160]
    assert setting(plain, "model.optimizer") == {
        "class_path": "torch.optim.SGD",
        "init_args": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
    }


def test_the_floor_is_the_known_one():
    assert [round(floor(d, 10), 3) for d in (5, 8, 9, 10)] == [0.714, 0.338, 0.0, 0.0]


def test_runs_are_chosen_by_all_their_overrides_and_replicas_are_rows():
    found = results()
    assert len(chosen(found, "ufm_mse_bias")) == 3
    assert len(chosen(found, "ufm_mse_bias", FREE_BIAS | {"model.num_features": 2})) == 1
    assert of_replicas(chosen(found, "ufm_mse_bias"), "gap").shape == (3, 4)
    with pytest.raises(NotEnoughRuns, match="there is no finished run of ufm_mse_bias with exactly"):
        chosen(found, "ufm_mse_bias", FREE_BIAS)


@pytest.mark.parametrize("scale", ["small", "full"])
def test_the_figure_is_drawn(scale, tmp_path):
    drawing = figure(results(scale))
    drawing.savefig(tmp_path / "figure.png")
    assert len(drawing.axes) == 8


def test_the_room_is_found_by_its_name():
    assert find_paper("neural_collapse_mse").claim.statement == CLAIM.statement
