"""The verdict on runs that are made up."""

import numpy as np
import pytest

from zoo.claims import Measurement, Results, find_paper
from zoo.linear_interpolation.claim import CLAIM, GROUPS, TREATMENTS, kinds, rank_correlation

ALPHAS = np.linspace(0, 1, 26)
SMALL = {
    "WD 0": {"acc": 0.51, "barrier": 0.05, "drop": 0.48},
    "WD 5e-4": {"acc": 0.51, "barrier": 0.07},
    "WD 5e-3": {"acc": 0.51, "barrier": 0.66, "drop": 1.0, "exploded": 1e6},
    "spiral": {"barrier": 0.3},
    "MNIST, SGD": {"barrier": 0.08, "middle": 0.9, "length": 1.7},
    "MNIST, Adam": {"length": 3.5},
}
FULL = {
    "WD 0": {"acc": 0.900, "barrier": 0.68, "min_delta": 0.48},
    "WD 5e-5": {"acc": 0.908, "barrier": 0.31},
    "WD 1e-4": {"acc": 0.913, "barrier": 0.25},
    "WD 5e-4": {"acc": 0.922, "barrier": 1.91, "middle": 2.30},
    "WD 1e-3": {"acc": 0.920, "barrier": 1.96},
    "spiral": {"barrier": 0.9},
    "MNIST, SGD": {"barrier": 0.08, "middle": 0.87, "length": 1.7},
    "MNIST, Adam": {"length": 3.5},
}


def metrics(values, rng):
    """What a run reports whose path has these numbers."""
    numbers = {
        "barrier": values.get("barrier", 0.1), "drop_position": values.get("drop", 0.5),
        "loss_start": 2.4, "loss_middle": values.get("middle", 1.5), "loss_end": 0.3,
        "min_delta": values.get("min_delta", 0.0), "gauss_length": values.get("length", 2.0), "plateau_fraction": 0.5,
    }  # fmt: skip
    found = {
        f"path/{part}/interpolate/all/{name}": value for part in ("test", "train") for name, value in numbers.items()
    }
    found |= {f"path/test/interpolate/{group}/barrier": 0.1 for group in GROUPS}
    found["path/test/recompute/all/barrier"] = values.get("recomputed", 0.02)
    found["path/test/final/all/loss_start"] = values.get("exploded", 5.0)
    found["path/relative_distance"] = rng.random()
    found["test/acc"] = values.get("acc", 0.5) + rng.normal(0, 1e-3)
    return found


def results(scale="small", change=None):
    rng = np.random.default_rng(0)
    table = {"small": SMALL, "full": FULL}[scale]
    measured = []
    for name, (recipe, settings, seeds) in kinds(scale).items():
        values = table.get(name, {}) | (change or {}).get(name, {})
        for run in [run for run in CLAIM.runs(scale) if (run.recipe, run.overrides) == (recipe, settings)]:
            curves = {
                f"path/test/{buffers}/{group}/loss": (ALPHAS.tolist(), (2.3 - 2 * ALPHAS).tolist())
                for buffers in TREATMENTS
                for group in ("all", *GROUPS)
            }
            measured.append(
                Measurement(
                    recipe=recipe,
                    seed=run.seed,
                    overrides=dict(settings),
                    config=run.config(),
                    metrics=metrics(values, rng),
                    data="",
                    device="cpu",
                    seconds=1.0,
                    versions={},
                    code="",
                    finished="",
                    curves=curves,
                )
            )
        assert len(seeds) >= 3
    return Results(measured, scale)


def failing(verdict):
    return [check.statement for check in verdict.checks if check.holds is False]


@pytest.mark.parametrize("scale", ["small", "full"])
def test_what_the_paper_says_is_reproduced(scale):
    verdict = CLAIM.verdict(results(scale))
    assert failing(verdict) == []
    assert verdict.reproduced


@pytest.mark.parametrize(
    ("scale", "change", "fails"),
    [
        ("small", {"WD 5e-3": {"barrier": 0.3}}, "strong weight decay raises the barrier by more than 0.3 nats"),
        ("small", {"WD 0": {"drop": 0.8}}, "with it the loss drops after alpha = 0.9, without before 0.7"),
        ("small", {"WD 5e-4": {"recomputed": 0.2}}, "with running statistics recomputed on the way every barrier"),
        ("small", {"WD 5e-3": {"exploded": 50.0}}, "with the final running statistics the loss at the start"),
        ("small", {"WD 5e-3": {"acc": 0.47}}, "the plateau costs no accuracy (at most 1 point)"),
        ("small", {"spiral": {"barrier": 0.1}}, "spirals: barrier above 0.2 in every run"),
        ("small", {"MNIST, SGD": {"min_delta": 0.01}}, "MNIST, SGD: the training loss falls all along the path"),
        ("small", {"MNIST, SGD": {"middle": 1.2}}, "MNIST, SGD: test loss half-way between 0.7 and 1.1"),
        ("small", {"MNIST, SGD": {"barrier": 0.15}}, "MNIST, SGD: barrier below 0.1"),
        ("small", {"MNIST, Adam": {"length": 2.0}}, "MNIST: Adam's logits turn more than 1.5 times as far"),
        ("full", {"WD 5e-4": {"middle": 2.2}}, "weight decay 5e-4: a plateau at chance"),
        ("full", {"WD 0": {"min_delta": 0.1}}, "without weight decay the path rises"),
        ("full", {"WD 5e-4": {"acc": 0.905}}, "the plateau comes with the better accuracy: by at least 1 point"),
        ("full", {"WD 1e-3": {"acc": 0.85}, "WD 1e-4": {"acc": 0.95}}, "a higher barrier does not go with a lower"),
    ],
)
def test_each_statement_can_fail(scale, change, fails):
    verdict = CLAIM.verdict(results(scale, change))
    assert not verdict.reproduced
    assert any(statement.startswith(fails) for statement in failing(verdict))


def test_small_accuracies_are_not_set_beside_the_papers():
    small, full = (set(CLAIM.verdict(results(scale)).figures) for scale in ("small", "full"))
    assert not small & set(CLAIM.paper_figures)
    assert set(CLAIM.paper_figures) <= full


def test_the_figure_shows_the_papers_marks():
    figure = CLAIM.figure(results())
    assert len(figure.axes) == 6
    marks = [line.get_label() for axes in figure.axes for line in axes.lines if line.get_marker() == "D"]
    assert marks == ["WD 0, the paper", "WD 5e-4, the paper", "MNIST, SGD, the paper", "spiral, the paper"]


def test_ranks_are_compared():
    assert rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([3.0, 2.0, 1.0])) == -1


def test_the_room_is_found_by_its_name():
    assert find_paper("linear_interpolation").claim.statement == CLAIM.statement
