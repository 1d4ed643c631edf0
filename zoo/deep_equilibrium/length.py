"""The theory of linear networks, measured: draws of every scale, and the solver's iterations as steps."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.deep_equilibrium.initialisation import Family, Normalization, deq_init_
from zoo.simulation import Simulation, no_data


class LengthMapExperiment(Simulation):
    r"""Measures the length of the state of linear networks, how it varies, and how fast iteration finds it.

    A replica is a scale; all scales share the matrices, which are only multiplied by it. A step is one iteration of
    :math:`z \leftarrow W z + u` from 0, whose residual after k steps is :math:`W^k u`. Over the matrices it measures

    - ``length_map``: median of :math:`\tfrac1N \operatorname{tr} M^\top M`, with :math:`M = (I - W)^{-1}`;
    - ``second_moment``: median of :math:`\tfrac1N \operatorname{tr} (M^\top M)^2`;
    - ``fluctuation``: median of the relative standard deviation of :math:`|M u|^2` over random u;
    - ``residual``: mean of :math:`|W^k u|^2 / |u|^2`.

    The first three do not change with the steps. All is in float64.

    Args:
        family: Of the matrices; see :func:`~zoo.deep_equilibrium.deq_init_`.
        sigma_w: Their scales, >= 0.
        normalization: What a scale means for ``"goe"``.
        width: Dimension N.
        num_draws: Matrices.
        num_inputs: Random directions u for each, at least 2.
        steps_per_epoch: Iterations of an epoch.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Derived for this room; see :mod:`zoo.deep_equilibrium.theory`.
    """

    weight: Tensor
    inputs: Tensor
    residual: Tensor
    steps: Tensor
    scales: Tensor
    constants: Tensor

    def __init__(
        self,
        family: Family = "orthogonal",
        sigma_w: Sequence[float] = (0.3, 0.5, 0.7, 0.8),
        normalization: Normalization = "spectral",
        width: int = 256,
        num_draws: int = 40,
        num_inputs: int = 64,
        steps_per_epoch: int = 10,
    ) -> None:
        super().__init__(steps_per_epoch)
        self.save_hyperparameters()
        for argument, value, lowest in (
            ("width", width, 1),
            ("num_draws", num_draws, 1),
            ("num_inputs", num_inputs, 2),
            ("the length of sigma_w", len(sigma_w), 1),
        ):
            if value < lowest:
                raise ValueError(f"{argument} must be at least {lowest}, got {value}")
        if any(not sigma >= 0 for sigma in sigma_w):
            raise ValueError(f"sigma_w must be >= 0, got {sigma_w}")
        weight = deq_init_(torch.empty(num_draws, width, width, dtype=torch.float64), family, 1.0, normalization)
        inputs = torch.randn(num_draws, width, num_inputs, dtype=torch.float64)
        self.register_buffer("weight", weight)
        self.register_buffer("inputs", inputs / inputs.norm(dim=1, keepdim=True))
        self.register_buffer("residual", self.inputs.clone())  # W^k u at scale 1
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scales", torch.tensor(list(sigma_w), dtype=torch.float64))

    def train_dataloader(self) -> DataLoader:
        return no_data()

    def on_fit_start(self) -> None:
        """Measure what the steps do not change."""
        self.constants = torch.stack([self._of_scale(scale) for scale in self.scales])

    def advance(self, batch: Tensor, first_step: int, num_steps: int) -> None:
        for _ in range(num_steps):
            self.residual = torch.bmm(self.weight, self.residual)
        self.steps += num_steps

    def measures(self, batch: Tensor) -> dict[str, Tensor]:
        residual = self.scales ** (2 * self.steps) * self.residual.square().sum(1).mean()
        names = ("length_map", "second_moment", "fluctuation")
        return dict(zip(names, self.constants.unbind(1))) | {"residual": residual}

    def _of_scale(self, scale: Tensor) -> Tensor:
        """Medians over the draws: length map, second moment, fluctuation."""
        width = self.weight.shape[1]
        eye = torch.eye(width, dtype=torch.float64, device=self.weight.device)
        inverse = torch.linalg.inv_ex(eye - scale * self.weight).inverse
        lengths = (inverse @ self.inputs).square().sum(1)
        kinds = (
            inverse.square().sum((1, 2)) / width,
            (inverse.mT @ inverse).square().sum((1, 2)) / width,
            lengths.std(1) / lengths.mean(1),
        )
        return torch.stack([kind.quantile(0.5) for kind in kinds])
