"""Many networks side by side, on problems of their own, with gradients in closed form."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.momentum_margin.network import check_network


class PatchInputs(NamedTuple):
    """Patches as :class:`StackedPatchCNN` takes them, with room for what a step computes.

    Attributes:
        rows: Patches, all first ones, then all second ones and so on, ``(A, P * N, d)``.
        products: With all filters, ``(A, S * m, P * N)``.
        squares: Of the products, ``(A, S * m, P * N)``.
    """

    rows: Tensor
    products: Tensor
    squares: Tensor


class PerceptronInputs(NamedTuple):
    """Inputs as :class:`StackedPerceptron` takes them, with room for what a step computes.

    Attributes:
        x: Shape ``(A, N, d)``.
        hidden: Hidden units, ``(A, S, h, N)``.
        scaled: The same, times something, ``(A, S, h, N)``.
    """

    x: Tensor
    hidden: Tensor
    scaled: Tensor


class StackedPatchCNN(nn.Module):
    r"""S copies of :class:`~zoo.momentum_margin.network.CubicPatchCNN` on each of A problems, with one start a problem.

    With the logistic loss of labels -1 and 1, gradients are

    .. math:: \nabla_{w_r} L = -\frac 3 N \sum_i \sigma(-y_i f(X_i)) \, y_i \sum_j \langle w_r, X_{ij} \rangle^2 X_{ij}

    A step is two products of matrices for each problem, whose filters it shares among all settings.

    Attributes:
        weight: The filters, ``(A, S, m, d)``.

    Args:
        num_problems: Problems A.
        num_settings: Networks S on each of them.
        dim: Dimensions d of a patch.
        num_filters: Filters m.
        init_std: Standard deviation of the start, > 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> net = StackedPatchCNN(num_problems=1, num_settings=2, dim=1, num_filters=1)
        >>> net.weight.data.fill_(1.0)[0, :, 0, 0]
        tensor([1., 1.])
        >>> x, y = torch.full((1, 1, 1, 1), 2.0), torch.ones(1, 1)
        >>> net.differentiate(net.prepare(x), y)  # in the networks' gradients: -3 sigmoid(-8) 2²·2
        tensor([[[8.],
                 [8.]]])
        >>> net.weight.grad[0, :, 0, 0]
        tensor([-0.0080, -0.0080])
    """

    def __init__(
        self, num_problems: int, num_settings: int, dim: int, num_filters: int = 8, init_std: float = 0.01
    ) -> None:
        super().__init__()
        check_stack(num_problems, num_settings)
        check_network(dim, num_filters, init_std)
        start = init_std * torch.randn(num_problems, 1, num_filters, dim)
        self.weight = nn.Parameter(start.repeat(1, num_settings, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the label 1, ``(A, S, N)``, of patches ``(A, N, P, d)``."""
        return sum_of_cubes(self.products(x))

    def products(self, x: Tensor) -> Tensor:
        """Inner products of the filters with patches ``(A, N, P, d)``, shape ``(A, S, m, N, P)``."""
        products = self.weight.flatten(1, 2) @ x.flatten(1, 2).mT
        return products.unflatten(2, x.shape[1:3]).unflatten(1, self.weight.shape[1:3])

    def prepare(self, x: Tensor) -> PatchInputs:
        """What :meth:`differentiate` needs of patches ``(A, N, P, d)``."""
        rows = patch_rows(x)
        products = rows.new_empty(len(rows), self.weight.shape[1] * self.weight.shape[2], rows.shape[1])
        return PatchInputs(rows, products, torch.empty_like(products))

    @torch.no_grad()
    def differentiate(self, inputs: PatchInputs, y: Tensor) -> Tensor:
        """Put the gradients of the mean logistic losses into ``grad``.

        Args:
            inputs: From :meth:`prepare`.
            y: Labels, -1 or 1, ``(A, N)``.

        Returns:
            The logits, ``(A, S, N)``.
        """
        rows, products, squares = inputs
        problems, settings, _, dim = self.weight.shape
        shape = (problems, settings, -1, y.shape[1])  # filters and patches in one, then samples
        torch.bmm(self.weight.view(problems, -1, dim), rows.mT, out=products)
        torch.mul(products, products, out=squares)
        logits = products.mul_(squares).view(shape).sum(dim=2)
        slope = logistic_slope(logits, y).mul_(3)
        squares.view(shape).mul_(slope.unsqueeze(2))
        if self.weight.grad is None:
            self.weight.grad = torch.empty_like(self.weight)
        torch.bmm(squares, rows, out=self.weight.grad.view(problems, -1, dim))
        return logits


