"""The callback in a Trainer."""

import csv
import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import LinearInterpolation
from callbacks.path import interpolate_path
from callbacks.states import lerp_state, snapshot


class Scores(pl.LightningModule):
    """A user's own module."""

    def __init__(self, norm=True):
        super().__init__()
        middle = [nn.BatchNorm1d(16)] if norm else []
        self.net = nn.Sequential(nn.Linear(4, 16), *middle, nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)


class Points(pl.LightningDataModule):
    """Three classes; inputs are disturbed where ``augment`` is set, and in a hook while training."""

    augment = True

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(96, 4, generator=generator), torch.randint(3, (96,), generator=generator)
        self.test = (torch.randn(50, 4, generator=generator), torch.randint(3, (50,), generator=generator))

    def train_dataloader(self):
        x = self.x + 10 * torch.randn(self.x.shape) if self.augment else self.x
        return DataLoader(TensorDataset(x, self.y), batch_size=32, shuffle=True)

    def test_dataloader(self):
        return DataLoader(TensorDataset(*self.test), batch_size=20)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] + 100, batch[1]] if self.trainer.training else batch


@pytest.fixture
def fit(tmp_path):
    """Fits a module; gives the Trainer."""

    def run(probe, epochs=2, module=None, seed=0, datamodule=None, ckpt_path=None, callbacks=(), **options):
        pl.seed_everything(seed)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        defaults = {"logger": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
        trainer = pl.Trainer(max_epochs=epochs, callbacks=[*callbacks, *probe], **(quiet | defaults | options))
        trainer.fit(module or Scores(), datamodule=datamodule or Points(), ckpt_path=ckpt_path)
        return trainer

    return run


def loss_of(module, state, batch):
    return interpolate_path(module, state, state, [batch], num_alphas=2).loss[0]


def test_the_path_runs_from_the_first_weights_to_the_last(fit):
    pl.seed_everything(0)
    module, probe, data = Scores(), LinearInterpolation(num_alphas=5), Points()
    start = snapshot(module)
    fit([probe], module=module, datamodule=data)
    path = probe.paths["test", "interpolate", "all"]
    states = [lerp_state(start, module.state_dict(), alpha) for alpha in path.alphas]
    assert path.loss.tolist() == pytest.approx([loss_of(module, state, data.test) for state in states], abs=1e-5)
    assert path.loss[0] != pytest.approx(path.loss[-1], abs=1e-3)


def test_training_data_come_as_in_a_test(fit):
    module, probe, data = Scores(), LinearInterpolation(num_alphas=3, parts=["train"]), Points()
    fit([probe], module=module, datamodule=data)
    expected = loss_of(module, module.state_dict(), (data.x, data.y))
    assert probe.paths["train", "interpolate", "all"].loss[-1] == pytest.approx(expected, abs=1e-5)
    assert data.augment


def test_a_run_with_the_probe_is_the_run_without(fit):
    plain, probed = Scores(), Scores()
    probed.load_state_dict(plain.state_dict())
    fit([], module=plain)
    afterwards = torch.rand(1)
    fit([LinearInterpolation(num_alphas=3, parts=["test", "train"])], module=probed)
    assert all(torch.equal(value, probed.state_dict()[name]) for name, value in plain.state_dict().items())
    assert torch.equal(torch.rand(1), afterwards)


def test_a_resumed_run_draws_the_path_of_an_uninterrupted_one(fit, tmp_path):
    def keeper():
        return pl.callbacks.ModelCheckpoint(tmp_path, filename="last")

    pl.seed_everything(0)
    whole, first, second = (LinearInterpolation(num_alphas=4) for _ in range(3))
    start = Scores().state_dict()
    modules = [Scores() for _ in range(3)]
    for module in modules[:2]:
        module.load_state_dict(start)
    plain = Points()
    plain.augment = False
    plain.train_dataloader = lambda: DataLoader(TensorDataset(plain.x, plain.y), batch_size=32)
    fit([whole], epochs=4, module=modules[0], datamodule=plain)
    options = {"enable_checkpointing": True, "datamodule": plain}
    fit([first], epochs=2, module=modules[1], callbacks=[keeper()], **options)
    fit([second], epochs=4, module=modules[2], ckpt_path=tmp_path / "last.ckpt", **options)
    key = ("test", "interpolate", "all")
    assert second.paths[key].loss.tolist() == whole.paths[key].loss.tolist()
    assert first.paths[key].loss[0] == whole.paths[key].loss[0]
    assert first.paths[key].loss[-1] != whole.paths[key].loss[-1]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]


def test_a_checkpoint_without_a_start_is_told(fit, tmp_path):
    fit([], callbacks=[pl.callbacks.ModelCheckpoint(tmp_path, filename="last")], enable_checkpointing=True)
    with pytest.warns(UserWarning, match="the path begins at step 6"):
        fit([LinearInterpolation(num_alphas=2)], epochs=3, ckpt_path=tmp_path / "last.ckpt")


def test_a_second_fit_has_a_start_of_its_own(fit):
    probe, data = LinearInterpolation(num_alphas=2), Points()
    fit([probe])
    module = Scores()
    start = snapshot(module)
    fit([probe], module=module, datamodule=data)
    assert probe.paths["test", "interpolate", "all"].loss[0] == pytest.approx(loss_of(module, start, data.test))


