"""Gradient descent on unconstrained-features models as a LightningModule: an epoch is a number of steps."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from zoo.unconstrained_features.hessian import hessian_eigenvalues
from zoo.unconstrained_features.measures import class_means, gram, measures
from zoo.unconstrained_features.model import UnconstrainedFeatures

HEAVY_BALL: OptimizerCallable = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
Curve = tuple[list[float], list[float]]


class UFMExperiment(LightningModule):
    """Descends on unconstrained-features models, all replicas at once, and logs how far they have collapsed.

    After every epoch it logs the means over the replicas of all :func:`~zoo.unconstrained_features.measures`, and
    ``steps``, their number so far; :class:`ReplicaHistory` keeps those of every replica. The epochs may grow, so that
    few of them show a fast beginning and a slow end: epoch e ends after
    ``steps_per_epoch * (1 + growth + ... + growth ** e)`` steps.

    Args:
        optimizer: Makes an optimizer of the parameters; heavy ball, lr 0.5 and momentum 0.9, by default. It should
            treat all numbers alike, as SGD and Adam do; L-BFGS is right for a single replica.
        steps_per_epoch: Steps in the first epoch.
        growth: Factor of the steps from one epoch to the next, at least 1; 1 makes all epochs equal.
        start_rank: Start at a critical point whose product has this rank, for all or for each of the replicas; ``None``
            starts at random.
        perturbation: Standard deviation of noise on the start, added after it has been measured; >= 0.
        hessian: Find the eigenvalues of the Hessian at the start, before the perturbation.
        **model: Arguments of :class:`~zoo.unconstrained_features.UnconstrainedFeatures`.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Zhou et al., ICML 2022; Tirer and Bruna, ICML 2022.
    """

    main_metric = None

    def __init__(
        self,
        optimizer: OptimizerCallable = HEAVY_BALL,
        steps_per_epoch: int = 10,
        growth: float = 1.1,
        start_rank: int | Sequence[int] | None = None,
        perturbation: float = 0.0,
        hessian: bool = False,
        **model: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="optimizer")
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}")
        if not growth >= 1:
            raise ValueError(f"growth must be at least 1, got {growth}")
        if not perturbation >= 0:
            raise ValueError(f"perturbation must be >= 0, got {perturbation}")
        self.automatic_optimization = False
        self.make_optimizer = optimizer
        self.model = UnconstrainedFeatures(dtype=torch.float64, generator=None, **model)
        size = sum(parameter[0].numel() for parameter in self.model.parameters())
        if hessian and size > MAX_HESSIAN:
            raise ValueError(f"hessian must be false beyond {MAX_HESSIAN} parameters of a replica, got {size}")
        if start_rank is not None:
            self.model.place(self._critical_points(start_rank))
        self.found: dict[str, Tensor] = {}

    def _critical_points(self, start_rank: int | Sequence[int]) -> dict[str, Tensor]:
        """A critical point for each replica, of its own rank."""
        num_replicas = self.model.problem.num_replicas
        ranks = [start_rank] * num_replicas if isinstance(start_rank, int) else list(start_rank)
        if len(ranks) != num_replicas:
            raise ValueError(f"start_rank must be one rank, or one for each of {num_replicas} replicas, got {ranks}")
        points = [self.model.critical_point(rank) for rank in ranks]
        return {name: torch.stack([point[name][i] for i, point in enumerate(points)]) for name in points[0]}

    def steps_until(self, epoch: int) -> int:
        """Number of steps before an epoch."""
        first, growth = self.hparams["steps_per_epoch"], self.hparams["growth"]
        return round(first * (epoch if growth == 1 else (growth**epoch - 1) / (growth - 1)))

    def configure_callbacks(self) -> list[Callback]:
        return [ReplicaHistory()]

    def train_dataloader(self) -> DataLoader:
        """One chunk of steps an epoch; the features are parameters, and no data."""
        return DataLoader(torch.zeros(1))  # type: ignore[arg-type]

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        num_steps = self.steps_until(self.current_epoch + 1) - self.steps_until(self.current_epoch)
        optimizer = self.optimizers()
        # One step goes through Lightning's wrapper, which counts it and is slow: checkpoints are kept by this count.
        self.model.run(optimizer.optimizer, num_steps - 1)  # type: ignore[union-attr]
        self.model.run(optimizer, 1)  # type: ignore[arg-type]
        self.found = measures(self.model)
        values = {name: value.mean() for name, value in self.found.items()}
        self.log_dict(values | {"steps": float(self.steps_until(self.current_epoch + 1))}, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.model.parameters())


MAX_HESSIAN = 2000


class ReplicaHistory(Callback):
    """Keeps what every replica of a :class:`UFMExperiment` has measured, from before the first step on.

    ``final_curves`` has every measure of every replica over the steps (``"H1/nc1/0"`` is that of the first); the final
    inner products of the class means, row by row (``"H1/gram/0"``); and the eigenvalues of the Hessian at the start
    (``"hessian/0"``), where they were asked for. Checkpoints keep it all.
    """

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.values: dict[str, list[list[float]]] = {}
        self.others: dict[str, list[float]] = {}

    @property
    def final_curves(self) -> dict[str, Curve]:
        """Curves by name: x and y."""
        measured = {
            f"{name}/{i}": (self.steps, list(values))
            for name, rows in self.values.items()
            for i, values in enumerate(zip(*rows))
        }
        return measured | {name: ([float(i) for i in range(len(y))], y) for name, y in self.others.items()}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, UFMExperiment)
        if self.steps:  # the run goes on
            return
        model = pl_module.model
        self._record(0, measures(model))
        if pl_module.hparams["hessian"]:
            for i in range(model.problem.num_replicas):
                self.others[f"hessian/{i}"] = hessian_eigenvalues(model, i).tolist()
        model.perturb(pl_module.hparams["perturbation"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, UFMExperiment)
        self._record(pl_module.steps_until(trainer.current_epoch + 1), pl_module.found)

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, UFMExperiment)
        model = pl_module.model
        zero = pl_module.found[f"H{model.problem.depth}/nc1"].isnan().nonzero().flatten().tolist()
        if zero:
            rank_zero_warn(f"Replicas {', '.join(map(str, zero))} have collapsed to zero: their directions are NaN.")
        for layer, features in enumerate(model.layer_features(), start=1):
            products = gram(class_means(features, model.problem.num_classes))
            self.others |= {f"H{layer}/gram/{i}": one.flatten().tolist() for i, one in enumerate(products)}

    def _record(self, step: int, found: dict[str, Tensor]) -> None:
        self.steps.append(float(step))
        for name, value in found.items():
            self.values.setdefault(name, []).append(value.tolist())

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values, "others": self.others}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.values, self.others = (state_dict[name] for name in ("steps", "values", "others"))
