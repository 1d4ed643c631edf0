"""Training of the score network of intermediate latents."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from zoo.sgilo.decoder import Inverter
from zoo.sgilo.generator_module import OneCycleModule
from zoo.sgilo.generator_training import GeneratorTraining
from zoo.sgilo.score import LatentDenoiser

LEVELS = (0.4, 1.0)  # noise levels of the held-out errors


class LatentScoreModule(OneCycleModule):
    """Denoising score matching on the latents of images, or on latents that are given.

    A batch is a tensor of latents, or begins with images, whose latents an inverter finds. The inverter is trained
    before the first epoch as ``generator`` says, once, and kept in the cache. ``average`` is the exponential moving
    average of the denoiser, which is what is used and tested.

    It logs ``loss``, 1 where nothing is learned from latents that are standard normal; in validation and test also
    ``denoising_mse_0.4`` and ``denoising_mse_1``, squared errors of a normalised coordinate at these noise levels.
    The best linear filter that knows nothing but the scale has 0.138 and 0.5.

    Args:
        input_shape: Channels, height and width of an image.
        generator: How the generator and its inverter are trained; the defaults if ``None``.
        hidden_dim: Width of the score network.
        num_blocks: Its residual blocks.
        sigma_min: Smallest noise level, in units of the latents' scale.
        sigma_max: Largest noise level.
        ema_decay: Of the moving average, in [0, 1).
        lr: Adam's largest step size.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Vincent, *Neural Computation* 2011 (the objective); Daras et al., ICML 2022 (on intermediate latents).

    Example:
        >>> LatentScoreModule().denoiser.latent_shape
        (8, 7, 7)
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        generator: GeneratorTraining | None = None,
        hidden_dim: int = 512,
        num_blocks: int = 3,
        sigma_min: float = 0.05,
        sigma_max: float = 8.0,
        ema_decay: float = 0.99,
        lr: float = 1e-3,
    ) -> None:
        super().__init__(lr)
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {ema_decay}")
        self.save_hyperparameters(ignore=["generator"])
        self.plan = generator or GeneratorTraining()
        self.inverter: Inverter = self.plan.inverter(input_shape).requires_grad_(False)
        shape = self.inverter.vae.decoder.latent_shape(self.plan.split)
        self.denoiser = LatentDenoiser(shape, sigma_min, sigma_max, hidden_dim=hidden_dim, num_blocks=num_blocks)
        self.average = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.ema_decay = ema_decay
        self.ready = False

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ready = True

    def on_fit_start(self) -> None:
        self.prepare()

    on_validation_start = on_test_start = on_predict_start = on_fit_start

    def prepare(self) -> None:
        """Obtain the inverter, and take the latents' mean and scale, unless a checkpoint or :meth:`adopt` has them."""
        if self.ready:
            return
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, LightningDataModule):
            raise MisconfigurationException("The generator's training needs a datamodule, got none")
        shape, options = self.hparams["input_shape"], inner_options(self.trainer)
        with torch.inference_mode(False), torch.enable_grad():
            obtain = self.plan.fit if self.trainer.fast_dev_run else self.plan.obtain  # type: ignore[attr-defined]
            self.inverter.load_state_dict(obtain(data, shape, self.device, **options))
        self.adopt(latents_of(self.inverter, (batch[0].to(self.device) for batch in data.train_dataloader())))

    def adopt(self, latents: Tensor) -> None:
        """Take mean and scale from latents ``(N, *latent_shape)``."""
        self.denoiser.fit(latents)
        self.average.fit(latents)
        self.ready = True

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z = self.latents(batch)
        low, high = (math.log(level) for level in (self.denoiser.sigma_min, self.denoiser.sigma_max))
        log_sigma = torch.empty(len(z), device=z.device).uniform_(low, high)
        loss = self.denoiser.loss(z, log_sigma, torch.randn(len(z), z[0].numel(), device=z.device))
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(z), sync_dist=True)
        return loss

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        torch._foreach_lerp_(list(self.average.parameters()), list(self.denoiser.parameters()), 1 - self.ema_decay)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Images of as many drawn latents as the batch has."""
        z = self.average.sample(len(self.latents(batch)))
        return self.inverter.vae.decoder.suffix(z, self.plan.split)

    def latents(self, batch: Any) -> Tensor:
        """The batch's latents, ``(B, *latent_shape)``."""
        return batch if isinstance(batch, Tensor) else self.inverter.invert(batch[0])

    def _evaluate(self, part: str, batch: Any, batch_idx: int) -> None:
        z = self.latents(batch)
        generator = torch.Generator(z.device).manual_seed(batch_idx)  # the same noise at every look
        noise = torch.randn(len(z), z[0].numel(), generator=generator, device=z.device)
        errors, losses = {}, []
        for level in LEVELS:
            sigma = torch.full((1,), level, device=z.device)
            clean = self.average.normalised(z)
            error = (self.average(clean + level * noise, sigma) - clean).square().mean()
            errors[f"{part}/denoising_mse_{level:g}"] = error
            losses.append((1 + level**2) / level**2 * error)
        errors[f"{part}/loss"] = torch.stack(losses).mean()
        self.log_dict(errors, batch_size=len(z), sync_dist=True)


def latents_of(inverter: Inverter, batches: Iterable[Tensor]) -> Tensor:
    """The latents of batches of images, all together, ``(N, *latent_shape)``."""
    return torch.cat([inverter.invert(x).contiguous() for x in batches])


def inner_options(trainer: Any) -> dict[str, Any]:
    """Arguments of a Trainer within another one's run, so that it looks like it."""
    bar = trainer.progress_bar_callback
    options: dict[str, Any] = {"callbacks": [type(bar)()]} if bar else {"enable_progress_bar": False}
    return options | ({"fast_dev_run": True} if trainer.fast_dev_run else {})


def batches_of(latents: Tensor, batch_size: int) -> DataLoader:
    """Shuffled batches of latents, each taken by one indexing operation.

    Args:
        latents: Shape ``(N, *latent_shape)``.
        batch_size: Of a batch; a smaller last one is left out.
    """
    order = BatchSampler(RandomSampler(range(len(latents))), batch_size, drop_last=len(latents) >= batch_size)
    return DataLoader(latents, sampler=order, batch_size=None)  # type: ignore[arg-type]
