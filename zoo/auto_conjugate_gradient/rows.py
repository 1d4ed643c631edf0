"""Tensors that have one entry for each row of a batch, and lose rows together."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Rows:
    """A base for dataclasses of tensors, or of other ``Rows``, whose first axis counts the same rows.

    Fields of other types are left alone.

    Example:
        >>> @dataclass
        ... class Points(Rows):
        ...     x: Tensor
        ...     name: str
        >>> points = Points(torch.arange(3), "a")
        >>> points.select(torch.tensor([2, 0]))
        >>> points.x
        tensor([2, 0])
    """

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order.

        Args:
            rows: Their indices, shape ``(n,)``, int64.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Rows):
                value.select(rows)
            elif isinstance(value, Tensor):
                setattr(self, field.name, value.index_select(0, rows))


def pick(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Rows of one matrix where a mask says so, else those of the other.

    Args:
        mask: Shape ``(B,)``, bool.
        new: Shape ``(B, D)``, finite.
        old: Shape ``(B, D)``, finite.

    Returns:
        The rows, shape ``(B, D)``.

    Example:
        >>> pick(torch.tensor([True, False]), torch.ones(2, 1), torch.zeros(2, 1))[:, 0]
        tensor([1., 0.])
    """
    return torch.lerp(old, new, mask.to(old.dtype)[:, None])  # exact at 0 and 1; a broadcast torch.where is slower
