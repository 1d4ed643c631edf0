"""The plain sides of the benchmark compute what the sweep computes, or their speeds could not be compared."""

import importlib.util
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules import MarginPatchDataModule
from zoo.momentum_margin import CubicPatchCNN, MarginExperiment

PLAIN = Path(__file__).parents[2] / "benchmarks/plain_momentum_margin.py"
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def plain():
    spec = importlib.util.spec_from_file_location("plain_momentum_margin", PLAIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_sides_come_to_the_same_filters(plain):
    torch.manual_seed(0)
    data = MarginPatchDataModule(num_train=30, num_test=1, dim=20, seed=0)
    x, y = data.train.x[0], data.train.y[0]
    sweep = MarginExperiment(1, 20, num_filters=3, momentum=[0.5, 0.9], stop_loss=None, steps_per_epoch=50)
    loop, module = CubicPatchCNN(20, 3), CubicPatchCNN(20, 3)
    for net in (loop, module):
        net.weight.data = sweep.net.weight[0, 1].detach().clone()
    options = {"max_epochs": 1, "limit_val_batches": 0, "enable_checkpointing": False, **QUIET}
    pl.Trainer(**options).fit(sweep, datamodule=data)
    plain.plain_loop(loop, x, y, 1.0, 0.9, 50)
    pl.Trainer(**options).fit(plain.PlainModule(module, x, y, 1.0, 0.9, 50))
    for net in (loop, module):
        torch.testing.assert_close(net.weight, sweep.net.weight[0, 1], rtol=1e-4, atol=1e-5)
