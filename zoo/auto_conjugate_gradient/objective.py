"""What is maximised: a loss of a model's logits, as a function of images that are rows of numbers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.auto_conjugate_gradient.losses import LOSSES, TARGETED_LOSSES, Loss, is_adversarial, success_margin

Model = Callable[[Tensor], Tensor]


class Seen(NamedTuple):
    """What one look at points ``(B, D)`` tells.

    Args:
        loss: Shape ``(B,)``.
        gradient: Of the loss, shape ``(B, D)``.
        margin: Positive where the attack has succeeded, shape ``(B,)``.
        success: Whether it has, shape ``(B,)``, bool.
    """

    loss: Tensor
    gradient: Tensor
    margin: Tensor
    success: Tensor


class Layout:
    """Images as rows of numbers in the order in which they lie in memory, so that neither way copies anything.

    Args:
        x: Images, shape ``(B, *)``.

    Example:
        >>> x = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
        >>> layout = Layout(x)
        >>> layout.images(layout.rows(x)).equal(x), layout.rows(x).data_ptr() == x.data_ptr()
        (True, True)
    """

    def __init__(self, x: Tensor) -> None:
        self.shape = x.shape[1:]
        self.channels_last = (
            x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        )

    def rows(self, x: Tensor) -> Tensor:
        """Rows ``(B, D)`` of images ``(B, *)``."""
        return (x.permute(0, 2, 3, 1) if self.channels_last else x).flatten(1)

    def images(self, rows: Tensor) -> Tensor:
        """Images ``(B, *)`` of rows ``(B, D)``."""
        if not self.channels_last:
            return rows.view(-1, *self.shape)
        channels, height, width = self.shape
        return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)


class Objective:
    """The loss of an attack and its gradient, from one forward and one backward pass.

    Args:
        model: Gives logits ``(B, K)`` of images ``(B, *)``.
        loss: Name of a loss, or a function of logits and labels.
        layout: Of the images.
        aims: Whether the attack wants the targets; else any wrong class will do.
        highest_label: Of labels and targets.
    """

    def __init__(self, model: Model, loss: str | Loss, layout: Layout, aims: bool, highest_label: int) -> None:
        self.model, self.loss, self.layout = model, loss, layout
        self.aims, self.highest_label = aims, highest_label
        self.all_finite: Tensor | None = None

    def __call__(self, x: Tensor, y: Tensor, target: Tensor | None) -> Seen:
        """Look at points.

        Args:
            x: Shape ``(B, D)``.
            y: Labels, shape ``(B,)``.
            target: Wrong classes that the loss is to favour, shape ``(B,)``; all of them if ``None``.

        Raises:
            ValueError: If the model's answer is no logits, or has no gradient.
        """
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            logits = self.logits(point)
            loss = self._loss(logits, y, target)
            if not loss.requires_grad:
                raise ValueError("model must be differentiable in its input, got logits without a gradient")
            (gradient,) = torch.autograd.grad(loss.sum(), point)
        logits, loss = logits.detach(), loss.detach()
        finite = torch.isfinite(loss).all() & torch.isfinite(gradient.sum())
        self.all_finite = finite if self.all_finite is None else self.all_finite & finite
        wanted = target if self.aims else None
        return Seen(loss, gradient, success_margin(logits, y, wanted), is_adversarial(logits, y, wanted))

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of rows ``(B, D)``, in single precision at least, under autocast too."""
        logits = self.model(self.layout.images(x))
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"model must give logits of shape ({len(x)}, K), got {got}")
        if self.highest_label >= logits.shape[1]:
            raise ValueError(f"labels must lie in [0, {logits.shape[1]}), got {self.highest_label}")
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _loss(self, logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
        if not isinstance(self.loss, str):
            loss = self.loss(logits, y)
        elif target is None:
            loss = LOSSES[self.loss](logits, y)
        else:
            loss = TARGETED_LOSSES[self.loss](logits, y, target)
        if loss.shape != y.shape:
            raise ValueError(f"loss must give one value for each of {len(y)} images, got {tuple(loss.shape)}")
        return loss

    def check_finite(self, iteration: int) -> None:
        """Raise a ``ValueError`` if a loss or a gradient was not finite so far; waits for the device."""
        if self.all_finite is not None and not bool(self.all_finite):
            raise ValueError(
                f"model must give finite logits and gradients, got NaN or infinity within {iteration} iterations"
            )


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Put a model into evaluation mode without gradients of its parameters, and leave it as it was found.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> with frozen(net):
        ...     net.training, net.weight.requires_grad
        (False, False)
        >>> net.training, net.weight.requires_grad
        (True, True)
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
