"""The network of the theory: one layer of filters over patches, a cube, and a sum."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["cubic"] | Callable[[Tensor], Tensor]


def cube(x: Tensor) -> Tensor:
    """The third power, elementwise."""
    return x * x * x


class CubicPatchCNN(nn.Module):
    r"""One convolutional layer whose patches do not overlap, without biases; the second layer is fixed to ones.

    .. math:: f_W(X) = \sum_{r=1}^m \sum_{j=1}^P \langle w_r, X_j \rangle^3

    Attributes:
        weight: The filters, normal at the start, ``(m, d)``.

    Args:
        dim: Dimensions d of a patch.
        num_filters: Filters m.
        init_std: Standard deviation of the start, > 0.
        activation: ``"cubic"``, the paper's, or another function of a tensor, elementwise.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Jelassi and Li, *Towards understanding how momentum improves generalization in deep learning*, ICML 2022.

    Example:
        >>> net = CubicPatchCNN(dim=2, num_filters=1)
        >>> net.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
        tensor([[1., 0.]])
        >>> net(torch.tensor([[2.0, 5.0], [-1.0, 5.0]])).item()  # 8 - 1
        7.0
    """

    def __init__(
        self, dim: int, num_filters: int = 8, init_std: float = 0.01, activation: Activation = "cubic"
    ) -> None:
        super().__init__()
        check_network(dim, num_filters, init_std)
        if not (activation == "cubic" or callable(activation)):
            raise ValueError(f"activation must be cubic, or a function, got {activation!r}")
        self.activation = activation if callable(activation) else cube
        self.weight = nn.Parameter(init_std * torch.randn(num_filters, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the label 1, shape ``(*)``, of patches ``(*, P, d)``."""
        return self.activation(x @ self.weight.mT).sum(dim=(-2, -1))

    def feature_coefficients(self, signal: Tensor) -> Tensor:
        """How much of a feature ``(d,)``, a unit vector, is in each filter, shape ``(m,)``."""
        return self.weight @ signal

    def noise_correlations(self, x: Tensor, signal_patch: Tensor) -> Tensor:
        """Inner products of the filters with all patches but the signal's, whose place is 0.

        Args:
            x: Patches, ``(N, P, d)``.
            signal_patch: Which patch holds the signal, int64, ``(N,)``.

        Returns:
            Shape ``(N, P, m)``.
        """
        products = x @ self.weight.mT
        return products.masked_fill(nn.functional.one_hot(signal_patch, x.shape[-2]).bool().unsqueeze(-1), 0.0)


def check_network(dim: int, num_filters: int, init_std: float) -> None:
    """Raise a ``ValueError`` that names the first argument of a network that is out of range."""
    for name, value in (("dim", dim), ("num_filters", num_filters)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 < init_std < float("inf"):
        raise ValueError(f"init_std must be > 0, got {init_std}")
