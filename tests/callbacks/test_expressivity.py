import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringModel
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from callbacks import ExpressivityProbe, output_gap


class Data(BoringDataModule):
    contrasting_windows = torch.zeros(1, 32), torch.ones(1, 32)


def fit(datamodule, model=None):
    probe = ExpressivityProbe()
    trainer = pl.Trainer(
        fast_dev_run=True, logger=False, accelerator="cpu", callbacks=[probe], enable_progress_bar=False
    )
    trainer.fit(model or BoringModel(), datamodule=datamodule)
    return probe


def test_the_gap_is_the_largest_difference_of_outputs_before_training():
    model = BoringModel()
    expected = (model.layer.weight.sum(1)).abs().max().item()
    assert fit(Data(), model).final_metrics["expressivity/gap"] == pytest.approx(expected, rel=1e-5)


def test_the_gap_is_measured_in_evaluation_mode_and_the_mode_is_restored():
    model = torch.nn.Dropout(0.5).train()
    assert output_gap(model, torch.ones(1000), torch.ones(1000)) == 0
    assert model.training


def test_data_without_a_pair_is_named():
    with pytest.raises(MisconfigurationException, match="needs data with contrasting_windows, got BoringDataModule"):
        fit(BoringDataModule())
