import io

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch.utils.data import DataLoader

from zoo.progress import EpochProgressBar


class Line(pl.LightningModule):
    """Fits one number."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        loss = (self.weight - batch).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(bar, tmp_path, max_epochs=3):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=max_epochs, callbacks=[bar], default_root_dir=tmp_path, **quiet)
    trainer.fit(Line(), DataLoader(torch.ones(4, 1), batch_size=2))


@pytest.fixture
def screen(monkeypatch):
    """What a terminal of 80 columns would show."""
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=80)
    monkeypatch.setattr("zoo.progress.Console", lambda **_: terminal)
    return written


def test_a_terminal_shows_epochs_time_left_and_metrics(screen, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.progress.REFRESH_SECONDS", 0.0)
    train(EpochProgressBar(), tmp_path)
    for part in ("Line", "epoch 3/3", "left", "loss "):
        assert part in screen.getvalue()


def test_a_file_gets_nothing(tmp_path, capsys):
    train(EpochProgressBar(), tmp_path)
    assert "epoch" not in "".join(capsys.readouterr())


def test_a_disabled_bar_shows_nothing(screen, tmp_path):
    bar = EpochProgressBar()
    bar.disable()
    train(bar, tmp_path)
    assert screen.getvalue() == ""


def test_the_bar_ends_with_an_error(screen, tmp_path, monkeypatch):
    def fail(self, batch, batch_idx):
        raise RuntimeError("no")

    monkeypatch.setattr(Line, "training_step", fail)
    bar = EpochProgressBar()
    with pytest.raises(RuntimeError, match="no"):
        train(bar, tmp_path)
    assert bar._progress is None
