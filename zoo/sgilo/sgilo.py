"""SGILO: search the latents of a split under a learned prior."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.sgilo.descent import descend
from zoo.sgilo.generator import SplitGenerator
from zoo.sgilo.priors import LatentPrior, find_prior
from zoo.sgilo.solver import DataTerm, Operator, Priors, Reconstruction, Solver, check_at_least, check_positive
from zoo.sgilo.states import Reduction, reduced, repeated, state_at, suffix_of


@dataclass(frozen=True)
class SGILO(Solver):
    r"""Searches the latents of a split under a prior, from where another solver came.

    .. math:: \frac{|A G_2(z_1) - y|^2}{2 \sigma_\text{eff}^2} - \lambda \log p(z_1)

    One Adam descends the sum of both gradients. With a temperature there is noise in every step, and several chains of
    an image end at different points. With a :class:`~zoo.sgilo.GaussianPrior` or a :class:`~zoo.sgilo.ProximityPrior`
    in place of the score it is a control.

    Args:
        first: Solver that finds the start.
        prior: One, or its name among the ``priors`` that ``solve`` is given.
        split: Of the generator.
        prior_weight: :math:`\lambda`, >= 0; 0 leaves the prior out.
        sigma: Noise level at which the score is asked in the last step, in units of the latents' scale.
        sigma_start: The one in the first step, from which it goes geometrically; ``None`` for the same throughout.
        sigma_eff: Standard deviation of what measurements and generator disagree by, > 0: more than the sensor's noise.
        temperature: Standard deviation of the noise that is added to the latent in each step in units of ``lr``, >= 0.
        num_steps: Of Adam.
        lr: Adam's step size.
        num_chains: Chains of each image.
        reduction: ``"best"``, the chain of the smallest measurement error, or ``"mean"`` of their images.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Daras et al., ICML 2022. The authors' code takes an Adam step on the data term and then one towards the denoised
        point; the joint gradient is this room's choice.

    Example:
        >>> from zoo.sgilo import CSGM, ConvDecoder, ProximityPrior
        >>> solver = SGILO(CSGM(num_steps=2), ProximityPrior(0.01), num_steps=2)
        >>> solver.solve(ConvDecoder(latent_dim=6).eval(), torch.nn.Flatten(), torch.rand(3, 784)).x.shape
        torch.Size([3, 1, 28, 28])
    """

    first: Solver
    prior: LatentPrior | str = "score"
    split: int = 1
    prior_weight: float = 1.0
    sigma: float = 0.6
    sigma_start: float | None = None
    sigma_eff: float = 0.1
    temperature: float = 0.0
    num_steps: int = 100
    lr: float = 0.05
    num_chains: int = 1
    reduction: Reduction = "best"

    def __post_init__(self) -> None:
        check_at_least(1, split=self.split, num_steps=self.num_steps, num_chains=self.num_chains)
        check_positive(lr=self.lr, sigma=self.sigma, sigma_eff=self.sigma_eff)
        if self.sigma_start is not None:
            check_positive(sigma_start=self.sigma_start)
        for name, value in (("prior_weight", self.prior_weight), ("temperature", self.temperature)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be >= 0 and finite, got {value}")
        if self.reduction not in ("best", "mean"):
            raise ValueError(f"reduction must be 'best' or 'mean', got {self.reduction!r}")

    def level(self, step: int) -> float:
        """Noise level of a step, counted from 0."""
        if self.sigma_start is None or self.num_steps == 1:
            return self.sigma
        return self.sigma_start * (self.sigma / self.sigma_start) ** (step / (self.num_steps - 1))

    def _solve(
        self,
        generator: SplitGenerator,
        operator: Operator,
        y: Tensor,
        priors: Priors,
        start: Reconstruction | None,
        rng: torch.Generator | None,
    ) -> Reconstruction:
        state = repeated(state_at(generator, start, self.split), len(y), self.num_chains)
        latent = generator.latent(state)
        term = DataTerm(suffix_of(generator, state, self.split), operator, y, self.num_chains)
        prior = find_prior(self.prior, priors).centred(latent) if self.prior_weight else None
        noise = torch.empty_like(latent)

        def gradient(latent: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            error, slope = term(latent)
            slope = slope / self.sigma_eff**2
            if prior is None:
                return slope, {"error": error}
            of_prior = prior.gradient(latent, self.level(step), rng)
            measures = {"error": error, "prior": of_prior.flatten(1).norm(dim=1)}
            return slope.add_(of_prior, alpha=self.prior_weight), measures

        def shake(latent: Tensor) -> Tensor:
            return latent.add(noise.normal_(generator=rng), alpha=self.temperature * self.lr)

        latent, history = descend(
            latent, gradient, self.num_steps, self.lr, len(y), shake if self.temperature else None
        )
        return reduced(generator, state, latent, self.split, term, history, self.num_chains, self.reduction)
