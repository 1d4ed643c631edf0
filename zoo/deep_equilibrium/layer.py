"""A deep equilibrium layer around any function."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from zoo.deep_equilibrium.solvers import FixedPointSolver, SolverStats

Gradient = Literal["implicit", "phantom", "unrolled"]
IfNotConverged = Literal["warn", "error", "ignore"]
Adjoint = Callable[[Tensor, Tensor], Tensor]

GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)
IF_NOT_CONVERGED: tuple[IfNotConverged, ...] = get_args(IfNotConverged)


class ConvergenceWarning(UserWarning):
    """A solve has ended without a solution for some samples."""


class ConvergenceError(RuntimeError):
    """A solve has ended without a solution for some samples, and that is not to be tolerated."""


class DEQ(nn.Module):
    r"""The state z with z = f(z, x), found by a solver and differentiated without its steps.

    With J the Jacobian of f in z at the solution, the implicit gradient solves :math:`y = J^\top y + g` for an incoming
    gradient g, by a solver of its own, and hands :math:`y^\top \partial f / \partial \theta` on. What is returned is
    f at the solver's solution, in training and in evaluation alike: one evaluation more.

    Under autocast the solve runs in float32, whatever the network around it does. Dropout in f draws one mask a solve.

    Args:
        f: Maps a state and the inputs to a state, ``f(z, *inputs)``, sample by sample. It may have a method
            ``adjoint(z, value, *inputs)`` that returns the map :math:`(y, g) \mapsto J^\top y + g`, as
            :class:`~zoo.deep_equilibrium.InjectionCell` does; else autograd provides it.
        solver: Of the state; iteration with at most 40 evaluations and a relative tolerance of 1e-4 by default.
        backward_solver: Of the gradient; as ``solver`` if ``None``.
        gradient: ``"implicit"``; ``"phantom"``, through a few damped iterations from the solution on; or
            ``"unrolled"``, through every step of plain iteration, which takes the memory of all.
        phantom_steps: Iterations of the phantom gradient, at least 1. One is Jacobian-free backpropagation.
        phantom_damping: Share of each such step that is taken, in (0, 1].
        if_not_converged: ``"warn"`` (once for each direction), ``"error"``, or ``"ignore"``. The statistics tell it in
            any case.
        batch_dims: How many leading axes of the state number the samples.

    Attributes:
        forward_stats: How the last solve of the state went, ``None`` before it.
        backward_stats: How the last solve of the gradient went; ``None`` before it, or where there is none.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Bai, Kolter and Koltun, *Deep Equilibrium Models*, NeurIPS 2019; the phantom gradient is that of Geng et al.,
        NeurIPS 2021.

    Example:
        >>> layer = DEQ(lambda z, x: torch.cos(z) + x, FixedPointSolver(max_iter=100, tol=1e-6))
        >>> x = torch.zeros(1, 1, requires_grad=True)
        >>> layer(x).backward()
        >>> x.grad, layer.forward_stats.all_converged  # 1 / (1 + sin z)
        (tensor([[0.5975]]), True)
    """

    def __init__(
        self,
        f: Callable[..., Tensor],
        solver: FixedPointSolver | None = None,
        backward_solver: FixedPointSolver | None = None,
        gradient: Gradient = "implicit",
        phantom_steps: int = 1,
        phantom_damping: float = 1.0,
        if_not_converged: IfNotConverged = "warn",
        batch_dims: int = 1,
    ) -> None:
        super().__init__()
        self.f = f
        self.solver = solver or FixedPointSolver()
        self.backward_solver = backward_solver or self.solver
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
        if gradient == "unrolled" and self.solver.method != "iteration":
            raise ValueError(f"gradient must not be unrolled with the method {self.solver.method!r}, only iteration")
        if phantom_steps < 1:
            raise ValueError(f"phantom_steps must be at least 1, got {phantom_steps}")
        if not 0 < phantom_damping <= 1:
            raise ValueError(f"phantom_damping must be in (0, 1], got {phantom_damping}")
        if if_not_converged not in IF_NOT_CONVERGED:
            raise ValueError(f"if_not_converged must be one of {', '.join(IF_NOT_CONVERGED)}, got {if_not_converged!r}")
        if batch_dims < 1:
            raise ValueError(f"batch_dims must be at least 1, got {batch_dims}")
        self.gradient, self.phantom_steps, self.phantom_damping = gradient, phantom_steps, phantom_damping
        self.if_not_converged, self.batch_dims = if_not_converged, batch_dims
        self.forward_stats: SolverStats | None = None
        self.backward_stats: SolverStats | None = None
        self._warned: set[str] = set()

    def forward(self, *inputs: Tensor, z0: Tensor | None = None) -> Tensor:
        """The state, shape ``(B, *)``.

        Args:
            *inputs: What f is given beside the state.
            z0: Where the solver starts; zeros of the first input's shape if ``None``.

        Raises:
            ValueError: If there is neither an input nor a start.
            ConvergenceError: If a sample has not converged and that is an error.
        """
        if not inputs and z0 is None:
            raise ValueError("z0 must be given where f has no inputs, got None")
        device = (inputs[0] if z0 is None else z0).device
        if torch.is_autocast_enabled(device.type):
            with torch.autocast(device.type, enabled=False):
                single = tuple(_in_single_precision(x) for x in inputs)
                return self._equilibrium(single, None if z0 is None else _in_single_precision(z0))
        return self._equilibrium(inputs, z0)

    def _equilibrium(self, inputs: tuple[Tensor, ...], z0: Tensor | None) -> Tensor:
        z0 = torch.zeros_like(inputs[0]) if z0 is None else z0.detach()
        f = self._frozen(z0.device, inputs)
        self.backward_stats = None
        with torch.set_grad_enabled(self.gradient == "unrolled" and torch.is_grad_enabled()):
            z, self.forward_stats = self.solver(f, z0, self.batch_dims)
        self._report(self.forward_stats, "forward", self.solver)
        if not torch.is_grad_enabled() or self.gradient == "unrolled":
            return f(z)
        if self.gradient == "phantom":
            for _ in range(self.phantom_steps - 1):
                z = torch.lerp(z, f(z), self.phantom_damping)
            return torch.lerp(z, f(z), self.phantom_damping)
        return self._implicit(f, z, inputs)

    def _implicit(self, f: Callable[[Tensor], Tensor], z: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        closed_form = getattr(self.f, "adjoint", None)
        z = z.detach() if closed_form else z.detach().requires_grad_()
        value = f(z)
        adjoint = closed_form(z, value, *inputs) if closed_form else partial(_autograd_adjoint, z, value)
        return _ImplicitGradient.apply(value, adjoint, self)

    def solve_backward(self, adjoint: Adjoint, g: Tensor) -> Tensor:
        r"""The solution of :math:`y = J^\top y + g`; with no evaluation allowed, g itself.

        Args:
            adjoint: The map :math:`(y, g) \mapsto J^\top y + g`.
            g: Gradient of the state.
        """
        y, self.backward_stats = self.backward_solver(lambda y: adjoint(y, g), g, self.batch_dims)
        self._report(self.backward_stats, "backward", self.backward_solver)
        return y

    def _frozen(self, device: torch.device, inputs: tuple[Tensor, ...]) -> Callable[[Tensor], Tensor]:
        """The function of the state alone, which draws the same random numbers each time if dropout is on."""
        f = partial(_call, self.f, inputs)
        modules = self.f.modules() if isinstance(self.f, nn.Module) else ()
        if not any(isinstance(module, _DropoutNd) and module.training and module.p > 0 for module in modules):
            return f
        source = torch if device.type == "cpu" else torch.get_device_module(device)
        state = source.get_rng_state()

        def repeated(z: Tensor) -> Tensor:
            source.set_rng_state(state)
            return f(z)

        return repeated

    def _report(self, stats: SolverStats, direction: str, solver: FixedPointSolver) -> None:
        if (
            stats.all_converged
            or self.if_not_converged == "ignore"
            or solver.max_iter == 0
            or direction in self._warned
        ):
            return
        lacking = int((~stats.converged).sum())
        message = (
            f"the {direction} solve has not converged for {lacking} of {stats.converged.numel()} samples in "
            f"{solver.max_iter} evaluations: largest residual {float(stats.residual.max()):.1e}, tol {solver.tol:.1e}"
        )
        if self.if_not_converged == "error":
            raise ConvergenceError(message)
        self._warned.add(direction)
        warnings.warn(message, ConvergenceWarning, stacklevel=2)


class _ImplicitGradient(torch.autograd.Function):
    """The identity, whose gradient is the solution of the adjoint equation."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, adjoint: Adjoint, layer: DEQ) -> Tensor:
        ctx.adjoint, ctx.layer = adjoint, layer
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the implicit gradient of a DEQ cannot be differentiated once more (create_graph=True); "
                "gradient='unrolled' or 'phantom' can"
            )
        return ctx.layer.solve_backward(ctx.adjoint, gradients[0]), None, None


def _call(f: Callable[..., Tensor], inputs: tuple[Tensor, ...], z: Tensor) -> Tensor:
    return f(z, *inputs)


def _autograd_adjoint(z: Tensor, value: Tensor, y: Tensor, g: Tensor) -> Tensor:
    return torch.autograd.grad(value, z, y, retain_graph=True)[0] + g


def _in_single_precision(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
