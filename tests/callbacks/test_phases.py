import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from callbacks import Phase, PhaseRecorder, StopWhenGroupsFit

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
LOSSES = ("train/loss_large", "train/loss_small")


class Scripted(pl.LightningModule):
    """Logs what it is told, epoch by epoch."""

    def __init__(self, **curves):
        super().__init__()
        self.curves = {name.replace("__", "/"): values for name, values in curves.items()}
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def train_dataloader(self):
        return DataLoader(torch.zeros(2), batch_size=1)

    def training_step(self, batch, batch_idx):
        for name, values in self.curves.items():
            self.log(name, values[self.current_epoch], on_step=False, on_epoch=True)
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, callback, max_epochs=4, ckpt_path=None):
    trainer = pl.Trainer(callbacks=[callback], max_epochs=max_epochs, enable_checkpointing=False, **QUIET)
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


def test_training_stops_where_all_groups_are_fit_not_where_one_is():
    module = Scripted(train__loss_large=[0.5, 0.001, 0.001, 0.001], train__loss_small=[0.7, 0.6, 0.04, 0.001])
    assert fit(module, StopWhenGroupsFit(tol=0.05)).current_epoch == 3
    assert fit(module, StopWhenGroupsFit(tol=1e-4)).current_epoch == 4
    assert fit(module, StopWhenGroupsFit(tol=0.05, monitors=LOSSES[:1])).current_epoch == 2


def test_a_group_without_samples_counts_as_fit():
    module = Scripted(train__loss_large=[0.5, 0.001, 0.0, 0.0], train__loss_small=[math.nan] * 4)
    assert fit(module, StopWhenGroupsFit(tol=0.01)).current_epoch == 2


def test_phases_begin_at_the_first_epoch_past_their_threshold():
    module = Scripted(loss=[0.5, 0.05, 0.2, 0.01], c=[0.1, 1.0, 5.0, 12.0], steps=[10.0, 21.0, 33.0, 46.0])
    phases = {"fit": Phase("loss", below=0.1), "learnt": Phase("c", above=10), "never": Phase("c", above=100)}
    recorder = PhaseRecorder(phases)
    fit(module, recorder)
    assert recorder.final_metrics == {"phase/fit": 4.0, "phase/learnt": 8.0}  # two steps an epoch
    recorder = PhaseRecorder(phases, clock="steps")
    fit(module, recorder)
    assert recorder.final_metrics == {"phase/fit": 21.0, "phase/learnt": 46.0}


def test_a_resumed_run_keeps_what_was_recorded(tmp_path):
    curves = {"loss": [0.05, 0.5, 0.5, 0.5]}
    phases = {"fit": Phase("loss", below=0.1)}
    fit(Scripted(**curves), PhaseRecorder(phases), max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    recorder = PhaseRecorder(phases)
    fit(Scripted(**curves), recorder, ckpt_path=tmp_path / "half.ckpt")
    assert recorder.final_metrics == {"phase/fit": 2.0}


@pytest.mark.parametrize("callback", [StopWhenGroupsFit(), PhaseRecorder({"fit": Phase("loss", below=0.1)})])
def test_a_metric_that_is_not_logged_is_told(callback):
    with pytest.raises(ValueError, match="monitor must be a metric that is logged, one of other, got"):
        fit(Scripted(other=[0.0] * 4), callback)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StopWhenGroupsFit(tol=0.0), "tol must be > 0, got 0.0"),
        (lambda: StopWhenGroupsFit(tol=math.nan), "tol must be > 0, got nan"),
        (lambda: StopWhenGroupsFit(monitors=[]), "monitors must name at least one loss"),
        (lambda: PhaseRecorder({}), "phases must name at least one phase"),
        (lambda: Phase("loss"), "exactly one of below and above must be given, got None and None"),
        (lambda: Phase("loss", 0.1, 0.2), "exactly one of below and above must be given, got 0.1 and 0.2"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
