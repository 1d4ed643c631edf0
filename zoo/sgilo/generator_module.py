"""Training of the variational autoencoder, and of the network that finds its latents."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from zoo.sgilo.decoder import VAE, Inverter


class OneCycleModule(LightningModule):
    """Adam whose step size rises and falls once over the training.

    Args:
        lr: Its largest step size, > 0.
        weight_decay: Decoupled, >= 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    main_metric: str | None = "val/loss"

    def __init__(self, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr must be > 0, got {lr}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")
        self.lr, self.weight_decay = lr, weight_decay

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        fused = self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay, fused=fused)
        steps = max(2, int(self.trainer.estimated_stepping_batches))
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def log_parts(self, part: str, parts: dict[str, Tensor], size: int) -> Tensor:
        """Log the parts of a loss and their sum, which is returned.

        Args:
            part: ``"train"``, ``"val"`` or ``"test"``.
            parts: By name, scalars.
            size: Of the batch.
        """
        loss = torch.stack(list(parts.values())).sum()
        values = {name: value.detach() for name, value in ({"loss": loss} | parts).items()}
        self.log_dict(
            {f"{part}/{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=size,
            sync_dist=True,
        )
        return loss


class VAEModule(OneCycleModule):
    """Trains a variational autoencoder on images in [0, 1] (``VisionDataModule(normalize=False)``).

    It logs the bound in nats per image, ``loss``, its parts ``rec`` and ``kl``, and ``mse``, the mean squared error per
    pixel of images that are encoded and decoded.

    Args:
        latent_dim: Size k of z.
        input_shape: Channels, height and width of an image; both sides multiples of 4.
        hidden_dim: Units of the layers between maps and z.
        channels: Of the decoder's maps.
        lr: Adam's largest step size.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> VAEModule(latent_dim=6).vae.decoder.latent_shape(1)
        (8, 7, 7)
    """

    def __init__(
        self,
        latent_dim: int = 6,
        input_shape: Sequence[int] = (1, 28, 28),
        hidden_dim: int = 128,
        channels: Sequence[int] = (8, 32, 16),
        lr: float = 2e-3,
    ) -> None:
        super().__init__(lr)
        self.save_hyperparameters()
        self.vae = VAE(latent_dim, input_shape, hidden_dim, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Images that are encoded and decoded."""
        return self.vae.reconstruct(x)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return self._bound("train", batch[0])

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch[0])

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._evaluate("test", batch[0])

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return self(batch[0])

    def _bound(self, part: str, x: Tensor) -> Tensor:
        noise = torch.randn(len(x), self.vae.decoder.latent_dim, device=x.device)
        return self.log_parts(part, self.vae.loss(x, noise), len(x))

    def _evaluate(self, part: str, x: Tensor) -> None:
        self._bound(part, x)
        self.log(f"{part}/mse", (self(x) - x).square().mean(), batch_size=len(x), sync_dist=True)


class InverterModule(OneCycleModule):
    """Trains the network that finds latents at a split of a frozen autoencoder.

    It logs ``error``, the squared error summed over an image, ``deviation``, the weighted squared distance from the
    range of the prefix, their sum ``loss``, and ``mse``.

    Args:
        inverter: With its autoencoder.
        deviation_weight: Of the squared distance, >= 0.
        lr: Adam's largest step size.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, inverter: Inverter, deviation_weight: float = 0.01, lr: float = 3e-3) -> None:
        super().__init__(lr)
        if not deviation_weight >= 0:
            raise ValueError(f"deviation_weight must be >= 0, got {deviation_weight}")
        self.inverter, self.deviation_weight = inverter, deviation_weight

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return self._loss("train", batch[0])

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._loss("val", batch[0])

    def _loss(self, part: str, x: Tensor) -> Tensor:
        parts = self.inverter.loss(x, self.deviation_weight)
        self.log(f"{part}/mse", parts["error"].detach() / x[0].numel(), on_step=False, on_epoch=True, batch_size=len(x))
        return self.log_parts(part, parts, len(x))
