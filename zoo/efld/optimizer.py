"""Exponential-family Langevin dynamics as optimizers: SGLD, noisy sign-SGD, noisy quantised SGD, and sign-SGD."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _unflatten_dense_tensors
from torch.optim import Optimizer

from zoo.efld.noise import ExponentialFamilyNoise, GaussianNoise, QuantizedNoise, SignNoise

Schedule = Callable[[int], float]
Piece = tuple[Tensor, Tensor]  # of a parameter and of its gradient
PORTION_ON_CPU, PORTION_ELSEWHERE = 2**16, 2**24


class EFLD(Optimizer):
    r"""Steps that are drawn from an exponential family, whose natural parameter is the gradient over alpha.

    .. math:: \xi_t \sim p_\psi(\cdot\,; g_t / \alpha_t), \qquad w_t = w_{t-1} - \rho_t \xi_t

    with :math:`\rho` the learning rate, for Gaussian noise times alpha: the step is then that of SGD and noise of
    standard deviation ``lr * alpha``. For bounded noise the mean of a step is about ``lr / alpha`` times a gradient
    much smaller than alpha, and a large alpha makes learning slow.

    The noise has a generator of its own, which ``state_dict`` keeps: a resumed run draws what an uninterrupted one
    would have drawn. Among several processes (DDP) all take over the first one's, or they would drift apart. Noise is
    drawn for each step, at least in float32, however many backward passes the gradient has gathered. With automatic
    mixed precision step through ``GradScaler.step``, which unscales first. Parameters without a gradient get no noise.
    Sharded parameters (FSDP) are not supported: shards of different processes would share their noise.

    Args:
        params: Parameters, or parameter groups, which may have their own ``lr``, ``alpha`` and ``maximize``.
        lr: Learning rate, >= 0.
        alpha: Scale of the noise, > 0 and finite; or a function from the number of steps so far to it, then for all
            groups.
        noise: The family.
        generator: Source of randomness, on whatever device; ``None`` makes one on that of the first parameter, whose
            seed is drawn from the global one.
        maximize: Go up instead of down.

    Raises:
        ValueError: If a number is out of range, or (at a step) a gradient is sparse.

    Source:
        Banerjee et al., *Stability Based Generalization Bounds for Exponential Family Langevin Dynamics*, ICML 2022.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = EFLD([weight], lr=0.5, alpha=0.01, noise=SignNoise())
        >>> weight.grad = torch.tensor([3.0, -1.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([-0.5000,  0.5000])
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        alpha: float | Schedule,
        noise: ExponentialFamilyNoise,
        generator: torch.Generator | None = None,
        maximize: bool = False,
    ) -> None:
        self.noise = noise
        self.alpha_schedule = alpha if callable(alpha) else None
        first = alpha(0) if callable(alpha) else alpha
        self._prepare(params, {"lr": lr, "alpha": first, "maximize": maximize}, generator)

    def _prepare(self, params: Any, defaults: dict[str, Any], generator: torch.Generator | None) -> None:
        self.num_steps = 0
        self._shares_noise = False
        super().__init__(params, defaults)
        self.generator = generator or own_generator(self.param_groups[0]["params"][0].device)

    def __getstate__(self) -> dict[str, Any]:  # for copies; the base class takes its own attributes only
        names = ("noise", "alpha_schedule", "generator", "num_steps", "_shares_noise")
        return super().__getstate__() | {name: getattr(self, name) for name in names}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; options that it lacks are those of the optimizer.

        Raises:
            ValueError: If an option is out of range.
        """
        self.check_options(self.defaults | param_group)
        super().add_param_group(param_group)

    def check_options(self, options: dict[str, Any]) -> None:
        """Raise a ``ValueError`` that names the first option of a group that is out of range."""
        check_lr(options["lr"])
        check_alpha(options["alpha"])

    def alpha_of(self, group: dict[str, Any]) -> float:
        """The alpha of the coming step, for one of ``param_groups``."""
        if self.alpha_schedule is None:
            return group["alpha"]
        alpha = self.alpha_schedule(self.num_steps)
        check_alpha(alpha)
        return alpha

    def scale_of(self, group: dict[str, Any]) -> float:
        r"""The :math:`\rho` of the coming step, for one of ``param_groups``."""
        return self.noise.step_scale(group["lr"], self.alpha_of(group))

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Args:
            closure: Computes the loss and its gradients; called first, with gradients enabled.

        Returns:
            What the closure returns, ``None`` without one.

        Raises:
            ValueError: If a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._share_noise()
        for group in self.param_groups:
            for params in on_each_device(group["params"]):
                for pieces in pack(params):
                    self._move(pieces, group)
        self.num_steps += 1
        return loss

    def _move(self, pieces: Sequence[Piece], group: dict[str, Any]) -> None:
        """Draw a step for pieces of parameters, in one call, and make it."""
        params, grads = ([piece[i] for piece in pieces] for i in range(2))
        dtype, device = noise_dtype(params), self.generator.device
        if isinstance(self.noise, GaussianNoise):  # a draw is its mean and noise: gradients need not be gathered
            torch._foreach_add_(params, grads, alpha=group["lr"] if group["maximize"] else -group["lr"])
            size = sum(p.numel() for p in params)
            drawn = torch.randn(size, dtype=dtype, device=device, generator=self.generator)
        else:
            theta = torch.cat([grad.reshape(-1) for grad in grads]).to(device, dtype)
            steepness = min(1 / self.alpha_of(group), torch.finfo(dtype).max)  # 0 times infinity would be NaN
            drawn = self.noise.sample(theta.mul_(-steepness if group["maximize"] else steepness), self.generator)
        shaped = _unflatten_dense_tensors(drawn.to(params[0].device), params)
        torch._foreach_add_(params, shaped, alpha=-self.scale_of(group))

    def _share_noise(self) -> None:
        """Before the first step, all processes take over the state of the first one's generator."""
        if self._shares_noise or not (dist.is_available() and dist.is_initialized()):
            return
        device = self.param_groups[0]["params"][0].device  # what the process group can send
        state = self.generator.get_state().to(device)
        dist.broadcast(state, src=0)
        self.generator.set_state(state.cpu())
        self._shares_noise = True

    def state_dict(self) -> dict[str, Any]:
        """As any optimizer's, with the state of the ``generator`` and ``num_steps``."""
        return super().state_dict() | {"generator": self.generator.get_state(), "num_steps": self.num_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict``, its noise included.

        Raises:
            ValueError: If it has no generator, and so is of another optimizer.
        """
        if "generator" not in state_dict:
            raise ValueError(f"state_dict must be of an {type(self).__name__}, got the keys {', '.join(state_dict)}")
        super().load_state_dict(state_dict)
        self.num_steps = state_dict["num_steps"]
        try:
            self.generator.set_state(state_dict["generator"].cpu())
        except RuntimeError:  # generators of different kinds of devices have different states
            warnings.warn(
                f"The noise goes on from a fresh seed: the saved generator is not one of {self.generator.device}.",
                stacklevel=2,
            )


class NoisySignSGD(EFLD):
    r"""Signs at random, +1 with probability :math:`1 / (1 + e^{-2 g / \alpha})`: sign-SGD where alpha is small.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, >= 0, by which every component moves.
        alpha: Scale of the noise, > 0, or a function of the number of steps.
        generator: Source of randomness; see :class:`EFLD`.
        maximize: Go up instead of down.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1000))
        >>> optimizer = NoisySignSGD([weight], lr=0.1, alpha=1.0)
        >>> weight.grad = torch.ones(1000)
        >>> optimizer.step()
        >>> bool(abs(weight.mean() + 0.1 * torch.tanh(torch.tensor(1.0))) < 0.01)
        True
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        alpha: float | Schedule,
        generator: torch.Generator | None = None,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, alpha, SignNoise(), generator, maximize)


