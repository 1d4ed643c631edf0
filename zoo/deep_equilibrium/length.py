"""The theory of linear networks, measured: draws of every scale, and the solver's iterations as steps."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.deep_equilibrium.initialisation import Family, Normalization, check_family, deq_init_
from zoo.simulation import Simulation, no_data


class LengthMapExperiment(Simulation):
    r"""Measures the length of the state of linear networks, how it varies, and how fast iteration finds it.

    A replica is a scale; all scales share the matrices, which are only multiplied by it. A step is one iteration of
    :math:`z \leftarrow W z + u` from 0, whose residual after k steps is :math:`W^k u`. Over the matrices it measures

    - ``matrix/length_map``: median of :math:`\tfrac1N \operatorname{tr} M^\top M`, with :math:`M = (I - W)^{-1}`;
    - ``matrix/second_moment``: median of :math:`\tfrac1N \operatorname{tr} (M^\top M)^2`;
    - ``matrix/fluctuation``: median of the relative standard deviation of :math:`|M u|^2` over random u;
    - ``iteration/residual``: mean of :math:`|W^k u|^2 / |u|^2`.

    The first three do not change with the steps. All is in float64. Checkpoints keep the seed of the matrices.

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

    seed: Tensor
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
        num_draws: int = 200,
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
        check_family(family, normalization)
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scales", torch.tensor(list(sigma_w), dtype=torch.float64))
        self.register_buffer("residual", torch.empty(num_draws, width, num_inputs, dtype=torch.float64))
        self.register_buffer("inputs", torch.empty_like(self.residual), persistent=False)
        self.register_buffer("weight", torch.empty(num_draws, width, width, dtype=torch.float64), persistent=False)

    def train_dataloader(self) -> DataLoader:
        return no_data()

    def on_fit_start(self) -> None:
        """Draw the matrices, and measure what the steps do not change."""
        generator = torch.Generator().manual_seed(int(self.seed))
        drawn = torch.empty_like(self.weight, device="cpu")
        deq_init_(drawn, self.hparams["family"], 1.0, self.hparams["normalization"], generator)
        inputs = torch.randn(self.inputs.shape, dtype=torch.float64, generator=generator)
        self.weight.copy_(drawn)
        self.inputs.copy_(inputs / inputs.norm(dim=1, keepdim=True))
        if self.steps == 0:
            self.residual.copy_(self.inputs)  # W^k u at scale 1
        self.constants = torch.stack([self._of_scale(scale) for scale in self.scales])

    def advance(self, batch: Tensor, first_step: int, num_steps: int) -> None:
        for _ in range(num_steps):
            self.residual = torch.bmm(self.weight, self.residual)
        self.steps += num_steps

    def measures(self, batch: Tensor) -> dict[str, Tensor]:
        residual = self.scales ** (2 * self.steps) * self.residual.square().sum(1).mean()
        names = ("matrix/length_map", "matrix/second_moment", "matrix/fluctuation")
        return dict(zip(names, self.constants.unbind(1))) | {"iteration/residual": residual}

    def _of_scale(self, scale: Tensor) -> Tensor:
        """Medians over the draws: length map, second moment, fluctuation."""
        width = self.weight.shape[1]
        eye = torch.eye(width, dtype=torch.float64, device=self.weight.device)
        # One by one: a batch is factorised wrongly by several threads (https://github.com/pytorch/pytorch/issues/142815)
        inverse = torch.stack([torch.linalg.inv_ex(eye - scale * weight).inverse for weight in self.weight])
        lengths = (inverse @ self.inputs).square().sum(1)
        kinds = (
            inverse.square().sum((1, 2)) / width,
            (inverse.mT @ inverse).square().sum((1, 2)) / width,
            lengths.std(1) / lengths.mean(1),
        )
        return torch.stack([kind.quantile(0.5) for kind in kinds])