class StackedPerceptron(nn.Module):
    r"""S networks :math:`f(x) = v^\top \max(U x + b, 0) + c` on each of A problems, with one start a problem.

    The start is that of ``torch.nn.Linear``; gradients are those of the logistic loss of labels -1 and 1.

    Attributes:
        weight: U, ``(A, S, h, d)``.
        bias: b, ``(A, S, h)``.
        head: v, ``(A, S, h)``.
        head_bias: c, ``(A, S)``.

    Args:
        num_problems: Problems A.
        num_settings: Networks S on each of them.
        dim: Inputs d.
        hidden_dim: Hidden units h.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> net = StackedPerceptron(num_problems=3, num_settings=2, dim=30)
        >>> net(torch.randn(3, 500, 30)).shape
        torch.Size([3, 2, 500])
    """

    def __init__(self, num_problems: int, num_settings: int, dim: int, hidden_dim: int = 100) -> None:
        super().__init__()
        check_stack(num_problems, num_settings)
        for name, value in (("dim", dim), ("hidden_dim", hidden_dim)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

        def start(fan_in: int, *shape: int) -> nn.Parameter:
            uniform = (2 * torch.rand(num_problems, 1, *shape) - 1) / fan_in**0.5
            return nn.Parameter(uniform.repeat(1, num_settings, *[1] * len(shape)))

        self.weight, self.bias = start(dim, hidden_dim, dim), start(dim, hidden_dim)
        self.head, self.head_bias = start(hidden_dim, hidden_dim), start(hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the label 1, ``(A, S, N)``, of inputs ``(A, N, d)``."""
        weight, bias = self.weight.flatten(1, 2), self.bias.flatten(1, 2).unsqueeze(-1)
        hidden = torch.baddbmm(bias, weight, x.mT).relu().view(*self.bias.shape, -1)
        return (hidden * self.head.unsqueeze(-1)).sum(dim=2) + self.head_bias.unsqueeze(-1)

    def prepare(self, x: Tensor) -> PerceptronInputs:
        """What :meth:`differentiate` needs of inputs ``(A, N, d)``."""
        hidden = x.new_empty(*self.bias.shape, x.shape[1])
        return PerceptronInputs(x, hidden, torch.empty_like(hidden))

    @torch.no_grad()
    def differentiate(self, inputs: PerceptronInputs, y: Tensor) -> Tensor:
        """Put the gradients of the mean logistic losses into ``grad``.

        Args:
            inputs: From :meth:`prepare`.
            y: Labels, -1 or 1, ``(A, N)``.

        Returns:
            The logits, ``(A, S, N)``.
        """
        x, hidden, scaled = inputs
        flat = hidden.flatten(1, 2)
        torch.bmm(self.weight.flatten(1, 2), x.mT, out=flat)
        hidden.add_(self.bias.unsqueeze(-1)).relu_()
        logits = torch.mul(hidden, self.head.unsqueeze(-1), out=scaled).sum(dim=2) + self.head_bias.unsqueeze(-1)
        slope = logistic_slope(logits, y)
        self.head_bias.grad = slope.sum(dim=-1)
        self.head.grad = torch.mul(hidden, slope.unsqueeze(2), out=scaled).sum(dim=-1)
        hidden.sign_().mul_(slope.unsqueeze(2))  # the slopes, where a unit is on
        self.weight.grad = (flat @ x).view_as(self.weight).mul_(self.head.unsqueeze(-1))
        self.bias.grad = hidden.sum(dim=-1).mul_(self.head)
        return logits


def patch_rows(x: Tensor) -> Tensor:
    """Patches ``(A, N, P, d)`` as rows, all first ones, then all second ones and so on: ``(A, P * N, d)``."""
    return x.transpose(1, 2).flatten(1, 2)


def sum_of_cubes(products: Tensor) -> Tensor:
    """Logits ``(A, S, N)`` from inner products ``(A, S, m, N, P)``."""
    return (products * products * products).sum(dim=(2, 4))


def logistic_slope(logits: Tensor, y: Tensor) -> Tensor:
    r"""Derivative of the mean of :math:`\log(1 + \exp(-y f))` by each f.

    Args:
        logits: Shape ``(A, S, N)``.
        y: Labels, -1 or 1, ``(A, N)``.

    Returns:
        Shape ``(A, S, N)``.
    """
    y = y.unsqueeze(1)
    return torch.sigmoid(-y * logits).mul_(y / -y.shape[-1])


def check_stack(num_problems: int, num_settings: int) -> None:
    """Raise a ``ValueError`` that names what is out of range."""
    for name, value in (("num_problems", num_problems), ("num_settings", num_settings)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