class NoisyQuantizedSGD(EFLD):
    """Steps drawn from a grid; see :class:`~zoo.efld.noise.QuantizedNoise`.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, >= 0, by which levels are multiplied.
        alpha: Scale of the noise, > 0, or a function of the number of steps.
        levels: The grid, in increasing order.
        generator: Source of randomness; see :class:`EFLD`.
        maximize: Go up instead of down.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> optimizer = NoisyQuantizedSGD([weight], lr=0.5, alpha=0.01, levels=[-2.0, 0.0, 2.0])
        >>> weight.grad = torch.tensor([1.0, -1.0, 1.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([-1.,  1., -1.])
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        alpha: float | Schedule,
        levels: Sequence[float] = (-1.0, 0.0, 1.0),
        generator: torch.Generator | None = None,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, alpha, QuantizedNoise(levels), generator, maximize)


class SGLD(EFLD):
    r"""Stochastic gradient Langevin dynamics: SGD and Gaussian noise.

    .. math:: w_t = w_{t-1} - \eta_t g_t + \sigma_t \epsilon_t, \qquad \sigma_t = \sqrt{2 \eta_t / \beta}

    It is :class:`EFLD` with alpha = sigma / eta, which changes as the learning rate does: for a constant one take
    ``EFLD`` with :class:`~zoo.efld.noise.GaussianNoise`. The noise is that of a whole step; it is not multiplied by
    the root of the learning rate.

    Args:
        params: Parameters, or parameter groups, which may have their own ``lr``, ``noise_std`` or
            ``inverse_temperature``, and ``maximize``.
        lr: Learning rate eta, >= 0.
        noise_std: Standard deviation sigma of the noise of a step, > 0.
        inverse_temperature: Beta > 0, in place of it; it makes the noise fall with the root of the learning rate.
        generator: Source of randomness; see :class:`EFLD`.
        maximize: Go up instead of down.

    Raises:
        ValueError: If a number is out of range, or not exactly one of ``noise_std`` and ``inverse_temperature`` is
            given.

    Example:
        >>> optimizer = SGLD([torch.nn.Parameter(torch.zeros(2))], lr=0.02, inverse_temperature=100.0)
        >>> [round(f(optimizer.param_groups[0]), 6) for f in (optimizer.scale_of, optimizer.alpha_of)]
        [0.02, 1.0]
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        noise_std: float | None = None,
        inverse_temperature: float | None = None,
        generator: torch.Generator | None = None,
        maximize: bool = False,
    ) -> None:
        self.noise, self.alpha_schedule = GaussianNoise(), None
        options = {"noise_std": noise_std, "inverse_temperature": inverse_temperature}
        self._prepare(params, {"lr": lr, **options, "maximize": maximize}, generator)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; one that has a noise of its own does not take the optimizer's."""
        names = ("noise_std", "inverse_temperature")
        if any(param_group.get(name) is not None for name in names):
            param_group = dict.fromkeys(names) | param_group
        super().add_param_group(param_group)

    def check_options(self, options: dict[str, Any]) -> None:
        check_lr(options["lr"])
        given = {name: options[name] for name in ("noise_std", "inverse_temperature") if options[name] is not None}
        if len(given) != 1:
            what = " and ".join(f"{name} {value}" for name, value in given.items()) or "none"
            raise ValueError(f"exactly one of noise_std and inverse_temperature must be given, got {what}")
        for name, value in given.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be > 0 and finite, got {value}")

    def scale_of(self, group: dict[str, Any]) -> float:
        """The standard deviation sigma of the coming step's noise."""
        if group["noise_std"] is not None:
            return group["noise_std"]
        return math.sqrt(2 * group["lr"] / group["inverse_temperature"])

    def alpha_of(self, group: dict[str, Any]) -> float:
        """Sigma over eta; infinite where the learning rate is 0, since the step then tells nothing of the data."""
        return self.scale_of(group) / group["lr"] if group["lr"] > 0 else math.inf


