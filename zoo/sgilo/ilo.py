"""ILO: search the latents of a split within a ball."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.sgilo.descent import descend
from zoo.sgilo.generator import SplitGenerator
from zoo.sgilo.projection import project_l1_ball
from zoo.sgilo.solver import DataTerm, Operator, Priors, Reconstruction, Solver, check_at_least, check_positive
from zoo.sgilo.states import decoded, state_at, suffix_of


@dataclass(frozen=True)
class ILO(Solver):
    """Searches the latents of a split near to where another solver came: within a ball of the l1 norm.

    Args:
        split: Of the generator.
        radius: Of the ball, > 0; ``inf`` searches everywhere.
        num_steps: Of Adam; each is followed by the projection.
        lr: Adam's step size.
        first: Solver that finds the start: :class:`CSGM`, or ILO at an earlier split.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Daras et al., *Intermediate Layer Optimization for Inverse Problems using Deep Generative Models*, ICML 2021.

    Example:
        >>> from zoo.sgilo import CSGM, ConvDecoder
        >>> ilo = ILO(radius=30.0, num_steps=2, first=CSGM(num_steps=2))
        >>> ilo.solve(ConvDecoder(latent_dim=6).eval(), torch.nn.Flatten(), torch.rand(3, 784)).state.shape
        torch.Size([3, 8, 7, 7])
    """

    first: Solver
    split: int = 1
    radius: float = math.inf
    num_steps: int = 100
    lr: float = 0.05

    def __post_init__(self) -> None:
        check_at_least(1, split=self.split, num_steps=self.num_steps)
        check_positive(lr=self.lr)
        if not self.radius > 0:
            raise ValueError(f"radius must be > 0, got {self.radius}")

    def _solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors,
        start: Reconstruction | None,
        rng: torch.Generator | None,
    ) -> Reconstruction:
        state = state_at(generator, start, self.split)
        center = generator.latent(state)
        term = DataTerm(suffix_of(generator, state, self.split), operator, y)

        def gradient(latent: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            error, slope = term(latent)
            return slope, {"error": error}

        def project(latent: Tensor) -> Tensor:
            return project_l1_ball(latent, self.radius, center)

        ball = None if math.isinf(self.radius) else project
        latent, history = descend(center, gradient, self.num_steps, self.lr, len(y), ball)
        return decoded(generator, state, latent, self.split, term.error(latent), history)
