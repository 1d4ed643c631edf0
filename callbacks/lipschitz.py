"""How much a network stretches distances, measured from below."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

TINY = 1e-12  # two equal points have no ratio


class EmpiricalLipschitz(Metric):
    """Largest ratio of a distance of outputs to that of their inputs: a lower bound of the Lipschitz constant in l2.

    Example:
        >>> x, other_x = torch.tensor([[0.0], [2.0]]).split(1)
        >>> EmpiricalLipschitz()(x, other_x, x / 2, other_x / 2)
        tensor(0.5000)
    """

    is_differentiable = False
    full_state_update = False
    ratio: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("ratio", torch.tensor(0.0), dist_reduce_fx="max")

    def update(self, x: Tensor, other_x: Tensor, y: Tensor, other_y: Tensor) -> None:
        """Add pairs; those of equal inputs say nothing.

        Args:
            x: Inputs, shape ``(B, *)``.
            other_x: Their partners.
            y: Outputs, shape ``(B, *)``.
            other_y: Those of the partners.
        """
        self.ratio = torch.maximum(self.ratio, stretch(x, other_x, y, other_y).amax().to(self.ratio))

    def compute(self) -> Tensor:
        """The largest ratio, scalar; 0 without pairs."""
        return self.ratio


def stretch(x: Tensor, other_x: Tensor, y: Tensor, other_y: Tensor) -> Tensor:
    """Distance of outputs over that of inputs, of each pair; 0 for equal inputs.

    Args:
        x: Inputs, shape ``(B, *)``.
        other_x: Their partners.
        y: Outputs, shape ``(B, *)``.
        other_y: Those of the partners.

    Returns:
        Shape ``(B,)``.

    Example:
        >>> stretch(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.zeros(1, 1), torch.ones(1, 1))
        tensor([0.2000])
    """
    inputs = (other_x - x).flatten(1).double().norm(dim=1)
    outputs = (other_y - y).flatten(1).double().norm(dim=1)
    return torch.where(inputs > TINY, outputs / inputs.clamp_min(TINY), 0).to(y.dtype)


def stretching_pairs(model: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, steps: int = 10) -> Tensor:
    r"""Partners of inputs, at the same distances as given ones, that a network tears apart as far as it can.

    Each step is one of the power iteration for a map that need not be linear:

    .. math:: \delta \leftarrow |\delta| \; g / |g|, \qquad g = J_{x + \delta}^\top (f(x + \delta) - f(x))

    Args:
        model: Works on each input by itself.
        x: Inputs, shape ``(B, *)``.
        start: The first partners, shape ``(B, *)``.
        steps: Number of steps, >= 0.

    Returns:
        The partners of the largest ratio on the way, shape ``(B, *)``.

    Raises:
        ValueError: If ``steps`` is negative.

    Example:
        >>> x = torch.zeros(1, 2)
        >>> partner = stretching_pairs(lambda x: x * torch.tensor([1.0, 3.0]), x, torch.tensor([[3.0, 4.0]]), steps=20)
        >>> torch.allclose(partner, torch.tensor([0.0, 5.0]), atol=0.01)
        True
    """
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    with torch.no_grad():
        y = model(x)
    other, best, ratios = start.detach(), start.detach(), x.new_zeros(len(x))
    shape = (-1, *[1] * (x.ndim - 1))
    for step in range(steps + 1):
        with torch.enable_grad():
            other.requires_grad_()
            other_y = model(other)
            energy = (other_y - y).square().sum() / 2
            (gradient,) = torch.autograd.grad(energy, other)
        other = other.detach()
        found = stretch(x, other, y, other_y.detach())
        better = found > ratios
        best, ratios = torch.where(better.view(shape), other, best), torch.where(better, found, ratios)
        if step < steps:
            length = (other - x).flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1).clamp_min(TINY)
            other = x + length.view(shape) * gradient
    return best
