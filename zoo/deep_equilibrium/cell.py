"""The plain cell: one matrix, applied again and again."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.deep_equilibrium.activation import IN_PLACE, SLOPE, ActivationName, check_activation
from zoo.deep_equilibrium.initialisation import Family, Normalization, deq_init_


class InjectionCell(nn.Module):
    r"""The map :math:`f(z, u) = \phi(z W^\top + u)`, for one network or for R at once.

    The injection u is computed outside, once a solve. Its Jacobian is known in closed form, which spares the backward
    solve half of autograd's work (:meth:`adjoint`).

    Args:
        width: Dimension N of the state, at least 1.
        activation: The phi: ``"linear"``, ``"relu"``, ``"tanh"`` or ``"hardtanh"``.
        family: Of the initial weight; see :func:`~zoo.deep_equilibrium.deq_init_`.
        sigma_w: Its scale; one, or one for each replica, shape ``(R,)``.
        normalization: What the scale means for ``goe``.
        num_replicas: Networks R; ``None`` for a single one without that axis.
        generator: Source of randomness; the global one if ``None``.

    Attributes:
        weight: Shape ``(N, N)`` or ``(R, N, N)``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> cell = InjectionCell(8, "tanh", sigma_w=0.5)
        >>> cell(torch.zeros(2, 8), torch.zeros(2, 8)).abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
    """

    def __init__(
        self,
        width: int,
        activation: ActivationName = "tanh",
        family: Family = "orthogonal",
        sigma_w: float | Tensor = 0.9,
        normalization: Normalization = "spectral",
        num_replicas: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if num_replicas is not None and num_replicas < 1:
            raise ValueError(f"num_replicas must be at least 1, got {num_replicas}")
        check_activation(activation)
        self.activation = activation
        shape = (width, width) if num_replicas is None else (num_replicas, width, width)
        self.weight = nn.Parameter(deq_init_(torch.empty(shape), family, sigma_w, normalization, generator))

    def forward(self, z: Tensor, u: Tensor) -> Tensor:
        """The next state.

        Args:
            z: State, shape ``(B, N)`` or ``(R, B, N)``.
            u: Injection, of the same shape.
        """
        return IN_PLACE[self.activation](_affine(u, z, self.weight.mT))

    def adjoint(self, z: Tensor, value: Tensor, u: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        r"""The map :math:`(y, g) \mapsto J^\top y + g`, with the Jacobian J of f at a state.

        Args:
            z: The state.
            value: f there.
            u: The injection.
        """
        weight = self.weight.detach()
        if self.activation == "linear":
            return lambda y, g: _affine(g, y, weight)
        slope = SLOPE[self.activation](value.detach())
        return lambda y, g: _affine(g, y * slope, weight)


def _affine(u: Tensor, z: Tensor, matrix: Tensor) -> Tensor:
    """The product z matrix, plus u, in one pass."""
    return torch.addmm(u, z, matrix) if matrix.dim() == 2 else torch.baddbmm(u, z, matrix)
