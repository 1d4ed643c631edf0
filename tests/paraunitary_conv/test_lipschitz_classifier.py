from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from callbacks import L2Adversary, OrthogonalityMonitor
from zoo.paraunitary_conv import LipschitzClassifier, certified_radius

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def data(number=24):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(number, 3, 32, 32, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(number) % 3), batch_size=8)


def classifier(**options):
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=0.01)
    return LipschitzClassifier(3, base_channels=2, **{"optimizer": adam, "channels_last": False, **options})


def trainer(max_epochs, *callbacks, **options):
    return pl.Trainer(max_epochs=max_epochs, callbacks=list(callbacks), **QUIET, **options)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    whole, second = classifier(), classifier()
    trainer(4).fit(whole, data(), data())
    trainer(4, _StopAfter(2, tmp_path / "half.ckpt")).fit(classifier(), data(), data())
    trainer(4).fit(second, data(), data(), ckpt_path=tmp_path / "half.ckpt")
    for a, b in zip(whole.state_dict().values(), second.state_dict().values()):
        assert a.equal(b)


class _StopAfter(pl.Callback):
    def __init__(self, epochs, path):
        self.epochs, self.path = epochs, path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch + 1 == self.epochs:
            trainer.should_stop = True

    def on_train_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("constraint", ["orthogonal", "none"])
def test_what_is_certified_is_logged_as_the_logits_say(constraint):
    model = classifier(constraint=constraint, radii=[0, 36])
    adversary = L2Adversary(eps=36, steps=3, power_steps=2, power_images=4)
    run = trainer(2, adversary)
    run.fit(model, data(), data())
    (found,) = run.test(model, data(), verbose=False)
    x, y = data().dataset.tensors
    with torch.no_grad():
        radius = certified_radius(model(x), y, model.net.lipschitz_bound())
    assert found["test/certified_36"] == pytest.approx((radius > 36 / 255).float().mean().item())
    assert found["test/certified_0"] == pytest.approx(found["test/acc"])
    assert found["test/certified_radius"] == pytest.approx(radius.clamp_min(0).mean().item(), rel=1e-4)
    assert found["test/lipschitz_bound"] == pytest.approx(model.net.lipschitz_bound().item())
    assert found["test/certified_36"] <= found["test/adversarial_acc"] <= found["test/acc"]
    assert found["test/lipschitz"] <= found["test/lipschitz_bound"] * (1 + 1e-4)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_rate_rises_and_falls_step_by_step():
    rates = []

    class Note(pl.Callback):
        def on_train_batch_start(self, trainer, *args):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    model = classifier(optimizer=partial(torch.optim.SGD, lr=1.0))
    trainer(5, Note()).fit(model, data(16), data(16))
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.7625, 0.525, 0.2875, 0.05, 0.025, 0.0])


def test_a_training_without_end_has_no_such_schedule():
    with pytest.raises(ValueError, match="lr_schedule rise_and_fall needs a last step"):
        trainer(-1).fit(classifier(), data(8), data(8))


def test_other_schedules_are_those_of_the_classifier():
    model = classifier(lr_schedule="step", milestones=[1], gamma=0.5)
    run = trainer(2)
    run.fit(model, data(8), data(8))
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.005)


def test_mixed_precision_leaves_the_layers_orthogonal():
    run = trainer(2, OrthogonalityMonitor(fail_above=1e-5), precision="bf16-mixed")
    run.fit(classifier(), data(), data())
    assert run.callback_metrics["orthogonality/error"] < 1e-5


def test_a_checkpoint_has_what_the_model_is_made_of(tmp_path):
    model = classifier(depth=10, init="uniform", radii=[12])
    run = trainer(1)
    run.fit(model, data(8), data(8))
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = LipschitzClassifier.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    x = torch.rand(2, 3, 32, 32)
    assert again(x).equal(model.eval()(x))
    assert again.radii == (12,)
    assert again.lr_schedule == "rise_and_fall"


@pytest.mark.parametrize(("options", "message"), [
    ({"radii": []}, r"radii must be whole numbers >= 0, at least one, got \[\]"),
    ({"radii": [36, -1]}, r"radii must be whole numbers >= 0, at least one, got \[36, -1\]"),
    ({"radii": [0.5]}, r"radii must be whole numbers >= 0, at least one, got \[0.5\]"),
    ({"lr_schedule": "linear"}, "lr_schedule must be one of"),
])  # fmt: skip
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        classifier(**options)
