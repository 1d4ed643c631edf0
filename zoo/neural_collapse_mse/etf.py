"""A last layer that is a simplex equiangular tight frame (ETF) from the start."""

import torch
from scipy.linalg import helmert
from torch import Tensor, nn


def simplex_etf(num_classes: int, num_features: int) -> Tensor:
    r"""Unit vectors whose inner products are all :math:`-1 / (K - 1)`.

    .. math:: W = \sqrt{\tfrac{K}{K - 1}} \, (I - J), \qquad J = 1 1^\top / K

    on the first K coordinates, where it suits features that are not negative; with K - 1 features its rotation there.

    Args:
        num_classes: Number of vectors K, at least 2.
        num_features: Dimension d, at least K - 1.

    Returns:
        Shape ``(K, d)``.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Zhou et al., *On the Optimization Landscape of Neural Collapse under MSE Loss*, ICML 2022.

    Example:
        >>> simplex_etf(3, 4) @ simplex_etf(3, 4).T
        tensor([[ 1.0000, -0.5000, -0.5000],
                [-0.5000,  1.0000, -0.5000],
                [-0.5000, -0.5000,  1.0000]])
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if num_features < num_classes - 1:
        raise ValueError(
            f"num_features must be at least {num_classes - 1} for {num_classes} classes, got {num_features}"
        )
    frame = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    if num_features < num_classes:
        frame = torch.from_numpy(helmert(num_classes)).T
    vectors = torch.zeros(num_classes, num_features)
    vectors[:, : frame.shape[1]] = (num_classes / (num_classes - 1)) ** 0.5 * frame
    return vectors


class ETFLinear(nn.Linear):
    """A linear layer whose weights are a simplex ETF and stay so; its bias is trained.

    With d = K features it saves the last layer's weights and much of the layer before. Weight decay leaves frozen
    weights alone, as they have no gradient.

    Args:
        in_features: Number of features d, at least K - 1.
        num_classes: Number of classes K.
        bias: Whether there is a bias, which starts at 0.
        trainable: Whether the weights are trained, from the ETF on.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Zhou et al., ICML 2022.

    Example:
        >>> ETFLinear(16, 10)(torch.zeros(1, 16))
        tensor([[0., 0., 0., 0., 0., 0., 0., 0., 0., 0.]], grad_fn=<AddmmBackward0>)
    """

    def __init__(self, in_features: int, num_classes: int, bias: bool = True, trainable: bool = False) -> None:
        etf = simplex_etf(num_classes, in_features)
        super().__init__(in_features, num_classes, bias)
        self.weight = nn.Parameter(etf, requires_grad=trainable)

    def reset_parameters(self) -> None:
        """Leave the weights; a bias becomes 0."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)
