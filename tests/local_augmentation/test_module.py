import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from zoo.local_augmentation import (
    GeneratorPretraining,
    LAGATClassifier,
    LAGCNClassifier,
    LAGCNIIClassifier,
    LAGRANDClassifier,
    sharpened_consistency_loss,
)

CLASSIFIERS = {
    "gcn": LAGCNClassifier,
    "gat": lambda *sizes, **options: LAGATClassifier(*sizes, hidden_channels=4, heads=4, **options),
    "gcnii": lambda *sizes, **options: LAGCNIIClassifier(
        *sizes, hidden_channels=16, num_layers=3, dropout=0.2, conv_weight_decay=0.0, **options
    ),
    "grand": lambda *sizes, **options: LAGRANDClassifier(*sizes, order=2, input_dropout=0.2, dropnode=0.2, **options),
}


@pytest.fixture
def tiny(tmp_path):
    return GeneratorPretraining(16, 4, max_epochs=2, mc_samples=2, cache_dir=str(tmp_path / "cache"))


def fit(trainer, model, datamodule, **options):
    torch.manual_seed(0)
    trainer.fit(model, datamodule=datamodule, **options)
    return model


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_backbone_learns_the_small_graph_with_a_generator_and_without(name, datamodule, tiny, quiet_trainer):
    for generator in (tiny, None):
        torch.manual_seed(0)
        model = CLASSIFIERS[name](20, 3, generator=generator, lr=0.05)
        fit(quiet_trainer(max_epochs=60), model, datamodule)
        (metrics,) = quiet_trainer().test(model, datamodule=datamodule, verbose=False)
        assert metrics["test/acc"] > 0.6  # chance is 0.33


def test_the_loss_is_the_mean_over_passes_plus_consistency(datamodule, quiet_trainer):
    data = datamodule.data
    model = LAGCNClassifier(20, 3, num_samples=3, consistency_weight=0.7, temperature=0.3)
    model.log_dict = lambda *_, **__: None
    torch.manual_seed(4)
    loss = model.training_step(data, 0)
    torch.manual_seed(4)
    prepared = model.prepared(data)
    log_probs = model.backbone([prepared.x, prepared.x], prepared.graph, num_samples=3).log_softmax(-1)
    passes = [F.nll_loss(one[data.train_mask], data.y[data.train_mask]) for one in log_probs]
    torch.testing.assert_close(loss, sum(passes) / 3 + 0.7 * sharpened_consistency_loss(log_probs, 0.3))


def test_testing_the_checkpoint_uses_the_validated_features(datamodule, tiny, quiet_trainer, tmp_path):
    best = ModelCheckpoint(tmp_path / "checkpoints", monitor="val/loss")
    model = fit(
        quiet_trainer(max_epochs=8, callbacks=[best], enable_checkpointing=True),
        LAGCNClassifier(20, 3, generator=tiny),
        datamodule,
    )
    checkpoint = torch.load(best.best_model_path, weights_only=True)
    assert checkpoint["state_dict"]["validated_latents"].shape == (1, 1, 60, 4)
    fresh = LAGCNClassifier.load_from_checkpoint(best.best_model_path, weights_only=True)
    trainer = quiet_trainer()
    one, two = (trainer.test(fresh, datamodule=datamodule, verbose=False) for _ in range(2))
    assert one == two
    (validated,) = trainer.validate(fresh, datamodule=datamodule, verbose=False)
    assert validated["val/loss"] == pytest.approx(best.best_model_score.item(), rel=1e-6)
    assert model.hparams.generator["max_epochs"] == 2


def test_fresh_features_are_drawn_at_test_if_asked(datamodule, tiny, quiet_trainer):
    model = LAGCNClassifier(20, 3, generator=tiny, keep_validated_features=False)
    fit(quiet_trainer(), model, datamodule)
    model.eval()
    assert not torch.equal(model(datamodule.data), model(datamodule.data))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_resumed_run_equals_an_uninterrupted_one(name, datamodule, tiny, quiet_trainer, tmp_path):
    """The module's own state is all in the checkpoint; the random state is given back here by hand."""

    class Reseed(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            torch.manual_seed(trainer.current_epoch)

    def train(epochs, ckpt_path=None):
        torch.manual_seed(0)
        model = CLASSIFIERS[name](20, 3, generator=tiny, pool_size=0 if name == "grand" else 2)
        last = ModelCheckpoint(tmp_path / f"{epochs}", save_last=True)
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[Reseed(), last], enable_checkpointing=True)
        trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, **({"weights_only": True} if ckpt_path else {}))
        return model.state_dict(), last.last_model_path

    whole, _ = train(6)
    _, half = train(3)
    resumed, _ = train(6, half)
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


