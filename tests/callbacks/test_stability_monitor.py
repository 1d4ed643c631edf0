import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from callbacks import StabilityMonitor

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Scripted(pl.LightningModule):
    """Losses and sharpnesses as they stand in a list, one a batch; a learning rate of 0.5 by the optimizer."""

    def __init__(self, losses, sharpnesses):
        super().__init__()
        self.losses, self.sharpnesses = losses, sharpnesses
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.automatic_optimization = False
        self.number = -1

    def training_step(self, batch, batch_idx):
        self.number = int(batch)
        return {"loss": torch.tensor(self.losses[self.number])}

    def sharpness(self, batch):
        return torch.tensor(self.sharpnesses[int(batch)])

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.5)


class WithoutSharpness(Scripted):
    sharpness = None


class OwnRates(Scripted):
    """Two replicas, each with a step size of its own."""

    lr = torch.tensor([0.5, 1.0])


def train(folder, module, monitor, max_epochs=1, ckpt_path=None, first=0):
    batches = list(range(first, len(module.losses)))
    trainer = pl.Trainer(max_epochs=max_epochs, callbacks=[monitor], default_root_dir=folder, **QUIET)
    trainer.fit(module, DataLoader(batches, batch_size=None), ckpt_path=ckpt_path)
    return trainer


def test_a_loss_above_ten_times_the_first_is_a_catapult(tmp_path):
    for losses, expected in (([1.0, 11.0, 0.1], True), ([1.0, 9.0, 0.1], False)):
        monitor = StabilityMonitor(every_n_steps=3)
        trainer = train(tmp_path, Scripted(losses, [1.0] * 3), monitor)
        assert bool(monitor.catapult) is expected
        assert trainer.callback_metrics["stability/catapults"] == float(expected)


def test_the_edge_is_reached_after_some_checks_in_a_row(tmp_path):
    at_edge, off = 4.0, 2.0  # lr * 4 / 2 = 1
    for sharpnesses, expected in (
        ([off, at_edge, at_edge, at_edge], True),
        ([at_edge, at_edge, off, at_edge], False),
        ([at_edge, at_edge, at_edge, off], False),
    ):
        monitor = StabilityMonitor(num_checks=3)
        train(tmp_path, Scripted([1.0] * 4, sharpnesses), monitor)
        assert bool(monitor.at_edge) is expected


def test_replicas_are_told_apart_and_have_their_own_step_sizes(tmp_path):
    monitor = StabilityMonitor(num_checks=2)
    trainer = train(tmp_path, OwnRates([[1.0, 1.0], [2.0, 30.0]], [[4.0, 4.0], [4.0, 4.0]]), monitor)
    assert monitor.at_edge.tolist() == [True, False]
    assert monitor.catapult.tolist() == [False, True]
    assert trainer.callback_metrics["stability/ratio"] == pytest.approx(1.5)
    assert trainer.callback_metrics["stability/at_edge"] == 0.5


def test_checks_lie_as_far_apart_as_asked_for(tmp_path):
    module, monitor = Scripted([1.0] * 5, [4.0] * 5), StabilityMonitor(every_n_steps=2)
    train(tmp_path, module, monitor)
    assert monitor.checks_at_edge.item() == 2


def test_a_resumed_training_is_still_the_one_that_catapulted(tmp_path):
    trainer = train(tmp_path, Scripted([1.0, 20.0], [4.0, 4.0]), StabilityMonitor())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    monitor = StabilityMonitor()
    train(tmp_path, Scripted([1.0, 1.0], [4.0, 4.0]), monitor, max_epochs=2, ckpt_path=tmp_path / "half.ckpt")
    assert bool(monitor.catapult)
    assert monitor.checks_at_edge.item() == 4


def test_a_module_without_sharpness_is_told_before_training(tmp_path):
    with pytest.raises(
        MisconfigurationException, match=r"needs a module with sharpness\(batch\), got WithoutSharpness"
    ):
        train(tmp_path, WithoutSharpness([1.0], [1.0]), StabilityMonitor())


@pytest.mark.parametrize("name", ["every_n_steps", "num_checks"])
def test_numbers_of_checks_are_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        StabilityMonitor(**{name: 0})
