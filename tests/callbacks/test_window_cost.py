import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data

from callbacks import WindowCostMonitor


class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        return self.layer(batch.x).sigmoid().mean()


def batches(num=8, windows=3):
    graph = Data(x=torch.randn(10, 32), edge_index=torch.randint(10, (2, 7)))
    return DataLoader([Batch.from_data_list([graph] * windows)] * num, batch_size=None)


def fit(loader, epochs=1, model=None, **args):
    monitor = WindowCostMonitor(**args)
    trainer = pl.Trainer(
        max_epochs=epochs, logger=False, accelerator="cpu", callbacks=[monitor], enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(model or Model(), loader)
    return monitor


def test_steps_after_the_warm_up_are_counted():
    monitor = fit(batches(), epochs=2, warmup=5)
    assert (monitor.steps, monitor.windows) == (16, 33)
    assert monitor.final_metrics["cost/edges_per_window"] == 7
    assert 0 < monitor.final_metrics["cost/ms_per_window"] < 1e3
    assert 0 < monitor.final_metrics["cost/cpu_ms_per_window"] < 1e3


def test_a_resumed_run_counts_on_and_warms_up_again():
    whole, half, resumed = fit(batches(), epochs=2, warmup=5), fit(batches(), warmup=5), WindowCostMonitor(warmup=5)
    resumed.load_state_dict(half.state_dict())
    trainer = pl.Trainer(
        max_epochs=1, logger=False, accelerator="cpu", callbacks=[resumed], enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(Model(), batches())
    assert (resumed.steps, resumed.windows, resumed.edges) == (whole.steps, whole.windows, whole.edges)
    assert (half.timed_windows, resumed.timed_windows, whole.timed_windows) == (9, 18, 33)
    assert resumed.final_metrics["cost/saved_mb_per_window"] == half.final_metrics["cost/saved_mb_per_window"]


def test_memory_is_what_the_forward_pass_keeps():
    monitor = fit(batches(num=1), warmup=0)  # the input of the layer, and what the sigmoid gave; 30 rows
    expected = 4 * (30 * 32 + 30 * 2)
    assert monitor.saved_bytes == pytest.approx(expected, abs=2 * 32 * 4)  # the weight, where it is kept
    assert monitor.final_metrics["cost/saved_mb_per_window"] == pytest.approx(1e-6 * monitor.saved_bytes / 3)


def test_memory_inside_of_a_wrapper_is_counted():
    index = EdgeIndex(torch.tensor([[0, 1, 2], [1, 2, 0]]), sparse_size=(3, 3), sort_order="row")

    class Product(Model):
        def training_step(self, batch, batch_idx):
            return index.matmul(self.layer(batch.x[:3]), torch.rand(3)).mean()

    monitor = fit(batches(num=1), warmup=0, model=Product())
    assert monitor.saved_bytes >= 4 * 3 * 32 + 8 * 2 * 3  # the input of the layer, and both rows of the index


def test_training_is_what_it_is_without_the_monitor():
    weights = []
    for warmup in (0, 3):
        pl.seed_everything(0)
        model = Model()
        loader = batches()
        if warmup:
            fit(loader, model=model, warmup=warmup)
        else:
            trainer = pl.Trainer(
                max_epochs=1, logger=False, accelerator="cpu", enable_progress_bar=False,
                enable_checkpointing=False, enable_model_summary=False, limit_val_batches=0,
            )  # fmt: skip
            trainer.fit(model, loader)
        weights.append(model.layer.weight.detach())
    assert torch.equal(*weights)


def test_nothing_is_told_before_the_warm_up_is_over():
    assert fit(batches(num=2), warmup=5).final_metrics == {}


def test_hooks_are_taken_away_after_an_exception():
    class Failing(Model):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fit(batches(), model=Failing())
    monitor = fit(batches(num=1), warmup=0)
    kept = monitor.saved_bytes
    torch.ones(3, requires_grad=True).exp().sum().backward()
    assert monitor.saved_bytes == kept


def test_batches_of_another_kind_are_named():
    with pytest.raises(MisconfigurationException, match="needs batches with edge_index and ptr, got Tensor"):
        fit(DataLoader(torch.randn(4, 32)))


def test_the_warm_up_must_not_be_negative():
    with pytest.raises(ValueError, match="warmup must be 0 or more, got -1"):
        WindowCostMonitor(warmup=-1)
