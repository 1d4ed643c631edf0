"""The step sizes of Auto-PGD: halved, for each image by itself, where its losses no longer rise."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.auto_conjugate_gradient.rows import Rows

FRACTIONS = (0.22, 0.03, 0.06)  # of all iterations: the first window, by what each is shorter, the shortest


def windows(n_iter: int, fractions: tuple[float, float, float] = FRACTIONS) -> Iterator[int]:
    """Lengths of the windows between checkpoints, without end.

    Args:
        n_iter: All iterations N.
        fractions: The first window, by what each next one is shorter, and the shortest one, as shares of N.

    Source:
        Croce and Hein, ICML 2020, section 4 (there as positions ``p_j``).

    Example:
        >>> from itertools import islice
        >>> list(islice(windows(100), 8))
        [22, 19, 16, 13, 10, 7, 6, 6]
    """
    first, shorter, shortest = (max(math.floor(share * n_iter + 1e-9), 1) for share in fractions)  # 0.29 * 100 < 29
    length = first
    while True:
        yield length
        length = max(length - shorter, shortest)


def checkpoints(n_iter: int, fractions: tuple[float, float, float] = FRACTIONS) -> dict[int, int]:
    """After how many iterations step sizes are looked at, and over how many of the last ones.

    Args:
        n_iter: All iterations N.
        fractions: As for :func:`windows`.

    Returns:
        The window's length by the number of iterations.

    Example:
        >>> checkpoints(100)
        {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    """
    found, iteration = {}, 0
    for length in windows(n_iter, fractions):
        iteration += length
        if iteration > n_iter:
            break
        found[iteration] = length
    return found


@dataclass
class StepSize(Rows):
    """The step size of each image, a function of the losses seen so far and of nothing else.

    Args:
        size: Step sizes, shape ``(B,)``.
        loss: The last losses, shape ``(B,)``.
        best: The largest losses so far, shape ``(B,)``.
        rises: In how many iterations since the last checkpoint the loss rose above the one before, shape ``(B,)``.
        best_before: ``best`` at the last checkpoint, shape ``(B,)``.
        halved_before: Whether the last checkpoint halved, shape ``(B,)``, bool.

    Source:
        Croce and Hein, ICML 2020, section 4, conditions 1 and 2; ties count as in their code.

    Example:
        >>> steps = StepSize.begin(torch.tensor([0.0, 0.0]), 1.0)
        >>> for losses in [(1.0, 2.0), (2.0, 1.0), (3.0, 0.0), (4.0, -1.0)]:  # always up; up once, then down
        ...     risen = steps.see(torch.tensor(losses))
        >>> steps.halve(window=4, rho=0.75)  # 4 and 1 rises; more than 3 are needed
        tensor([False,  True])
        >>> steps.size
        tensor([1.0000, 0.5000])
    """

    size: Tensor
    loss: Tensor
    best: Tensor
    rises: Tensor
    best_before: Tensor
    halved_before: Tensor

    @classmethod
    def begin(cls, loss: Tensor, size: float) -> "StepSize":
        """At the start points.

        Args:
            loss: Losses of the start points, shape ``(B,)``.
            size: The first step size.
        """
        halved = torch.ones_like(loss, dtype=torch.bool)  # so that the first checkpoint asks for rises alone
        return cls(torch.full_like(loss, size), loss, loss, torch.zeros_like(loss), loss, halved)

    def see(self, loss: Tensor) -> Tensor:
        """Take the losses of another iteration, ``(B,)``; returns whether each is the largest so far."""
        improved = loss > self.best
        self.rises = self.rises + (loss > self.loss)
        self.best = torch.maximum(self.best, loss)
        self.loss = loss
        return improved

    def halve(self, window: int, rho: float) -> Tensor:
        """Halve the step sizes of images that have come to a halt.

        Args:
            window: Iterations since the last checkpoint.
            rho: Halve where the loss rose in at most this share of them.

        Returns:
            Where they were halved, shape ``(B,)``, bool: these go on from their best points.
        """
        stalls = self.rises <= rho * window
        no_gain = ~self.halved_before & (self.best <= self.best_before)
        halved = stalls | no_gain
        self.size = torch.where(halved, self.size / 2, self.size)
        self.rises = torch.zeros_like(self.rises)
        self.best_before, self.halved_before = self.best, halved
        return halved
