"""Everything trained that the solvers need, in one module, so that a checkpoint keeps it."""

from torch import nn

from zoo.sgilo.decoder import ConvDecoder, Inverter
from zoo.sgilo.priors import GaussianPrior, LatentPrior, ScorePrior
from zoo.sgilo.score import LatentDenoiser


class LatentModels(nn.Module):
    """A generator, its inverter, and the priors that are learned from latents at one of its splits.

    Args:
        inverter: With its autoencoder, whose decoder is the generator.
        denoiser: Of latents at the inverter's split.

    Example:
        >>> from zoo.sgilo import VAE
        >>> models = LatentModels(Inverter(VAE()), LatentDenoiser((8, 7, 7)))
        >>> sorted(models.priors())
        ['clean_score', 'gaussian', 'score']
    """

    def __init__(self, inverter: Inverter, denoiser: LatentDenoiser) -> None:
        super().__init__()
        self.inverter = inverter
        self.denoiser = denoiser
        self.gaussian = GaussianPrior(denoiser.latent_shape)
        self.requires_grad_(False)

    @property
    def generator(self) -> ConvDecoder:
        """The generator."""
        return self.inverter.vae.decoder

    def priors(self) -> dict[str, LatentPrior]:
        """The learned priors by name: ``"score"``, ``"clean_score"``, which is not perturbed, and ``"gaussian"``."""
        return {
            "score": ScorePrior(self.denoiser),
            "clean_score": ScorePrior(self.denoiser, perturb=False),
            "gaussian": self.gaussian,
        }
