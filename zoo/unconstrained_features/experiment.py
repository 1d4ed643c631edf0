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

from zoo.simulation import Curve, ReplicaHistory, Simulation, no_data
from zoo.unconstrained_features.hessian import hessian_eigenvalues
from zoo.unconstrained_features.measures import class_means, gram, measures
from zoo.unconstrained_features.model import UnconstrainedFeatures

HEAVY_BALL: OptimizerCallable = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
MAX_HESSIAN = 2000


class UFMExperiment(Simulation):
    """Descends on unconstrained-features models, all replicas at once, and logs how far they have collapsed.

    See :class:`~zoo.simulation.Simulation` for epochs, and :func:`~zoo.unconstrained_features.measures` for what is
    logged after each; :class:`Endpoints` keeps what is measured only once.

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
        super().__init__(steps_per_epoch, growth)
        self.save_hyperparameters(ignore="optimizer")
        if not perturbation >= 0:
            raise ValueError(f"perturbation must be >= 0, got {perturbation}")
        self.make_optimizer = optimizer
        self.model = UnconstrainedFeatures(dtype=torch.float64, generator=None, **model)
        size = sum(parameter[0].numel() for parameter in self.model.parameters())
        if hessian and size > MAX_HESSIAN:
            raise ValueError(f"hessian must be false beyond {MAX_HESSIAN} parameters of a replica, got {size}")
        if start_rank is not None:
            self.model.place(self._critical_points(start_rank))

    def _critical_points(self, start_rank: int | Sequence[int]) -> dict[str, Tensor]:
        """A critical point for each replica, of its own rank."""
        num_replicas = self.model.problem.num_replicas
        ranks = [start_rank] * num_replicas if isinstance(start_rank, int) else list(start_rank)
        if len(ranks) != num_replicas:
            raise ValueError(f"start_rank must be one rank, or one for each of {num_replicas} replicas, got {ranks}")
        if min(ranks) < 0:
            raise ValueError(f"start_rank must be at least 0, got {min(ranks)}")
        points = [self.model.critical_point(rank) for rank in ranks]
        return {name: torch.stack([point[name][i] for i, point in enumerate(points)]) for name in points[0]}

    def configure_callbacks(self) -> list[Callback]:
        return [ReplicaHistory(), Endpoints()]

    def train_dataloader(self) -> DataLoader:
        """The features are parameters."""
        return no_data()

    def advance(self, batch: Tensor, first_step: int, num_steps: int) -> None:
        if first_step == 0:
            self.model.perturb(self.hparams["perturbation"])
        optimizer = self.optimizers()
        # One step goes through Lightning's wrapper, which counts it and is slow: checkpoints are kept by this count.
        self.model.run(optimizer.optimizer, num_steps - 1)  # type: ignore[union-attr]
        self.model.run(optimizer, 1)  # type: ignore[arg-type]

    def measures(self, batch: Tensor) -> dict[str, Tensor]:
        return measures(self.model)

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.model.parameters())


class Endpoints(Callback):
    """Keeps what is measured once in a :class:`UFMExperiment`, as ``final_curves``.

    They are the eigenvalues of the Hessian at the start (``"hessian/0"``), where they were asked for, and the inner
    products of the class means at the end, row by row (``"H1/gram/0"``).
    """

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}

    @property
    def final_curves(self) -> dict[str, Curve]:
        """Curves by name: position and value."""
        return {name: ([float(i) for i in range(len(y))], y) for name, y in self.found.items()}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, UFMExperiment)
        if pl_module.hparams["hessian"] and not self.found:
            model = pl_module.model
            for i in range(model.problem.num_replicas):
                self.found[f"hessian/{i}"] = hessian_eigenvalues(model, i).tolist()

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, UFMExperiment)
        model = pl_module.model
        zero = pl_module.found[f"H{model.problem.depth}/nc1"].isnan().nonzero().flatten().tolist()
        if zero:
            rank_zero_warn(f"Replicas {', '.join(map(str, zero))} have collapsed to zero: their directions are NaN.")
        for layer, features in enumerate(model.layer_features(), start=1):
            products = gram(class_means(features, model.problem.num_classes))
            self.found |= {f"H{layer}/gram/{i}": one.flatten().tolist() for i, one in enumerate(products)}

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = state_dict["found"]
