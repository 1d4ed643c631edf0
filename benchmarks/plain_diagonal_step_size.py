"""The peers of the benchmark of diagonal linear networks: the same maths as one writes it first."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from zoo.diagonal_step_size import DiagonalLinear


class OrdinaryModule(pl.LightningModule):
    """One network and one step size: a step of ``torch.optim.SGD`` for each batch, which is all of the data."""

    def __init__(self, dim: int, lr: float, init_scale: float) -> None:
        super().__init__()
        self.network = DiagonalLinear(dim, init_scale=init_scale).double()
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return (self.network(x) - y).square().mean() / 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), lr=self.lr)


class RepeatedBatch(TensorDataset):
    """The same full batch for a number of steps."""

    def __init__(self, x: Tensor, y: Tensor, num_steps: int) -> None:
        super().__init__(x, y)
        self.num_steps = num_steps

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.tensors


def lightning(x: Tensor, y: Tensor, lr: float, init_scale: float, num_steps: int) -> Tensor:
    """Steps of an ordinary LightningModule with everything switched off that can be; returns the predictor."""
    module = OrdinaryModule(x.shape[1], lr, init_scale)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        barebones=True,
    )
    trainer.fit(module, DataLoader(RepeatedBatch(x, y, num_steps), batch_size=None))
    return module.network.beta.detach()


def autograd(x: Tensor, y: Tensor, lr: float, init_scale: float, num_steps: int) -> Tensor:
    """A loop of ``torch.optim.SGD`` on one network; returns the predictor."""
    network = DiagonalLinear(x.shape[1], init_scale=init_scale).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for _ in range(num_steps):
        optimizer.zero_grad()
        ((network(x) - y).square().mean() / 2).backward()
        optimizer.step()
    return network.beta.detach()


@torch.no_grad()
def closed_form(x: Tensor, y: Tensor, lr: float, init_scale: float, num_steps: int) -> Tensor:
    """A loop with the gradient in closed form; returns the predictor."""
    u, v = torch.full_like(x[0], 2 * init_scale), torch.zeros_like(x[0])
    x, y = x / math.sqrt(len(x)), y / math.sqrt(len(x))
    for _ in range(num_steps):
        step = lr * ((x @ (u * v) - y) @ x)
        u, v = u - v * step, v - u * step
    return u * v
