import dataclasses

import numpy as np
import pytest

from zoo.claims import Measurement, Results, find_paper
from zoo.recipes import recipes

ROOM = "temporal_graph"


@pytest.fixture(scope="module")
def claim():
    return find_paper(ROOM).claim


def measured(run):
    """What a run that bears the claim out would measure."""
    metrics = {"test/mape": 2.8, "cost/ms_per_window": 9.0 + run.seed}
    settings = run.overrides
    if run.recipe == "naive_forecast":
        row = {"interleaved": (3.1356, 2.6549), "chronological": (2.4978, 2.4149)}[settings["data.split"]]
        metrics["test/mape"] = row[settings["model.method"] == "window_mean"]
    if run.recipe in ("time_then_graph", "time_and_graph"):
        chance = 0.25 if settings["data.label"] == "num_types" else 0.5
        learns = run.recipe == "time_then_graph" and "model.encoder_args" not in settings
        metrics = {"test/acc": 1.0 if learns else chance, "expressivity/gap": 1e-3 if learns else 1e-7}
    curves = {
        f"{name}/{node}": ([50, 51, 52], [1.0, 2.0, 3.0])
        for name in ("forecast", "truth", "last_value")
        for node in (3, 7)
    }
    return Measurement(
        recipe=run.recipe, seed=run.seed, overrides=dict(run.overrides), config=run.config(), metrics=metrics, data="",
        device="cpu", seconds=1.0, versions={}, code="", finished="", curves=curves,
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(claim):
    return Results([measured(run) for run in claim.runs("small")])


def changed(results, recipe, metric, value, **settings):
    """The results with another value of a metric in the runs of a recipe whose overrides have these values."""

    def fits(one):
        return one.recipe == recipe and all(
            one.overrides.get(f"data.{key}") == wanted for key, wanted in settings.items()
        )

    return Results(
        [dataclasses.replace(one, metrics=one.metrics | {metric: value}) if fits(one) else one for one in results]
    )


@pytest.mark.parametrize("scale", ["small", "full"])
def test_every_run_is_of_a_recipe_and_is_there_once(claim, scale):
    runs = claim.runs(scale)
    assert {run.recipe for run in runs} <= set(recipes())
    assert len({run.command() for run in runs}) == len(runs)


def test_every_recipe_of_the_room_is_measured(claim):
    assert {run.recipe for run in claim.runs("small")} == {
        name for name, recipe in recipes().items() if recipe.path.parent.name == ROOM
    }


def test_what_bears_the_claim_out_is_reproduced(claim, results):
    verdict = claim.verdict(results)
    assert verdict.reproduced
    assert verdict.figures["DynCSL, order: time-then-graph"].tolist() == [100.0] * 3
    assert set(claim.paper_figures) & set(verdict.figures)


@pytest.mark.parametrize(
    ("change", "statement"),
    [
        (("time_then_graph", "test/acc", 0.9, {"label": "order", "padding_value": None}), "time-then-graph tells"),
        (("time_and_graph", "test/acc", 0.3, {"label": "num_types"}), "time-and-graph stays at chance"),
        (("time_then_graph", "test/acc", 0.6, {"padding_value": 0.0}), "mean over time stays at chance"),
        (("time_and_graph", "expressivity/gap", 1e-4, {}), "the same logits"),
        (("time_then_graph", "expressivity/gap", 1e-5, {}), "separates them"),
        (("naive_forecast", "test/mape", 2.62, {"split": "interleaved"}), "errs by 2.65 ± 0.01"),
        (("gru_gcn", "test/mape", 3.5, {"split": "interleaved"}), "GRU-GCN errs by 2.5 to 3.2"),
        (("gru_gcn", "test/mape", float("nan"), {"split": "interleaved"}), "GRU-GCN errs by 2.5 to 3.2"),
    ],
)
def test_each_statement_can_fail(claim, results, change, statement):
    recipe, metric, value, settings = change
    verdict = claim.verdict(changed(results, recipe, metric, value, **settings))
    assert not verdict.reproduced
    failed = [check.statement for check in verdict.checks if check.holds is False]
    assert any(statement in one for one in failed)


def test_the_costs_are_told_quickest_first(claim, results):
    found = changed(results, "dcrnn", "cost/ms_per_window", 1.0)
    told = claim.verdict(found).checks[-1].evidence
    assert told.startswith("DCRNN 1.0, ")


def test_costs_are_of_the_processor_where_it_was_timed(claim, results):
    found = changed(results, "tgn", "cost/cpu_ms_per_window", 2.0)
    assert claim.verdict(found).checks[-1].evidence.startswith("TGN 2.0, ")


def test_the_papers_figures_are_those_of_the_table(claim):
    assert claim.paper_figures["England-COVID, interleaved: GRU-GCN"] == (2.87, 0.19)
    assert claim.paper_figures["PeMS08, interleaved: TGN"] == (0.99, 0.06)
    assert len(claim.paper_figures) == 27


def test_the_figure_shows_accuracy_cost_and_each_region(claim, results):
    drawing = claim.figure(results)
    titles = [axes.get_title() for axes in drawing.axes]
    assert titles[:2] == ["DynCSL (reconstructed)", "Cost of a window, England-COVID"]
    assert [title.split(",")[1] for title in titles[2:]] == [" region 3", " region 7"]
    truth = drawing.axes[2].lines[0]
    assert np.asarray(truth.get_ydata()).tolist() == [1.0, 2.0, 3.0]
