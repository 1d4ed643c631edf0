"""The classifier that is trained on attacked images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from zoo.auto_conjugate_gradient.network import NormalizedNetwork
from zoo.auto_conjugate_gradient.perturbation import sign_ascent
from zoo.classifier import Classifier


class AdversarialClassifier(Classifier):
    """A classifier that learns from images perturbed against itself; everything else is as in ``Classifier``.

    Images have pixels in [0, 1] (``VisionDataModule(normalize=False)``): the normalisation is inside the network.
    ``train/acc`` is the accuracy on perturbed images, ``val/acc`` and ``test/acc`` that on clean ones; beside these
    ``robust_acc`` is the accuracy under PGD with ``eval_steps`` steps of ``eps / 4`` from a random point. The attacks
    of :mod:`zoo.auto_conjugate_gradient.attack` are stronger.

    Args:
        eps: Largest change of a pixel, in (0, 1].
        num_steps: Steps of the attack in training: 1 is FGSM with a random start.
        relative_step_size: Size of these steps in units of ``eps``, > 0.
        ramp_epochs: Epochs in which ``eps`` grows from 0 to its value, >= 0.
        eval_steps: Steps of the attack in validation and test.
        mean: Mean of each channel, or one for all, for the normalisation.
        std: Their standard deviations.
        **classifier: Arguments of :class:`~zoo.classifier.Classifier`.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018; Wong et al., *Fast is
        Better than Free*, ICLR 2020.

    Example:
        >>> model = AdversarialClassifier(10, eps=0.3, input_shape=(1, 28, 28), backbone="cnn")
        >>> model(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        eps: float = 8 / 255,
        num_steps: int = 1,
        relative_step_size: float = 1.25,
        ramp_epochs: float = 0.0,
        eval_steps: int = 10,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes, **classifier)
        check_perturbation(eps, num_steps, relative_step_size, ramp_epochs)
        if eval_steps < 1:
            raise ValueError(f"eval_steps must be at least 1, got {eval_steps}")
        self.net = NormalizedNetwork(self.net, mean, std)
        self.eps, self.num_steps, self.relative_step_size = eps, num_steps, relative_step_size
        self.ramp_epochs, self.eval_steps = ramp_epochs, eval_steps
        for part in ("val", "test"):
            self.accuracies[f"{part}_robust_acc"] = MulticlassAccuracy(
                num_classes, average="micro", validate_args=False
            )

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        eps = self.eps * self.ramp(batch_idx)
        x = sign_ascent(self.net, batch[0], batch[1], eps, self.relative_step_size * eps, self.num_steps)
        return super().training_step((x, *batch[1:]), batch_idx)

    def ramp(self, batch_idx: int) -> float:
        """The share of ``eps`` that a step perturbs by."""
        if not self.ramp_epochs:
            return 1.0
        epochs = self.current_epoch + (batch_idx + 1) / self.trainer.num_training_batches
        return min(1.0, epochs / self.ramp_epochs)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self._log_robust("val", batch)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        self._log_robust("test", batch)

    def _log_robust(self, part: str, batch: Sequence[Tensor]) -> None:
        with torch.inference_mode(False):
            x, y = batch[0].clone(), batch[1].clone()
            logits = self(sign_ascent(self.net, x, y, self.eps, self.eps / 4, self.eval_steps))
        self._log_accuracy(part, "robust_acc", logits, y, on_step=False, on_epoch=True, batch_size=len(y))


def check_perturbation(eps: float, num_steps: int, relative_step_size: float, ramp_epochs: float) -> None:
    """Raise a ``ValueError`` that names the first argument of the training attack that is out of range."""
    if not 0 < eps <= 1:
        raise ValueError(f"eps must be in (0, 1], as pixels lie in [0, 1], got {eps}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not relative_step_size > 0:
        raise ValueError(f"relative_step_size must be > 0, got {relative_step_size}")
    if not ramp_epochs >= 0:
        raise ValueError(f"ramp_epochs must be >= 0, got {ramp_epochs}")
