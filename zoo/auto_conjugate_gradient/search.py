"""The search that ACG and APGD share: iterations, step sizes, best points, and leaving out what is broken."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.auto_conjugate_gradient.direction import Move
from zoo.auto_conjugate_gradient.objective import Objective, Seen
from zoo.auto_conjugate_gradient.projection import Ball
from zoo.auto_conjugate_gradient.result import Found
from zoo.auto_conjugate_gradient.rows import Rows, pick
from zoo.auto_conjugate_gradient.step_size import StepSize

MakeMove = Callable[[Tensor], Move]


@dataclass
class Search(Rows):
    """Many searches side by side, one in each row: an image, in one of the runs on it.

    Args:
        objective: What is maximised.
        ball: Where the points may lie.
        slot: Place of each row in the results, run * number of images + image, shape ``(B,)``.
        y: Labels, shape ``(B,)``.
        target: Wrong classes that the loss favours, shape ``(B,)``, or ``None``.
        x: The points, shape ``(B, D)``.
        gradient: Of the loss there, shape ``(B, D)``.
        move: How they move.
        steps: Their step sizes.
        best_x: Points of the largest loss, shape ``(B, D)``.
        best_gradient: Of the loss there, shape ``(B, D)``.
        found_x: Points of the largest margin, shape ``(B, D)``.
        margin: There, shape ``(B,)``.
        success: Whether these are adversarial, shape ``(B,)``.
        first_success: Iteration of the first adversarial point, shape ``(B,)``; -1 while there is none.
        trace: All points and losses so far, where they are recorded.
    """

    objective: Objective
    ball: Ball
    slot: Tensor
    y: Tensor
    target: Tensor | None
    x: Tensor
    gradient: Tensor
    move: Move
    steps: StepSize
    best_x: Tensor
    best_gradient: Tensor
    found_x: Tensor
    margin: Tensor
    success: Tensor
    first_success: Tensor
    trace: list[tuple[Tensor, Tensor]] | None = field(default=None)

    @classmethod
    def begin(
        cls,
        objective: Objective,
        ball: Ball,
        slot: Tensor,
        y: Tensor,
        target: Tensor | None,
        x: Tensor,
        step_size: float,
        make_move: MakeMove,
        record: bool,
    ) -> "Search":
        """Look at the start points.

        Args:
            objective: What is maximised.
            ball: Where the points may lie.
            slot: Place of each row in the results, shape ``(B,)``.
            y: Labels, shape ``(B,)``.
            target: Wrong classes that the loss favours, shape ``(B,)``, or ``None``.
            x: Start points, shape ``(B, D)``.
            step_size: Of the first step.
            make_move: Makes the move of the gradients ``(B, D)``.
            record: Whether all points are kept.
        """
        seen = objective(x, y, target)
        first = torch.where(seen.success, 0, -1)
        search = cls(
            objective,
            ball,
            slot,
            y,
            target,
            x,
            seen.gradient,
            make_move(seen.gradient),
            StepSize.begin(seen.loss, step_size),
            x,
            seen.gradient,
            x,
            seen.margin,
            seen.success,
            first,
            [] if record else None,
        )
        search._record(seen)
        return search

    def step(self, iteration: int) -> None:
        """Move all points and look at the new ones; ``iteration`` counts from 1."""
        self.x = self.move(self.x, self.gradient, self.steps.size, self.ball)
        seen = self.objective(self.x, self.y, self.target)
        self.gradient = seen.gradient
        improved = self.steps.see(seen.loss)
        self.best_x = pick(improved, self.x, self.best_x)
        self.best_gradient = pick(improved, self.gradient, self.best_gradient)
        self.move.keep(improved)
        better = (seen.margin > self.margin) | (seen.success & ~self.success)
        self.found_x = pick(better, self.x, self.found_x)
        self.margin = torch.where(better, seen.margin, self.margin)
        self.success = self.success | seen.success
        self.first_success = torch.where(seen.success & (self.first_success < 0), iteration, self.first_success)
        self._record(seen)

    def _record(self, seen: Seen) -> None:
        if self.trace is not None:
            self.trace.append((self.x, seen.loss))

    def halve(self, window: int, rho: float) -> None:
        """Halve the step sizes of searches that have come to a halt, which go on from their best points."""
        halted = self.steps.halve(window, rho)
        self.x = pick(halted, self.best_x, self.x)
        self.gradient = pick(halted, self.best_gradient, self.gradient)
        self.move.restore(halted)

    def report(self, found: Found, iteration: int) -> None:
        """Write what was found within so many iterations into the results."""
        found.put(
            self.slot,
            x=self.found_x,
            margin=self.margin,
            success=self.success,
            loss=self.steps.best,
            first_success=self.first_success,
            num_gradients=torch.full_like(self.slot, iteration + 1),
        )

    def leave_out_broken(self, found: Found) -> bool:
        """Drop the rows of images that some run has broken, as reported; returns whether any row is left."""
        kept = (~found.broken[self.slot % found.broken.numel()]).nonzero()[:, 0]
        if len(kept) < len(self.slot):
            self.select(kept)
        return len(kept) > 0


def looks(n_iter: int, checkpoints: dict[int, int]) -> set[int]:
    """After which iterations broken images are left out: often in the beginning, where most of them break.

    Example:
        >>> sorted(looks(20, {11: 11}))
        [0, 1, 2, 4, 8, 11, 16, 20]
    """
    powers = {2**i for i in range(n_iter.bit_length())}
    return {0, n_iter} | powers | set(checkpoints)