def test_groups_treatments_and_parts_are_all_drawn(fit, tmp_path):
    probe = LinearInterpolation(
        num_alphas=4,
        groups={"first": ["net.0", "net.1"], "last": ["net.3"]},
        buffers=["interpolate", "recompute", "final"],
        parts=["test", "train"],
        statistics_examples=40,
    )
    trainer = fit([probe], logger=CSVLogger(tmp_path, name="", version="run"))
    assert len(probe.paths) == 2 * 3 * 3
    assert probe.paths["test", "final", "last"].buffers == "final"
    assert probe.paths["test", "final", "last"].groups == ("net.3",)
    with (tmp_path / "run/path.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18 * 4
    assert [float(row["loss"]) for row in rows[:4]] == probe.paths["test", "interpolate", "all"].loss.tolist()
    assert (tmp_path / "run/path.png").stat().st_size > 0
    assert trainer.log_dir == str(tmp_path / "run")


def test_numbers_and_curves_are_offered_and_logged(fit, tmp_path):
    probe = LinearInterpolation(num_alphas=4, groups={"last": ["net.3"]})
    fit([probe], logger=CSVLogger(tmp_path, name="", version="run"))
    path = probe.paths["test", "interpolate", "all"]
    assert probe.final_metrics["path/test/interpolate/all/barrier"] == path.barrier()
    assert probe.final_metrics["path/test/interpolate/all/drop_position"] == path.drop_position()
    assert probe.final_metrics["path/relative_distance"] > 0
    assert {name for name in probe.final_metrics if "/last/" in name} == {
        f"path/test/interpolate/last/{number}" for number in ("loss_start", "min_delta", "barrier")
    }
    assert probe.final_curves["path/test/interpolate/all/accuracy"] == (path.alphas.tolist(), path.accuracy.tolist())
    with (tmp_path / "run/metrics.csv").open() as file:
        logged = list(csv.DictReader(file))[-1]
    assert float(logged["path/test/interpolate/all/barrier"]) == path.barrier()
    assert float(logged["path/distance"]) == pytest.approx(probe.final_metrics["path/distance"])


def test_the_number_of_examples_can_be_limited(fit):
    module, data = Scores(), Points()
    probe = LinearInterpolation(num_alphas=2, max_examples=30)
    fit([probe], module=module, datamodule=data)
    expected = loss_of(module, module.state_dict(), [part[:30] for part in data.test])
    assert probe.paths["test", "interpolate", "all"].loss[-1] == pytest.approx(expected, abs=1e-6)


def test_dataloaders_can_be_given(fit, tmp_path):
    data, module = Points(), Scores()
    probe = LinearInterpolation(num_alphas=2, dataloaders={"test": [data.test]})
    trainer = pl.Trainer(
        max_epochs=1, callbacks=[probe], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(data.x, data.y), batch_size=32))
    expected = loss_of(module, module.state_dict(), data.test)
    assert probe.paths["test", "interpolate", "all"].loss[-1] == pytest.approx(expected)


def test_without_running_statistics_one_path_is_drawn(fit):
    probe = LinearInterpolation(num_alphas=2, buffers=["recompute", "final"])
    fit([probe], module=Scores(norm=False))
    assert list(probe.paths) == [("test", "recompute", "all")]


def test_a_path_that_cannot_be_drawn_does_not_lose_the_run(fit):
    class Overflows(nn.Module):
        def forward(self, logits, y):
            return logits.sum() * math.nan

    probe = LinearInterpolation(num_alphas=2, loss_fn=Overflows())
    with pytest.warns(UserWarning, match="No path on the test data with buffers='interpolate': loss must not be NaN"):
        fit([probe])
    assert probe.paths == {}
    assert probe.final_metrics["path/distance"] > 0


def test_a_dry_run_writes_nothing(fit, tmp_path):
    probe = LinearInterpolation(num_alphas=2)
    fit([probe], fast_dev_run=True)
    assert len(probe.paths) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_alphas": 1}, "num_alphas must be at least 2, both ends, got 1"),
        ({"buffers": ["all"]}, "buffers must be one of interpolate, recompute, final, got 'all'"),
        ({"buffers": []}, r"buffers must be a list of at least one treatment, got \[\]"),
        ({"buffers": "final"}, "buffers must be a list of at least one treatment, got 'final'"),
        ({"parts": ["tset"]}, r"parts must be a list of train, val, test, got \['tset'\]"),
        ({"max_examples": 0}, "max_examples must be at least 1, got 0"),
        ({"statistics_examples": 1}, "statistics_examples must be at least 2, got 1"),
        ({"groups": {"all": ["net"]}}, "groups must have other names than 'all'"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LinearInterpolation(**options)


def test_a_group_that_is_not_there_is_told_before_training(fit):
    with pytest.raises(ValueError, match=r"groups must name modules of the model, got 'layer1'; it has net"):
        fit([LinearInterpolation(groups={"B1": ["layer1"]})])


def test_data_that_are_not_there_are_told_before_training(tmp_path):
    trainer = pl.Trainer(callbacks=[LinearInterpolation()], logger=False, enable_checkpointing=False, max_epochs=1)
    with pytest.raises(MisconfigurationException, match=r"needs a datamodule, or dataloaders=\{'test': ...\}"):
        trainer.fit(Scores(), DataLoader(TensorDataset(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))))
