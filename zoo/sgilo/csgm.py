"""CSGM: search the input of the generator."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.sgilo.descent import descend
from zoo.sgilo.generator import SplitGenerator
from zoo.sgilo.solver import DataTerm, Operator, Priors, Reconstruction, Solver, check_at_least, check_positive
from zoo.sgilo.states import best


@dataclass(frozen=True)
class CSGM(Solver):
    r"""Searches the generator's input, from 0 and from random points; the one of the smallest error is kept.

    .. math:: \arg\min_z |A G(z) - y|^2 + \lambda |z|^2

    Args:
        weight: Of the squared norm, :math:`\lambda`, >= 0.
        num_restarts: Starts for each image, the first of them 0, at least 1.
        num_steps: Of Adam.
        lr: Adam's step size.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Bora et al., *Compressed Sensing using Generative Models*, ICML 2017.

    Example:
        >>> from zoo.sgilo import ConvDecoder
        >>> decoder = ConvDecoder(latent_dim=6).eval()
        >>> found = CSGM(num_steps=2).solve(decoder, torch.nn.Flatten(), torch.rand(3, 784))
        >>> found.x.shape, found.state.shape
        (torch.Size([3, 1, 28, 28]), torch.Size([3, 6]))
    """

    weight: float = 0.1
    num_restarts: int = 2
    num_steps: int = 150
    lr: float = 0.1

    def __post_init__(self) -> None:
        check_at_least(1, num_restarts=self.num_restarts, num_steps=self.num_steps)
        check_positive(lr=self.lr)
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be >= 0 and finite, got {self.weight}")

    def _solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors,
        start: Reconstruction | None,
        rng: torch.Generator | None,
    ) -> Reconstruction:
        z = y.new_empty(self.num_restarts, len(y), generator.latent_dim).normal_(generator=rng)
        z[0] = 0
        term = DataTerm(generator, operator, y, self.num_restarts)

        def gradient(z: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            error, slope = term(z)
            return slope.add_(z, alpha=self.weight), {"error": error}

        z, history = descend(z.flatten(0, 1), gradient, self.num_steps, self.lr, len(y))
        (z,), error = best((z,), term.error(z), self.num_restarts)
        with torch.no_grad():
            return Reconstruction(generator(z), z, 0, error, history)
