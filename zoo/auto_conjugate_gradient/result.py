"""What an attack gives."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Trace:
    """The search points of an attack, in the order in which it saw them.

    Args:
        points: Shape ``(L, B, N + 1, *)``: L runs (restarts, each with every target), the start points first.
        loss: The attack's loss there, shape ``(L, B, N + 1)``.
        eps: Radius of the ball.
        norm: Its norm.
    """

    points: Tensor
    loss: Tensor
    eps: float
    norm: str


@dataclass
class AttackResult:
    """An attack's outcome, image by image.

    Args:
        x_adv: Of all visited points that of the largest ``margin``, shape ``(B, *)``.
        success: Whether its class is what the attack wants, shape ``(B,)``, bool.
        loss: The largest loss that was seen, shape ``(B,)``.
        margin: The largest logit of what the attack wants above the largest of the rest, at ``x_adv``, ``(B,)``.
        first_success: Iterations that the fastest run took to succeed, shape ``(B,)``, int64; -1 where none did.
        num_gradients: Gradients that were computed for each image, shape ``(B,)``, int64.
        trace: The search points, where they were asked for.
    """

    x_adv: Tensor
    success: Tensor
    loss: Tensor
    margin: Tensor
    first_success: Tensor
    num_gradients: Tensor
    trace: Trace | None = None


@dataclass
class Found:
    """What each run found for each image, before the best run is taken.

    Args:
        x: Visited points of the largest margin, shape ``(L, B, D)``.
        margin: There, shape ``(L, B)``; minus infinity where a run was not needed.
        success: Whether they are adversarial, shape ``(L, B)``.
        loss: Largest losses, shape ``(L, B)``.
        first_success: Shape ``(L, B)``; -1 where there was none.
        num_gradients: Shape ``(L, B)``.
    """

    x: Tensor
    margin: Tensor
    success: Tensor
    loss: Tensor
    first_success: Tensor
    num_gradients: Tensor

    @classmethod
    def nothing(cls, num_runs: int, x: Tensor) -> "Found":
        """Before the first run on images ``(B, D)``."""
        values = x.new_full((num_runs, len(x)), -float("inf"), dtype=torch.promote_types(x.dtype, torch.float32))
        counts = torch.zeros_like(values, dtype=torch.long)
        return cls(x.new_empty(num_runs, *x.shape), values, counts.bool(), values.clone(), counts - 1, counts.clone())

    def put(self, slots: Tensor, **values: Tensor) -> None:
        """Write values, by the name of the field, into the places ``run * B + image``, shape ``(n,)``."""
        for name, value in values.items():
            whole: Tensor = getattr(self, name)
            whole.flatten(0, 1).index_copy_(0, slots, value.to(whole.dtype))

    @property
    def broken(self) -> Tensor:
        """Images that some run has broken, shape ``(B,)``, bool."""
        return self.success.any(dim=0)

    def best(self) -> AttackResult:
        """For each image the run that succeeded with the largest margin, or came nearest to it; images are rows."""
        run = torch.where(self.success | ~self.broken, self.margin, -float("inf")).argmax(dim=0)
        image = torch.arange(len(run), device=run.device)
        never = torch.iinfo(torch.long).max
        first = self.first_success.where(self.first_success >= 0, never).amin(dim=0)
        return AttackResult(
            x_adv=self.x[run, image],
            success=self.broken,
            loss=self.loss.amax(dim=0),
            margin=self.margin[run, image],
            first_success=first.where(self.broken, -1),
            num_gradients=self.num_gradients.sum(dim=0),
        )
