import os
import subprocess
import sys
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from datamodules import SymmetricNoise, VisionDataModule
from zoo.sparse_over_parameterization import GeneralizedCrossEntropy, SOPClassifier, consistency_kl, sop_loss

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
NOISE = {"alpha_u": 30.0, "alpha_v": 30.0, "init_std": 1e-2}


def digits(**options):
    noise = SymmetricNoise(0.4)
    settings = {"batch_size": 64, "label_noise": noise, "subset_per_class": 40, "seed": 0}
    return VisionDataModule("digits", **(settings | options))


def classifier(num_train=400, **options):
    torch.manual_seed(0)
    settings = {"backbone": "mlp", "backbone_args": {"hidden_channels": [64]}, "optimizer": SGD} | NOISE
    return SOPClassifier(10, num_train, input_shape=(1, 8, 8), **(settings | options))


@pytest.fixture
def trainer(tmp_path):
    def make(**options):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        defaults = {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": tmp_path, "enable_checkpointing": False}
        return pl.Trainer(**(quiet | defaults | options))

    return make


def pairs(num=24, parts=3):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(num, 1, 8, 8, generator=generator), torch.randint(10, (num,), generator=generator)
    return DataLoader(TensorDataset(*(x, y, torch.arange(num), y)[:parts]), batch_size=8)


def test_training_is_sgd_on_network_and_noise_by_hand(trainer):
    model, twin = classifier(24), classifier(24)
    trainer().fit(model, pairs())
    u, v = (torch.nn.Parameter(part.clone()) for part in (twin.overparam.u, twin.overparam.v))
    optimizers = SGD(twin.net.parameters()), torch.optim.SGD([u, v], lr=30.0)
    for _ in range(2):
        for x, y, index in pairs():
            for optimizer in optimizers:
                optimizer.zero_grad()
            sop_loss(twin(x), y, u[index], v[index]).backward()
            for optimizer in optimizers:
                optimizer.step()
    torch.testing.assert_close(model.overparam.u, u.detach())
    torch.testing.assert_close(model.overparam.v, v.detach())
    for mine, other in zip(model.net.parameters(), twin.net.parameters()):
        torch.testing.assert_close(mine, other)


def test_accumulated_batches_are_one_large_batch(trainer):
    small, large = classifier(24), classifier(24)
    trainer(accumulate_grad_batches=3).fit(small, pairs())
    trainer().fit(large, DataLoader(pairs().dataset, batch_size=24))
    torch.testing.assert_close(small.overparam.u, large.overparam.u)
    torch.testing.assert_close(small.overparam.v, large.overparam.v)
    for mine, other in zip(small.net.parameters(), large.net.parameters()):
        torch.testing.assert_close(mine, other)


def test_wrong_labels_are_found_and_not_memorised(trainer):
    data, model = digits(), classifier()
    trainer(max_epochs=40).fit(model, datamodule=data)
    wrong = data.train_labels != data.train_clean_labels
    assert (model.noise_score()[wrong] > 0.5).float().mean() > 0.7
    assert (model.noise_score()[~wrong] > 0.5).float().mean() < 0.3
    assert model.noise().shape == (400, 10)
    corrected = model.overparam.corrected_targets().argmax(dim=1)
    assert (corrected == data.train_clean_labels).float().mean() > (~wrong).float().mean() + 0.1


def test_validation_and_test_look_at_the_network_alone(trainer):
    data, model = digits(), classifier()
    run = trainer(max_epochs=1)
    run.fit(model, datamodule=data)
    (tested,) = run.test(model, datamodule=data, verbose=False)
    x, y, *_ = next(iter(data.test_dataloader()))
    with torch.no_grad():
        assert tested["test/loss"] == pytest.approx(F.cross_entropy(model.eval()(x), y).item(), rel=1e-4)


def test_two_views_pass_the_network_together_and_are_compared(trainer):
    data, model = digits(second_view=True), classifier(consistency=0.9, balance=0.1)
    trainer(max_epochs=1).fit(model, datamodule=data)
    batch = next(iter(data.train_dataloader()))
    model.train()
    model.log_step = lambda *args: None
    loss = model.training_step(batch, 0)
    logits, strong = model(batch.x), model(batch.second_view)
    first, _ = model.overparam(logits, batch.y, batch.index)
    torch.testing.assert_close(loss, first + 0.9 * consistency_kl(logits, strong))


def test_a_resumed_run_is_the_uninterrupted_one(trainer, tmp_path):
    whole, half, rest = classifier(), classifier(), classifier()
    trainer(max_epochs=4).fit(whole, datamodule=digits())
    first = trainer(max_epochs=2)
    first.fit(half, datamodule=digits())
    first.save_checkpoint(tmp_path / "half.ckpt")
    trainer(max_epochs=4).fit(rest, datamodule=digits(), ckpt_path=tmp_path / "half.ckpt")
    for mine, other in zip(rest.state_dict().values(), whole.state_dict().values()):
        assert torch.equal(mine, other)


def test_a_checkpoint_of_other_labels_is_refused_before_training(trainer, tmp_path):
    run = trainer(max_epochs=1)
    run.fit(classifier(), datamodule=digits())
    run.save_checkpoint(tmp_path / "seed0.ckpt")
    with pytest.raises(ValueError, match="labels must be those that the noise was learned with, in the same order"):
        trainer(max_epochs=2).fit(classifier(), datamodule=digits(seed=1), ckpt_path=tmp_path / "seed0.ckpt")


def test_a_checkpoint_gives_the_model_back(trainer, tmp_path):
    model, run = classifier(u_loss="ce", project=True), trainer(max_epochs=1)
    run.fit(model, datamodule=digits())
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = SOPClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert torch.equal(again.noise(), model.noise())
    assert again.overparam.u_loss == "ce"
    assert again.overparam.project


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_noise_stays_in_float32_in_any_precision(trainer, precision):
    model = classifier(init_std=1e-8)
    before = model.overparam.u.clone()
    trainer(precision=precision, max_epochs=1).fit(model, datamodule=digits())
    assert model.overparam.u.dtype == torch.float32
    assert not torch.equal(model.overparam.u, before)
    assert model.overparam.u.abs().max() < 1e-5  # grown, from where it was


def test_the_optimizer_has_the_network_only():
    model = classifier()
    assert {id(parameter) for parameter in model.parameters()} == {
        id(parameter) for parameter in model.net.parameters()
    }


def test_a_criterion_of_ones_own_is_that_of_the_validation(trainer):
    model, run = classifier(criterion=GeneralizedCrossEntropy()), trainer(max_epochs=1)
    run.fit(model, datamodule=digits())
    assert 0 < run.callback_metrics["val/loss"] < 1 / 0.7


def test_a_changed_order_without_known_labels_is_noticed_at_the_end_of_the_epoch(trainer):
    x, y, index = pairs().dataset.tensors
    model = classifier(24)
    trainer(max_epochs=1).fit(model, pairs())
    moved = DataLoader(TensorDataset(x, y, index.roll(1)), batch_size=8)
    with pytest.raises(ValueError, match="index must name the same training sample in every epoch"):
        trainer(max_epochs=1).fit(model, moved)


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"num_train": 399}, {}, "num_samples must be the number of training samples, 400, got 399"),
        ({"consistency": 0.5}, {}, "consistency must be 0 where the data has no second_view, got 0.5"),
    ],
)
def test_what_does_not_fit_the_data_is_told_before_training(trainer, options, data, message):
    with pytest.raises(ValueError, match=message):
        trainer().fit(classifier(**options), datamodule=digits(**data))


