import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from callbacks import OrthogonalityError, OrthogonalityMonitor


class Scaled(nn.Module):
    """A layer all of whose singular values are its scale."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.scale * x

    def singular_values(self, input_size):
        return self.scale.expand(input_size[0] * 3)


class Module(pl.LightningModule):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def training_step(self, batch, batch_idx):
        return -self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def fit(monitor, layer=None, epochs=3):
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[monitor], logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")  # fmt: skip
    trainer.fit(Module(layer or Scaled()), DataLoader(torch.ones(1, 3, 5)))
    return trainer


def test_the_error_is_logged_and_kept_from_before_the_first_step():
    monitor = OrthogonalityMonitor()
    trainer = fit(monitor)
    assert trainer.callback_metrics["orthogonality/error"].item() == pytest.approx(1.5)
    assert monitor.final_metrics == {"orthogonality/error_at_start": 0.0}
    position, values = monitor.final_curves["orthogonality/layer"]
    assert values == pytest.approx([2.5] * 15)  # of the size in use
    assert (position[0], position[-1]) == (0, 1)
    assert not trainer.lightning_module.layer._forward_pre_hooks


def test_a_layer_that_is_not_orthogonal_ends_the_training():
    with pytest.raises(RuntimeError, match=r"layer layer is not orthogonal: .* 5.0e-01 from 1, .* fail_above 0.2"):
        fit(OrthogonalityMonitor(fail_above=0.2))


def test_curves_have_no_more_points_than_asked_for():
    monitor = OrthogonalityMonitor(max_points=4)
    fit(monitor)
    assert len(monitor.final_curves["orthogonality/layer"][0]) == 4


def test_logs_are_as_far_apart_as_asked_for():
    monitor = OrthogonalityMonitor(every_n_epochs=2)
    calls = []
    measure = monitor._error
    monitor._error = lambda module: calls.append(1) or measure(module)
    fit(monitor, epochs=3)
    assert len(calls) == 3  # at the start, after two epochs, and after the last


def test_modules_and_arguments_that_do_not_fit_are_named():
    with pytest.raises(MisconfigurationException, match="needs layers with singular_values, got none in Module"):
        fit(OrthogonalityMonitor(), nn.Linear(5, 5))
    for options, message in (({"every_n_epochs": 0}, "every_n_epochs must be at least 1, got 0"),
                             ({"fail_above": 0.0}, "fail_above must be > 0, got 0.0"),
                             ({"max_points": 1}, "max_points must be at least 2, got 1")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            OrthogonalityMonitor(**options)


def test_the_largest_distance_counts():
    error = OrthogonalityError()
    error.update(torch.tensor([1.0, 1.25]))
    error.update(torch.tensor([[0.5], [1.0]]))
    assert error.compute() == 0.5
