"""How the priors of latents are trained and kept."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.seed import isolate_rng

from zoo.classifier import Precision
from zoo.sgilo.cache import Weights, cache_folder, kept_weights
from zoo.sgilo.generator_training import SOURCES, GeneratorTraining, refuse_several_processes, train
from zoo.sgilo.models import LatentModels
from zoo.sgilo.score_module import LatentScoreModule, batches_of, latents_of

SCORE_SOURCES = (*SOURCES, "models.py", "priors.py", "score.py", "score_module.py", "score_training.py")


@dataclass
class ScoreTraining:
    """The score network of latents, and the Gaussian prior beside it: size, training and place in the cache.

    Args:
        generator: How the generator and its inverter are trained.
        hidden_dim: Width of the score network.
        num_blocks: Its residual blocks.
        sigma_min: Smallest noise level, in units of the latents' scale.
        sigma_max: Largest noise level.
        ema_decay: Of the moving average of the weights.
        lr: Adam's largest step size.
        batch_size: Latents of a step.
        num_steps: Of the training.
        precision: Of the :class:`~pytorch_lightning.Trainer`, such as ``"bf16-mixed"``.
        seed: Of the training; the run's own seed does not change the network.
        cache_dir: Folder of what is trained; ``None`` takes the variable ``ZOO_CACHE``, else ``cache``.

    Raises:
        ValueError: If a number is out of range.
    """

    generator: GeneratorTraining = field(default_factory=GeneratorTraining)
    hidden_dim: int = 512
    num_blocks: int = 3
    sigma_min: float = 0.05
    sigma_max: float = 8.0
    ema_decay: float = 0.99
    lr: float = 1e-3
    batch_size: int = 256
    num_steps: int = 3000
    precision: Precision = "32-true"
    seed: int = 0
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def settings(self) -> dict[str, Any]:
        """All that changes the weights."""
        own = {name: value for name, value in asdict(self).items() if name not in ("cache_dir", "generator")}
        return own | {"generator": self.generator.settings()}

    def models(self, input_shape: tuple[int, int, int]) -> LatentModels:
        """The networks before their training, drawn from the global generator."""
        module = self._module(input_shape)
        return LatentModels(module.inverter, module.average)

    def _module(self, input_shape: tuple[int, int, int]) -> LatentScoreModule:
        return LatentScoreModule(
            input_shape,
            self.generator,
            self.hidden_dim,
            self.num_blocks,
            self.sigma_min,
            self.sigma_max,
            self.ema_decay,
            self.lr,
        )

    def obtain(
        self,
        data: LightningDataModule,
        input_shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
        with_priors: bool = True,
        **trainer: Any,
    ) -> Weights:
        """Weights of :class:`LatentModels`: from the cache, or trained now and put there.

        Args:
            data: Has ``train_dataloader``, whose batches begin with images in [0, 1].
            input_shape: Channels, height and width of an image.
            device: Where to train.
            with_priors: Whether the priors are wanted, too; else the weights are those of the inverter alone.
            **trainer: Further arguments of the :class:`~pytorch_lightning.Trainer`.

        Raises:
            MisconfigurationException: If several processes share the data, and the weights are not in the cache.
        """
        of_inverter = self.generator.obtain(data, input_shape, device, **trainer)
        if not with_priors:
            return _prefixed(of_inverter)
        folder = cache_folder("sgilo_scores", self.settings(), SCORE_SOURCES, data, self.cache_dir)

        def train(place: Path) -> Weights:
            refuse_several_processes(data)
            logger = CSVLogger(place, name="", version="")
            return self.fit(data, input_shape, device, of_inverter, logger=logger, **trainer)

        return kept_weights(folder, self.settings(), train)

    def fit(
        self,
        data: LightningDataModule,
        input_shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
        of_inverter: Weights | None = None,
        **trainer: Any,
    ) -> Weights:
        """Train the priors on the latents of all training images, and before these the inverter if it is not given.

        Args:
            data: As for :meth:`obtain`.
            input_shape: As there.
            device: As there.
            of_inverter: Weights of a trained inverter.
            **trainer: As there.

        Returns:
            The weights, on the CPU. The global random state is left as it was.
        """
        of_inverter = of_inverter or self.generator.fit(data, input_shape, device, **trainer)
        with isolate_rng():
            torch.manual_seed(self.seed)
            module = self._module(input_shape)
            module.inverter.load_state_dict(of_inverter)
            module.to(device)
            latents = latents_of(module.inverter, (batch[0].to(device) for batch in data.train_dataloader()))
            module.adopt(latents)
            options = {"precision": self.precision, "max_steps": self.num_steps} | trainer
            train(module, batches_of(latents, self.batch_size), device, **options)
            models = LatentModels(module.inverter, module.average)
            models.gaussian.fit(latents.cpu())
        return {name: value.cpu() for name, value in models.state_dict().items()}


def _prefixed(of_inverter: Weights) -> Weights:
    return {f"inverter.{name}": value for name, value in of_inverter.items()}
