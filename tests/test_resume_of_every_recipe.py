"""Every recipe, on tiny data: stopped and resumed, it ends bit for bit where an uninterrupted run does."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.conftest import write_raw
from zoo.cli import Started, run
from zoo.logs import read_rows
from zoo.recipes import find_recipe, recipes

EPOCHS = 3

RESNET = {"depths": [1, 1, 1, 1], "widths": [4, 4, 4, 4]}

# What makes a recipe large, wherever it stands in its configuration; more than this is cut down to it.
AT_MOST = {
    "base_channels": 2,
    "batch_size": 20,
    "check_val_every_n_epoch": 2,
    "every_n_epochs": 2,
    "limit_train_batches": 2,
    "max_epochs": 5,  # of what is trained beforehand; the trainer's are EPOCHS
    "n_iter": 12,
    "num_draws": 1,
    "num_images": 2,
    "num_layers": 3,
    "num_per_class": 30,
    "num_steps": 4,
    "num_triples": 10,
    "order": 2,
    "steps_per_epoch": 10,
    "subset_per_class": 5,
}
# What is large by default.
SMALL = {
    "EarlyStopping": {"patience": 2, "min_delta": 100.0},  # stops after the third epoch of five
    "ExtendedResNet": RESNET,
    "EscapeTimeExperiment": {"num_particles": 20},
    "GradientDiscrepancy": {"num_pairs": 4, "every_n_steps": 2},
    "AdversarialInit": {"epochs": 1},
    "BarrierInit": {"num_alphas": 3},
    "LinearInterpolation": {"num_alphas": 3, "max_examples": 20},
    "L2Adversary": {"steps": 2, "power_steps": 2},
    "LayerExperiment": {"input_size": 8, "batch_size": 2, "steps_per_epoch": 2},
    "LengthMapExperiment": {"num_draws": 4},
    "LinearRecovery": {"num_steps": 100},
    "CSGM": {"num_steps": 2, "num_restarts": 1},
    "ILO": {"num_steps": 2},
    "SGILO": {"num_steps": 2},
    "PosteriorLangevin": {"num_steps": 4, "burn_in": 2, "thin": 2},
    "WindowCostMonitor": {"warmup": 1},
    "DynCSLDataModule": {"num_samples": 40},
    "MarginPatchDataModule": {"num_problems": 2},
    "MarginExperiment": {"growth": 3.0, "stop_loss": 0.6},
}
BACKBONES = {"resnet18": RESNET, "resnet34": RESNET, "preact_resnet18": RESNET}
# Recipes whose training ends by a rule, here after the epoch of the stop and before the last.
ENDED_BY_A_RULE = {"gcnii", "grand", "local_aug_gcnii", "local_aug_grand", "momentum_margin_adam"}
# One of each kind of state: of samples, of a generator of features, of attention over events, of a simulation.
STOPPED_TWICE = ("sop_mnist", "local_aug_gcn", "tgn", "momentum_margin")
# What is measured with a clock is another number in every run.
TIMES = re.compile(r"/(test/seconds/\w+|cost/(cpu_)?ms_per_window|(cpu_)?seconds|timed_windows)$")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data root with a few random images and small citation graphs."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = np.arange(70) % 10
    for name, shape in (("mnist", (28, 28)), ("cifar10", (32, 32, 3))):
        parts = {"train": labels, "test": labels[:20]}
        arrays = {f"y_{part}": y for part, y in parts.items()}
        for part, y in parts.items():  # a class is a brightness of one half, which little training learns
            x = rng.integers(0, 60, (len(y), *shape), dtype=np.uint8)
            x[:, : shape[0] // 2] += (19 * y).astype(np.uint8).reshape(-1, *[1] * len(shape))
            arrays[f"x_{part}"] = x
        np.savez(root / f"{name}.npz", **arrays)
    human = {"clean_label": labels, "worse_label": (labels + rng.integers(0, 2, 70)) % 10}
    torch.save(human, root / "CIFAR-10_human.pt")
    write_raw(root / "planetoid/Cora/raw", "cora")
    return root


@pytest.fixture(autouse=True)
def one_thread():
    """Several threads add up in an order that is not fixed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cut(value):
    """The same configuration with small values."""
    if isinstance(value, list):
        return [cut(one) for one in value]
    if not isinstance(value, dict):
        return value
    small = {
        key: min(one, AT_MOST[key]) if key in AT_MOST and isinstance(one, int) else cut(one)
        for key, one in value.items()
    }
    name = value.get("class_path", "").rpartition(".")[2]
    if name in SMALL:
        small["init_args"] = small.get("init_args", {}) | SMALL[name]
    if isinstance(value.get("backbone"), str) and value["backbone"] in BACKBONES:
        small["backbone_args"] = BACKBONES[value["backbone"]]
    return small


