"""The quick attack that adversarial training makes in every step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sign_ascent(model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float, num_steps: int) -> Tensor:
    r"""Climb the cross-entropy from a random point of the box around each image, by steps of fixed size.

    .. math:: x_{k+1} = P\big(x_k + \alpha\, \mathrm{sign}\, \nabla_x L(x_k)\big), \qquad x_0 \sim U(B_\epsilon(x))

    One step is FGSM with a random start, several are PGD. The model stays in the mode in which it is.

    Args:
        model: Gives logits ``(B, K)``.
        x: Images in [0, 1], shape ``(B, C, H, W)``.
        y: Labels, shape ``(B,)``.
        eps: Half the side of the box.
        step_size: The alpha.
        num_steps: Steps; each is a forward and a backward pass, without gradients of parameters.

    Returns:
        The perturbed images, shape ``(B, C, H, W)``.

    Source:
        Madry et al., ICLR 2018 (PGD); Wong et al., *Fast is Better than Free*, ICLR 2020 (one step).

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
        >>> x = torch.full((2, 3, 4, 4), 0.5)
        >>> moved = sign_ascent(net, x, torch.tensor([0, 1]), eps=0.1, step_size=0.125, num_steps=1)
        >>> bool(((moved - x).abs() <= 0.1 + 1e-6).all())
        True
    """
    low, high = (x - eps).clamp_(min=0), (x + eps).clamp_(max=1)
    point = torch.rand_like(x).mul_(2 * eps).add_(x - eps).clamp_(low, high)
    for _ in range(num_steps):
        with torch.enable_grad():
            point.requires_grad_()
            loss = F.cross_entropy(model(point).float(), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point)
        point = torch.add(point.detach(), gradient.sign_(), alpha=step_size).clamp_(low, high)
    return point.detach()
