import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torch_geometric.data import Data


class Scores(pl.LightningModule):
    """A user's own module: its scores are the nodes' features."""

    def test_step(self, batch, batch_idx):
        pass

    def predict_step(self, batch, batch_idx):
        return batch.x


@pytest.fixture
def module():
    return Scores()


@pytest.fixture
def graph():
    """Thirty nodes in two halves that are not connected, every third of them tested."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(15, (2, 40), generator=generator)
    edges = torch.cat([edges, edges + 15], dim=1)
    return Data(
        x=torch.randn(30, 4, generator=generator),
        edge_index=torch.cat([edges, edges.flip(0)], dim=1).unique(dim=1),
        y=torch.randint(4, (30,), generator=generator),
        test_mask=torch.arange(30) % 3 == 0,
    )


@pytest.fixture
def test(module, tmp_path):
    """Tests the module on graphs with a callback; gives what was logged."""

    def run(callback, graphs):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = pl.Trainer(callbacks=[callback], default_root_dir=tmp_path, **quiet)
        trainer.test(module, DataLoader(graphs, batch_size=None), verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    return run
