"""Gradient flow and gradient descent on deep linear networks as a LightningModule, many starts at once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from zoo.deep_linear.flow import RankOneFlow
from zoo.deep_linear.initialisation import balanced_rank_one_
from zoo.deep_linear.integrate import FIXED, Integrator, adaptive
from zoo.deep_linear.network import DeepLinearNet
from zoo.deep_linear.predictions import FlowLimit
from zoo.deep_linear.starts import Start, draw_starts
from zoo.simulation import Simulation

DIVERGED = 1e15  # weights beyond this: the loss would overflow before long
PIECES = 32  # of an epoch, between which is looked whether a limit has come near
MATCH = 1e-9  # of data and target
LEAST_RTOL = 1e-14

OnDivergence = Literal["raise", "freeze"]


class DeepLinearModule(Simulation):
    r"""Trains deep linear networks from balanced starts of rank one, and compares them with the flow in closed form.

    With P targets, K starts and H step sizes there are R = P K H replicas, the first target's first and, among these,
    those of the first start. A step is ``step_size`` of time: of Euler's method, which is full-batch gradient descent
    at that learning rate, of the classical Runge-Kutta method, or what an adaptive method crosses in steps of its own.
    All parameters of the full network are integrated; nothing is assumed of their rank.

    A batch is ``(x, y)``: inputs ``(P, n, d_0)`` with orthonormal columns, and outputs ``(P, n, d_N)``, with
    :math:`y^\top x` equal to the target. The loss is :math:`\tfrac12 \|x W^\top - y\|_F^2`, a sum and no mean.

    Logs means over the replicas; kept of every replica are

    - ``time`` of the flow;
    - ``loss``, and ``loss_gap``, by how much it is above that of the predicted limit;
    - ``distance`` of the product W from the predicted limit, Frobenius norm;
    - ``flow_error``, its distance from the flow in closed form at this time, over the latter's norm;
    - ``stuck_time``, the time after which ``distance`` was first below half of the limit's singular value, and the
      time so far until then;
    - ``diverged``, 1 for a replica that has been frozen.

    Attributes:
        net: The networks.

    Args:
        dims: Widths of the layers from input to output; one of them should be 1.
        target: Z, ``(d_N, d_0)`` or ``(P, d_N, d_0)``; the command line takes it from the data.
        starts: Families of starts; one random start by default.
        integrator: ``"euler"``, ``"rk4"``, ``"dopri5"`` or ``"dopri8"``.
        step_size: Time of a step, > 0; several with a fixed method make replicas of each.
        rtol: Relative tolerance of adaptive methods, of every replica, at least 1e-14.
        atol: Absolute one, on single weights.
        zero_tolerance: Coordinates of starts up to this size count as zero in the prediction.
        on_divergence: ``"raise"``, or ``"freeze"``: a replica is put back to the beginning of the epoch and stays.
        steps_per_epoch: Steps in the first epoch.
        growth: Factor of the steps from one epoch to the next.

    Raises:
        ValueError: If an argument is out of range, or data and target do not match.

    Source:
        Chen, Lin and Zhang, *On Non-local Convergence Analysis of Deep Linear Networks*, ICML 2022.
    """

    start_u: Tensor
    start_v: Tensor
    start_s: Tensor
    target: Tensor
    step_sizes: Tensor
    steps: Tensor
    reached: Tensor
    alive: Tensor

    def __init__(
        self,
        dims: Sequence[int],
        target: Tensor,
        starts: Sequence[Start] = (Start("random"),),
        integrator: Integrator = "dopri8",
        step_size: float | list[float] = 0.02,
        rtol: float = 1e-11,
        atol: float = 1e-14,
        zero_tolerance: float = 1e-12,
        on_divergence: OnDivergence = "raise",
        steps_per_epoch: int = 1,
        growth: float = 1.05,
    ) -> None:
        super().__init__(steps_per_epoch, growth)
        starts = [Start(**start) if isinstance(start, Mapping) else start for start in starts]
        self.save_hyperparameters(ignore=["target", "starts"])
        self.save_hyperparameters({"starts": [asdict(start) for start in starts]})  # checkpoints hold no classes
        sizes = list(step_size) if isinstance(step_size, Sequence) else [step_size]
        check_options(starts, integrator, sizes, rtol, atol, zero_tolerance, on_divergence)
        target = torch.as_tensor(target, dtype=torch.float64)
        target = target if target.ndim == 3 else target[None]
        self.integrator, self.rtol, self.atol, self.on_divergence = integrator, rtol, atol, on_divergence
        self.zero_tolerance = zero_tolerance
        u, v, s = (one.repeat_interleave(len(sizes), dim=0) for one in draw_starts(starts, target))
        self.net = DeepLinearNet(dims, len(s))
        self.replicas_of_a_target = len(s) // len(target)
        self.net.checked(self._of_replicas(target))
        balanced_rank_one_(self.net, u, v, s)
        buffers = {"start_u": u, "start_v": v, "start_s": s, "target": self._of_replicas(target)}
        buffers["step_sizes"] = torch.tensor(sizes, dtype=torch.float64).repeat(len(s) // len(sizes))[:, None]
        buffers["steps"] = torch.zeros((), dtype=torch.long)
        buffers["reached"] = torch.full_like(s, torch.inf)
        buffers["alive"] = torch.ones(len(s), dtype=torch.bool)
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self._data_checked = False
        self._flow: RankOneFlow | None = None
        self._limit: FlowLimit | None = None

    def _of_replicas(self, tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(self.replicas_of_a_target, dim=0)

    @property
    def flow(self) -> RankOneFlow:
        """The flow from the same starts in closed form."""
        if self._flow is None:
            starts = self.start_u, self.start_v, self.start_s
            self._flow = RankOneFlow(self.target, self.net.depth, *starts, atol=self.zero_tolerance)
        return self._flow

    @property
    def limit(self) -> FlowLimit:
        """Where every replica should end."""
        if self._limit is None:
            self._limit = self.flow.limit()
        return self._limit

    @property
    def predicted_limit(self) -> Tensor:
        """The products there, ``(R, d_N, d_0)``."""
        return self.limit.W

    def weight_matrices(self) -> list[Tensor]:
        """The layers' weights, the input's first, ``(R, d_j, d_{j-1})``."""
        return self.net.weights()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._flow = self._limit = None

    @property
    def time(self) -> Tensor:
        """Time of every replica so far, ``(R,)``."""
        return self.steps * self.step_sizes.squeeze(1)

    @torch.no_grad()
    def advance(self, batch: Any, first_step: int, num_steps: int) -> None:
        x, y = batch
        target = y.mT @ x
        if not self._data_checked:
            self._check_data(x, target)
            self._data_checked = True
        target = self._of_replicas(target)
        before = self.net.flat.detach().clone()
        marks = torch.linspace(0, num_steps, PIECES + 1).round().unique().long().tolist()
        states = self._integrate(target, marks)
        self._look_for_divergence(before, target, first_step, num_steps)
        self._note_arrival(states, torch.tensor(marks, device=self.device))
        self.steps += num_steps

    def _integrate(self, target: Tensor, marks: list[int]) -> Tensor:
        """The distances from the limit at these steps of an epoch, ``(len(marks), R)``."""
        if self.integrator not in FIXED:
            times = self.step_sizes[0] * torch.tensor(marks, dtype=torch.float64, device=self.device)
            found = adaptive(self.net, target, times, self.integrator, self.rtol, self.atol)
            distances = []
            for flat in found:
                self.net.flat.data.copy_(flat)
                distances.append(self._distance())
            return torch.stack(distances)
        steps_ = FIXED[self.integrator]
        distances = [self._distance()]
        for begin, end in pairwise(marks):
            steps_(self.net, target, self.step_sizes * self.alive[:, None], end - begin)
            distances.append(self._distance())
        return torch.stack(distances)

    def _distance(self) -> Tensor:
        return torch.linalg.matrix_norm(self.net.product() - self.predicted_limit)

    def _check_data(self, x: Tensor, target: Tensor) -> None:
        """Once: another target or inputs that are not whitened would make every prediction wrong."""
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        if not bool((x.mT @ x - identity).abs().max() <= MATCH):
            raise ValueError("the inputs of the batch must be whitened, with orthonormal columns")
        if target.shape[0] * self.replicas_of_a_target != self.net.num_replicas or not bool(
            (self._of_replicas(target) - self.target).abs().max() <= MATCH * (1 + self.target.abs().max())
        ):
            raise ValueError("target must be y^T x of the batch")

    def _look_for_divergence(self, before: Tensor, target: Tensor, first_step: int, num_steps: int) -> None:
        bad = ~(self.net.flat.abs().amax(dim=1) < DIVERGED)
        if not bool(bad.any()):
            return
        if self.on_divergence == "raise":
            replica = int(bad.to(torch.long).argmax())
            step = self._step_of_divergence(before, target, replica, num_steps)
            raise ValueError(
                f"step_size must be smaller for {self.integrator}: replica {replica} has diverged by step "
                f"{first_step + step} with step_size (lr) {float(self.step_sizes[replica]):g}"
            )
        self.net.flat.data.copy_(torch.where(bad[:, None], before, self.net.flat))
        self.alive &= ~bad

    def _step_of_divergence(self, before: Tensor, target: Tensor, replica: int, num_steps: int) -> int:
        """Number of steps, taken once more from the beginning of the epoch, until a replica's weights are too large."""
        if self.integrator not in FIXED:
            return num_steps
        self.net.flat.data.copy_(before)
        for step in range(1, num_steps + 1):
            FIXED[self.integrator](self.net, target, self.step_sizes, 1)
            if not bool(self.net.flat[replica].abs().max() < DIVERGED):
                return step
        return num_steps

    def _note_arrival(self, distances: Tensor, marks: Tensor) -> None:
        """Time of the first crossing of half the limit's singular value, on the line between two looks."""
        level = self.limit.sigma / 2
        below = (distances < level) & (self.limit.sigma > 0)
        after = below.to(torch.long).argmax(dim=0, keepdim=True)
        before = (after - 1).clamp(min=0)
        d0, d1 = distances.gather(0, before), distances.gather(0, after)
        share = torch.where(after > 0, (d0 - level) / (d0 - d1), 0.0)
        at = self.steps + marks[before] + share * (marks[after] - marks[before])
        crossing = torch.where(below.any(dim=0), at.squeeze(0) * self.step_sizes.squeeze(1), torch.inf)
        self.reached.copy_(torch.minimum(self.reached, crossing))

    @torch.no_grad()
    def measures(self, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        W = self.net.product()
        errors = self._of_replicas(y.square().sum(dim=(1, 2)) - (y.mT @ x).square().sum(dim=(1, 2)))
        square, limit_square = ((matrix - self.target).square().sum(dim=(1, 2)) for matrix in (W, self.predicted_limit))
        flow = self.flow.solve_time(self.time[:, None])
        flow_error = torch.linalg.matrix_norm(W - flow.W.squeeze(1)) / flow.s.squeeze(1)
        return {
            "time": self.time,
            "loss": (square + errors) / 2,
            "loss_gap": (square - limit_square) / 2,
            "distance": self._distance(),
            "flow_error": flow_error,
            "stuck_time": torch.minimum(self.reached, self.time),
            "diverged": (~self.alive).to(W.dtype),
        }


def check_options(
    starts: Sequence[Start],
    integrator: str,
    step_sizes: Sequence[float],
    rtol: float,
    atol: float,
    zero_tolerance: float,
    on_divergence: str,
) -> None:
    """Refuse what cannot be integrated.

    Raises:
        ValueError: If an argument is out of range.
    """
    if not starts:
        raise ValueError("starts must hold at least one start, got none")
    for name, value, allowed in (
        ("integrator", integrator, get_args(Integrator)),
        ("on_divergence", on_divergence, get_args(OnDivergence)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if not step_sizes or not all(0 < size < float("inf") for size in step_sizes):
        raise ValueError(f"step_size must be > 0, one or several, got {list(step_sizes)}")
    if len(step_sizes) > 1 and integrator not in FIXED:
        raise ValueError(f"step_size must be one number for {integrator}, whose steps are its own, got {step_sizes}")
    if not rtol >= LEAST_RTOL:
        raise ValueError(f"rtol must be at least {LEAST_RTOL:g}, as float64 has no more digits, got {rtol}")
    if not atol > 0:
        raise ValueError(f"atol must be > 0, got {atol}")
    if not zero_tolerance >= 0:
        raise ValueError(f"zero_tolerance must be >= 0, got {zero_tolerance}")
