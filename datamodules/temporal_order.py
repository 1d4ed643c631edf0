"""The order in which windows come."""

from collections.abc import Iterator

from torch import Tensor

from datamodules.batches import BatchOrder


class WindowOrder(BatchOrder):
    """The positions of the windows of each batch; see :class:`~datamodules.batches.BatchOrder`.

    Args:
        positions: The windows to choose from, shape ``(W,)``.
        batch_size: Windows of a batch, on each process.
        shuffle: Whether the order is drawn anew in every epoch.
        **order: ``seed``, and of several processes ``num_replicas`` and ``rank``.

    Example:
        >>> import torch
        >>> [chosen.tolist() for chosen in WindowOrder(torch.tensor([8, 9, 18]), 2)]
        [[8, 9], [18]]
    """

    def __init__(self, positions: Tensor, batch_size: int, shuffle: bool = False, **order: int) -> None:
        super().__init__(len(positions), batch_size, shuffle, **order)  # type: ignore[arg-type]
        self.positions = positions

    def __iter__(self) -> Iterator[Tensor]:
        for index in super().__iter__():
            yield self.positions[index]
