"""Balanced starts of deep linear networks."""

import torch
from torch import Tensor

from zoo.deep_linear.network import DeepLinearNet

UNIT_TOLERANCE = 1e-8


@torch.no_grad()
def balanced_rank_one_(
    net: DeepLinearNet, u: Tensor, v: Tensor, s: Tensor | float, generator: torch.Generator | None = None
) -> DeepLinearNet:
    r"""Put a network where its layers are balanced and its product is :math:`s \, u v^\top`.

    .. math:: W_j = s^{1/N} p_j p_{j-1}^\top, \qquad p_0 = v, \quad p_N = u, \quad \|p_j\| = 1

    The other :math:`p_j` are random, a sign where a layer has one neuron.

    Args:
        net: The network, R replicas.
        u: Unit vectors on the output's side, ``(R, d_N)`` or ``(d_N,)``.
        v: Unit vectors on the input's side, ``(R, d_0)`` or ``(d_0,)``.
        s: Singular values of the products, >= 0, ``(R,)`` or one for all.
        generator: Source of the directions within; the global one if ``None``.

    Returns:
        The network.

    Raises:
        ValueError: If shapes do not fit, a vector's length is not 1 within 1e-8, or an ``s`` is negative.

    Source:
        Chen, Lin and Zhang, ICML 2022: with a layer of one neuron every balanced start has this form.

    Example:
        >>> u, v = torch.tensor([[0.6, 0.8], [1.0, 0.0]], dtype=torch.float64)
        >>> balanced_rank_one_(DeepLinearNet([2, 1, 2]), u, v, s=2.0).product().detach().round(decimals=6)
        tensor([[[1.2000, 0.0000],
                 [1.6000, 0.0000]]], dtype=torch.float64)
    """
    ends = {}
    for name, value, size in (("u", u, net.dims[-1]), ("v", v, net.dims[0])):
        if value.shape not in ((size,), (net.num_replicas, size)):
            raise ValueError(f"{name} must have the shape ({net.num_replicas}, {size}), got {tuple(value.shape)}")
        ends[name] = value.to(net.flat).expand(net.num_replicas, size)
        lengths = torch.linalg.vector_norm(ends[name], dim=1)
        if not bool(((lengths - 1).abs() <= UNIT_TOLERANCE).all()):
            raise ValueError(f"{name} must have length 1, got {lengths.tolist()}")
    values = torch.as_tensor(s, dtype=net.flat.dtype, device=net.flat.device)
    if values.shape not in ((), (net.num_replicas,)):
        raise ValueError(f"s must be one value, or one for each of {net.num_replicas} replicas, got {s}")
    if not bool((values >= 0).all()):
        raise ValueError(f"s must be >= 0, got {s}")
    inner = [random_units(net, width, generator) for width in net.dims[1:-1]]
    directions = [ends["v"], *inner, ends["u"]]
    scale = values.expand(net.num_replicas)[:, None, None] ** (1 / net.depth)
    for weight, before, after in zip(net.weights(), directions, directions[1:]):
        weight.copy_(scale * after[:, :, None] * before[:, None, :])
    return net


@torch.no_grad()
def random_balanced_(net: DeepLinearNet, scale: float = 1.0, generator: torch.Generator | None = None) -> DeepLinearNet:
    r"""Put a network at a random balanced start of the highest rank r that its widths allow.

    .. math:: W_j = Q_j \Sigma^{1/N} Q_{j-1}^\top, \qquad A \approx Q_N \Sigma Q_0^\top, \quad A_{kl} \sim N(0, c^2)

    where :math:`Q_N \Sigma Q_0^\top` is the best approximation of rank r of the Gaussian matrix A, and the
    :math:`Q_j` within have r random orthonormal columns. With a layer of one neuron r is 1.

    Args:
        net: The network.
        scale: Standard deviation c, > 0.
        generator: Source of randomness; the global one if ``None``.

    Returns:
        The network.

    Raises:
        ValueError: If ``scale`` is not positive.

    Source:
        Arora, Cohen and Hazan, *On the Optimization of Deep Networks*, ICML 2018 (balanced initialisation), with random
        directions within.

    Example:
        >>> net = random_balanced_(DeepLinearNet([5, 3, 1, 4]))
        >>> max(one.abs().max().item() for one in net.balancedness()) < 1e-12
        True
    """
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    rank = min(net.dims)
    gaussian = scale * normal(net, net.dims[-1], net.dims[0], generator)
    left, values, right = torch.linalg.svd(gaussian, full_matrices=False)
    inner = [torch.linalg.qr(normal(net, width, rank, generator)).Q for width in net.dims[1:-1]]
    bases = [right.mT[..., :rank], *inner, left[..., :rank]]
    roots = values[:, None, :rank] ** (1 / net.depth)
    for weight, before, after in zip(net.weights(), bases, bases[1:]):
        weight.copy_((roots * after) @ before.mT)
    return net


def random_units(net: DeepLinearNet, size: int, generator: torch.Generator | None) -> Tensor:
    """Uniform unit vectors ``(R, size)``."""
    return torch.nn.functional.normalize(normal(net, size, 1, generator).squeeze(-1), dim=1, eps=0.0)


def normal(net: DeepLinearNet, rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    """Standard normal matrices ``(R, rows, columns)``."""
    size = (net.num_replicas, rows, columns)
    return torch.randn(size, dtype=net.flat.dtype, device=net.flat.device, generator=generator)
