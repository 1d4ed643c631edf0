"""A penalty on the Jacobian of a deep equilibrium layer, which keeps its solvers short."""

from collections.abc import Callable

import torch
from torch import Tensor


def jacobian_penalty(
    f: Callable[[Tensor], Tensor],
    z: Tensor,
    num_vectors: int = 1,
    batch_dims: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Estimate the squared Frobenius norm of the Jacobian of f at a state, over its width.

    .. math:: \frac1d \|J\|_F^2 = \frac1d \, E_v |J^\top v|^2, \qquad v \sim N(0, I)

    It is differentiable in the parameters of f and in what f depends on besides; not in the state.

    Args:
        f: Maps states ``(B, *)`` to states, sample by sample; twice differentiable.
        z: States of d numbers each, usually the solutions of z = f(z).
        num_vectors: Gaussian vectors v for each sample, at least 1.
        batch_dims: How many leading axes number the samples.
        generator: Source of the vectors; the global one if ``None``.

    Returns:
        The estimate for each sample, of the batch's shape.

    Raises:
        ValueError: If ``num_vectors`` is out of range.

    Source:
        Bai, Koltun and Kolter, *Stabilizing Equilibrium Models by Jacobian Regularization*, ICML 2021.

    Example:
        >>> weight = torch.eye(3, requires_grad=True)
        >>> penalty = jacobian_penalty(lambda z: z @ weight, torch.zeros(2, 3), num_vectors=2000)
        >>> torch.allclose(penalty, torch.ones(2), atol=0.1)
        True
    """
    if num_vectors < 1:
        raise ValueError(f"num_vectors must be at least 1, got {num_vectors}")
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = f(z)
        vectors = torch.randn((num_vectors, *z.shape), dtype=z.dtype, device=z.device, generator=generator)
        (products,) = torch.autograd.grad(value, z, vectors, create_graph=True, is_grads_batched=True)
        return products.square().flatten(1 + batch_dims).mean(-1).mean(0)
