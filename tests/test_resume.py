import csv
import json
import random

import numpy as np
import pytest
import torch
import yaml

from zoo.recipes import main
from zoo.resume import collect_random_state, restore_random_state

IMAGES = {
    "seed_everything": 3,
    "model": {
        "class_path": "zoo.classifier.Classifier",
        "init_args": {"backbone": "cnn", "backbone_args": {"channels": [4], "strides": [2]}, "lr_schedule": "cosine"},
    },
    "data": {
        "class_path": "datamodules.VisionDataModule",
        "init_args": {
            "name": "digits",
            "augment": True,
            "second_view": True,
            "label_noise": {"class_path": "datamodules.SymmetricNoise", "init_args": {"rate": 0.3}},
        },
    },
}
RECIPES = {
    "gcn": [],
    "local_aug_gcn": ["--model.generator.max_epochs", "1", "--model.generator.criterion", "last"],
}


def words(name, epochs=6):
    return ["--model", name, "--trainer.accelerator", "cpu", "--trainer.max_epochs", str(epochs), *RECIPES[name]]


def outcome(folder):
    """Final metrics, every logged validation loss, and the last weights of a run."""
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    with (folder / "metrics.csv").open() as file:
        curve = [(row["epoch"], row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    return metrics, curve, torch.load(folder / "checkpoints/last.ckpt")["state_dict"]


def interrupt_in_epoch(number, monkeypatch, model="zoo.local_augmentation.LAGCNClassifier"):
    def on_train_batch_end(self, *_):
        if self.current_epoch == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(f"{model}.on_train_batch_end", on_train_batch_end)


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_run_stopped_by_ctrl_c_and_resumed_equals_an_uninterrupted_one(name, workplace, monkeypatch, capsys):
    assert main(words(name)) == 0
    with monkeypatch.context() as patch:
        interrupt_in_epoch(3, patch)
        assert main(words(name)) == 130
    assert "--ckpt_path last" in capsys.readouterr().err
    assert main([*words(name), "--ckpt_path", "last"]) == 0

    whole, resumed = (outcome(workplace / f"logs/{name}/version_{i}") for i in range(2))
    assert resumed[:2] == whole[:2]
    torch.testing.assert_close(resumed[2], whole[2], rtol=0, atol=0, equal_nan=True)


def test_a_resumed_run_on_images_equals_an_uninterrupted_one(workplace, monkeypatch):
    """Order, augmentation, noise and the schedule's end come back too."""
    (workplace / "images.yaml").write_text(yaml.dump(IMAGES))
    words = ["--config", "images.yaml", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "4"]
    assert main(words) == 0
    with monkeypatch.context() as patch:
        interrupt_in_epoch(2, patch, "zoo.classifier.Classifier")
        assert main(words) == 130
    assert main([*words, "--ckpt_path", "last"]) == 0
    whole, resumed = (outcome(workplace / f"logs/images/version_{i}") for i in range(2))
    assert resumed[:2] == whole[:2]
    torch.testing.assert_close(resumed[2], whole[2], rtol=0, atol=0)


def test_a_finished_run_is_not_resumed_without_more_epochs(workplace, capsys):
    assert main(words("gcn", epochs=2)) == 0
    assert main([*words("gcn", epochs=2), "--ckpt_path", "last"]) == 2
    assert "has been trained for 2 epochs" in capsys.readouterr().err
    assert main([*words("gcn", epochs=3), "--ckpt_path", "last"]) == 0
    assert [path.name for path in (workplace / "logs/gcn").iterdir()] == ["version_0"]


def test_the_random_state_of_python_numpy_and_torch_comes_back():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    state = collect_random_state()
    first = draw()
    assert draw() != first
    restore_random_state(state)
    assert draw() == first
