"""Batches of images that lie in memory, made on their device; and the order in which they come."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler


class ImageBatch(NamedTuple):
    """What a step is given; ``x, y, *_ = batch`` serves where the rest is of no use.

    Attributes:
        x: Images, shape ``(B, C, H, W)``, floating point.
        y: Labels as given, noisy where there is label noise, shape ``(B,)``, int64.
        index: Position of each image in its part of the data, shape ``(B,)``, int64.
        clean_y: Labels without noise, shape ``(B,)``, int64.
        second_view: The images, augmented strongly, shape ``(B, C, H, W)``; ``None`` where it is not asked for.
    """

    x: Tensor
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # tuples have a method of this name
    clean_y: Tensor
    second_view: Tensor | None = None


View = Callable[[Tensor], Tensor]


class ImageBatches(Dataset[ImageBatch]):
    """Images and labels on one device, taken by whole batches of positions.

    Args:
        x: Images, shape ``(N, H, W, C)``, uint8, contiguous.
        y: Labels as given, shape ``(N,)``, int64.
        clean_y: Labels without noise, shape ``(N,)``, int64.
        view: What makes floats ``(B, C, H, W)`` of images ``(B, H, W, C)``.
        second_view: Another one, or ``None``.
    """

    def __init__(self, x: Tensor, y: Tensor, clean_y: Tensor, view: View, second_view: View | None = None) -> None:
        self.x, self.y, self.clean_y = x, y, clean_y
        self.view, self.second_view = view, second_view

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Tensor) -> ImageBatch:
        index = index.to(self.x.device, non_blocking=True)
        x = self.x.index_select(0, index)
        second = self.second_view(x) if self.second_view else None
        return ImageBatch(self.view(x), self.y[index], index, self.clean_y[index], second)


class BatchOrder(DistributedSampler):
    """Positions of the images of each batch, shuffled anew in every epoch by the seed.

    Lightning tells the epoch, and leaves a ``DistributedSampler`` as it is: this one shares the images among the
    processes itself. In training every process has the same number of batches; in evaluation no image comes twice.

    With ``independent`` an epoch is no pass over the images, but as many batches as one has, each drawn from all images
    whatever the others hold, as the theory of stochastic gradients has it; no image comes twice in the batch of a step,
    over all processes.

    Args:
        num_images: Images N.
        batch_size: Images of a batch, on each process.
        shuffle: Whether the order is drawn; else it is 0 to N - 1.
        drop_last: Whether a smaller last batch is left out.
        seed: Of the order.
        num_replicas: Number of processes.
        rank: Of this process.
        independent: Whether each batch is drawn from all images; needs ``shuffle``, and no more than N images a step.

    Example:
        >>> [index.tolist() for index in BatchOrder(5, 2)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        independent: bool = False,
    ) -> None:
        super().__init__(range(num_images), num_replicas, rank, shuffle, seed, drop_last)  # type: ignore[arg-type]
        self.num_images = num_images
        self.batch_size = batch_size
        self.independent = independent

    def __iter__(self) -> Iterator[Tensor]:
        if self.shuffle and self.independent:
            yield from self._independent_batches()
            return
        order = torch.arange(self.num_images)
        if self.shuffle:
            seed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0]
            order = torch.randperm(self.num_images, generator=torch.Generator().manual_seed(int(seed)))
            lacking = self._share() * self.num_replicas - self.num_images
            order = torch.cat([order, order[:lacking]]) if lacking > 0 else order[: len(order) + lacking]
        # A generator draws the order at its first batch: Lightning tells the epoch of a resumed run after iter().
        yield from order[self.rank :: self.num_replicas].split(self.batch_size)[: len(self)]

    def _independent_batches(self) -> Iterator[Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch))
        for _ in range(len(self)):
            step = rng.choice(self.num_images, self.batch_size * self.num_replicas, replace=False)
            yield torch.from_numpy(step[self.rank :: self.num_replicas].copy())

    def __len__(self) -> int:
        share = self._share()
        return share // self.batch_size if self.drop_last else math.ceil(share / self.batch_size)

    def _share(self) -> int:
        """Images of this process; in training all have equally many."""
        if not self.shuffle:
            return len(range(self.rank, self.num_images, self.num_replicas))
        return (self.num_images if self.drop_last else self.num_images + self.num_replicas - 1) // self.num_replicas
