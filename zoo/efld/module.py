"""The classifier whose learning rate falls by steps, and the exact checks of the theory as simulations."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from zoo.classifier import Classifier
from zoo.efld.divergence import divergence_ratio, random_triples
from zoo.efld.noise import ExponentialFamilyNoise, GaussianNoise, QuantizedNoise, SignNoise
from zoo.efld.quadratic import NoisySignQuadratics
from zoo.simulation import Simulation, no_data


class StaircaseClassifier(Classifier):
    """A classifier whose learning rate is multiplied by a factor every so many steps; all else is as in ``Classifier``.

    Args:
        lr_decay: The factor, in (0, 1]; 1 leaves the learning rate to ``lr_schedule``.
        decay_every_n_steps: Steps of the optimizer between two decays, at least 1.
        **classifier: Arguments of :class:`~zoo.classifier.Classifier`; ``min_lr_ratio`` is where the decay ends.

    Raises:
        ValueError: If an argument is out of range, or there are two schedules.

    Example:
        >>> model = StaircaseClassifier(10, lr_decay=0.96, backbone="mlp", input_shape=(1, 28, 28))
        >>> model.configure_optimizers()["lr_scheduler"]["interval"]
        'step'
    """

    def __init__(
        self, num_classes: int, lr_decay: float = 1.0, decay_every_n_steps: int = 60, **classifier: Any
    ) -> None:
        super().__init__(num_classes, **classifier)
        if not 0 < lr_decay <= 1:
            raise ValueError(f"lr_decay must be in (0, 1], got {lr_decay}")
        if decay_every_n_steps < 1:
            raise ValueError(f"decay_every_n_steps must be at least 1, got {decay_every_n_steps}")
        schedule = self.hparams["lr_schedule"]
        if lr_decay < 1 and schedule != "constant":
            raise ValueError(f"lr_schedule must be constant where lr_decay is below 1, got {schedule!r}")

    def configure_optimizers(self) -> Any:
        if self.hparams["lr_decay"] == 1:
            return super().configure_optimizers()
        optimizer = self.make_optimizer(self.parameters())
        names = ("lr_decay", "decay_every_n_steps", "min_lr_ratio")
        scheduler = LambdaLR(optimizer, partial(staircase, *(self.hparams[name] for name in names)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def staircase(decay: float, every: int, floor: float, step: int) -> float:
    """The share of the first learning rate that is left at a step.

    Example:
        >>> [staircase(0.5, 10, 0.2, step) for step in (0, 9, 10, 29, 30)]
        [1.0, 1.0, 0.5, 0.25, 0.2]
    """
    return max(decay ** (step // every), floor)


FAMILIES: dict[str, ExponentialFamilyNoise] = {
    "gaussian": GaussianNoise(),
    "sign": SignNoise(),
    "quantized": QuantizedNoise([-1.0, -0.5, 0.0, 0.5, 1.0]),
}


class DivergenceSearch(Simulation):
    r"""Looks for the largest ratio of the divergence to the squared distance, which theorem 1 says is at most 5 c2.

    A step draws triples in balls of the theorem's diameter, :math:`1 / \sqrt{8 c_2}`, about random centres. Logs
    ``ratio/gaussian``, ``ratio/sign`` and ``ratio/quantized`` (five levels from -1 to 1), means over the dimensions of
    the largest ratios so far; every dimension is a replica.

    Args:
        dims: Dimensions, at least 1.
        num_triples: Triples of a step, in each dimension and for each family, at least 1.
        steps_per_epoch: Steps of an epoch.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Banerjee et al., ICML 2022, theorem 1.
    """

    def __init__(
        self, dims: Sequence[int] = (1, 2, 10, 1000), num_triples: int = 500, steps_per_epoch: int = 10
    ) -> None:
        super().__init__(steps_per_epoch)
        self.save_hyperparameters()
        if not dims:
            raise ValueError("dims must hold at least one value, got none")
        if min(dims) < 1:
            raise ValueError(f"dims must be at least 1, got {list(dims)}")
        for dim in dims:
            random_triples(num_triples, dim, diameter=1.0)  # says what is wrong with a number
        for name in FAMILIES:
            self.register_buffer(name, torch.zeros(len(dims), dtype=torch.float64))

    def train_dataloader(self) -> DataLoader:
        return no_data()

    def advance(self, batch: Tensor, first_step: int, num_steps: int) -> None:
        for name, noise in FAMILIES.items():
            diameter = (8 * noise.smoothness) ** -0.5
            for i, dim in enumerate(self.hparams["dims"]):
                for _ in range(num_steps):
                    triple = random_triples(self.hparams["num_triples"], dim, diameter, center_std=1.0)
                    largest = divergence_ratio(triple, noise).amax()
                    found = self.get_buffer(name)
                    found[i] = torch.maximum(found[i], largest)

    def measures(self, batch: Tensor) -> dict[str, Tensor]:
        return {f"ratio/{name}": self.get_buffer(name).clone() for name in FAMILIES}


class SignConvergence(Simulation):
    """Sets the mean squared gradient of noisy sign-SGD on quadratics beside the theorem's bound.

    Logs ``convergence/mean_squared_gradient`` and ``convergence/bound``; every combination of a noise and a horizon is
    a replica, horizons varying fastest. Curvatures are spaced evenly.

    Args:
        horizons: Numbers of steps T, at least 1. An epoch has as many steps as the shortest one.
        noise_std: Standard deviations kappa of the gradients' noise, >= 0.
        dim: Dimension, at least 1.
        smallest_curvature: Of the quadratic, > 0.
        largest_curvature: Of the quadratic, at least the smallest.
        num_replicas: Runs of each combination.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Banerjee et al., ICML 2022, the theorem on noisy sign-SGD; see
        :class:`~zoo.efld.quadratic.NoisySignQuadratics`.
    """

    def __init__(
        self,
        horizons: Sequence[int] = (100, 1000, 10000),
        noise_std: Sequence[float] = (0.0, 1.0),
        dim: int = 50,
        smallest_curvature: float = 0.1,
        largest_curvature: float = 2.0,
        num_replicas: int = 64,
    ) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if not smallest_curvature > 0:
            raise ValueError(f"smallest_curvature must be > 0, got {smallest_curvature}")
        if not smallest_curvature <= largest_curvature:
            raise ValueError(
                f"largest_curvature must be at least {smallest_curvature}, smallest_curvature, got {largest_curvature}"
            )
        curvatures = torch.linspace(smallest_curvature, largest_curvature, dim, dtype=torch.float64).tolist()
        runs = NoisySignQuadratics(curvatures, horizons, noise_std, num_replicas)
        super().__init__(min(horizons))
        self.save_hyperparameters()
        self.runs = runs

    def train_dataloader(self) -> DataLoader:
        return no_data()

    def advance(self, batch: Tensor, first_step: int, num_steps: int) -> None:
        self.runs.run(num_steps)

    @property
    def finished(self) -> bool:
        return self.steps_until(self.current_epoch + 1) >= max(self.hparams["horizons"])

    def measures(self, batch: Tensor) -> dict[str, Tensor]:
        return {
            "convergence/mean_squared_gradient": self.runs.mean_squared_gradient(),
            "convergence/bound": self.runs.bound(),
        }
