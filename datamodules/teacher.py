"""Gaussian inputs that a random teacher labels."""

import os
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from datamodules.full_batch import FullBatchDataModule

TEACHERS = ("linear", "relu")


class TeacherBatch(NamedTuple):
    """All samples of A independent problems.

    Attributes:
        x: Inputs, ``(A, N, d)``.
        y: Labels, -1 or 1, floating point, ``(A, N)``.
    """

    x: Tensor
    y: Tensor


def teacher_scores(
    x: Tensor,
    teacher: Literal["linear", "relu"] = "linear",
    hidden_dim: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Outputs of a teacher with standard normal weights, :math:`\langle v, x \rangle` or :math:`v^\top \max(U x, 0)`.

    Args:
        x: Inputs, ``(N, d)``.
        teacher: ``"linear"``, or ``"relu"`` for a network of one hidden layer.
        hidden_dim: Its hidden units.
        generator: Source of randomness; the global one if ``None``.

    Returns:
        Shape ``(N,)``.

    Example:
        >>> teacher_scores(torch.randn(5, 3), "relu").shape
        torch.Size([5])
    """
    hidden = x
    if teacher == "relu":
        hidden = torch.relu(x @ torch.randn(x.shape[1], hidden_dim, generator=generator))
    return hidden @ torch.randn(hidden.shape[1], generator=generator)


class TeacherDataModule(FullBatchDataModule):
    """Standard normal inputs, labelled by whether a random teacher's output is above the median of the training's.

    Every epoch has one batch, a :class:`TeacherBatch` of all samples of all problems.

    Args:
        teacher: See :func:`teacher_scores`.
        num_problems: Independent draws A of inputs and teacher. The first ones are the same, however many there are.
        num_train: Training samples N of each problem.
        num_test: Held-out samples of each problem.
        dim: Dimensions d of an input.
        hidden_dim: Hidden units of a ReLU teacher.
        seed: Of all that is random; ``None`` takes the one of ``seed_everything``, 0 if there is none.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Jelassi and Li, ICML 2022: 500 training and 5,000 test samples in 30 dimensions.

    Example:
        >>> batch = next(iter(TeacherDataModule("relu", num_problems=2).train_dataloader()))
        >>> batch.x.shape, batch.y.sum(dim=1)  # both labels equally often
        (torch.Size([2, 500, 30]), tensor([0., 0.]))
    """

    def __init__(
        self,
        teacher: Literal["linear", "relu"] = "linear",
        num_problems: int = 1,
        num_train: int = 500,
        num_test: int = 5000,
        dim: int = 30,
        hidden_dim: int = 10,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if teacher not in TEACHERS:
            raise ValueError(f"teacher must be one of {', '.join(TEACHERS)}, got {teacher!r}")
        sizes = {"num_problems": num_problems, "num_train": num_train, "num_test": num_test, "dim": dim}
        for name, value in (sizes | {"hidden_dim": hidden_dim}).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.teacher, self.hidden_dim = teacher, hidden_dim
        self.num_problems, self.num_train, self.num_test, self.dim = num_problems, num_train, num_test, dim
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        drawn = [self._draw_problem(torch.Generator().manual_seed(self.seed * 2**20 + i)) for i in range(num_problems)]
        self.train, self.test = (TeacherBatch(*map(torch.stack, zip(*parts))) for parts in zip(*drawn))

    def _draw_problem(self, generator: torch.Generator) -> tuple[TeacherBatch, TeacherBatch]:
        x = torch.randn(self.num_train + self.num_test, self.dim, generator=generator)
        scores = teacher_scores(x, self.teacher, self.hidden_dim, generator)
        # Not the sign of the difference: with an odd number of samples the median's own would be 0.
        y = torch.where(scores > scores[: self.num_train].quantile(0.5), 1.0, -1.0)
        train, test = (TeacherBatch(*parts) for parts in zip(*(one.tensor_split([self.num_train]) for one in (x, y))))
        return train, test

    @property
    def description(self) -> str:
        """The data in one line, for tables."""
        kind = "linear teacher" if self.teacher == "linear" else f"ReLU teacher of {self.hidden_dim} hidden units"
        return (
            f"Gaussian inputs of {self.dim} dimensions, labelled by a {kind} ({self.num_problems} problems of "
            f"{self.num_train:,} training and {self.num_test:,} held-out samples)"
        )
