from typing import NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import ForecastCurves


class Windows(NamedTuple):
    x: Tensor
    y: Tensor
    ptr: Tensor
    time: Tensor | None


class Doubling(BoringModel):
    def predict_step(self, batch, batch_idx):
        return 2 * batch.x[:, -1]

    def test_step(self, batch, batch_idx):
        return None


class Data(pl.LightningDataModule):
    """Two batches, the later first; node i has the value 10 t + i at step t."""

    def __init__(self, with_time=True):
        super().__init__()
        self.with_time = with_time

    def batch(self, *times):
        def value(t):
            return 10.0 * t + torch.arange(4)[:, None]

        x = torch.cat([torch.stack([value(t - 2), value(t - 1)], dim=1) for t in times])
        y = torch.cat([value(t) for t in times])
        return Windows(x, y, torch.arange(len(times) + 1) * 4, torch.tensor(times) if self.with_time else None)

    def test_dataloader(self):
        return DataLoader([self.batch(7, 6), self.batch(5)], batch_size=None)

    def to_raw(self, y):
        return 100 * y


def run(nodes, data=None):
    curves = ForecastCurves(nodes)
    trainer = pl.Trainer(logger=False, accelerator="cpu", callbacks=[curves], enable_progress_bar=False)
    trainer.test(Doubling(), datamodule=data or Data(), verbose=False)
    return curves.final_curves


def test_curves_are_in_order_of_time_and_in_raw_units():
    curves = run([1])
    assert curves["truth/1"] == ([5, 6, 7], [5100.0, 6100.0, 7100.0])
    assert curves["last_value/1"] == ([5, 6, 7], [4100.0, 5100.0, 6100.0])
    assert curves["forecast/1"] == ([5, 6, 7], [8200.0, 10200.0, 12200.0])


def test_the_largest_nodes_are_taken_by_number():
    assert {name.partition("/")[2] for name in run(2)} == {"3", "2"}
    assert len(run(99)) == 12


@pytest.mark.parametrize("nodes", [0, []])
def test_there_must_be_a_node(nodes):
    with pytest.raises(ValueError, match="nodes must be at least 1, or name one"):
        ForecastCurves(nodes)


def test_batches_without_time_are_named():
    with pytest.raises(MisconfigurationException, match="needs batches with time"):
        run(1, Data(with_time=False))
