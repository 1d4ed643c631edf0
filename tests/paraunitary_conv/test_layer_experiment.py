import pytest
import pytorch_lightning as pl
import torch

from zoo.paraunitary_conv import LayerExperiment
from zoo.simulation import ReplicaHistory

LAYERS = [
    {"in_channels": 4, "out_channels": 4, "kernel_size": 3},
    {"in_channels": 2, "out_channels": 4, "kernel_size": 2},
    {"in_channels": 4, "out_channels": 2, "kernel_size": 4, "stride": 2, "transposed": True},
]


def experiment():
    torch.manual_seed(0)
    return LayerExperiment(LAYERS, input_size=4, batch_size=2, steps_per_epoch=5)


def trainer(epochs, precision="32-true"):
    return pl.Trainer(
        max_epochs=epochs,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )


@pytest.mark.parametrize(("precision", "limit"), [("32-true", 1e-5), ("64-true", 1e-10)])
def test_layers_move_and_stay_orthogonal(precision, limit):
    model, run = experiment(), trainer(2, precision)
    before = [layer.weight.clone() for layer in model.layers]
    run.fit(model)
    assert model.found["orthogonality_error"].max() < limit
    assert all((layer.weight - old).abs().max() > 1e-2 for layer, old in zip(model.layers, before))
    (history,) = [callback for callback in run.callbacks if isinstance(callback, ReplicaHistory)]
    assert history.final_curves["orthogonality_error/2"][0] == [0, 5, 10]
    assert history.final_curves["input_norm/1"][1] == pytest.approx([1, 1, 1], abs=1e-5)  # more outputs than inputs
    assert history.final_curves["gradient_norm/1"][1][0] < 0.99


def test_a_resumed_experiment_equals_an_uninterrupted_one(tmp_path):
    whole, half, rest = experiment(), experiment(), experiment()
    trainer(2).fit(whole)
    run = trainer(1)
    run.fit(half)
    run.save_checkpoint(tmp_path / "half.ckpt")
    trainer(2).fit(rest, ckpt_path=tmp_path / "half.ckpt")
    assert all(a.equal(b) for a, b in zip(whole.state_dict().values(), rest.state_dict().values()))


@pytest.mark.parametrize(("options", "message"), [
    ({"layers": []}, "layers must name at least one layer, got none"),
    ({"input_size": 0}, "input_size must be at least 1, got 0"),
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
])  # fmt: skip
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LayerExperiment(**{"layers": LAYERS, **options})
