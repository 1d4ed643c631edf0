import numpy as np
import pytest

from zoo.claims import Measurement, Results, find_paper
from zoo.momentum_margin import predict_regime
from zoo.momentum_margin.claim import (
    ADAM,
    BATCHES,
    CIFAR_LRS,
    CIFAR_MOMENTA,
    CLAIM,
    EARLY,
    EQUAL,
    GD,
    GDM,
    NULL,
    QUIET,
    TEACHERS,
    figure,
    reach,
    resnet,
)

STEPS = [0.0, EARLY, 500.0, 2991.0]
GOOD = {
    "train/acc": 1.0,
    "train/loss_small": 0.009,
    "updates": 2000.0,
    "test/acc_small": 1.0,
    "test/acc_large": 1.0,
    "feature/max": 16.0,
    "noise/small": 0.04,
    "test/acc": 0.95,
}
MEMORISED = {"test/acc_small": 0.6, "feature/max": 3.7, "noise/small": 1.8}


def kind_of(run):
    return run.recipe, dict(run.overrides)


def measured(run, changes):
    """What a run would have left: a setting without momentum, or with little, has memorised."""
    kind = kind_of(run)
    lr, momentum = (run.config()["model"]["init_args"].get(name, 0.0) for name in ("lr", "momentum"))
    lrs, momenta = (value if isinstance(value, list) else [value] for value in (lr, momentum))
    settings = [(lrs[i % len(lrs)], momenta[i % len(momenta)]) for i in range(max(len(lrs), len(momenta)))]
    problems = 2
    curves = {}
    for replica in range(problems * len(settings)):
        lr, momentum = settings[replica % len(settings)]
        learns = kind in (EQUAL, QUIET) or run.recipe == "momentum_teacher" or lr / (1 - momentum) > 2
        values = GOOD | ({} if learns else MEMORISED) | changes.get(run.recipe, {})
        for name, value in (values | changes.get(str(kind), {})).items():
            drawn = value[replica % len(settings)] if isinstance(value, list) else value
            curves[f"{name}/{replica}"] = (STEPS, [0.5, 1.0, drawn, drawn])
    return curves


def results(scale="small", cifar=(0.90, 0.93), **changes):
    found = []
    for run in CLAIM.runs(scale):
        momentum = run.overrides.get("model.optimizer.momentum")
        metrics = {}
        if run.recipe == "momentum_resnet":
            best = run.overrides["model.optimizer.lr"] == 0.3
            metrics = {"val/acc": 0.9 if best else 0.5, "test/acc": cifar[momentum > 0] if best else 0.99}
        curves = {} if metrics else measured(run, changes)
        kept = (run.recipe, run.seed, dict(run.overrides), run.config(), metrics)
        found.append(Measurement(*kept, "", "cpu", 1.0, {}, "c", "now", curves))
    return Results(found, scale)


def failing(verdict):
    return [check.statement for check in verdict.checks if check.holds is False]


@pytest.mark.parametrize("scale", ["small", "full"])
def test_what_the_paper_says_is_reproduced(scale):
    verdict = CLAIM.verdict(results(scale))
    assert failing(verdict) == []
    assert verdict.reproduced


@pytest.mark.parametrize(
    ("changes", "statement"),
    [
        ({"momentum_margin_gd": {"train/acc": 0.99}}, "GD fits all training samples"),
        ({"momentum_margin_gd": {"train/loss_small": 0.5}}, "GD fits all training samples"),
        ({str(GDM): {"train/loss_small": float("nan")}}, "GD+M fits all training samples"),
        ({"momentum_margin_gd": {"test/acc_small": 0.75}}, "GD does not learn small margins"),
        ({str(GDM): {"test/acc_small": 0.9}}, "GD+M does"),
        ({str(GDM): {"test/acc_large": 0.9}}, "both learn large margins"),
        ({str(GDM): {"feature/max": 9.0}}, "GD+M has at least 3 times"),
        ({"momentum_margin_gd": {"noise/small": 0.3}}, "GD has memorised at least 10 times"),
        ({str(EQUAL): {"test/acc_small": [0.6, 1.0]}}, "with a small margin of 0.5 both learn"),
        ({str(NULL): {"test/acc_small": [0.6, 0.9, 1.0]}}, "momentum 0.9 at lr 0.1"),
        ({str(TEACHERS["relu"]): {"test/acc": [0.90, 0.95]}}, "relu teacher"),
        ({str(TEACHERS["linear"]): {"test/acc": [0.97, 0.95]}}, "linear teacher"),
    ],
)
def test_every_statement_can_be_refuted(changes, statement):
    failed = failing(CLAIM.verdict(results(**changes)))
    assert len(failed) == 1
    assert failed[0].startswith(statement)


def test_what_is_shown_beside_decides_nothing():
    changes = {"momentum_margin_adam": {"test/acc_small": 1.0}, str(QUIET): {"test/acc_small": 0.5}}
    assert CLAIM.verdict(results(**changes)).reproduced


def test_cifar_is_judged_at_the_rate_that_the_validation_prefers():
    failed = failing(CLAIM.verdict(results("full", cifar=(0.93, 0.90))))
    assert failed == [f"CIFAR-10, batch {batch}: momentum 0.9 is better" for batch in BATCHES]


def test_early_accuracy_is_read_at_its_step():
    (check,) = (check for check in CLAIM.verdict(results()).checks if f"after {EARLY} steps" in check.statement)
    assert check.evidence.startswith("1.000")


def test_the_full_scale_has_every_cell():
    cells = {(batch, lr, momentum) for batch in BATCHES for lr in CIFAR_LRS for momentum in CIFAR_MOMENTA}
    trained = [run for run in CLAIM.runs("full") if run.recipe == "momentum_resnet"]
    assert len(trained) == len(cells) == 24
    assert all(any(dict(run.overrides) == resnet(*cell) for run in trained) for cell in cells)


@pytest.mark.parametrize(("lr", "momentum"), [(1.0, 0.9), (0.1, 0.99), (3.0, 0.0)])
def test_the_closed_form_is_that_of_the_room(lr, momentum):
    assert reach(lr, momentum) == pytest.approx(2.2 + predict_regime(lr=lr, momentum=momentum).overshoot)


def test_the_figure_has_its_three_panels():
    drawing = figure(results())
    titles = [axes.get_title() for axes in drawing.axes]
    assert len(titles) == 3
    assert all(titles)
    heights = np.concatenate([line.get_ydata() for line in drawing.axes[2].lines if len(line.get_ydata())])
    assert heights.min() == pytest.approx(0.6)


def test_the_claim_is_found_by_its_name():
    assert find_paper("momentum_margin").claim.statement == CLAIM.statement


def test_recipes_of_the_comparison_differ_in_momentum_only():
    configs = [run.config() for run in CLAIM.runs("small") if kind_of(run) in (GD, GDM)]
    momenta = [config["model"]["init_args"].pop("momentum") for config in configs]
    assert configs[0] == configs[1]
    assert momenta == [0.0, 0.99]
    assert ADAM[0] != GD[0]
