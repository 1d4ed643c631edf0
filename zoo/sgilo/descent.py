"""Descent by Adam of many chains at once, and how curved a potential is."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def descend(
    latent: Tensor,
    gradient: Callable[[Tensor, int], tuple[Tensor, dict[str, Tensor]]],
    num_steps: int,
    lr: float,
    num_images: int,
    after: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Steps of Adam; as it treats numbers one by one, the chains do not notice each other.

    Args:
        latent: Where the chains begin, ``(N, *)``; left as it is.
        gradient: Of chains and the number of the step, counted from 0: the gradient, and measures ``(N,)`` by name.
        num_steps: How many.
        lr: Adam's step size.
        num_images: Images that the chains belong to, for messages.
        after: What becomes of the chains after each step.

    Returns:
        Where they end, and the measures of every step, ``(T, N)``.

    Raises:
        FloatingPointError: If the error or the end of a chain is not finite.
    """
    latent = latent.detach().clone(memory_format=torch.preserve_format)
    parameter = nn.Parameter(latent)
    adam = torch.optim.Adam([parameter], lr=lr, foreach=False)
    seen: list[dict[str, Tensor]] = []
    for step in range(num_steps):
        parameter.grad, measures = gradient(parameter.data, step)
        seen.append(measures)
        adam.step()
        if after is not None:
            parameter.data = after(parameter.data)
    history = {name: torch.stack([measures[name] for measures in seen]) for name in seen[0]}
    ends = parameter.data.flatten(1).isfinite().all(1)
    finite = torch.cat([history["error"].isfinite(), ends.unsqueeze(0)])
    steps = finite.cumprod(0).sum(0)
    if bool((steps <= num_steps).any()):
        first, column = steps.min(0)
        chain, image = divmod(int(column), num_images)
        raise FloatingPointError(f"chain {chain} of image {image} is not finite after {int(first)} steps")
    return parameter.data, history


def largest_curvature(
    gradient: Callable[[Tensor], Tensor],
    z: Tensor,
    generator: torch.Generator | None = None,
    num_steps: int = 30,
    eps: float = 1e-2,
) -> Tensor:
    """The largest eigenvalue of a potential's Hessian, of all chains, by power iteration on differences of gradients.

    Args:
        gradient: Of the potential, at chains ``(N, *)``; not a random one.
        z: Where to look, ``(N, *)``.
        generator: Source of the first direction; the global one if ``None``.
        num_steps: Products with the Hessian.
        eps: Length of a difference.

    Returns:
        A scalar.

    Example:
        >>> curvatures = torch.tensor([1.0, 5.0])
        >>> round(largest_curvature(lambda z: curvatures * z, torch.zeros(3, 2)).item(), 2)
        5.0
    """
    at = gradient(z)
    direction = torch.empty_like(z).normal_(generator=generator)
    for _ in range(num_steps):
        length = direction.flatten(1).norm(dim=1).view(-1, *[1] * (z.ndim - 1))
        direction = (gradient(torch.addcdiv(z, direction, length, value=eps)) - at) / eps
    return direction.flatten(1).norm(dim=1).max()
