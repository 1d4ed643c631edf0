"""The Diversity Index: how far the points that a search has visited are spread over the ball that it may visit."""

import math
from functools import lru_cache
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["Linf", "L2"]

IMAGES = 32  # whose windows are in memory at a time


def diversity_index(points: Tensor, eps: float, norm: Norm = "Linf") -> Tensor:
    r"""One minus the mean clustering of the graphs that join points within a distance, over all distances.

    .. math:: \mathrm{DI} = 1 - \frac1M \int_0^M CC(\theta)\, d\theta

    with M the diameter of the ball, and CC the mean over the points of their local clustering coefficients in the
    graph with an edge wherever two points are at most :math:`\theta` apart; points with fewer than two edges have 0.
    The index is 0 where all points are one, and near d / M where all are about d apart.

    Args:
        points: K points of each of B searches, shape ``(B, K, *)``, K >= 3.
        eps: Radius of the ball, > 0.
        norm: Of the ball, ``"Linf"`` or ``"L2"``; distances are Euclidean for both.

    Returns:
        The indices, in [0, 1], shape ``(B,)``.

    Raises:
        ValueError: If there are fewer than three points, ``eps`` is not positive, or there is no such norm.

    Source:
        Yamamura et al., ICML 2022. CC is constant between distances, so that the integral is a sum and exact.

    Example:
        >>> corners = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])  # M = sqrt(2): joined at the last distance
        >>> diversity_index(corners, eps=0.5)
        tensor([1.])
        >>> diversity_index(torch.zeros(1, 5, 2), eps=0.5)
        tensor([0.])
    """
    if points.dim() < 3:
        raise ValueError(f"points must have the shape (B, K, *), got {tuple(points.shape)}")
    return diversity_along_path(points, eps, window=points.shape[1], norm=norm)[:, 0]


def diversity_along_path(points: Tensor, eps: float, window: int = 10, norm: Norm = "Linf") -> Tensor:
    """The index of every ``window`` consecutive points of a search; see :func:`diversity_index`.

    Args:
        points: Points in the order of the search, shape ``(B, T, *)``.
        eps: Radius of the ball, > 0.
        window: Points K of an index, at least 3; the paper has 10.
        norm: Of the ball.

    Returns:
        The indices, shape ``(B, T - K + 1)``; the first is that of the points 0 to K - 1.

    Raises:
        ValueError: If an argument is out of range, or there are fewer points than a window has.

    Example:
        >>> path = torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 4, 1)  # M = 1
        >>> diversity_along_path(path, eps=0.5, window=3)  # the three points; then two, and one that is M away
        tensor([[0., 1.]])
    """
    check(eps, window, norm)
    if points.dim() < 3 or points.shape[1] < window:
        raise ValueError(f"points must have the shape (B, T, *) with T >= {window}, got {tuple(points.shape)}")
    flat = points.flatten(2)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    largest = diameter(eps, flat.shape[2], norm)
    parts = [index_of_distances(_window_distances(part, window), largest) for part in flat.split(IMAGES)]
    return torch.cat(parts) if parts else flat.new_zeros(0, flat.shape[1] - window + 1)


def diameter(eps: float, dimension: int, norm: Norm) -> float:
    """The largest Euclidean distance between two points of a ball."""
    return 2 * eps * (math.sqrt(dimension) if norm == "Linf" else 1.0)


def index_of_distances(distances: Tensor, largest: float) -> Tensor:
    """The index of K points, given the distances of their pairs.

    Args:
        distances: In the order (0, 1), (0, 2), ..., (K - 2, K - 1), shape ``(*, K (K - 1) / 2)``.
        largest: The diameter M.

    Returns:
        The indices, shape ``(*)``.

    Example:
        >>> index_of_distances(torch.tensor([0.25, 0.25, 0.25]), largest=1.0)  # a triangle from 0.25 on
        tensor(0.2500)
    """
    ordered, order = distances.clamp(max=largest).sort(dim=-1)
    ends, edges, corners = (table.to(distances.device) for table in _tables(distances.shape[-1]))
    degree = (
        ends[order].to(distances.dtype).cumsum(dim=-2)
    )  # (*, pairs, K): edges of each point, once the shortest ones are there
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    closed = rank[..., edges].amax(dim=-1)  # (*, triangles): with which edge each triangle is whole
    joined = torch.zeros_like(degree)
    places = closed[..., None].expand(*closed.shape, corners.shape[-1])
    joined.scatter_add_(-2, places, corners.expand_as(places).to(joined.dtype))
    triangles = joined.cumsum(dim=-2)
    pairs = degree * (degree - 1)
    clustering = (2 * triangles / pairs.clamp(min=1)).mean(dim=-1)
    after = torch.cat([ordered[..., 1:], torch.full_like(ordered[..., :1], largest)], dim=-1)
    return 1 - (clustering * (after - ordered)).sum(dim=-1) / largest


@lru_cache
def _tables(num_pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which points each pair joins, ``(pairs, K)``; pairs and points of each triangle, ``(n, 3)`` and ``(n, K)``."""
    num_points = round((1 + math.sqrt(1 + 8 * num_pairs)) / 2)
    pairs = list(combinations(range(num_points), 2))
    triangles = list(combinations(range(num_points), 3))
    number = {pair: i for i, pair in enumerate(pairs)}
    ends, corners = torch.zeros(num_pairs, num_points), torch.zeros(len(triangles), num_points)
    for i, pair in enumerate(pairs):
        ends[i, list(pair)] = 1
    for i, triangle in enumerate(triangles):
        corners[i, list(triangle)] = 1
    return ends, torch.tensor([[number[pair] for pair in combinations(t, 2)] for t in triangles]), corners


def _window_distances(points: Tensor, window: int) -> Tensor:
    """Distances of the pairs in every window, ``(B, T - K + 1, K (K - 1) / 2)``, of points ``(B, T, D)``."""
    batch, length, _ = points.shape
    after = points.new_zeros(batch, length, window - 1)  # from each point to the next ones
    for lag in range(1, window):
        after[:, : length - lag, lag - 1] = (points[:, lag:] - points[:, :-lag]).norm(dim=-1)
    first, second = torch.triu_indices(window, window, 1, device=points.device)
    begin = torch.arange(length - window + 1, device=points.device)[:, None]
    return after[:, begin + first, second - first - 1]


def check(eps: float, window: int, norm: str) -> None:
    """Raise a ``ValueError`` that names the first argument of an index that is out of range."""
    if not eps > 0:
        raise ValueError(f"eps must be > 0, got {eps}")
    if window < 3:
        raise ValueError(f"window must be at least 3, as fewer points have no triangles, got {window}")
    if norm not in ("Linf", "L2"):
        raise ValueError(f"norm must be Linf or L2, got {norm!r}")
