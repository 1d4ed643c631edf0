import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torch_geometric.data import Data
from torch_geometric.utils import stochastic_blockmodel_graph


def small_graph(num_nodes=60, num_features=20, num_classes=3, seed=0):
    """Three communities whose words betray them a little."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    probs = torch.full((num_classes, num_classes), 0.02) + 0.18 * torch.eye(num_classes)
    edge_index = stochastic_blockmodel_graph([num_nodes // num_classes] * num_classes, probs)
    y = torch.arange(num_classes).repeat_interleave(num_nodes // num_classes)
    rate = torch.full((num_nodes, num_features), 0.15)
    rate[torch.arange(num_nodes), y] = 0.6
    raw_x = torch.bernoulli(rate, generator=generator)
    raw_x[0] = 0  # a node without a word
    x = raw_x / raw_x.sum(dim=1, keepdim=True).clamp_min(1)
    order = torch.randperm(num_nodes, generator=generator)
    masks = torch.zeros(3, num_nodes, dtype=torch.bool)
    for mask, nodes in zip(masks, order.split([15, 15, 30])):
        mask[nodes] = True
    train, val, test = masks
    return Data(
        x=x,
        raw_x=raw_x,
        edge_index=edge_index,
        y=y,
        train_mask=train,
        val_mask=val,
        test_mask=test,
        num_nodes=num_nodes,
    )


class SmallGraphDataModule(pl.LightningDataModule):
    def __init__(self, data=None):
        super().__init__()
        self.data = data or small_graph()

    def train_dataloader(self):
        # a loader draws a seed in every epoch; its own generator leaves the global stream to the model
        return DataLoader([self.data], batch_size=None, generator=torch.Generator())

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


@pytest.fixture
def data():
    return small_graph()


@pytest.fixture
def datamodule():
    return SmallGraphDataModule()


@pytest.fixture
def quiet_trainer(tmp_path):
    def make(**options):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        defaults = {"accelerator": "cpu", "max_epochs": 3, "default_root_dir": tmp_path, "enable_checkpointing": False}
        return pl.Trainer(**(quiet | defaults | options))

    return make
