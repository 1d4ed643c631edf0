"""The two experiments: samples with a feature at two margins, and a teacher whose inputs have no such structure."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor

from zoo.momentum_margin.descent import StackedDescent, accuracies, group_means, logistic_losses
from zoo.momentum_margin.diagnostics import feature_alignment, noise_memorization
from zoo.momentum_margin.settings import Convention
from zoo.momentum_margin.stacks import StackedPatchCNN, StackedPerceptron, logistic_slope, sum_of_cubes


class MarginExperiment(StackedDescent):
    r"""Trains cubic networks on samples of large and of small margin, and tells what of these they learn or memorise.

    After every epoch it logs, as means over the replicas:

    - ``train/acc`` and ``train/loss``; ``train/loss_large`` and ``train/loss_small``, by margin;
      ``train/slope_large`` and ``train/slope_small``, :math:`\tfrac 1 N \sum \sigma(-y f)` over either group, which
      tells who drives the descent;
    - ``feature/max`` and ``feature/cosine``, how much of the feature is in the best filter
      (:func:`~zoo.momentum_margin.diagnostics.feature_alignment`);
    - ``noise/large`` and ``noise/small``, the memorised noise by margin
      (:func:`~zoo.momentum_margin.diagnostics.noise_memorization`);
    - ``test/acc_large`` and ``test/acc_small``, held-out accuracy by margin;
    - ``updates``, how many steps a replica has made before it stopped.

    A batch is that of ``datamodules.MarginPatchDataModule``: patches ``x``, labels ``y`` of -1 and 1, ``small_margin``,
    ``signal_patch`` and the feature ``signal``, all with a leading axis of problems.

    Args:
        num_problems: Problems A; the datamodule's.
        dim: Dimensions d of a patch; the datamodule's.
        num_filters: Filters of a network.
        init_std: Standard deviation of the filters at the start, > 0. From 0.1 on noise and feature grow at once.
        lr: Step size, or one for each setting, > 0. Beyond 1 / alpha² descent without momentum overshoots, too.
        momentum: Momentum, or one for each setting, in [0, 1).
        lr_convention: See :class:`~zoo.momentum_margin.descent.StackedDescent`.
        nesterov: Look ahead, as Nesterov does.
        optimizer: Makes another optimizer, in place of ``lr``, ``momentum`` and ``nesterov``.
        stop_loss: A replica stops where the mean losses of both margins are below this; ``None`` for never.
        steps_per_epoch: Steps in the first epoch.
        growth: Factor of the steps from one epoch to the next, at least 1.

    Raises:
        ValueError: If an argument is out of range, or (when training begins) a label is neither -1 nor 1.
        DivergenceError: At the end of an epoch in which a training has diverged.

    Source:
        Jelassi and Li, *Towards understanding how momentum improves generalization in deep learning*, ICML 2022.
    """

    main_metric = "test/acc_small"
    net: StackedPatchCNN

    def __init__(
        self,
        num_problems: int = 1,
        dim: int = 200,
        num_filters: int = 8,
        init_std: float = 0.01,
        lr: float | Sequence[float] = 1.0,
        momentum: float | Sequence[float] = 0.0,
        lr_convention: Convention = "ema",
        nesterov: bool = False,
        optimizer: OptimizerCallable | None = None,
        stop_loss: float | None = 0.01,
        steps_per_epoch: int = 10,
        growth: float = 1.1,
    ) -> None:
        super().__init__(
            num_problems, lr, momentum, lr_convention, nesterov, optimizer, stop_loss, steps_per_epoch, growth
        )
        self.save_hyperparameters(ignore="optimizer")
        self.net = StackedPatchCNN(num_problems, len(self.rates), dim, num_filters, init_std)

    def groups(self, batch: Any) -> Tensor:
        return torch.stack([~batch.small_margin, batch.small_margin], dim=1)

    @torch.no_grad()
    def measures(self, batch: Any) -> dict[str, Tensor]:
        found = super().measures(batch)
        products, groups = self.net.products(batch.x), self.groups(batch)
        logits = sum_of_cubes(products)
        found |= by_margin("train/loss", group_means(logistic_losses(logits, batch.y), groups))
        slopes = logistic_slope(logits, batch.y).abs()
        found |= by_margin("train/slope", slopes @ groups.mT.to(slopes.dtype))
        largest, cosine = feature_alignment(self.net.weight, batch.signal.unsqueeze(1))
        found |= {"feature/max": largest.flatten(), "feature/cosine": cosine.flatten()}
        memorized = noise_memorization(products.movedim(2, 4), batch.signal_patch.unsqueeze(1))
        return found | by_margin("noise", group_means(memorized, groups), "/")

    def held_out(self, batch: Any) -> dict[str, Tensor]:
        return by_margin("test/acc", group_means(accuracies(self.logits(batch), batch.y), self.groups(batch)))


class TeacherExperiment(StackedDescent):
    """Trains two-layer ReLU networks on what a teacher has labelled, where no feature has a margin: the control.

    After every epoch it logs, as means over the replicas, ``train/acc``, ``train/loss``, ``test/acc`` and ``updates``.

    A batch is that of ``datamodules.TeacherDataModule``: inputs ``x`` and labels ``y`` of -1 and 1, both with a leading
    axis of problems.

    Args:
        num_problems: Problems A; the datamodule's.
        dim: Inputs d; the datamodule's.
        hidden_dim: Hidden units of a network.
        lr: Step size, or one for each setting, > 0.
        momentum: Momentum, or one for each setting, in [0, 1).
        lr_convention: See :class:`~zoo.momentum_margin.descent.StackedDescent`.
        nesterov: Look ahead, as Nesterov does.
        optimizer: Makes another optimizer, in place of ``lr``, ``momentum`` and ``nesterov``.
        stop_loss: A replica stops where the mean loss is below this; ``None`` for never.
        steps_per_epoch: Steps in the first epoch.
        growth: Factor of the steps from one epoch to the next, at least 1.

    Raises:
        ValueError: If an argument is out of range, or (when training begins) a label is neither -1 nor 1.
        DivergenceError: At the end of an epoch in which a training has diverged.

    Source:
        Jelassi and Li, ICML 2022, the experiments on Gaussian inputs.
    """

    main_metric = "test/acc"
    net: StackedPerceptron

    def __init__(
        self,
        num_problems: int = 1,
        dim: int = 30,
        hidden_dim: int = 100,
        lr: float | Sequence[float] = 0.5,
        momentum: float | Sequence[float] = 0.0,
        lr_convention: Convention = "ema",
        nesterov: bool = False,
        optimizer: OptimizerCallable | None = None,
        stop_loss: float | None = None,
        steps_per_epoch: int = 10,
        growth: float = 1.1,
    ) -> None:
        super().__init__(
            num_problems, lr, momentum, lr_convention, nesterov, optimizer, stop_loss, steps_per_epoch, growth
        )
        self.save_hyperparameters(ignore="optimizer")
        self.net = StackedPerceptron(num_problems, len(self.rates), dim, hidden_dim)

    def groups(self, batch: Any) -> Tensor:
        return torch.ones_like(batch.y, dtype=torch.bool).unsqueeze(1)

    def held_out(self, batch: Any) -> dict[str, Tensor]:
        return {"test/acc": accuracies(self.logits(batch), batch.y).mean(dim=-1).flatten()}


def by_margin(name: str, values: Tensor, separator: str = "_") -> dict[str, Tensor]:
    """Values ``(A, S, 2)`` of samples of large and of small margin, by name, ``(R,)`` each."""
    large, small = values.flatten(0, 1).unbind(dim=1)
    return {f"{name}{separator}large": large, f"{name}{separator}small": small}
