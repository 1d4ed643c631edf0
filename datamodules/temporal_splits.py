"""Which windows, or which nodes, are for training, validation and test; and the scale of the training part."""

from typing import Literal

import torch
from torch import Tensor

Split = Literal["chronological", "interleaved", "node"]
SPLITS = ("chronological", "interleaved", "node")
PARTS = ("train", "val", "test")


def chronological(num: int) -> dict[str, Tensor]:
    """The first 70 % for training, the next 10 % for validation, the last 20 % for the test.

    Raises:
        ValueError: If a part would be empty.

    Example:
        >>> {part: len(positions) for part, positions in chronological(54).items()}
        {'train': 37, 'val': 6, 'test': 11}
    """
    return _checked(dict(zip(PARTS, torch.arange(num).tensor_split([num * 7 // 10, num * 8 // 10]))), num)


def interleaved(num: int) -> dict[str, Tensor]:
    """Dealt like cards in rounds of ten: seven for training, one for validation, two for the test.

    Windows that follow each other share all steps but one, so that the test is about what the training has seen.

    Raises:
        ValueError: If a part would be empty.

    Example:
        >>> interleaved(12)["test"]
        tensor([8, 9])
    """
    place = torch.arange(num) % 10
    inside = {"train": place <= 6, "val": place == 7, "test": place >= 8}
    return _checked({part: chosen.nonzero().flatten() for part, chosen in inside.items()}, num)


def deal_nodes(degree: Tensor) -> dict[str, Tensor]:
    """Deal nodes, the largest degree first, like cards in rounds of ten.

    Args:
        degree: In-degree of each node, shape ``(n,)``.

    Returns:
        The masks of the nodes of each part, boolean ``(n,)``.

    Raises:
        ValueError: If a part would be empty.

    Example:
        >>> deal_nodes(torch.arange(10))["test"].nonzero().flatten()  # the smallest two of ten
        tensor([0, 1])
    """
    order = degree.argsort(descending=True, stable=True)
    positions = interleaved(len(degree))
    masks = {part: torch.zeros(len(degree), dtype=torch.bool) for part in PARTS}
    for part in PARTS:
        masks[part][order[positions[part]]] = True
    return masks


def _checked(parts: dict[str, Tensor], num: int) -> dict[str, Tensor]:
    for part, positions in parts.items():
        if len(positions) == 0:
            raise ValueError(f"split leaves no {part} part of {num} windows or nodes; there must be at least 10")
    return parts


def min_max(values: Tensor) -> tuple[Tensor, Tensor]:
    """Least value and range of each channel; a channel that is constant has range 1.

    Args:
        values: Shape ``(*, C)``.

    Returns:
        Both of shape ``(C,)``.

    Example:
        >>> min_max(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        (tensor([1., 5.]), tensor([2., 1.]))
    """
    flat = values.flatten(0, -2)
    least, width = flat.amin(0), flat.amax(0) - flat.amin(0)
    return least, width.masked_fill(width == 0, 1.0)
