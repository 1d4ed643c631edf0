import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Points(pl.LightningDataModule):
    """Three classes of points, shifted while they are augmented."""

    augment = True
    num_classes = 3

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.y = torch.arange(96) % 3
        self.x = 3 * F.one_hot(self.y, 4).float() + torch.randn(96, 4, generator=generator)

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.x + 1000 * self.augment, self.y), batch_size=32)


class Scores(pl.LightningModule):
    """A user's own module, whose training shuffles a little."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Start(pl.Callback):
    """Notes the weights before the first step."""

    def on_train_start(self, trainer, pl_module):
        self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}


@pytest.fixture
def module():
    return scores()


def scores(seed=0):
    torch.manual_seed(seed)
    return Scores()


@pytest.fixture
def fit(tmp_path):
    """Fits a module; gives the weights before the first step."""

    def run(module, *callbacks, epochs=2, seed=0, ckpt_path=None, **options):
        pl.seed_everything(seed)
        start = Start()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        defaults = {"enable_checkpointing": False, "default_root_dir": tmp_path, "max_epochs": epochs}
        trainer = pl.Trainer(callbacks=[*callbacks, start], **(quiet | defaults | options))
        trainer.fit(module, datamodule=Points(), ckpt_path=ckpt_path)
        return start.state

    return run
