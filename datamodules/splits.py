"""Splits of nodes into training, validation and test."""

import torch
from torch import Tensor
from torch_geometric.utils import index_to_mask


def random_split(
    y: Tensor,
    num_train_per_class: int,
    num_val: int,
    num_test: int,
    labeled_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw training nodes class by class, then validation and test nodes from all the others.

    Args:
        y: Class of each node, shape ``(N,)``, int64.
        num_train_per_class: Training nodes of each class.
        num_val: Validation nodes.
        num_test: Test nodes.
        labeled_mask: The nodes to draw from, boolean ``(N,)``; all of them if ``None``.
        generator: Source of randomness; the global one if ``None``.

    Returns:
        The masks of the training, validation and test nodes, each boolean ``(N,)``, disjoint.

    Raises:
        ValueError: If a class or the graph has too few nodes.

    Example:
        >>> train, val, test = random_split(torch.tensor([0, 0, 0, 1, 1, 1]), 1, num_val=2, num_test=2)
        >>> train.sum(), val.sum(), test.sum()
        (tensor(2), tensor(2), tensor(2))
    """
    order = torch.randperm(len(y), generator=generator)
    if labeled_mask is not None:
        order = order[labeled_mask[order]]
    by_class = [order[y[order] == label] for label in range(int(y.max()) + 1)]
    smallest = min(len(nodes) for nodes in by_class)
    if num_train_per_class > smallest:
        raise ValueError(
            f"num_train_per_class must be at most {smallest}, the smallest class, got {num_train_per_class}"
        )
    train_mask = index_to_mask(torch.cat([nodes[:num_train_per_class] for nodes in by_class]), len(y))
    others = order[~train_mask[order]]
    if num_val + num_test > len(others):
        raise ValueError(
            f"num_val + num_test must be at most {len(others)}, the nodes outside training, got {num_val} + {num_test}"
        )
    val_mask = index_to_mask(others[:num_val], len(y))
    test_mask = index_to_mask(others[num_val : num_val + num_test], len(y))
    return train_mask, val_mask, test_mask
