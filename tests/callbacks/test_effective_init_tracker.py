import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, TensorDataset

from callbacks import EffectiveInitTracker
from callbacks.effective_init_tracker import log_shrinkage, pairs

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Product(nn.Module):
    """A weight that is a product, as a user may write it."""

    def __init__(self, dim, scale):
        super().__init__()
        self.u, self.v = nn.Parameter(torch.full((dim,), 2 * scale)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        return x @ (self.u * self.v)


class Multiply(nn.Module):
    def forward(self, first, second):
        return first * second

    def right_inverse(self, weight):
        return torch.ones_like(weight), weight


class Regression(pl.LightningModule):
    def __init__(self, network, lr=0.05, **options):
        super().__init__()
        self.network, self.options = network.double(), {"lr": lr, **options}

    def training_step(self, batch, batch_idx):
        x, y = batch
        return (self.network(x).squeeze(-1) - y).square().mean() / 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.network.parameters(), **self.options)


def loader():
    x = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    return DataLoader(TensorDataset(x, x[:, 0] - x[:, 1]), batch_size=5)


def train(folder, module, max_epochs=5, ckpt_path=None):
    tracker = EffectiveInitTracker()
    trainer = pl.Trainer(max_epochs=max_epochs, callbacks=[tracker], default_root_dir=folder, **QUIET)
    trainer.fit(module, loader(), ckpt_path=ckpt_path)
    return trainer, tracker


def test_the_shrinkage_is_that_of_the_squares():
    generator = torch.Generator().manual_seed(0)
    u, v, g = torch.randn(3, 50, dtype=torch.float64, generator=generator)
    lr = 0.7
    after, before = (u - lr * v * g) ** 2 - (v - lr * u * g) ** 2, u**2 - v**2
    torch.testing.assert_close(log_shrinkage(u, v, v * g, u * g, lr), (after / before).abs().log())


def test_a_pair_that_never_moves_does_not_shrink():
    zero = torch.zeros(2)
    assert log_shrinkage(zero, zero, zero, zero, 0.5).tolist() == [0, 0]


def test_the_identity_holds_for_plain_gradient_descent_on_any_batches(tmp_path):
    module = Regression(Product(6, 0.5))
    trainer, tracker = train(tmp_path, module)
    u, v = module.network.u, module.network.v
    torch.testing.assert_close(tracker.scale(), ((u**2 - v**2).abs().sqrt() / 2).detach())
    assert tracker.scale().min() < 0.49  # it has shrunk
    assert trainer.callback_metrics["effective_init/error"] < 1e-12
    assert trainer.callback_metrics["effective_init/scale"].item() == pytest.approx(tracker.scale().median().item())


@pytest.mark.parametrize("option", [{"momentum": 0.9}, {"weight_decay": 0.1}])
def test_the_error_shows_what_breaks_the_identity(tmp_path, option):
    trainer, _ = train(tmp_path, Regression(Product(6, 0.5), lr=0.02, **option))
    assert trainer.callback_metrics["effective_init/error"] > 1e-3


def test_a_parametrised_weight_is_a_pair(tmp_path):
    layer = parametrize.register_parametrization(nn.Linear(6, 1), "weight", Multiply())
    trainer, tracker = train(tmp_path, Regression(nn.Sequential(layer, nn.Identity()), lr=0.01))
    assert tracker.scale().shape == (6,)
    assert trainer.callback_metrics["effective_init/error"] < 1e-12


def test_a_resumed_training_has_all_of_the_shrinkage(tmp_path):
    _, whole = train(tmp_path, Regression(Product(6, 0.5)), 4)
    trainer, _ = train(tmp_path, Regression(Product(6, 0.5)), 2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = train(tmp_path, Regression(Product(6, 0.5)), 4, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(resumed.scale(), whole.scale())


def test_only_pairs_of_one_shape_are_taken():
    module = nn.Module()
    module.u, module.v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    assert pairs(module) == []


def test_a_module_without_a_pair_is_told_before_training(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"EffectiveInitTracker needs .* got Regression with none"):
        train(tmp_path, Regression(nn.Linear(6, 1)))