class SignSGD(Optimizer):
    """Every component moves by the learning rate, against the sign of its gradient: noisy sign-SGD where alpha is 0.

    Args:
        params: Parameters, or parameter groups, which may have their own ``lr`` and ``maximize``.
        lr: Learning rate, >= 0.
        maximize: Go up instead of down.

    Raises:
        ValueError: If the learning rate is out of range, or (at a step) a gradient is sparse.

    Source:
        Bernstein et al., *signSGD: Compressed Optimisation for Non-Convex Problems*, ICML 2018.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> optimizer = SignSGD([weight], lr=0.5)
        >>> weight.grad = torch.tensor([3.0, 0.0, -1.0])
        >>> optimizer.step()
        >>> weight.data
        tensor([-0.5000,  0.0000,  0.5000])
    """

    def __init__(self, params: Any, lr: float, maximize: bool = False) -> None:
        super().__init__(params, {"lr": lr, "maximize": maximize})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        check_lr((self.defaults | param_group)["lr"])
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; see :meth:`EFLD.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for params in on_each_device(group["params"]):
                signs = torch._foreach_sign([p.grad for p in params if p.grad is not None])
                torch._foreach_add_(params, signs, alpha=group["lr"] if group["maximize"] else -group["lr"])
        return loss


def on_each_device(params: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters that have a gradient, those of one device at a time.

    Raises:
        ValueError: If a gradient is sparse.
    """
    devices: dict[torch.device, list[Tensor]] = {}
    for p in params:
        if p.grad is not None:
            if p.grad.layout != torch.strided:
                raise ValueError(f"gradients must be dense, got one of layout {p.grad.layout}")
            devices.setdefault(p.device, []).append(p)
    yield from devices.values()


def pack(params: Sequence[Tensor]) -> Iterator[list[Piece]]:
    """Parameters with their gradients, cut and gathered into portions of about the same size.

    On a processor a portion stays in the cache; an accelerator wants few and large ones.

    Example:
        >>> p = torch.zeros(3, 40_000)
        >>> p.grad = torch.ones_like(p)
        >>> [[tuple(piece.shape) for piece, _ in portion] for portion in pack([p])]
        [[(1, 40000), (1, 40000)], [(1, 40000)]]
    """
    limit = PORTION_ON_CPU if params[0].device.type == "cpu" else PORTION_ELSEWHERE
    held: list[Piece] = []
    size = 0
    for p in params:
        for piece in cut(p, limit):
            held.append(piece)
            size += piece[0].numel()
            if size >= limit:
                yield held
                held, size = [], 0
    if held:
        yield held


def cut(p: Tensor, limit: int) -> Iterator[Piece]:
    """Rows of a parameter and of its gradient, as many as the limit allows; views, whatever lies how in memory."""
    assert p.grad is not None
    if p.numel() <= limit:
        yield p, p.grad
    else:
        rows = max(1, limit * len(p) // p.numel())
        yield from zip(p.split(rows), p.grad.split(rows))


def own_generator(device: torch.device) -> torch.Generator:
    """A generator whose seed is drawn from the global one."""
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))


def noise_dtype(params: Sequence[Tensor]) -> torch.dtype:
    """The widest of the parameters' types, but at least float32."""
    return reduce(torch.promote_types, (p.dtype for p in params), torch.float32)


def check_lr(lr: float) -> None:
    """Raise a ``ValueError`` if a learning rate is out of range."""
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr must be >= 0 and finite, got {lr}")


def check_alpha(alpha: float) -> None:
    """Raise a ``ValueError`` if a scale of noise is out of range."""
    if not 0 < alpha < math.inf:
        limit = "; SignSGD is the limit of NoisySignSGD at 0" if alpha == 0 else ""
        raise ValueError(f"alpha must be > 0 and finite, got {alpha}{limit}")
