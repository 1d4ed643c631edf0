"""Families of starts, one for each kind of trajectory, in coordinates of the target's singular basis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Family = Literal["random", "saddle", "anti", "opposite", "null", "near_saddle", "aligned"]


@dataclass(frozen=True)
class Start:
    r"""Balanced starts :math:`s \, u v^\top` of one family.

    With coordinates a of u and b of v in the singular basis of the target, and :math:`c = a + b`:

    - ``random``: uniform directions; they end at the best approximation, with probability 1.
    - ``saddle``: random, with nothing along the first ``index - 1`` singular vectors; they end at singular value
      number ``index``, a saddle.
    - ``anti``: :math:`a = (0.6, 0.8, 0, \dots)`, :math:`b = (-0.6, 0, 0.8, 0, \dots)`; the first singular vectors take
      part, but :math:`c_1 = 0`, and the end is the second singular value.
    - ``opposite``: :math:`b = -a`, all entries equal; c = 0, and the end is the origin.
    - ``null``: the same except in the last singular vector and the null space of the target; where the last singular
      value is 0, the end is the origin, and slower.
    - ``near_saddle``: along the second singular vectors, with :math:`c_1` = ``epsilon``.
    - ``aligned``: along the first singular vectors.

    Args:
        family: One of these.
        s: Singular value of the product, > 0.
        number: How many starts; only random ones differ from each other.
        index: For ``saddle``, from 2.
        epsilon: For ``near_saddle``, in (0, 1].

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> a, b = Start("near_saddle", epsilon=0.2).coordinates(d_y=3, d_x=2)
        >>> (a + torch.nn.functional.pad(b, (0, 1)))[0, 0]
        tensor(0.2000, dtype=torch.float64)
    """

    family: Family
    s: float = 0.5
    number: int = 1
    index: int = 2
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise ValueError(f"family must be one of {', '.join(get_args(Family))}, got {self.family!r}")
        if not self.s > 0:
            raise ValueError(f"s must be > 0, got {self.s}")
        if self.number < 1:
            raise ValueError(f"number must be at least 1, got {self.number}")
        if self.index < 2:
            raise ValueError(f"index must be at least 2, got {self.index}")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon must be in (0, 1], got {self.epsilon}")

    def coordinates(self, d_y: int, d_x: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Coordinates of u, ``(number, d_y)``, and of v, ``(number, d_x)``, in float64.

        Args:
            d_y: Dimension of the outputs.
            d_x: Dimension of the inputs.
            generator: Source of randomness; the global one if ``None``.

        Raises:
            ValueError: If the dimensions are too small for the family.
        """
        least = {"saddle": (self.index, self.index), "anti": (2, 3), "near_saddle": (2, 2), "null": (2, d_y + 1)}
        needed = least.get(self.family, (1, d_y if self.family == "opposite" else 1))
        if d_y < needed[0] or d_x < needed[1]:
            raise ValueError(
                f"family {self.family!r} needs d_y >= {needed[0]} and d_x >= {needed[1]}, got {d_y}, {d_x}"
            )
        if self.family in ("random", "saddle"):
            skipped = self.index - 1 if self.family == "saddle" else 0
            return _random(self.number, d_y, skipped, generator), _random(self.number, d_x, skipped, generator)
        a, b = torch.zeros(d_y, dtype=torch.float64), torch.zeros(d_x, dtype=torch.float64)
        if self.family == "anti":
            a[:2], b[[0, 2]] = torch.tensor([[0.6, 0.8], [-0.6, 0.8]], dtype=torch.float64)
        elif self.family in ("opposite", "null"):
            a[:] = d_y**-0.5
            b[:d_y] = -a
            if self.family == "null":
                b[d_y - 1], b[d_y] = 0.6 * a[0], 0.8 * a[0]
        elif self.family == "near_saddle":
            a[:2] = b[:2] = torch.tensor([self.epsilon / 2, (1 - self.epsilon**2 / 4) ** 0.5], dtype=torch.float64)
        else:
            a[0] = b[0] = 1.0
        return a.expand(self.number, -1), b.expand(self.number, -1)


def _random(number: int, size: int, skipped: int, generator: torch.Generator | None) -> Tensor:
    """Uniform unit vectors ``(number, size)`` among those whose first entries are zero."""
    vectors = torch.randn(number, size - skipped, dtype=torch.float64, generator=generator)
    return torch.nn.functional.pad(torch.nn.functional.normalize(vectors, dim=1, eps=0.0), (skipped, 0))


def draw_starts(
    starts: Sequence[Start], target: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Directions and singular values of starts towards every one of several targets, the first target's first.

    Args:
        starts: Their families.
        target: Targets, ``(P, d_y, d_x)``; every one gets the same coordinates, in its own basis.
        generator: Source of randomness; the global one if ``None``.

    Returns:
        u ``(P K, d_y)``, v ``(P K, d_x)`` and s ``(P K,)`` for K starts in all.
    """
    d_y, d_x = target.shape[1:]
    drawn = [start.coordinates(d_y, d_x, generator) for start in starts]
    a, b = (torch.cat(side) for side in zip(*drawn))
    s = torch.tensor([start.s for start in starts for _ in range(start.number)], dtype=torch.float64)
    left, _, right = torch.linalg.svd(target, full_matrices=True)
    return (a @ left.mT).flatten(0, 1), (b @ right).flatten(0, 1), s.repeat(len(target))