@pytest.mark.parametrize(
    ("options", "parts", "message"),
    [
        ({}, 2, r"a batch must be \(x, y, index, ...\), index naming each sample, got 2 parts"),
        ({"consistency": 0.5}, 4, "consistency needs batches"),
    ],
)
def test_batches_that_lack_something_are_told(trainer, options, parts, message):
    with pytest.raises(ValueError, match=message):
        trainer().fit(classifier(24, **options), pairs(parts=parts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consistency": -1.0}, "consistency must be >= 0, got -1.0"),
        ({"balance": float("nan")}, "balance must be >= 0, got nan"),
        ({"alpha_u": 0.0}, "alpha_u must be > 0, got 0.0"),
        ({"init_std": 0.0}, "init_std must be > 0"),
    ],
)
def test_wrong_arguments_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        classifier(**options)


ON_TWO_DEVICES = """
import os, torch, pytorch_lightning as pl
from functools import partial
from datamodules import SymmetricNoise, VisionDataModule
from zoo.sparse_over_parameterization import SOPClassifier
torch.manual_seed(int(os.environ.get("LOCAL_RANK", 0)))  # starts that differ
options = {"subset_per_class": 16, "val_fraction": 0.0, "label_noise": SymmetricNoise(0.4), "seed": 0}
model = SOPClassifier(
    10, 160, alpha_u=30.0, alpha_v=30.0, init_std=1e-2, input_shape=(1, 8, 8), backbone="mlp",
    backbone_args={"hidden_channels": [64]}, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", **quiet)
trainer.fit(model, datamodule=VisionDataModule("digits", batch_size=32, **options))
torch.save(model.state_dict(), f"rank{trainer.global_rank}.pt")
"""


def test_two_processes_train_as_one_with_the_whole_batch(trainer, workplace):
    (workplace / "on_two_devices.py").write_text(ON_TWO_DEVICES)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "on_two_devices.py"], env=environment, check=True, capture_output=True, timeout=120)
    alone, data = classifier(160), digits(batch_size=64, subset_per_class=16, val_fraction=0.0)
    trainer().fit(alone, datamodule=data)
    first, second = (torch.load(workplace / f"rank{rank}.pt") for rank in (0, 1))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(first[name], second[name])