def test_each_replica_is_tested_with_the_weights_of_its_own_best_epoch(datamodule, tiny, quiet_trainer, monkeypatch):
    history = []
    original = LAGCNClassifier.keep_best

    def record(self, loss, latents):
        history.append((loss.clone(), {n: p.detach().clone() for n, p in self.backbone.named_parameters()}, latents))
        return original(self, loss, latents)

    monkeypatch.setattr(LAGCNClassifier, "keep_best", record)
    torch.manual_seed(0)
    model = LAGCNClassifier(20, 3, generator=tiny, num_replicas=3, lr=0.3)
    fit(quiet_trainer(max_epochs=12, num_sanity_val_steps=0), model, datamodule)
    losses = torch.stack([loss for loss, _, _ in history])
    best_epochs = losses.argmin(dim=0).tolist()
    assert len(set(best_epochs)) > 1  # or the test says nothing
    for replica, epoch in enumerate(best_epochs):
        for name, parameter in model.best.named_parameters():
            assert torch.equal(parameter[replica], history[epoch][1][name][replica])
        assert torch.equal(model.validated_latents[replica], history[epoch][2][0])
    (metrics,) = quiet_trainer().test(model, datamodule=datamodule, verbose=False)
    each = torch.tensor([metrics[f"test/acc_{i}"] for i in range(3)])
    assert metrics["test/acc"] == pytest.approx(each.mean().item(), abs=1e-6)
    assert metrics["test/acc_std"] == pytest.approx(each.std().item(), abs=1e-6)


@pytest.mark.parametrize("share_noise", [True, False])
def test_replicas_with_their_own_draws_or_shared_ones(share_noise, datamodule, tiny, quiet_trainer):
    model = LAGCNClassifier(20, 3, generator=tiny, num_replicas=2, share_noise=share_noise, lr=0.05)
    fit(quiet_trainer(max_epochs=30), model, datamodule)
    same = torch.equal(model.validated_latents[0], model.validated_latents[1])
    assert share_noise or not same
    assert quiet_trainer().test(model, datamodule=datamodule, verbose=False)[0]["test/acc"] > 0.6


def test_the_plain_baseline_has_no_generator(datamodule, tiny):
    model = LAGCNClassifier(20, 3, generator=tiny, num_generated=0)
    assert model.augmentation is None
    assert len(model.backbone.branches) == 1


def test_average_mode_leaves_the_architecture_alone(datamodule, tiny, quiet_trainer):
    model = LAGCNClassifier(20, 3, generator=tiny, mode="average")
    assert len(model.backbone.branches) == 1
    fit(quiet_trainer(), model, datamodule)


def test_convolutions_and_dense_layers_decay_differently():
    model = LAGCNIIClassifier(20, 3, num_layers=3, conv_weight_decay=0.3, weight_decay=0.1)
    convolutions, dense = model.configure_optimizers().param_groups
    assert convolutions["weight_decay"] == 0.3
    assert dense["weight_decay"] == 0.1
    assert len(convolutions["params"]) == 3
    assert len(convolutions["params"]) + len(dense["params"]) == len(list(model.backbone.parameters()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_precisions_of_the_trainer(precision, datamodule, tiny, quiet_trainer):
    model = LAGCNClassifier(20, 3, generator=tiny, lr=0.05)
    fit(quiet_trainer(max_epochs=30, precision=precision), model, datamodule)
    assert quiet_trainer(precision=precision).test(model, datamodule=datamodule, verbose=False)[0]["test/acc"] > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"consistency_weight": -1.0}, "consistency_weight must be 0"),
        ({"lr": 0.0}, "lr must be > 0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"num_generated": -1}, "num_generated must be 0"),
        ({"mode": "sum"}, "mode must be 'concat' or 'average'"),
        ({"hidden_channels": 15}, "hidden_channels must be a multiple of 2"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LAGCNClassifier(20, 3, **options)


def test_grand_keeps_one_draw_and_takes_no_pool(tiny):
    with pytest.raises(ValueError, match="mode must be 'concat' and pool_size 0 for GRAND"):
        LAGRANDClassifier(20, 3, generator=tiny, pool_size=3)


def test_consistency_of_one_pass_warns():
    with pytest.warns(UserWarning, match="only sharpens"):
        LAGCNClassifier(20, 3, num_samples=1)


def test_unfit_data_are_refused_before_training(datamodule, tiny, quiet_trainer):
    with pytest.raises(ValueError, match="in_channels must be the data's number of features, 20, got 7"):
        quiet_trainer().fit(LAGCNClassifier(7, 3), datamodule=datamodule)
    datamodule.data.raw_x = datamodule.data.raw_x * 2
    with pytest.raises(ValueError, match="'bernoulli' needs raw features"):
        quiet_trainer().fit(LAGCNClassifier(20, 3, generator=tiny), datamodule=datamodule)
    datamodule.data.edge_index = datamodule.data.edge_index[:, :0]
    with pytest.raises(ValueError, match="no edge"):
        quiet_trainer().fit(LAGCNClassifier(20, 3, generator=tiny), datamodule=datamodule)
    with pytest.raises(MisconfigurationException, match="datamodule whose `data` is the graph"):
        quiet_trainer().fit(LAGCNClassifier(20, 3, generator=tiny), datamodule.train_dataloader())


def test_a_node_without_features_never_becomes_nan(datamodule, tiny, quiet_trainer):
    assert datamodule.data.x[0].sum() == 0
    model = fit(quiet_trainer(), LAGCNClassifier(20, 3, generator=tiny), datamodule)
    assert torch.isfinite(model.eval()(datamodule.data)).all()
