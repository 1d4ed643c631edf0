"""Attacks in the l2 norm on a classifier, and what they leave of its accuracy."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from callbacks.lipschitz import EmpiricalLipschitz, stretching_pairs


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The label's logit less the largest other one, shape ``(B,)``.

    Args:
        logits: Shape ``(B, K)``.
        y: Labels, shape ``(B,)``.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor([1.])
    """
    others = logits.scatter(1, y[:, None], -math.inf).amax(dim=1)
    return logits.gather(1, y[:, None])[:, 0] - others


def pgd_l2(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent on the margin, within a ball around each input.

    Each restart begins at a point drawn uniformly from the ball. Inputs are not kept within a range of pixels.

    Args:
        model: Gives logits ``(B, K)``, of each input by itself.
        x: Inputs, shape ``(B, *)``.
        y: Labels, shape ``(B,)``.
        eps: Radius of the ball in the l2 norm, > 0, in units of ``x``.
        steps: Steps of each restart, at least 1.
        step_size: Length of a step; ``None`` is ``eps / 4``.
        restarts: Number of starts, at least 1.
        generator: Source of randomness, on the device of ``x``; the global one if ``None``.

    Returns:
        Of all points on the way, and the input itself, that of the smallest margin, shape ``(B, *)``.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018.

    Example:
        >>> logits = lambda x: torch.stack([x[:, 0], -x[:, 0]], dim=1)
        >>> attacked = pgd_l2(logits, torch.tensor([[1.0]]), torch.tensor([0]), eps=0.5)
        >>> torch.allclose(attacked, torch.tensor(0.5))
        True
    """
    for name, value in {"eps": eps, "step_size": eps / 4 if step_size is None else step_size}.items():
        if not value > 0:
            raise ValueError(f"{name} must be > 0, got {value}")
    for name, number in {"steps": steps, "restarts": restarts}.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    length = eps / 4 if step_size is None else step_size
    with torch.no_grad():
        best, lowest = x, margin(model(x), y)
    shape = (-1, *[1] * (x.ndim - 1))
    for _ in range(restarts):
        other = x + _in_the_ball(x, eps, generator)
        for step in range(steps + 1):
            with torch.enable_grad():
                other.requires_grad_()
                margins = margin(model(other), y)
                (gradient,) = torch.autograd.grad(margins.sum(), other)
            other, margins = other.detach(), margins.detach()
            lower = margins < lowest
            best, lowest = torch.where(lower.view(shape), other, best), torch.where(lower, margins, lowest)
            if step < steps:
                other = x + _shortened(other - length * _normalised(gradient) - x, eps)
    return best


def _in_the_ball(x: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    direction = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    height = torch.rand(len(x), dtype=x.dtype, device=x.device, generator=generator)
    radius = eps * height ** (1 / x[0].numel())
    return radius.view(-1, *[1] * (x.ndim - 1)) * _normalised(direction)


def _normalised(x: Tensor) -> Tensor:
    return nn.functional.normalize(x.flatten(1), dim=1).view(x.shape)


def _shortened(x: Tensor, eps: float) -> Tensor:
    return x.flatten(1).renorm(2, 0, eps).view(x.shape)


class L2Adversary(pl.Callback):
    """Attacks every test batch, and logs what is left: ``test/adversarial_acc``, on the images of ``test/acc``.

    It also logs ``test/lipschitz``, the largest stretch of a distance that it finds: between images, between images
    and their attacks, and between images and partners that power iterations make of these and of random directions.

    Works on any LightningModule that gives logits ``(B, K)`` of ``batch[0]`` by itself; labels are ``batch[1]``.

    Args:
        eps: Radius of the attacks in the l2 norm, > 0, in 255ths of the input's unit.
        steps: Steps of an attack, at least 1.
        restarts: Starts of an attack, at least 1.
        power_steps: Steps of the power iterations, >= 0.
        power_images: Images of each batch that power iterations begin with, at least 1.
        seed: Of random starts; the same in every test.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[L2Adversary(eps=36, steps=10)], logger=False)
    """

    def __init__(
        self,
        eps: float = 36,
        steps: int = 10,
        restarts: int = 1,
        power_steps: int = 10,
        power_images: int = 50,
        seed: int = 0,
    ) -> None:
        if not eps > 0:
            raise ValueError(f"eps must be > 0, got {eps}")
        for name, number in {"steps": steps, "restarts": restarts, "power_images": power_images}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if power_steps < 0:
            raise ValueError(f"power_steps must be >= 0, got {power_steps}")
        self.eps, self.steps, self.restarts = eps / 255, steps, restarts
        self.power_steps, self.power_images, self.seed = power_steps, power_images, seed
        self.accuracy, self.lipschitz = MeanMetric(), EmpiricalLipschitz()
        self.generator = torch.Generator()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.generator = torch.Generator(pl_module.device).manual_seed(self.seed + trainer.global_rank)
        with torch.inference_mode(False):  # what is made in it could not be added to outside
            for metric in (self.accuracy, self.lipschitz):
                metric.to(pl_module.device).reset()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Sequence[Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        with torch.inference_mode(False), trainer.precision_plugin.forward_context(), frozen(pl_module):
            self.attack(pl_module, batch[0].clone(), batch[1].clone())  # clones are no inference tensors

    def attack(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> None:
        """Attack a batch and count what is left of it.

        Args:
            model: Gives logits ``(B, K)``, of each input by itself.
            x: Inputs, shape ``(B, *)``.
            y: Labels, shape ``(B,)``.
        """
        attacked = pgd_l2(model, x, y, self.eps, self.steps, restarts=self.restarts, generator=self.generator)
        some = slice(0, self.power_images)
        random = x + _in_the_ball(x, self.eps, self.generator)
        partners = [x.roll(1, 0), attacked]
        pairs = [
            (x[some], stretching_pairs(model, x[some], start[some], self.power_steps)) for start in (attacked, random)
        ]
        with torch.no_grad():
            logits, attacked_logits = model(x), model(attacked)
            self.accuracy.update((margin(attacked_logits, y) > 0).float())
            for partner in partners:
                self.lipschitz.update(x, partner, logits, model(partner))
            for own, partner in pairs:
                self.lipschitz.update(own, partner, model(own), model(partner))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = {"test/adversarial_acc": self.accuracy.compute(), "test/lipschitz": self.lipschitz.compute()}
        pl_module.log_dict(found, sync_dist=True)  # they are the same on all processes


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it no parameter asks for a gradient: attacks need only those of inputs."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
