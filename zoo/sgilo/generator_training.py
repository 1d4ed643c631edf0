"""How the generator of an experiment, and what inverts it, are trained and kept."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.seed import isolate_rng

from zoo.classifier import Precision
from zoo.sgilo.cache import Weights, cache_folder, kept_weights
from zoo.sgilo.decoder import VAE, Inverter
from zoo.sgilo.generator_module import InverterModule, VAEModule

SOURCES = ("decoder.py", "generator.py", "generator_module.py", "generator_training.py")


@dataclass
class GeneratorTraining:
    """A variational autoencoder and its inverter: their size, training and place in the cache.

    Args:
        latent_dim: Size k of z.
        hidden_dim: Units of the layers between maps and z.
        channels: Of the decoder's maps.
        split: At which latents are found.
        range_only: Whether latents are those of the range of the prefix, so that no inverter is trained.
        lr: Adam's largest step size for the autoencoder.
        max_epochs: Passes over the images for the autoencoder.
        inverter_lr: Adam's largest step size for the inverter.
        inverter_epochs: Passes over the images for the inverter.
        deviation_weight: Of the squared distance of latents from the range of the prefix.
        precision: Of the :class:`~pytorch_lightning.Trainer`, such as ``"bf16-mixed"``.
        seed: Of the whole training; the run's own seed does not change the generator.
        cache_dir: Folder of what is trained; ``None`` takes the variable ``ZOO_CACHE``, else ``cache``.

    Raises:
        ValueError: If a number of the training is out of range; other arguments are checked where networks are made
            of them.
    """

    latent_dim: int = 6
    hidden_dim: int = 128
    channels: Sequence[int] = (8, 32, 16)
    split: int = 1
    range_only: bool = False
    lr: float = 2e-3
    max_epochs: int = 3
    inverter_lr: float = 3e-3
    inverter_epochs: int = 2
    deviation_weight: float = 0.01
    precision: Precision = "32-true"
    seed: int = 0
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_epochs", "inverter_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "inverter_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not self.deviation_weight >= 0:
            raise ValueError(f"deviation_weight must be >= 0, got {self.deviation_weight}")

    def inverter(self, input_shape: Sequence[int]) -> Inverter:
        """The networks before their training, drawn from the global generator."""
        vae = VAE(self.latent_dim, input_shape, self.hidden_dim, self.channels)
        return Inverter(vae, self.split, range_only=self.range_only)

    def settings(self) -> dict[str, Any]:
        """All that changes the weights."""
        return {name: value for name, value in asdict(self).items() if name != "cache_dir"}

    def obtain(
        self,
        data: LightningDataModule,
        input_shape: Sequence[int],
        device: torch.device | str = "cpu",
        **trainer: Any,
    ) -> Weights:
        """The weights of the inverter with its autoencoder: from the cache, or trained now and put there.

        Args:
            data: Has ``train_dataloader``, whose batches begin with images in [0, 1].
            input_shape: Channels, height and width of an image.
            device: Where to train.
            **trainer: Further arguments of the :class:`~pytorch_lightning.Trainer`.

        Raises:
            MisconfigurationException: If several processes share the data, and the weights are not in the cache.
        """
        folder = cache_folder("sgilo_generators", self.settings(), SOURCES, data, self.cache_dir)

        def train(place: Path) -> Weights:
            refuse_several_processes(data)
            return self.fit(data, input_shape, device, logger=CSVLogger(place, name="", version=""), **trainer)

        return kept_weights(folder, self.settings(), train)

    def fit(
        self,
        data: LightningDataModule,
        input_shape: Sequence[int],
        device: torch.device | str = "cpu",
        **trainer: Any,
    ) -> Weights:
        """Train the autoencoder, then the inverter; the arguments are those of :meth:`obtain`.

        Returns:
            The weights, on the CPU. The global random state is left as it was.
        """
        with isolate_rng():
            torch.manual_seed(self.seed)
            module = VAEModule(self.latent_dim, input_shape, self.hidden_dim, self.channels, self.lr)
            options = {"precision": self.precision} | trainer
            train(module, data.train_dataloader(), device, max_epochs=self.max_epochs, **options)
            inverter = Inverter(module.vae, self.split, range_only=self.range_only)
            if not self.range_only:
                second = InverterModule(inverter, self.deviation_weight, self.inverter_lr)
                train(second, data.train_dataloader(), device, max_epochs=self.inverter_epochs, **options)
        return {name: value.cpu() for name, value in inverter.state_dict().items()}


def train(module: Any, batches: Any, device: torch.device | str, **trainer: Any) -> None:
    """Fit a module by a Trainer of its own, inside of another one's run.

    Args:
        module: What is trained.
        batches: The training batches.
        device: Where.
        **trainer: Further arguments of the Trainer.

    Raises:
        KeyboardInterrupt: If the user ended it.
    """
    device = torch.device(device)
    on_gpu: dict[str, Any] = {"accelerator": "gpu", "devices": [device.index or 0]}
    options: dict[str, Any] = {"accelerator": device.type, "devices": 1} if device.type != "cuda" else on_gpu
    options |= {"logger": False, "enable_checkpointing": False, "enable_model_summary": False} | trainer
    inner = Trainer(**options)
    inner.fit(module, batches, val_dataloaders=[])
    if inner.interrupted:
        raise KeyboardInterrupt


def refuse_several_processes(data: LightningDataModule) -> None:
    """Raise a ``MisconfigurationException`` if the data are shared by several processes: one of them trains."""
    if data.trainer is not None and data.trainer.world_size > 1:
        raise MisconfigurationException(
            f"What is trained before is trained by one process, got {data.trainer.world_size}; train it first, by the "
            "same command with --trainer.devices 1"
        )
