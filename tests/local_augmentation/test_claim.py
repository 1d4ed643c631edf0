import numpy as np
import pytest

from zoo.claims import Measurement, Results, find_paper
from zoo.local_augmentation.claim import CLAIM, PAPER, RECIPES, overrides, variance_components

GOOD = {"GCN": 81.6, "GAT": 82.5, "LA-GCN": 84.2, "LA-GAT": 83.9, "GCN control": 83.4, "GAT control": 83.0}


def results(accuracy, scale="small", generator_std=0.0, losses=(109.0, 53.0)):
    """What runs of these mean accuracies would have left, with half a point between seeds."""
    rng = np.random.default_rng(0)
    generators = rng.normal(0, generator_std, 5)
    measured = []
    for run in CLAIM.runs(scale):
        settings = {key: value for key, value in run.overrides.items() if key != "model.generator.seed"}
        (method,) = [
            name
            for name, recipe in RECIPES.items()
            if recipe == run.recipe and overrides(name, run.overrides["data.name"], scale) == settings
        ]
        value = accuracy[method] + rng.normal(0, 0.5) + generators[run.overrides.get("model.generator.seed", 0)]
        metrics = {"test/acc": value / 100, "generator/loss_first": losses[0], "generator/loss_last": losses[1]}
        overridden = dict(run.overrides)
        measured.append(
            Measurement(run.recipe, run.seed, overridden, run.config(), metrics, "", "cpu", 1.0, {}, "code", "now")
        )
    return Results(measured, scale)


def failing(verdict):
    return [check.statement for check in verdict.checks if check.holds is False]


def test_the_small_scale_has_every_method_on_both_graphs_with_independent_runs():
    runs = CLAIM.runs("small")
    assert len(runs) == 2 * (2 * 5 + 2 * 10 + 2 * 10)
    assert all("model.num_replicas" not in run.overrides for run in runs)


def test_the_full_scale_is_the_papers_hundred_runs_with_five_generators():
    augmented = [run for run in CLAIM.runs("full") if "model.generator.seed" in run.overrides]
    of_one = [run for run in augmented if (run.recipe, run.overrides["data.name"]) == ("local_aug_gcn", "cora")]
    assert len(of_one) == 100
    assert {run.overrides["model.generator.seed"] for run in of_one} == set(range(5))
    assert {run.overrides["trainer.max_epochs"] for run in of_one} == {2000}


def test_what_the_paper_says_is_reproduced():
    verdict = CLAIM.verdict(results(GOOD))
    assert verdict.reproduced
    assert set(PAPER) < set(verdict.figures)
    assert len(verdict.figures["Cora: LA-GCN"]) == 5
    assert np.mean(verdict.figures["CiteSeer: GCN"]) == pytest.approx(81.6, abs=0.5)


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({"LA-GCN": 82.3}, "LA-GCN beats GCN on Cora (by at least 1 point, p < 0.05)"),  # less than a point
        ({"LA-GAT": 82.4}, "LA-GAT beats GAT on CiteSeer (p < 0.05)"),
        ({"GCN": 75.0}, "the baseline is sound: GCN on Cora between 80.5 and 82.3"),
    ],
)
def test_each_statement_can_fail(change, fails):
    verdict = CLAIM.verdict(results(GOOD | change))
    assert not verdict.reproduced
    assert fails in failing(verdict)


def test_a_broken_generator_is_noticed():
    (statement,) = failing(CLAIM.verdict(results(GOOD, losses=(109.0, 80.0))))
    assert statement.startswith("the generator is sound")


def test_the_generators_own_share_is_shown_and_decides_nothing():
    verdict = CLAIM.verdict(results(GOOD | {"GCN control": 90.0}))
    (check,) = [check for check in verdict.checks if "share: LA-GCN" in check.statement and "Cora" in check.statement]
    assert check.holds is None
    assert check.evidence.startswith("-6.00 (95 % interval -6.51 to -5.49")
    assert verdict.reproduced


def test_at_full_scale_the_variance_of_the_generator_counts():
    alike, apart = (CLAIM.verdict(results(GOOD, "full", generator_std=std)) for std in (0.0, 6.0))
    gains = ["LA-GCN beats GCN on Cora (by at least 1 point, p < 0.05)", "LA-GAT beats GAT on Cora (p < 0.05)"]
    assert not set(gains) & set(failing(alike))
    assert set(gains) <= set(failing(apart))  # five generators that differ so much say little, a hundred runs or not


def test_at_full_scale_the_papers_figure_must_be_reached():
    figures = GOOD | {"LA-GCN": 74.5}
    assert "Cora: LA-GCN within 0.8 of the paper's 84.6" in failing(CLAIM.verdict(results(figures, "full")))
    assert "CiteSeer: LA-GCN within 1.0 of the paper's 74.7" not in failing(CLAIM.verdict(results(figures, "full")))


def test_variance_components_are_those_that_the_values_were_drawn_with():
    rng = np.random.default_rng(0)
    groups = rng.normal(0, 2.0, (4000, 1)) + rng.normal(0, 3.0, (4000, 5))
    between, within = variance_components(list(groups))
    assert between == pytest.approx(4.0, rel=0.1)
    assert within == pytest.approx(9.0, rel=0.05)


def test_the_room_is_found_by_its_name():
    assert find_paper("local_augmentation").claim.statement == CLAIM.statement