def tiny(name):
    """The recipe's configuration, made small."""
    config = cut(yaml.safe_load(find_recipe(name).path.read_text()))
    config["trainer"] |= {
        "max_epochs": EPOCHS + 2 if name in ENDED_BY_A_RULE else EPOCHS,
        "accelerator": "cpu",
        "enable_progress_bar": False,
    }
    config.get("data", {}).get("init_args", {}).pop("train_fraction", None)
    arguments, kind = config["model"]["init_args"], config.get("data", {}).get("class_path", "").rpartition(".")[2]
    if "milestones" in arguments:
        arguments["milestones"] = [1, 2]
    needs_32 = config["model"]["class_path"].endswith("LipschitzClassifier")
    if kind == "VisionDataModule" and config["data"]["init_args"]["name"] == "cifar10" and not needs_32:
        config["data"]["init_args"]["resize"] = 16
    if kind == "EnglandCovidDataModule":
        config["trainer"]["limit_train_batches"] = 3
    if name == "orthogonal_layers":
        del arguments["layers"][3:]
    return config


def train(name, *more):
    return run("train", None, ["--config", f"{name}.yaml", *more])


def stopped(name, epoch, monkeypatch, *more):
    """Train until Ctrl-C after the first batch of an epoch."""

    def press(self, trainer, *_):
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Started, "on_train_batch_end", press)
        return train(name, *more)


def differences(one, other, path=""):
    """Where two nested values are not the same, bit for bit."""
    if TIMES.search(path):
        return []
    if type(one) is not type(other):
        return [f"{path}: {type(one).__name__} and {type(other).__name__}"]
    if isinstance(one, dict):
        found = [f"{path}/{key}: only in one" for key in one.keys() ^ other.keys()]
        for key in one.keys() & other.keys():
            found += differences(one[key], other[key], f"{path}/{key}")
        return found
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{path}: {len(one)} and {len(other)} values"]
        return [text for i, pair in enumerate(zip(one, other)) for text in differences(*pair, f"{path}/{i}")]
    if isinstance(one, torch.Tensor):
        nan = [value.isnan() if value.is_floating_point() else value != value for value in (one, other)]
        same = one.shape == other.shape and torch.equal(*nan) and torch.equal(one[~nan[0]], other[~nan[0]])
    else:
        same = one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))
    return [] if same else [f"{path}: {one} and {other}"]


def left_behind(result):
    """All that a run has measured and kept: of every epoch, of the test, and its last checkpoint."""
    checkpoint = last_checkpoint(result)
    for name, state in checkpoint["callbacks"].items():
        if name.startswith("ModelCheckpoint"):  # which names files in a run's own folder
            del state["current_score"]  # Lightning keeps it for nothing, and does not restore it
            state["best_k_models"] = list(state["best_k_models"].values())
            for key, value in state.items():
                state[key] = value.replace(result.folder, "") if isinstance(value, str) else value
    kept = {"metrics": result.metrics, "last_epoch": result.last_epoch, "curves": result.curves}
    return kept | {"rows": read_rows(Path(result.folder)), "checkpoint": checkpoint}


def last_checkpoint(result):
    return torch.load(Path(result.folder) / "checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("name", "stops"), [(name, [1]) for name in recipes()] + [(name, [1, 2]) for name in STOPPED_TWICE]
)
def test_a_recipe_that_was_stopped_ends_as_one_that_was_not(name, stops, workplace, data, monkeypatch):
    """A stop loses the begun epoch: the weights, optimizer, random state and all that is measured end the same."""
    monkeypatch.setenv("ZOO_DATA", str(data))
    Path(f"{name}.yaml").write_text(yaml.dump(tiny(name)))
    whole = train(name)
    for epoch in stops:
        more = [] if epoch == stops[0] else ["--ckpt_path", "last"]
        half = stopped(name, epoch, monkeypatch, *more)
        assert half.stopped
        assert last_checkpoint(half)["epoch"] == epoch - 1  # the last whole epoch
    resumed = train(name, "--ckpt_path", "last")

    assert resumed.folder == half.folder != whole.folder
    assert differences(left_behind(whole), left_behind(resumed)) == []
    epochs = last_checkpoint(whole)["epoch"] + 1
    assert (2 < epochs < EPOCHS + 2) if name in ENDED_BY_A_RULE else epochs == EPOCHS


def test_what_differs_in_one_bit_is_found():
    one = {"w": torch.zeros(2), "curve": [(1, math.nan)], "test/seconds/csgm": 1.0}
    other = {"w": torch.zeros(2), "curve": [(1, math.nan)], "test/seconds/csgm": 2.0}
    assert differences(one, other) == []
    other["w"][1] = 1e-45
    other["curve"][0] = (1, 0.0)
    assert sorted(text.partition(":")[0] for text in differences(one, other)) == ["/curve/0/1", "/w"]


def test_a_stop_in_the_first_epoch_leaves_nothing_to_go_on_from(workplace, data, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(data))
    Path("sop_mnist.yaml").write_text(yaml.dump(tiny("sop_mnist")))
    half = stopped("sop_mnist", 0, monkeypatch)
    assert half.stopped
    assert half.checkpoint is None
    with pytest.raises(ValueError, match=r"no run under logs/sop_mnist has a checkpoint last\.ckpt yet"):
        train("sop_mnist", "--ckpt_path", "last")
