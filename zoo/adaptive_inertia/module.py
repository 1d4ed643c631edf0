"""Simulations as LightningModules: an epoch is a number of steps of particles, and nothing is learnt from data."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from zoo.adaptive_inertia.adai import Adai
from zoo.adaptive_inertia.escape import DoubleWell, EscapeSimulation
from zoo.adaptive_inertia.saddle import SaddleSimulation, Start

ADAI_ESCAPE: OptimizerCallable = partial(Adai, lr=0.5 / 48, batched=True)
ADAI_SADDLE: OptimizerCallable = partial(Adai, lr=0.02, batched=True)
CHUNKS = 10  # of an epoch: a training step is one of them


class SimulationModule(LightningModule):
    """Runs a simulation, a tenth of the steps of an epoch in each training step, and logs what it found so far.

    A subclass says what that is, in :meth:`found`. An optimizer that compares elements, such as Adai, must take the
    first axis of the parameter as one of independent models (``batched: true``).

    Args:
        simulation: Has one parameter and ``run(optimizer, num_steps)``.
        optimizer: Makes an optimizer of the parameter.
        steps_per_epoch: Steps of an epoch, a multiple of 10.

    Raises:
        ValueError: If ``steps_per_epoch`` is out of range.
    """

    def __init__(self, simulation: nn.Module, optimizer: OptimizerCallable, steps_per_epoch: int) -> None:
        super().__init__()
        if steps_per_epoch < CHUNKS or steps_per_epoch % CHUNKS:
            raise ValueError(
                f"steps_per_epoch must be a multiple of {CHUNKS}, at least {CHUNKS}, got {steps_per_epoch}"
            )
        self.automatic_optimization = False
        self.simulation = simulation
        self.make_optimizer = optimizer
        self.steps_per_chunk = steps_per_epoch // CHUNKS

    def found(self) -> dict[str, Tensor]:
        """What is logged after every epoch, scalars by name."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(CHUNKS), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.simulation.run(self.optimizers(), self.steps_per_chunk)  # type: ignore[operator]

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.found())

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.simulation.parameters())


class EscapeTimeExperiment(SimulationModule):
    """Measures the mean escape time of an optimizer from minima of several curvatures, which have equal barriers.

    Logs ``escape/log_time_k<k>``, the natural logarithm of the mean number of steps to an exit, and
    ``escape/exits_k<k>``, how many exits there were.

    Args:
        sharpness: The k of the double wells.
        barrier: Height of their barriers, > 0.
        batch_size: The B of the gradient noise, whose variance is curvature / B, > 0.
        num_particles: Particles in each well.
        companions: Curvatures of each particle's further parameters, in units of ``k * barrier``.
        optimizer: Makes the optimizer.
        steps_per_epoch: Steps of an epoch.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Xie et al., ICML 2022, mean escape times; see :class:`~zoo.adaptive_inertia.escape.EscapeSimulation`.
    """

    main_metric = None
    simulation: EscapeSimulation

    def __init__(
        self,
        sharpness: Sequence[float] = (1.0, 1.5, 2.0, 2.5),
        barrier: float = 1.0,
        batch_size: float = 0.25,
        num_particles: int = 1000,
        companions: Sequence[float] = (1.0, 4.0, 16.0),
        optimizer: OptimizerCallable = ADAI_ESCAPE,
        steps_per_epoch: int = 1000,
    ) -> None:
        if not sharpness or any(not k > 0 for k in sharpness):
            raise ValueError(f"sharpness must be one or more values > 0, got {sharpness}")
        wells = [DoubleWell(k, barrier) for k in sharpness]
        simulation = EscapeSimulation(wells, batch_size, num_particles, companions)
        super().__init__(simulation, optimizer, steps_per_epoch)
        self.save_hyperparameters(ignore="optimizer")

    def found(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        logs, exits = self.simulation.mean_time().log(), self.simulation.exits.float()
        for k, log, count in zip(self.hparams["sharpness"], logs, exits):
            found |= {f"escape/log_time_k{k:g}": log, f"escape/exits_k{k:g}": count}
        return found


class SaddleExperiment(SimulationModule):
    """Measures how far an optimizer moves from a saddle point along axes of several curvatures.

    Logs ``saddle/displacement_<H>``, the mean squared distance along the axis of curvature H.

    Args:
        curvatures: Second derivatives H along the axes, not 0.
        batch_size: The B of the gradient noise, whose variance is abs(H) / B, > 0.
        num_particles: Particles.
        start: State of the optimizer in the beginning: ``"fresh"``, ``"at_rest"`` or ``"moving"``.
        optimizer: Makes the optimizer.
        steps_per_epoch: Steps of an epoch.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Xie et al., ICML 2022, saddle points; see :class:`~zoo.adaptive_inertia.saddle.SaddleSimulation`.
    """

    main_metric = None
    simulation: SaddleSimulation

    def __init__(
        self,
        curvatures: Sequence[float] = (1.0, -0.1, -0.01, -0.001),
        batch_size: float = 1.0,
        num_particles: int = 2000,
        start: Start = "fresh",
        optimizer: OptimizerCallable = ADAI_SADDLE,
        steps_per_epoch: int = 100,
    ) -> None:
        simulation = SaddleSimulation(curvatures, batch_size, num_particles, start)
        super().__init__(simulation, optimizer, steps_per_epoch)
        self.save_hyperparameters(ignore="optimizer")

    def found(self) -> dict[str, Tensor]:
        squares = self.simulation.mean_squared_displacement()
        return {f"saddle/displacement_{h:g}": square for h, square in zip(self.hparams["curvatures"], squares)}
