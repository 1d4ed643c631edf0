from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from datamodules import SymmetricNoise, VisionDataModule
from zoo.classifier import Classifier

SGD = partial(torch.optim.SGD, lr=0.1)


def blobs(num=128):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(num) % 4
    return torch.randn(num, 1, 2, 2, generator=generator) + F.one_hot(y, 4).view(num, 1, 2, 2) * 4.0, y


def mlp(**options):
    torch.manual_seed(0)
    return Classifier(4, (1, 2, 2), "mlp", {"hidden_channels": (8,)}, **({"optimizer": SGD} | options))


@pytest.fixture
def trainer(tmp_path):
    def make(**options):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        defaults = {"max_epochs": 3, "accelerator": "cpu", "default_root_dir": tmp_path, "enable_checkpointing": False}
        return pl.Trainer(**(quiet | defaults | options))

    return make


def loader():
    return DataLoader(TensorDataset(*blobs()), batch_size=32)


def test_plain_pairs_are_learned(trainer):
    model, run = mlp(), trainer(max_epochs=30)
    run.fit(model, loader(), loader())
    assert run.callback_metrics["val/acc"] > 0.95
    assert run.callback_metrics["train/acc"] > 0.9
    assert "train/clean_acc" not in run.callback_metrics
    (tested,) = run.test(model, loader(), verbose=False)
    x, y = blobs()
    with torch.no_grad():
        assert tested["test/loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
        assert tested["test/acc"] == pytest.approx((model(x).argmax(1) == y).float().mean().item())
    assert torch.cat(run.predict(model, loader())).shape == (128, 4)


def test_a_step_is_the_one_of_a_loop_by_hand(trainer):
    model, twin = mlp(), mlp()
    trainer(max_epochs=1).fit(model, loader())
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for x, y in loader():
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    for mine, other in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(mine, other)


def test_noisy_and_clean_accuracies_are_both_logged(trainer):
    noise = SymmetricNoise(0.5, inclusive=False)
    data = VisionDataModule("digits", batch_size=128, label_noise=noise, val_fraction=0.3)
    model, run = Classifier(10, (1, 8, 8), "mlp", optimizer=SGD), trainer(max_epochs=8)
    run.fit(model, datamodule=data)
    metrics = run.callback_metrics
    assert metrics["val/clean_acc"] > metrics["val/acc"] + 0.2
    assert metrics["train/clean_acc"] > metrics["train/acc"] + 0.1
    (tested,) = run.test(model, datamodule=data, verbose=False)
    assert set(tested) == {"test/loss", "test/acc"}


def test_criterion_and_network_may_be_ones_own(trainer):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 4)

        def features(self, x):
            return x.flatten(1)

        def forward(self, x):
            return self.head(self.features(x))

    model = Classifier(4, (1, 2, 2), Net(), criterion=nn.CrossEntropyLoss(label_smoothing=0.5), optimizer=SGD)
    run = trainer()
    run.fit(model, loader(), loader())
    x, y = blobs()
    with torch.no_grad():
        expected = F.cross_entropy(model(x), y, label_smoothing=0.5).item()
    assert run.callback_metrics["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert model.head.in_features == model.features(x).shape[1] == 4


class Rates(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1] * 4),
        ({"lr_schedule": "step", "milestones": (1, 3), "gamma": 0.5}, [0.1, 0.05, 0.05, 0.025]),
        ({"lr_schedule": "cosine", "min_lr_ratio": 0.2}, [0.1, 0.0882843, 0.06, 0.0317157]),
    ],
)
def test_schedules(trainer, options, expected):
    rates = Rates()
    trainer(max_epochs=4, callbacks=[rates]).fit(mlp(**options), loader())
    assert rates.seen == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_losses_are_exact_in_any_precision(trainer, precision):
    class Watch(Classifier):
        def loss(self, logits, batch):
            self.dtype_of_logits = logits.dtype
            return super().loss(logits, batch)

    model = Watch(4, (1, 2, 2), "mlp", optimizer=SGD)
    trainer(precision=precision, max_epochs=1).fit(model, loader())
    assert model.dtype_of_logits == (torch.float64 if precision == "64-true" else torch.float32)


def test_a_checkpoint_gives_the_network_back(trainer):
    model = Classifier(4, (1, 2, 2), "mlp", {"hidden_channels": [8]}, optimizer=SGD, lr_schedule="cosine")
    run = trainer(enable_checkpointing=True)
    run.fit(model, loader())
    again = Classifier.load_from_checkpoint(run.checkpoint_callback.best_model_path, weights_only=True)
    x, _ = blobs()
    assert torch.equal(again.cpu()(x), model(x))
    assert again.hparams["lr_schedule"] == "cosine"


def test_convolutions_are_kept_channels_last():
    model = Classifier(10, (3, 32, 32), "resnet10")
    assert model.net.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    plain = Classifier(10, (3, 32, 32), "resnet10", channels_last=False)
    assert plain.net.layer1[0].conv1.weight.is_contiguous()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet"}, "backbone must be one of"),
        ({"backbone": nn.Identity(), "backbone_args": {"a": 1}}, "backbone_args must be left out"),
        ({"lr_schedule": "linear"}, "lr_schedule must be one of constant, cosine, step, got 'linear'"),
        ({"lr_schedule": "step"}, "milestones must name at least one epoch"),
        ({"milestones": (3,)}, "milestones need lr_schedule step"),
        ({"lr_schedule": "step", "milestones": (5, 3)}, "milestones must be increasing epochs"),
        ({"lr_schedule": "step", "milestones": (0,)}, "milestones must be increasing epochs of at least 1"),
        ({"gamma": 0.0}, "gamma must be > 0, got 0.0"),
        ({"min_lr_ratio": 1.5}, r"min_lr_ratio must be in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_arguments_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        Classifier(10, (3, 32, 32), **options)


def test_a_cosine_needs_an_end(trainer):
    with pytest.raises(ValueError, match=r"lr_schedule cosine needs --trainer.max_epochs of at least 1, got -1"):
        trainer(max_epochs=-1, max_steps=2).fit(mlp(lr_schedule="cosine"), loader())
