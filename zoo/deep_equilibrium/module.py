"""Deep equilibrium networks on images, many initialisations at once."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.classifier import full_precision
from zoo.deep_equilibrium.activation import ActivationName
from zoo.deep_equilibrium.cell import InjectionCell
from zoo.deep_equilibrium.initialisation import Family, Normalization
from zoo.deep_equilibrium.layer import Gradient, IfNotConverged
from zoo.deep_equilibrium.network import DEQNetwork
from zoo.deep_equilibrium.regularization import jacobian_penalty
from zoo.deep_equilibrium.replica_mean import ReplicaMean
from zoo.deep_equilibrium.solvers import FixedPointSolver

ADAM: OptimizerCallable = partial(torch.optim.Adam, lr=1e-3)


class DEQClassifier(LightningModule):
    """Trains deep equilibrium networks from several scales of the initial weights, some replicas of each, in one stack.

    They share the batches and nothing else: the loss is the sum of theirs, which an optimizer that treats numbers one
    by one does not notice. Losses and accuracies are logged as means over the replicas, and of each as
    ``test/acc/<replica>``; those of the first scale come first. A replica whose gradient is not finite is passed over
    in that step, and ``train/diverged`` counts those whose loss has been infinite or NaN in the epoch.

    Args:
        num_classes: Number of classes K.
        input_shape: Of an input.
        width: Dimension N of the state.
        activation: ``"linear"``, ``"relu"``, ``"tanh"`` or ``"hardtanh"``.
        family: Of the initial weights: ``"iid"``, ``"orthogonal"``, ``"goe"`` or ``"symmetric_orthogonal"``.
        sigma_w: Their scale, or several.
        normalization: What the scale means for ``"goe"``; see :func:`~zoo.deep_equilibrium.deq_init_`.
        num_replicas: Networks of each scale.
        solver: Of the states; 40 iterations, relative tolerance 1e-4 by default.
        backward_solver: Of the gradients; as ``solver`` if ``None``.
        gradient: ``"implicit"``, ``"phantom"`` or ``"unrolled"``; see :class:`~zoo.deep_equilibrium.DEQ`.
        phantom_steps: Iterations of the phantom gradient.
        phantom_damping: Share of each that is taken.
        jacobian_weight: Of the penalty on the Jacobian, >= 0; see :func:`~zoo.deep_equilibrium.jacobian_penalty`.
        if_not_converged: ``"warn"``, ``"error"`` or ``"ignore"``.
        optimizer: Makes an optimizer of the parameters; Adam with lr 1e-3 by default.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Agarwala and Schoenholz, ICML 2022; the protocol is this room's own.

    Example:
        >>> model = DEQClassifier(10, (1, 28, 28), width=16, sigma_w=[0.7, 0.9], num_replicas=3)
        >>> model(torch.randn(5, 1, 28, 28)).shape
        torch.Size([6, 5, 10])
    """

    main_metric = "val/acc"

    def __init__(
        self,
        num_classes: int,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        width: int = 128,
        activation: ActivationName = "linear",
        family: Family = "orthogonal",
        sigma_w: float | Sequence[float] = 0.95,
        normalization: Normalization = "spectral",
        num_replicas: int = 1,
        solver: FixedPointSolver | None = None,
        backward_solver: FixedPointSolver | None = None,
        gradient: Gradient = "implicit",
        phantom_steps: int = 1,
        phantom_damping: float = 1.0,
        jacobian_weight: float = 0.0,
        if_not_converged: IfNotConverged = "warn",
        optimizer: OptimizerCallable = ADAM,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["solver", "backward_solver", "optimizer"])
        scales = torch.tensor([sigma_w] if isinstance(sigma_w, (int, float)) else list(sigma_w))
        if not len(scales):
            raise ValueError(f"sigma_w must be a number or a list of some, got {sigma_w}")
        if num_replicas < 1:
            raise ValueError(f"num_replicas must be at least 1, got {num_replicas}")
        if not 0 <= jacobian_weight < math.inf:
            raise ValueError(f"jacobian_weight must be >= 0, got {jacobian_weight}")
        stack = len(scales) * num_replicas
        cell = InjectionCell(
            width, activation, family, scales.repeat_interleave(num_replicas), normalization, num_replicas=stack
        )
        self.net = DEQNetwork(
            math.prod(input_shape),
            num_classes,
            cell,
            solver=solver,
            backward_solver=backward_solver,
            gradient=gradient,
            phantom_steps=phantom_steps,
            phantom_damping=phantom_damping,
            if_not_converged=if_not_converged,
        )
        self.jacobian_weight = jacobian_weight
        self.make_optimizer = optimizer
        parts = [f"{part}_{measure}" for part in ("train", "val", "test") for measure in ("loss", "acc")]
        self.means = nn.ModuleDict({name: ReplicaMean(stack) for name in parts})

    def forward(self, x: Tensor) -> Tensor:
        """Logits of all replicas, shape ``(R, B, K)``."""
        return self.net(x)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, y, *_ = batch
        u = self.net.inject(x)
        z = self.net.deq(u)
        loss = self._measure("train", self.net.readout(z), y).mean(1).sum()
        if self.jacobian_weight:
            with torch.autocast(x.device.type, enabled=False):
                penalty = jacobian_penalty(partial(_step, self.net.cell, full_precision(u)), z, batch_dims=2)
            loss = loss + self.jacobian_weight * penalty.mean(1).sum()
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._measure("val", self(batch[0]), batch[1])

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._measure("test", self(batch[0]), batch[1])

    def predict_step(self, batch: Sequence[Tensor] | Tensor, batch_idx: int) -> Tensor:
        return self(batch if isinstance(batch, Tensor) else batch[0])

    def _measure(self, part: str, logits: Tensor, y: Tensor) -> Tensor:
        """Count a batch for the epoch's means; returns the loss of every replica and sample, ``(R, B)``."""
        logits = full_precision(logits)
        labels = y.expand(len(logits), -1)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        right = (logits.argmax(2) == labels) & logits.isfinite().all(2)
        self._mean(part, "loss").update(losses.detach())
        self._mean(part, "acc").update(right.to(losses.dtype))
        return losses

    def _mean(self, part: str, measure: str) -> ReplicaMean:
        metric = self.means[f"{part}_{measure}"]
        assert isinstance(metric, ReplicaMean)
        return metric

    def on_train_epoch_end(self) -> None:
        self._log_means("train")

    def on_validation_epoch_end(self) -> None:
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    def _log_means(self, part: str) -> None:
        for measure in ("loss", "acc"):
            metric = self._mean(part, measure)
            values, left_out = map(torch.atleast_1d, metric.compute())
            self.log(f"{part}/{measure}", values.mean(), prog_bar=True)
            if len(values) > 1:
                self.log_dict({f"{part}/{measure}/{i}": value for i, value in enumerate(values)})
            if (part, measure) == ("train", "loss"):
                self.log("train/diverged", left_out.sum().float())
            metric.reset()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Set the gradient of a replica to 0 where a part of it is not finite."""
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        broken = ~torch.stack([gradient.flatten(1).isfinite().all(1) for gradient in gradients]).all(0)
        for gradient in gradients:
            gradient.masked_fill_(broken.view(-1, *(1,) * (gradient.dim() - 1)), 0.0)

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.net.parameters())


def _step(cell: InjectionCell, u: Tensor, z: Tensor) -> Tensor:
    return cell(z, u)
