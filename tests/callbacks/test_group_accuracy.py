import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, TensorDataset

from callbacks import GroupAccuracy, GroupMean, GroupMonitor

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Linear(pl.LightningModule):
    """A user's own module."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))
        self.in_training_mode = []

    def forward(self, x):
        self.in_training_mode.append(self.training)
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        pass

    validation_step = test_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Grouped(pl.LightningDataModule):
    """Thirty samples, every third of which is rare; six a batch."""

    group_names = ("common", "rare")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.x, self.y = torch.randn(30, 4), torch.randint(3, (30,))
        rare = (torch.arange(30) % 3 == 0).long()
        self.groups = {"train": rare, "val": rare, "test": rare}

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.x, self.y, torch.arange(30)), batch_size=7, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.x, self.y, torch.arange(30)), batch_size=7)

    test_dataloader = val_dataloader


def expected(module, data, part):
    """What should be logged, from one pass over all samples."""
    with torch.no_grad():
        logits = module.eval()(data.x)
    correct, losses = (logits.argmax(1) == data.y).float(), F.cross_entropy(logits, data.y, reduction="none")
    found = {}
    for number, name in enumerate(data.group_names):
        rows = data.groups[part] == number
        found |= {f"{part}/acc_{name}": correct[rows].mean().item(), f"{part}/loss_{name}": losses[rows].mean().item()}
    return found


def close(logged, wanted):
    return all(float(logged[name]) == pytest.approx(value, rel=1e-5) for name, value in wanted.items())


def test_a_test_is_told_by_group():
    module, data = Linear(), Grouped()
    (metrics,) = pl.Trainer(callbacks=[GroupMonitor()], **QUIET).test(module, datamodule=data, verbose=False)
    assert close(metrics, expected(module, data, "test"))


def test_training_and_validation_are_told_by_group_as_in_an_evaluation(tmp_path):
    module, data = Linear(), Grouped()
    trainer = pl.Trainer(callbacks=[GroupMonitor(every_n_epochs=1)], max_epochs=2, default_root_dir=tmp_path, **QUIET)
    trainer.fit(module, datamodule=data)
    for part in ("train", "val"):
        assert close(trainer.callback_metrics, expected(module, data, part))


@pytest.mark.parametrize(("every", "looks"), [(1, 6), (3, 3), (None, 0)])
def test_the_training_data_is_looked_at_after_the_first_epoch_and_then_at_intervals(every, looks, tmp_path):
    module, data = Linear(), Grouped()
    trainer = pl.Trainer(
        callbacks=[GroupMonitor(every_n_epochs=every)],
        max_epochs=6,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        **QUIET,
    )
    trainer.fit(module, datamodule=data)
    assert module.in_training_mode.count(True) == 6 * 4
    assert module.in_training_mode.count(False) == looks * 5  # of seven samples, and the last two
    assert module.training


def test_a_datamodule_without_groups_is_refused():
    with pytest.raises(MisconfigurationException, match="needs a datamodule with groups and group_names, got NoneType"):
        pl.Trainer(callbacks=[GroupMonitor()], **QUIET).test(Linear(), Grouped().test_dataloader(), verbose=False)


def test_group_means_over_batches_agree_with_loops():
    torch.manual_seed(0)
    values, group = torch.randn(50), torch.randint(3, (50,))
    metric = GroupMean(["a", "b", "c"])
    for rows in torch.arange(50).split(13):
        metric.update(values[rows], group[rows])
    slow = {name: values[group == i].mean() for i, name in enumerate("abc")}
    torch.testing.assert_close(metric.compute(), slow)


def test_accuracy_takes_labels_or_logits():
    torch.manual_seed(0)
    logits, y, rare = torch.randn(40, 3), torch.randint(3, (40,)), torch.rand(40) < 0.3
    by_logits, by_labels = GroupAccuracy(["common", "rare"]), GroupAccuracy(["common", "rare"])
    by_logits.update(logits, y, rare)
    by_labels.update(logits.argmax(1), y, rare)
    assert by_logits.compute() == by_labels.compute()
    assert by_logits.compute()["rare"] == (logits.argmax(1) == y)[rare].float().mean()


def test_an_empty_group_is_nan():
    metric = GroupAccuracy(["common", "rare"])
    metric.update(torch.tensor([0]), torch.tensor([0]), torch.tensor([False]))
    assert metric.compute()["common"] == 1.0
    assert metric.compute()["rare"].isnan()


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_group_names_must_differ(names):
    with pytest.raises(ValueError, match="group_names must be different names, at least one"):
        GroupAccuracy(names)


def test_an_interval_must_be_positive():
    with pytest.raises(ValueError, match="every_n_epochs must be at least 1, or None, got 0"):
        GroupMonitor(every_n_epochs=0)
