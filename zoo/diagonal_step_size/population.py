"""The error of a linear predictor on fresh inputs, in closed form."""

from torch import Tensor


def population_error(beta: Tensor, beta_star: Tensor, mean: Tensor | float, cov: Tensor | None = None) -> Tensor:
    r"""The mean squared difference of two linear predictors, over inputs of given mean and covariance.

    .. math:: (\beta - \beta^*)^\top (\Sigma + m m^\top) (\beta - \beta^*)

    Args:
        beta: Predictors, shape ``(..., d)``.
        beta_star: The true ones, of a shape that broadcasts with it.
        mean: Mean input m, a number for all coordinates or of a shape that broadcasts to ``(..., d)``.
        cov: Covariance of the inputs, shape ``(d, d)``; ``None`` for the identity.

    Returns:
        Shape ``(...)``; noise of the targets is not part of it.

    Example:
        >>> import torch
        >>> population_error(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]), mean=5.0)
        tensor(26.)
    """
    error = beta - beta_star
    spread = error.square().sum(-1) if cov is None else (error @ cov * error).sum(-1)
    return spread + (mean * error).sum(-1).square()
