import subprocess
import sys

import pytest
import yaml

from zoo.recipes import find_recipe, listing, main, recipes, take_recipe


@pytest.mark.parametrize("name", list(recipes()))
def test_every_recipe_runs_through_train_validate_and_test(name, capsys):
    config = yaml.safe_load(find_recipe(name).path.read_text())
    words = ["--model", name, "--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
    if config.get("data", {}).get("class_path") == "datamodules.VisionDataModule":
        words += ["--data.batch_size", "8", "--data.eval_batch_size", "8"]  # the networks are large
    assert main(words) == 0
    shown = capsys.readouterr()
    if "if_unavailable" in config.get("data", {}).get("init_args", {}):
        assert "test/" in shown.out
        assert "STAND-IN" in shown.out
        assert "STAND-IN" in shown.err
    assert "/" in shown.out or "steps" in shown.out  # some metric; a simulation counts its steps


@pytest.mark.parametrize("name", list(recipes()))
def test_a_recipe_may_be_tried_without_a_network(name):
    config = yaml.safe_load(find_recipe(name).path.read_text())
    data = config.get("data", {"class_path": ""})
    if data["class_path"] in ("datamodules.PlanetoidDataModule", "datamodules.VisionDataModule"):
        assert data["init_args"]["if_unavailable"] == "stand_in"


@pytest.mark.parametrize("name", list(recipes()))
def test_every_recipe_tells_its_figure_and_its_paper(name):
    recipe = recipes()[name]
    assert "paper" in recipe.summary
    assert "ICML 2022" in recipe.paper


def test_the_listing_has_every_recipe_below_its_paper():
    lines = listing().splitlines()
    papers = [line for line in lines if line.endswith("ICML 2022)")]
    assert len(papers) == len(set(papers)) > 0
    assert {line.split()[0] for line in lines if line.startswith("  ")} >= set(recipes())


@pytest.mark.parametrize(
    ("wrong", "offered"), [("local_aug_gnc", "local_aug_gcn"), ("GCN", "gcn"), ("zzz", "python train.py --list")]
)
def test_a_misspelt_recipe_is_answered_with_the_nearest(wrong, offered, capsys):
    assert main(["--model", wrong]) == 2
    message = capsys.readouterr().err
    assert f"there is no recipe {wrong!r}" in message
    assert offered in message


def test_a_missing_name_is_told(capsys):
    assert main(["--model"]) == 2
    assert "--model needs the name of a recipe" in capsys.readouterr().err


def test_a_class_path_is_left_to_lightning():
    assert take_recipe(["--model", "zoo.local_augmentation.LAGCNClassifier"]) == (
        None,
        ["--model", "zoo.local_augmentation.LAGCNClassifier"],
    )
    assert take_recipe(["fit", "--model=gcn"]) == (find_recipe("gcn"), ["fit"])


@pytest.mark.parametrize("words", [["--list"], ["--model", "gnc"], []])
def test_listing_and_near_misses_do_not_import_torch(words):
    code = f"import sys; from zoo.recipes import main; main({words!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
