"""Metrics of linear predictors whose true values are known and sparse."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_f1_score


class _MeanOfPredictors(Metric):
    """The mean of a number over all predictors that it was given; a subclass says which number."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def values(self, beta: Tensor) -> Tensor:
        """The number of each predictor, ``(...)``."""
        raise NotImplementedError

    def update(self, beta: Tensor) -> None:
        """Take in predictors of shape ``(..., d)``."""
        values = self.values(beta)
        self.total += values.sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.count


class L1Norm(_MeanOfPredictors):
    """Mean l1 norm of predictors.

    Args:
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> L1Norm()(torch.tensor([[1.0, -2.0], [0.0, 1.0]]))
        tensor(2., dtype=torch.float64)
    """

    def values(self, beta: Tensor) -> Tensor:
        return beta.abs().sum(-1)


class PopulationError(_MeanOfPredictors):
    r"""Mean squared difference from the true predictor on fresh inputs, in closed form; the mean over predictors.

    .. math:: (\beta - \beta^*)^\top (\Sigma + m m^\top) (\beta - \beta^*)

    The second part, that of the mean input, is large where inputs are not centred.

    Args:
        beta_star: True predictors, of a shape that broadcasts with what is given later, ``(..., d)``.
        mean: Mean input m, a number for all coordinates or of a shape that broadcasts to ``(..., d)``.
        cov: Covariance of the inputs, shape ``(d, d)``; ``None`` for the identity.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> PopulationError(beta_star=torch.tensor([1.0, 0.0]), mean=5.0)(torch.tensor([1.0, 1.0]))
        tensor(26., dtype=torch.float64)
    """

    beta_star: Tensor
    mean: Tensor
    cov: Tensor | None

    def __init__(self, beta_star: Tensor, mean: float | Tensor = 0.0, cov: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("beta_star", beta_star, persistent=False)
        self.register_buffer("mean", torch.as_tensor(mean), persistent=False)
        self.register_buffer("cov", cov, persistent=False)

    def values(self, beta: Tensor) -> Tensor:
        error = beta - self.beta_star
        spread = error.square() if self.cov is None else error @ self.cov * error
        return spread.sum(-1) + (self.mean * error).sum(-1).square()


class SupportRecovery(_MeanOfPredictors):
    """F1 score of the coordinates that are not small, taken for those that are not zero in truth; mean of predictors.

    Args:
        beta_star: True predictor, shape ``(d,)``, or one for each that is given later, ``(..., d)``.
        tol: Absolute value up to which a coordinate counts as zero, >= 0.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: If ``tol`` is out of range.

    Example:
        >>> SupportRecovery(beta_star=torch.tensor([1.0, 0.0, 0.0]), tol=0.1)(torch.tensor([0.5, 0.2, 0.05]))
        tensor(0.6667, dtype=torch.float64)
    """

    beta_star: Tensor

    def __init__(self, beta_star: Tensor, tol: float = 1e-2, **kwargs: Any) -> None:
        if not tol >= 0:
            raise ValueError(f"tol must be >= 0, got {tol}")
        super().__init__(**kwargs)
        self.tol = tol
        self.register_buffer("beta_star", beta_star, persistent=False)

    def values(self, beta: Tensor) -> Tensor:
        found = beta.abs() > self.tol
        expected = (self.beta_star != 0).expand_as(found)
        found, expected = (one.reshape(-1, found.shape[-1]).int() for one in (found, expected))
        return binary_f1_score(found, expected, multidim_average="samplewise", validate_args=False).double()
