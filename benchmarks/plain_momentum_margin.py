"""Gradient descent with momentum on the margin problem as one would first write it: autograd, one seed, one step."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from zoo.momentum_margin import CubicPatchCNN, heavy_ball_lr


def plain_loop(net: CubicPatchCNN, x: Tensor, y: Tensor, lr: float, momentum: float, num_steps: int) -> None:
    """Train a network with ``torch.optim.SGD``.

    Args:
        net: The network.
        x: Patches, ``(N, P, d)``.
        y: Labels, -1 or 1, ``(N,)``.
        lr: Step size in the averaged form.
        momentum: In [0, 1).
        num_steps: How many full-batch steps.
    """
    optimizer = torch.optim.SGD(net.parameters(), heavy_ball_lr(lr, momentum), momentum)
    for _ in range(num_steps):
        optimizer.zero_grad()
        F.softplus(-y * net(x)).mean().backward()
        optimizer.step()


class PlainModule(pl.LightningModule):
    """The same as an ordinary LightningModule: a batch is one step, and its loss is logged.

    Args:
        net: The network.
        x: Patches, ``(N, P, d)``.
        y: Labels, -1 or 1, ``(N,)``.
        lr: Step size in the averaged form.
        momentum: In [0, 1).
        steps_per_epoch: How often an epoch has the one batch; 1 is usual, more spares the ends of epochs.
    """

    def __init__(
        self, net: CubicPatchCNN, x: Tensor, y: Tensor, lr: float, momentum: float, steps_per_epoch: int
    ) -> None:
        super().__init__()
        self.net, self.x, self.y = net, x, y
        self.lr, self.momentum, self.steps_per_epoch = lr, momentum, steps_per_epoch

    def train_dataloader(self) -> DataLoader:
        repeated = TensorDataset(torch.zeros(self.steps_per_epoch))
        return DataLoader(repeated, collate_fn=lambda _: (self.x, self.y))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.softplus(-y * self.net(x)).mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), heavy_ball_lr(self.lr, self.momentum), self.momentum)
