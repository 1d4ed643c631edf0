import csv
import json
import signal
from typing import ClassVar

import pytest
import torch
import yaml
from pytorch_lightning import Callback

from zoo.cli import run
from zoo.recipes import find_recipe, main
from zoo.usage import readable

QUICK = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "2"]


def error_of(words, capsys):
    """The one message of a command that must fail before it writes anything."""
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("error: ")


@pytest.fixture
def trained(workplace):
    """The folder of a finished run of two epochs."""
    assert main(["--model", "gcn", *QUICK]) == 0
    return workplace / "logs/gcn/version_0"


def test_train_leaves_results_curves_logs_configuration_and_checkpoints(trained, capsys):
    files = {path.name for path in trained.iterdir()}
    assert {"results.json", "curves.png", "metrics.csv", "config.yaml", "hparams.yaml"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    result = json.loads((trained / "results.json").read_text())
    assert set(result["metrics"]) == {"test/acc", "test/loss", "val/loss (best)"}
    assert "STAND-IN" in result["data"]
    assert "STAND-IN" in yaml.safe_load((trained / "hparams.yaml").read_text())["data_description"]
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_checkpoint_is_tested(trained):
    result = json.loads((trained / "results.json").read_text())
    with (trained / "metrics.csv").open() as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert result["metrics"]["val/loss (best)"] == pytest.approx(min(losses))
    assert main(["test", "--model", "gcn", "--trainer.accelerator", "cpu"]) == 0
    again = json.loads((trained.parent / "version_1/results.json").read_text())
    assert again["metrics"]["test/loss"] == result["metrics"]["test/loss"]
    assert again["checkpoint"].endswith("version_0/checkpoints/best.ckpt")


def test_the_last_checkpoint_is_tested_where_the_recipe_says_so(workplace):
    words = ["--model", "gcn", *QUICK, "--trainer.max_epochs", "4", "--test_checkpoint", "last"]
    assert main(words) == 0
    folder = workplace / "logs/gcn/version_0"
    result = json.loads((folder / "results.json").read_text())
    assert result["checkpoint"].endswith("version_0/checkpoints/last.ckpt")
    assert "val/loss (best)" in result["metrics"]
    assert main(["test", *words[:-4], "--test_checkpoint", "last"]) == 0
    again = json.loads((folder.parent / "version_1/results.json").read_text())
    assert again["checkpoint"].endswith("version_0/checkpoints/last.ckpt")
    assert again["metrics"]["test/loss"] == result["metrics"]["test/loss"]


def test_a_wrong_checkpoint_to_test_is_told(workplace, capsys):
    assert "--test_checkpoint" in error_of(["--model", "gcn", "--test_checkpoint", "first"], capsys)
    assert not (workplace / "logs").exists()


def test_the_last_epoch_is_shown_beside_the_test(workplace, capsys):
    assert main(["--model", "gcn", *QUICK]) == 0
    trained = workplace / "logs/gcn/version_0"
    result = json.loads((trained / "results.json").read_text())
    assert set(result["last_epoch"]) == {"train/loss", "val/loss", "val/acc"}
    with (trained / "metrics.csv").open() as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert result["last_epoch"]["val/loss"] == pytest.approx(losses[-1])
    assert "val/loss (last epoch)" in capsys.readouterr().out


class Surveyor(Callback):
    """Has measured something of its own by the end of the fit."""

    final_metrics: ClassVar = {"survey/height": 3.0}
    final_curves: ClassVar = {"survey/path": ([0.0, 0.5, 1.0], [1.0, 4.0, 9.0])}


def test_what_callbacks_have_measured_joins_the_result(workplace, monkeypatch):
    monkeypatch.setattr("zoo.cli.EpochProgressBar", Surveyor)
    result = run("train", find_recipe("gcn"), QUICK)
    assert result.metrics["survey/height"] == 3.0
    assert result.curves["survey/path"] == ([0.0, 0.5, 1.0], [1.0, 4.0, 9.0])
    epochs, losses = result.curves["val/loss"]
    assert epochs == [0, 1]
    assert losses[-1] == pytest.approx(result.last_epoch["val/loss"])
    kept = json.loads((workplace / "logs/gcn/version_0/results.json").read_text())
    assert kept["metrics"]["survey/height"] == 3.0
    assert "curves" not in kept


def test_a_network_learns_images_by_a_configuration_file(workplace, capsys):
    """Shape and classes come from the data, and an optimizer's arguments are options."""
    config = {
        "model": {
            "class_path": "zoo.classifier.Classifier",
            "init_args": {
                "backbone": "mlp",
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
            },
        },
        "data": {"class_path": "datamodules.VisionDataModule", "init_args": {"name": "digits", "val_fraction": 0.0}},
    }
    (workplace / "mine.yaml").write_text(yaml.dump(config))
    assert main(["--config", "mine.yaml", *QUICK, "--model.optimizer.lr", "0.3"]) == 0
    folder = workplace / "logs/mine/version_0"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt"}  # nothing validates
    saved = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    assert saved["optimizer"]["init_args"]["lr"] == 0.3
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 0.3
    assert state["state_dict"]["net.layers.0.0.weight"].shape == (100, 64)
    capsys.readouterr()
    assert "no such option" in error_of(["--config", "mine.yaml", "--model.optimizer.lrr", "0.3"], capsys)
    assert "backbone must be one of" in error_of(["--config", "mine.yaml", "--model.backbone", "mpl"], capsys)
    assert "val_fraction must be" in error_of(["--config", "mine.yaml", "--data.val_fraction", "2"], capsys)


def test_the_saved_configuration_gives_the_same_run(trained):
    assert main(["--config", str(trained / "config.yaml")]) == 0
    first, second = (
        json.loads((trained.parent / f"version_{i}/results.json").read_text())["metrics"] for i in range(2)
    )
    assert first == second


def test_the_recipe_is_an_ordinary_configuration_file(workplace):
    assert main(["fit", "--config", str(find_recipe("gcn").path), *QUICK]) == 0
    result = json.loads((workplace / "logs/gcn/version_0/results.json").read_text())
    assert result["verb"] == "fit"
    assert "test/acc" not in result["metrics"]


def test_validate_gives_the_loss_of_the_checkpoint(trained):
    assert main(["validate", "--model", "gcn", "--trainer.accelerator", "cpu"]) == 0
    validated = json.loads((trained.parent / "version_1/results.json").read_text())["metrics"]["val/loss"]
    best = json.loads((trained / "results.json").read_text())["metrics"]["val/loss (best)"]
    assert validated == pytest.approx(best)


def test_predict_keeps_the_predictions(trained):
    assert main(["predict", "--model", "gcn", "--trainer.accelerator", "cpu"]) == 0
    (logits,) = torch.load(trained.parent / "version_1/predictions.pt")
    assert logits.shape == (2708, 7)


def test_any_value_can_be_overridden(workplace):
    words = ["--model.hidden_channels", "4", "--data.name", "citeseer", "--seed_everything", "3"]
    assert main(["--model", "gcn", *QUICK, *words]) == 0
    config = yaml.safe_load((workplace / "logs/gcn/version_0/config.yaml").read_text())
    assert config["model"]["init_args"]["hidden_channels"] == 4
    result = json.loads((workplace / "logs/gcn/version_0/results.json").read_text())
    assert result["seed"] == 3
    assert "CiteSeer" in result["data"]
    hparams = torch.load(workplace / "logs/gcn/version_0/checkpoints/best.ckpt")["hyper_parameters"]
    assert (hparams["hidden_channels"], hparams["in_channels"]) == (4, 3703)


def test_the_logs_go_to_the_root_that_is_asked_for(workplace):
    assert main(["--model", "gcn", *QUICK, "--trainer.default_root_dir", "elsewhere"]) == 0
    assert (workplace / "elsewhere/logs/gcn/version_0/results.json").is_file()


def test_a_fast_dev_run_leaves_nothing(workplace):
    assert main(["--model", "local_aug_gcn", "--trainer.fast_dev_run", "true"]) == 0
    assert list(workplace.iterdir()) == []


def test_print_config_prints_the_whole_configuration(capsys):
    assert main(["--model", "local_aug_gcn", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["generator"]["max_epochs"] == 10
    assert config["trainer"]["max_epochs"] == 400


def test_help_lists_the_options_of_trainer_model_data_and_generator(capsys):
    assert main(["--help", "--model", "local_aug_gcn"]) == 0
    shown = capsys.readouterr().out
    for option in (
        "--seed_everything",
        "--ckpt_path",
        "--config",
        "--print_config",
        "--trainer.max_epochs",
        "--model.hidden_channels",
        "--model.consistency_weight",
        "--model.generator.latent_dim",
        "--data.split",
        "fit|validate|test|predict",
        "--list",
    ):
        assert option in shown, option
    assert main(["--help"]) == 0
    assert "--model NAME" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model.hidden_chanels 3", "--model.hidden_chanels: there is no such option; did you mean --model.hidden_ch"),
        ("--model.generator.max_epoch 3", "did you mean --model.generator.max_epochs"),
        ("--trainer.max_epoch 3", "did you mean --trainer.max_epochs"),
        ("--trainer.max_epochs many", "--trainer.max_epochs: expected int, got many"),
        ("--seed_everything a", "--seed_everything: expected bool or int, got a"),
        ("--model.mode sum", "--model.mode: expected one of 'concat', 'average', got sum"),
        ("--model.lr", "a value is missing after --model.lr"),
        ("--model.temperature 0", "temperature must be > 0, got 0.0"),
        ("--model.num_samples 0", "num_samples must be at least 1, got 0"),
        ("--model.hidden_channels 15", "hidden_channels must be a multiple of 2"),
        ("--model.hidden_channels 0", "hidden_channels"),
        ("--model.generator.latent_dim 0", "latent_dim must be at least 1, got 0"),
        ("--data.name cola", "name must be one of cora, citeseer, pubmed, got 'cola'"),
        ("--data.split best", "split must be one of public, full, random, got 'best'"),
        ("--data.if_unavailable error", "Cora is not available: all raw files are missing in data/planetoid/Cora/raw"),
        ("--ckpt_path none.ckpt", "'none.ckpt': no such file"),
        ("--ckpt_path last", "no run under logs/local_aug_gcn has a checkpoint last.ckpt yet"),
        ("--config none.yaml", "--config: File does not exist"),
    ],
)
def test_errors_of_the_user_are_one_message_and_leave_nothing(words, message, capsys, workplace):
    assert message in error_of(["--model", "local_aug_gcn", "--trainer.accelerator", "cpu", *words.split()], capsys)
    assert not list((workplace / "logs").glob("*/*"))


def test_zoo_data_must_be_a_folder(capsys, workplace, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", "nowhere")
    assert "ZOO_DATA must name a folder, got 'nowhere'" in error_of(["--model", "gcn"], capsys)


def test_a_corrupt_raw_file_is_named(capsys, workplace):
    folder = workplace / "data/planetoid/Cora/raw"
    folder.mkdir(parents=True)
    for part in ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index"):
        (folder / f"ind.cora.{part}").write_bytes(b"not a pickle")
    assert "corrupt raw file data/planetoid/Cora/raw/ind.cora.x" in error_of(["--model", "gcn"], capsys)


def test_a_checkpoint_of_another_model_is_refused(trained, capsys):
    path = str(trained / "checkpoints/best.ckpt")
    assert "is a checkpoint of another model than this LAGATClassifier" in error_of(
        ["--model", "gat", "--ckpt_path", path], capsys
    )
    wider = error_of(["test", "--model", "gcn", "--model.hidden_channels", "8", "--ckpt_path", path], capsys)
    assert "is a checkpoint of another model" in wider


def test_a_broken_checkpoint_is_refused(capsys, workplace):
    (workplace / "broken.ckpt").write_bytes(b"half")
    message = error_of(["--model", "gcn", "--ckpt_path", "broken.ckpt"], capsys)
    assert "'broken.ckpt' is not a checkpoint that can be read" in message


def test_errors_within_training_keep_their_traceback(monkeypatch):
    def fail(self, batch, batch_idx):
        raise ValueError("a defect")

    monkeypatch.setattr("zoo.local_augmentation.LAGCNClassifier.training_step", fail)
    with pytest.raises(ValueError, match="a defect"):
        main(["--model", "gcn", *QUICK])


def test_ctrl_c_in_a_test_ends_it(trained, monkeypatch, capsys):
    def interrupt(self, batch, batch_idx):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.local_augmentation.LAGCNClassifier.test_step", interrupt)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main(["test", "--model", "gcn", "--trainer.accelerator", "cpu"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "stopped" in capsys.readouterr().err


def test_readable_keeps_what_it_does_not_understand():
    assert readable("the disk is full") == "the disk is full"
