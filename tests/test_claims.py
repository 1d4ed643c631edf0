import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import yaml

from zoo.claims import (
    Check,
    Measurement,
    NotEnoughRuns,
    Results,
    Run,
    UnknownPaperError,
    Verdict,
    find_paper,
    papers,
    setting,
    with_seeds,
)
from zoo.recipes import find_recipe, main

OVERRIDES = {
    "model.hidden_channels": 4,
    "model.generator.criterion": "last",
    "data.name": "citeseer",
    "trainer.max_epochs": 7,
}


def measured(run, **metrics):
    return Measurement(
        run.recipe, run.seed, dict(run.overrides), run.config(), metrics, "Cora", "cpu", 1.0, {}, "code", "now"
    )


def test_a_runs_configuration_is_the_one_that_the_command_line_gives(capsys):
    run = Run("local_aug_gcn", 3, OVERRIDES)
    assert main(["--model", "local_aug_gcn", *run.words(), "--print_config"]) == 0
    parsed = yaml.safe_load(capsys.readouterr().out)
    for key, value in {**OVERRIDES, "seed_everything": 3, "model.num_samples": 4}.items():
        assert setting(parsed, key) == setting(run.config(), key) == value


def test_the_recipe_itself_is_not_changed():
    before = yaml.safe_load(find_recipe("local_aug_gcn").path.read_text())
    Run("local_aug_gcn", 3, OVERRIDES).config()
    assert Run("local_aug_gcn", 0).config() == before


def test_an_override_replaces_null_and_a_whole_section():
    assert setting(Run("local_aug_control", 0, {"model.generator.seed": 2}).config(), "model.generator") == {"seed": 2}
    assert setting(Run("local_aug_gcn", 0, {"model.generator": None}).config(), "model.generator") is None


def test_curves_come_run_by_run():
    results = Results([measured(Run("gcn", seed)) for seed in range(2)])
    for seed, one in enumerate(results):
        one.curves["val/acc"] = ([0, 1], [0.1, 0.2 + seed])
    (x, y), (_, other) = results.curves("val/acc")
    np.testing.assert_array_equal(x, [0, 1])
    np.testing.assert_array_equal(y, [0.1, 0.2])
    np.testing.assert_array_equal(other, [0.1, 1.2])
    with pytest.raises(KeyError, match=r"no curve 'val/loss' in a run of gcn, which has val/acc"):
        results.curves("val/loss")


def test_results_are_found_by_recipe_and_by_values_from_recipe_or_override():
    runs = [Run("gcn", 0), Run("gcn", 1), Run("gcn", 0, {"data.name": "citeseer"}), Run("gat", 0)]
    results = Results([measured(run, acc=float(i)) for i, run in enumerate(runs)], "full")
    np.testing.assert_array_equal(results.of("gcn", {"data.name": "cora"}).metric("acc"), [0.0, 1.0])
    np.testing.assert_array_equal(results.of("gcn", {"data.name": "citeseer"}).metric("acc"), [2.0])
    assert results.of("gat").scale == "full"


def test_what_was_not_measured_is_said():
    results = Results([measured(Run("gcn", 0), acc=1.0)])
    with pytest.raises(NotEnoughRuns, match="no finished run of gat"):
        results.of("gat")
    with pytest.raises(KeyError, match=r"no metric 'loss' in a run of gcn, which has acc"):
        results.metric("loss")


def test_a_claim_is_reproduced_when_every_check_that_decides_holds():
    holds, fails, beside = (Check("s", outcome, "e") for outcome in (True, False, None))
    assert Verdict({}, [holds, beside]).reproduced
    assert not Verdict({}, [holds, fails, beside]).reproduced
    with pytest.raises(ValueError, match="at least one check that can fail"):
        Verdict({}, [beside])


def test_seeds_are_replaced_in_every_configuration():
    runs = [Run("gcn", 5), Run("gcn", 6), Run("gat", 5, {"data.name": "citeseer"})]
    assert [(run.recipe, run.seed) for run in with_seeds(runs, 2)] == [("gcn", 0), ("gat", 0), ("gcn", 1), ("gat", 1)]
    assert with_seeds(runs, 1)[1].overrides == {"data.name": "citeseer"}


@pytest.mark.parametrize("name", papers())
@pytest.mark.parametrize("scale", ["small", "full"])
def test_every_claim_lists_different_runs_of_recipes_that_exist(name, scale):
    runs = papers()[name].claim.runs(scale)
    configs = [yaml.safe_dump(run.config()) for run in runs]
    assert len(set(configs)) == len(configs) > 1


def test_a_misspelt_paper_is_answered_with_the_nearest():
    with pytest.raises(UnknownPaperError, match="did you mean local_augmentation"):
        find_paper("local_augmentatoin")


def test_claims_are_listed_without_torch():
    code = "import sys, zoo.reproduce; zoo.reproduce.main([]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "local_augmentation" in done.stdout


def test_a_check_may_be_judged_by_numpy():
    check = Check("it holds", np.array([1.0, 2.0]).max() > 1.5, "2.0")
    assert json.dumps(asdict(check)) == '{"statement": "it holds", "holds": true, "evidence": "2.0"}'
