"""Sampling the latents of a split from their posterior."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.sgilo.descent import largest_curvature
from zoo.sgilo.generator import SplitGenerator
from zoo.sgilo.langevin import LangevinSampler
from zoo.sgilo.priors import LatentPrior, find_prior
from zoo.sgilo.solver import DataTerm, Operator, Priors, Reconstruction, Solver, check_at_least, check_positive
from zoo.sgilo.states import reduced, repeated, state_at, suffix_of


@dataclass(frozen=True)
class PosteriorLangevin(Solver):
    r"""Draws latents of a split from their posterior by the Langevin algorithm; the image is the mean of the draws.

    The potential is that of :class:`SGILO`, and nothing but the gradient of the prior is asked for, so that the score
    serves. All draws of all chains are kept as images, for intervals.

    Args:
        first: Solver that finds the start of all chains.
        prior: One, or its name among the ``priors``. A score should not be perturbed here: ``"clean_score"``.
        split: Of the generator.
        prior_weight: Power of the prior, > 0.
        sigma: Noise level at which the score is asked.
        sigma_eff: Standard deviation of what measurements and generator disagree by, > 0.
        relative_step_size: Of the Langevin algorithm, in (0, 2): in units of one over the largest curvature of the
            potential where the chains begin, which is found before.
        inverse_temperature: 1 draws from the posterior.
        num_chains: Chains of each image.
        burn_in: Steps before the first draw.
        num_steps: Steps after that.
        thin: Every which of them is kept.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Daras et al., ICML 2022.

    Example:
        >>> from zoo.sgilo import CSGM, ConvDecoder, GaussianPrior
        >>> prior = GaussianPrior((8, 7, 7)).fit(torch.randn(500, 8, 7, 7))
        >>> solver = PosteriorLangevin(CSGM(num_steps=2), prior, num_chains=2, burn_in=1, num_steps=3, thin=1)
        >>> found = solver.solve(ConvDecoder(latent_dim=6).eval(), torch.nn.Flatten(), torch.rand(3, 784))
        >>> found.chains.shape
        torch.Size([6, 3, 1, 28, 28])
    """

    first: Solver
    prior: LatentPrior | str = "clean_score"
    split: int = 1
    prior_weight: float = 1.0
    sigma: float = 0.3
    sigma_eff: float = 0.1
    relative_step_size: float = 0.5
    inverse_temperature: float = 1.0
    num_chains: int = 4
    burn_in: int = 300
    num_steps: int = 500
    thin: int = 20

    def __post_init__(self) -> None:
        check_at_least(1, split=self.split, num_chains=self.num_chains)
        check_positive(prior_weight=self.prior_weight, sigma=self.sigma, sigma_eff=self.sigma_eff)
        if not 0 < self.relative_step_size < 2:
            raise ValueError(f"relative_step_size must be in (0, 2), got {self.relative_step_size}")
        self.sampler(1.0)

    def sampler(self, step_size: float) -> LangevinSampler:
        """What draws with this step size."""
        return LangevinSampler(step_size, self.inverse_temperature, self.num_steps, self.burn_in, self.thin)

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
        decode = suffix_of(generator, state, self.split)
        term = DataTerm(decode, operator, y, self.num_chains)
        prior = find_prior(self.prior, priors).centred(latent)

        def gradient(latent: Tensor) -> Tensor:
            slope = term(latent)[1] / self.sigma_eff**2
            return slope.add_(prior.gradient(latent, self.sigma, rng), alpha=self.prior_weight)

        step_size = self.relative_step_size / largest_curvature(gradient, latent, rng).item()
        draws = self.sampler(step_size).sample(None, latent, rng, gradient=gradient)
        with torch.no_grad():
            images = torch.stack([decode(sample) for sample in draws.samples])
        chains = images.view(-1, len(y), *images.shape[2:])
        ended = reduced(generator, state, draws.last, self.split, term, {}, self.num_chains, "best")
        return replace(ended, x=chains.mean(0), chains=chains)
