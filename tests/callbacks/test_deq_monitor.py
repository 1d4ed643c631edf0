from dataclasses import dataclass

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from callbacks.deq_monitor import DEQMonitor

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}


@dataclass
class Stats:
    num_iterations: torch.Tensor
    residual: torch.Tensor
    converged: torch.Tensor


class Linear(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, z, u):
        return z @ self.weight.T + u


class Layer(torch.nn.Module):
    """A layer of a user, which solves densely and counts its calls as iterations."""

    batch_dims = 1

    def __init__(self, weight):
        super().__init__()
        self.f = Linear(weight)
        self.calls = 0
        self.forward_stats = self.backward_stats = None

    def forward(self, u):
        self.calls += 1
        z = torch.linalg.solve(torch.eye(u.shape[1]) - self.f.weight, u.T).T
        residual = (self.f(z, u) - z).norm(dim=1).detach()
        self.forward_stats = Stats(torch.full((len(u),), self.calls), residual, residual < 1)
        return z


class Net(pl.LightningModule):
    def __init__(self, *layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def training_step(self, u, batch_idx):
        for layer in self.layers:
            u = layer(u)
        return u.square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def watch(*layers, callback=None, max_epochs=1, num_batches=3):
    callback = callback or DEQMonitor()
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(4 * num_batches, layers[0].f.weight.shape[0] if layers else 2, generator=generator)
    trainer = pl.Trainer(max_epochs=max_epochs, callbacks=[callback], accelerator="cpu", **QUIET)
    trainer.fit(Net(*layers), DataLoader(u, batch_size=4))
    return {name: value.item() for name, value in trainer.callback_metrics.items()}, u[:4]


def turn(angle=1.0, scale=0.5):
    a = torch.tensor(angle)
    return scale * torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])


def test_solver_and_stability_are_logged_after_an_epoch():
    logged, u = watch(Layer(turn()), num_batches=3)
    assert logged["deq/forward_iterations"] == 2  # of calls 1, 2 and 3
    assert logged["deq/forward_max_iterations"] == 3
    assert logged["deq/forward_converged"] == 1
    assert logged["deq/forward_residual"] <= logged["deq/forward_max_residual"] < 1e-5
    assert logged["deq/spectral_radius"] == pytest.approx(0.5, rel=1e-4)  # before the first step
    assert logged["deq/non_normality"] == pytest.approx(0, abs=1e-6)
    z = torch.linalg.solve(torch.eye(2) - turn(), u.T).T
    ratios = z.square().sum(1) / u.square().sum(1)
    assert logged["deq/length_map"] == pytest.approx(ratios.mean().item(), rel=1e-5)
    assert not any("backward" in name for name in logged)  # this layer tells nothing of it


def test_an_epoch_is_measured_at_its_own_first_batch():
    once, _ = watch(Layer(turn()))
    twice, _ = watch(Layer(turn()), max_epochs=2)
    assert twice["deq/spectral_radius"] != once["deq/spectral_radius"]
    assert twice["deq/forward_iterations"] == 5  # of calls 4, 5 and 6


def test_several_layers_are_told_apart():
    logged, _ = watch(Layer(turn(scale=0.5)), Layer(turn(scale=0.25)))
    assert logged["deq/layers.0/spectral_radius"] == pytest.approx(0.5, rel=1e-4)
    assert logged["deq/layers.1/spectral_radius"] == pytest.approx(0.25, rel=1e-4)


def test_watching_changes_nothing():
    watched, bare = Layer(turn()), Layer(turn())
    torch.manual_seed(0)
    watch(watched, max_epochs=2)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    watch(bare, callback=pl.Callback(), max_epochs=2)
    assert torch.equal(watched.f.weight, bare.f.weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert not watched._forward_hooks


def test_the_spectral_radius_may_be_left_out():
    logged, _ = watch(Layer(turn()), callback=DEQMonitor(num_steps=0))
    assert "deq/spectral_radius" not in logged
    assert "deq/length_map" in logged


def test_a_model_without_such_a_layer_is_told_before_training():
    trainer = pl.Trainer(max_epochs=1, callbacks=[DEQMonitor()], accelerator="cpu", **QUIET)
    with pytest.raises(MisconfigurationException, match="DEQMonitor needs a layer with f"):
        trainer.fit(BoringModel())


@pytest.mark.parametrize("num_steps", [1, -1])
def test_an_impossible_number_of_products_is_refused(num_steps):
    with pytest.raises(ValueError, match=f"num_steps must be 0 or at least 2, got {num_steps}"):
        DEQMonitor(num_steps=num_steps)
