import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from callbacks.inertia_monitor import InertiaMonitor


class Inertial(torch.optim.SGD):
    """An optimizer of a user: it has statistics, and knows how often it stepped."""

    count = 0

    def step(self, closure=None):
        self.count += 1
        return super().step(closure)

    def inertia_statistics(self, q):
        return {"vbar": torch.tensor(float(self.count)), **{f"quantile_{p:g}": torch.tensor(p) for p in q}}


class Line(pl.LightningModule):
    """Two lines, trained by turns if there are two optimizers."""

    def __init__(self, *makers):
        super().__init__()
        self.lines = torch.nn.ModuleList(torch.nn.Linear(2, 1) for _ in makers)
        self.makers = makers
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for line, optimizer in zip(self.lines, self.optimizers()):
            optimizer.zero_grad()
            self.manual_backward(line(batch).square().mean())
            optimizer.step()

    def optimizers(self):
        found = super().optimizers()
        return found if isinstance(found, list) else [found]

    def configure_optimizers(self):
        return [make(line.parameters(), lr=0.1) for make, line in zip(self.makers, self.lines)]


def train(folder, callback, *makers, max_epochs=1):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=max_epochs, callbacks=[callback], default_root_dir=folder, **quiet)
    trainer.fit(Line(*makers), DataLoader(torch.ones(6, 2), batch_size=2))
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_the_statistics_after_the_epoch_are_logged(tmp_path):
    logged = train(tmp_path, InertiaMonitor([0.25, 0.5]), Inertial, max_epochs=2)
    assert logged == {"inertia/vbar": 6, "inertia/quantile_0.25": 0.25, "inertia/quantile_0.5": 0.5}


def test_epochs_in_between_are_left_out(tmp_path):
    assert train(tmp_path, InertiaMonitor([], every_n_epochs=2), Inertial, max_epochs=3) == {"inertia/vbar": 6}
    assert train(tmp_path, InertiaMonitor([], every_n_epochs=2), Inertial, max_epochs=1) == {}


def test_other_optimizers_are_passed_over_and_a_second_one_is_numbered(tmp_path):
    logged = train(tmp_path, InertiaMonitor([]), torch.optim.SGD, Inertial, Inertial)
    assert logged == {"inertia/vbar": 3, "inertia_1/vbar": 3}


def test_an_optimizer_without_inertia_is_told_before_training(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"InertiaMonitor needs .* such as Adai, got SGD"):
        train(tmp_path, InertiaMonitor(), torch.optim.SGD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantiles": [0.5, 1.5]}, r"quantiles must lie in \[0, 1\], got 1.5"),
        ({"every_n_epochs": 0}, "every_n_epochs must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        InertiaMonitor(**arguments)
