"""Deep linear networks, many at once, with the gradient of the squared error in closed form."""

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def matrices(flat: Tensor, dims: Sequence[int]) -> list[Tensor]:
    """The weight matrices in a flat tensor, as views.

    Args:
        flat: Shape ``(R, P)``.
        dims: Widths of the layers from the input to the output.

    Returns:
        The input's first, ``(R, d_j, d_{j-1})`` each.
    """
    shapes = list(zip(dims[1:], dims))
    pieces = flat.split([rows * columns for rows, columns in shapes], dim=1)
    return [piece.unflatten(1, shape) for piece, shape in zip(pieces, shapes)]


class FlowGradient:
    r"""The gradient of :math:`\tfrac12 \|W_N \cdots W_1 - Z\|_F^2` at weights that stay in one place in memory.

    .. math:: \nabla_{W_j} = (W_N \cdots W_{j+1})^\top (W_N \cdots W_1 - Z) (W_{j-1} \cdots W_1)^\top

    All 3 (N - 1) products, of all replicas at once, and where each is written, are laid down when the object is made:
    with matrices as small as these the time goes into calls, not into arithmetic.

    Attributes:
        slope: Where every call writes the gradient, ``(R, P)``.

    Args:
        flat: The weights, ``(R, P)``, in place changed between calls.
        target: Z, shape ``(R, d_N, d_0)``.
        dims: Widths :math:`d_0, \dots, d_N`.
    """

    def __init__(self, flat: Tensor, target: Tensor, dims: Sequence[int]) -> None:
        self.target, self.slope = target, torch.empty_like(flat)
        weights, slopes = matrices(flat, dims), matrices(self.slope, dims)
        self.products = [weights[0], *(flat.new_empty(len(flat), rows, dims[0]) for rows in dims[2:])]
        errors = [slopes[0], *(torch.empty_like(product) for product in self.products[1:])]
        self.error = errors[-1]
        layers = range(1, len(weights))
        self.forward = [(weights[j], self.products[j - 1], self.products[j]) for j in layers]
        self.backward: list[tuple[Tensor, Tensor, Tensor]] = []
        for j in reversed(layers):
            self.backward.append((errors[j], self.products[j - 1].mT, slopes[j]))
            self.backward.append((weights[j].mT, errors[j], errors[j - 1]))

    def __call__(self) -> Tensor:
        """The gradient now, in ``slope``."""
        for left, right, product in self.forward:
            torch.bmm(left, right, out=product)
        torch.sub(self.products[-1], self.target, out=self.error)
        for left, right, product in self.backward:
            torch.bmm(left, right, out=product)
        return self.slope


class DeepLinearNet(nn.Module):
    r"""R networks :math:`x \mapsto W_N \cdots W_1 x` without bias or activation, replicas on the leading axis.

    The weights start at zero, which is a critical point: see :func:`~zoo.deep_linear.balanced_rank_one_` and
    :func:`~zoo.deep_linear.random_balanced_`.

    Attributes:
        flat: All weights, the one parameter, shape ``(R, P)``.

    Args:
        dims: Widths :math:`d_0, \dots, d_N` from the input to the output, at least three.
        num_replicas: Number R of networks.
        dtype: Of the weights; the theory's rates and conserved quantities want float64.

    Raises:
        ValueError: If there are fewer than two layers, or a width or ``num_replicas`` is less than 1.

    Source:
        Chen, Lin and Zhang, *On Non-local Convergence Analysis of Deep Linear Networks*, ICML 2022: one of the widths
        is 1, so that a balanced start has rank one. Without such a layer a warning says so.

    Example:
        >>> net = DeepLinearNet([3, 1, 2], num_replicas=4)
        >>> net(torch.ones(4, 10, 3, dtype=torch.float64)).shape, net.product().shape
        (torch.Size([4, 10, 2]), torch.Size([4, 2, 3]))
    """

    def __init__(self, dims: Sequence[int], num_replicas: int = 1, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        if len(dims) < 3:
            raise ValueError(f"dims must have at least three widths, of two layers, got {list(dims)}")
        if any(dim < 1 for dim in dims):
            raise ValueError(f"dims must be at least 1, got {list(dims)}")
        if num_replicas < 1:
            raise ValueError(f"num_replicas must be at least 1, got {num_replicas}")
        if min(dims) > 1:
            warnings.warn(
                f"the theory needs a layer of one neuron, got dims {list(dims)}: without one, balanced starts may have "
                "a rank above one",
                stacklevel=2,
            )
        self.dims = tuple(dims)
        size = sum(rows * columns for rows, columns in zip(dims[1:], dims))
        self.flat = nn.Parameter(torch.zeros(num_replicas, size, dtype=dtype))

    @property
    def depth(self) -> int:
        """Number N of layers."""
        return len(self.dims) - 1

    @property
    def num_replicas(self) -> int:
        """Number R of networks."""
        return len(self.flat)

    def weights(self) -> list[Tensor]:
        """Views of the weight matrices, the input's first: ``(R, d_j, d_{j-1})`` each."""
        return matrices(self.flat, self.dims)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(R, n, d_N)`` for inputs ``(R, n, d_0)``, or ``(n, d_0)`` that all replicas share."""
        return x @ self.product().mT

    def product(self) -> Tensor:
        r"""The end-to-end matrix :math:`W = W_N \cdots W_1`, shape ``(R, d_N, d_0)``."""
        first, *others = self.weights()
        for weight in others:
            first = torch.bmm(weight, first)
        return first

    def balancedness(self) -> list[Tensor]:
        r"""What gradient flow conserves, :math:`W_{j+1}^\top W_{j+1} - W_j W_j^\top` for j = 1, ..., N - 1.

        Returns:
            Shapes ``(R, d_j, d_j)``; all zero at a balanced start.
        """
        weights = self.weights()
        return [after.mT @ after - before @ before.mT for before, after in pairwise(weights)]

    @torch.no_grad()
    def flow_gradient(self, target: Tensor) -> Tensor:
        r"""Gradient of :math:`\tfrac12 \|W - Z\|_F^2` in closed form, for ``flat``; see :class:`FlowGradient`.

        Args:
            target: Z, shape ``(d_N, d_0)`` or ``(R, d_N, d_0)``.

        Returns:
            Shape ``(R, P)``.

        Raises:
            ValueError: If the target's shape does not fit.

        Example:
            >>> net = DeepLinearNet([1, 1, 1])
            >>> net.flat.data = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
            >>> net.flow_gradient(torch.ones(1, 1, dtype=torch.float64))  # (6 - 1) times the other weight
            tensor([[15., 10.]], dtype=torch.float64)
        """
        return FlowGradient(self.flat.data, self.checked(target), self.dims)()

    def checked(self, target: Tensor) -> Tensor:
        """The target of every replica, ``(R, d_N, d_0)``.

        Raises:
            ValueError: If the target's shape does not fit.
        """
        shape = (self.dims[-1], self.dims[0])
        if target.shape[-2:] != shape or math.prod(target.shape[:-2]) not in (1, self.num_replicas):
            raise ValueError(
                f"target must have the shape {shape}, or one such matrix for each of {self.num_replicas} replicas, "
                f"got {tuple(target.shape)}"
            )
        return target.to(self.flat).expand(self.num_replicas, *shape)
