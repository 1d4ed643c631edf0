import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from callbacks.abort_on_divergence import AbortOnDivergence, DivergenceError

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}


class Scripted(pl.LightningModule):
    """Its losses are written down."""

    def __init__(self, losses, as_dict=False):
        super().__init__()
        self.losses, self.as_dict = losses, as_dict
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        loss = self.losses[self.current_epoch * 4 + batch_idx] + 0 * self.weight
        return {"loss": loss} if self.as_dict else loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)]


def train(losses, *, as_dict=False, **options):
    trainer = pl.Trainer(
        max_epochs=len(losses) // 4, callbacks=[AbortOnDivergence(**options)], accelerator="cpu", **QUIET
    )
    trainer.fit(Scripted(losses, as_dict), DataLoader(torch.zeros(4, 1)))
    return trainer


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("every", [1, 3, 50])
def test_the_first_bad_loss_is_told_with_its_batch_and_learning_rate(bad, every, as_dict):
    with pytest.raises(DivergenceError, match=r"loss -?(nan|inf) in batch 6 .*, lr 0.05, "):
        train([1.0] * 6 + [bad, 1.0], every_n_steps=every, as_dict=as_dict)


def test_a_loss_may_be_too_large_before_it_is_infinite():
    with pytest.raises(DivergenceError, match=r"loss 20 in batch 1 .*lr 0.5, largest loss allowed 10"):
        train([1.0, 20.0, 1.0, 1.0], max_loss=10)


def test_a_training_that_does_not_diverge_goes_through():
    assert train([1.0, 1e30, -5.0, 0.0] * 2).global_step == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_loss": math.nan}, "max_loss must be a number, got nan"),
        ({"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AbortOnDivergence(**options)
