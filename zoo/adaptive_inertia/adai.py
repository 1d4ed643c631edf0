"""Adai: momentum whose inertia, not whose step size, adapts to each parameter."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo.adaptive_inertia.update import Single, Slot, batches_of, mean_square, same_layout

InertiaScope = Literal["global", "group", "tensor"]
STATES = ("exp_avg", "exp_avg_sq", "beta1_prod")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Adai(Optimizer):
    r"""Adaptive inertia: exponential averages whose momentum is large where squared gradients are small.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad \hat v_t = v_t / (1 - \beta_2^t) \\
        \mu_t &= \mathrm{clip}\big(1 - \beta_0 \, \hat v_t / \bar v_t,\; 0,\; 1 - \epsilon\big), \qquad
        \bar v_t = \text{mean of } \hat v_t \text{ over the whole model} \\
        m_t &= \mu_t m_{t-1} + (1 - \mu_t) g_t, \qquad
        \theta_t = \theta_{t-1} - \eta \, m_t / \big(1 - \textstyle\prod_{s \le t} \mu_s\big)

    The step is as large as that of SGD *without* momentum: the learning rate is that of SGD with momentum 0.9 times
    ten, as a rule, and not that of Adam. A model of one parameter has momentum :math:`1 - \beta_0` in every step.
    The mean is taken over all elements that have a gradient in this step, of all tensors and parameter groups.

    With automatic mixed precision step through ``GradScaler.step``, which unscales first and leaves out steps with an
    infinite gradient: since the mean mixes all tensors, a single one would spoil the inertia of every parameter. With
    sharded parameters (FSDP) the mean would be that of a shard; DDP needs nothing.

    Args:
        params: Parameters, or parameter groups, which may have their own ``lr``, ``betas``, ``eps``,
            ``weight_decay``, ``decoupled_weight_decay``, ``dampening``, ``maximize`` and ``inertia_scope``.
        lr: Learning rate, >= 0. A tensor needs ``capturable=True``.
        betas: The coefficient beta0 > 0, which is the mean of 1 - mu where nothing is clipped, and the decay beta2 of
            the squared gradients, in [0, 1).
        eps: Distance of the largest inertia from 1, in (0, 1). It is no guard of a denominator.
        weight_decay: Weight decay, >= 0.
        decoupled_weight_decay: Shrink the parameters by ``1 - lr * weight_decay`` (AdaiW) instead of adding
            ``weight_decay`` times the parameters to the gradients.
        dampening: 1 is the paper's method. Less is *experimental* and not in the paper (AdaiV2 of the authors' code):
            inertia follows the root of order ``3 - 2 * dampening``, and gradients enter by
            ``(1 - mu) ** dampening``. In [0, 1].
        maximize: Go up instead of down.
        foreach: Update many tensors at once, on the CPU in pieces that stay in the cache; ``False`` takes one tensor
            after the other and gives the same numbers, up to rounding. ``None`` chooses the faster one that the
            parameters allow.
        inertia_scope: Over what the mean is taken: ``"global"`` (the paper), ``"group"`` or ``"tensor"``.
        batched: The first axis of every parameter counts independent models, as that of
            :func:`torch.func.stack_module_state` does: each has a mean of its own.
        capturable: Keep the step count on the parameters' device, so that a CUDA graph can record the step, and
            ``torch.compile`` does not compile it anew each time.

    Raises:
        ValueError: If a number is out of range, or options exclude each other.

    Source:
        Xie, Wang, Zhang, Sato, Sugiyama, *Adaptive Inertia*, ICML 2022; exact as in the authors' code
        (zeke-xie/adaptive-inertia-adai). States have the names of the authors' class, whose checkpoints load.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = Adai([weight], lr=0.1)
        >>> (weight**2).sum().backward()
        >>> optimizer.step()  # the first step is that of plain SGD
        >>> weight.data
        tensor([ 0.8000, -1.6000])
        >>> optimizer.inertia()[weight]  # the steeper one has less
        tensor([0.9600, 0.8400])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.1,
        betas: tuple[float, float] = (0.1, 0.99),
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        dampening: float = 1.0,
        maximize: bool = False,
        foreach: bool | None = None,
        inertia_scope: InertiaScope = "global",
        batched: bool = False,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "dampening": dampening,
            "maximize": maximize,
            "foreach": foreach,
            "inertia_scope": inertia_scope,
            "batched": batched,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; options that it lacks are those of the optimizer.

        Raises:
            ValueError: If an option is out of range, or a parameter complex.
        """
        check_options(self.defaults | param_group)
        super().add_param_group(param_group)
        try:
            check_params(self.param_groups)
        except ValueError:
            del self.param_groups[-1]
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # those of the authors' class have fewer options, and one of another name
            group.setdefault("decoupled_weight_decay", group.pop("decoupled", self.defaults["decoupled_weight_decay"]))
            for name, value in self.defaults.items():
                if name != "differentiable":  # the base class adds it to the defaults here, and nowhere else
                    group.setdefault(name, value)
            for p in group["params"]:
                if "step" in self.state.get(p, {}):
                    device = p.device if group["capturable"] else "cpu"
                    step = self.state[p]["step"]
                    self.state[p]["step"] = torch.as_tensor(step, dtype=torch.float32, device=device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        ours = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, ours):
            if index in state_dict["state"] and state_dtype(p) != p.dtype:  # the base class has rounded the states
                for name in STATES:
                    value = state_dict["state"][index][name]
                    self.state[p][name] = value.to(p.device, state_dtype(p), copy=True)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step. Parameters without a gradient are left alone and do not count in the mean.

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
        for slots in scopes(self._slots()):
            torch._foreach_add_([slot.state["step"] for slot in slots], 1.0)
            batches = batches_of(slots)
            mean = mean_square([batch.accumulate() for batch in batches], slots)
            for batch in batches:
                batch.apply(mean)
        return loss

    def _slots(self) -> list[Slot]:
        """All parameters with a gradient, with their states."""
        slots = []
        for group in self.param_groups:
            group["smallest_eps"] = min(group["eps"], group.get("smallest_eps", 1.0))
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.layout != torch.strided:
                    raise ValueError(f"gradients must be dense, got one of layout {p.grad.layout}")
                state = self.state[p]
                if not state:
                    self._init_state(p, group["capturable"])
                for name in STATES:
                    if not same_layout(state[name], p):  # a checkpoint, or the parameters, had another memory format
                        state[name] = torch.empty_like(p, dtype=state[name].dtype).copy_(state[name])
                slots.append(Slot(p, p.grad, state, group))
        return slots

    def _init_state(self, p: Tensor, capturable: bool) -> None:
        dtype = state_dtype(p)
        self.state[p] |= {
            "step": torch.zeros((), dtype=torch.float32, device=p.device if capturable else "cpu"),
            "exp_avg": torch.zeros_like(p, dtype=dtype),
            "exp_avg_sq": torch.zeros_like(p, dtype=dtype),
            "beta1_prod": torch.ones_like(p, dtype=dtype),
        }

    def inertia(self) -> dict[Tensor, Tensor]:
        """The inertia mu of every element, from the states as they are after the last step.

        Returns:
            For each parameter that has been stepped a tensor of its shape, values in ``[0, 1 - eps]``. The mean is
            taken over all of them, so that it is that of the last step if all had a gradient in it.
        """
        return {slot.param: 1 - rest for slot, rest in self._complements()}

    def inertia_quantiles(self, q: Sequence[float] = QUANTILES) -> Tensor:
        """Quantiles of the inertia over all elements, linearly interpolated.

        Args:
            q: Probabilities in [0, 1].

        Returns:
            The quantiles, shape ``(len(q),)``, float32; NaN before the first step.

        Raises:
            ValueError: If a probability is out of range.
        """
        check_probabilities(q)
        rests = [rest.flatten() for _, rest in self._complements()]
        if not rests:
            return torch.full((len(q),), torch.nan)
        return 1 - sorted_quantiles(join(rests).sort(descending=True).values, q)

    def inertia_statistics(self, q: Sequence[float] = QUANTILES) -> dict[str, Tensor]:
        """What is worth logging of the inertia.

        Args:
            q: Probabilities of the quantiles, in [0, 1].

        Returns:
            Scalars: ``vbar``, the mean of the corrected squared gradients over all elements; ``quantile_<q>`` of the
            inertia; ``share_at_0`` and ``share_at_max``, the parts of the elements whose inertia is clipped to 0 and
            to ``1 - eps``. Empty before the first step.

        Raises:
            ValueError: If a probability is out of range.
        """
        check_probabilities(q)
        found = self._complements()
        if not found:
            return {}
        squares = join([Single(slot).total().reshape(-1) for slot, _ in found]).sum()
        rests = join([rest.flatten() for _, rest in found])
        at_max = join([(rest <= slot.group["eps"]).flatten() for slot, rest in found])
        values = 1 - sorted_quantiles(rests.sort(descending=True).values, q)
        return {
            "vbar": squares / len(rests),
            **{f"quantile_{p:g}": value for p, value in zip(q, values)},
            "share_at_0": (rests >= 1).float().mean(),
            "share_at_max": at_max.float().mean(),
        }

    @torch.no_grad()
    def _complements(self) -> list[tuple[Slot, Tensor]]:
        """One minus the inertia of every parameter that has been stepped."""
        slots = [
            Slot(p, p, self.state[p], group)  # the gradient is not asked for
            for group in self.param_groups
            for p in group["params"]
            if self.state.get(p)
        ]
        found = []
        for members in scopes(slots):
            singles = [Single(slot) for slot in members]
            mean = mean_square([single.total() for single in singles], members)
            found += [(slot, single.complement(mean)) for slot, single in zip(members, singles)]
        return found


class AdaiW(Adai):
    """:class:`Adai` with decoupled weight decay, of 5e-4 unless told otherwise.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, >= 0.
        betas: beta0 > 0 and beta2 in [0, 1).
        eps: Distance of the largest inertia from 1, in (0, 1).
        weight_decay: Parameters shrink by ``1 - lr * weight_decay`` in every step, >= 0.
        **options: Further options of :class:`Adai`.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = AdaiW([weight], lr=1.0, weight_decay=0.1)
        >>> weight.grad = torch.zeros(2)
        >>> optimizer.step()
        >>> weight.data
        tensor([0.9000, 0.9000])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.1,
        betas: tuple[float, float] = (0.1, 0.99),
        eps: float = 1e-3,
        weight_decay: float = 5e-4,
        *,
        dampening: float = 1.0,
        maximize: bool = False,
        foreach: bool | None = None,
        inertia_scope: InertiaScope = "global",
        batched: bool = False,
        capturable: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            decoupled_weight_decay=True,
            dampening=dampening,
            maximize=maximize,
            foreach=foreach,
            inertia_scope=inertia_scope,
            batched=batched,
            capturable=capturable,
        )


def state_dtype(p: Tensor) -> torch.dtype:
    """That of the parameter, but at least float32: an inertia near 1 has no place in 16 bits."""
    return torch.promote_types(p.dtype, torch.float32)


def scopes(slots: Sequence[Slot]) -> list[list[Slot]]:
    """The parameters by the mean that they share."""
    members: dict[Any, list[Slot]] = {}
    for slot in slots:
        key = {"global": 0, "group": id(slot.group), "tensor": id(slot.param)}[slot.group["inertia_scope"]]
        members.setdefault(key, []).append(slot)
    return list(members.values())


def join(tensors: Sequence[Tensor]) -> Tensor:
    """One vector on the first one's device."""
    return torch.cat([tensor.to(tensors[0].device) for tensor in tensors])


def sorted_quantiles(values: Tensor, q: Sequence[float]) -> Tensor:
    """Quantiles of sorted values, in whatever direction; as :func:`torch.quantile`, which has a limit of 16M values.

    Example:
        >>> sorted_quantiles(torch.tensor([0.0, 1.0, 3.0]), [0.25, 1.0])
        tensor([0.5000, 3.0000])
    """
    position = torch.tensor(q, dtype=torch.float64) * (len(values) - 1)
    low = position.floor().long()
    high = position.ceil().long()
    values = values.float()
    return torch.lerp(
        values[low.to(values.device)], values[high.to(values.device)], (position - low).to(values.device, torch.float32)
    )


def check_probabilities(q: Sequence[float]) -> None:
    """Raise a ``ValueError`` if one is out of range."""
    for p in q:
        if not 0 <= p <= 1:
            raise ValueError(f"q must hold probabilities in [0, 1], got {p}")


def check_options(options: dict[str, Any]) -> None:
    """Raise a ``ValueError`` that names the option which is out of range."""
    lr, betas, eps, decay, dampening = (options[name] for name in ("lr", "betas", "eps", "weight_decay", "dampening"))
    if isinstance(lr, Tensor):
        if not options["capturable"] or lr.numel() != 1:
            raise ValueError(f"lr must be a number, or a tensor of one element with capturable=True, got {lr}")
    elif not lr >= 0:
        raise ValueError(f"lr must be >= 0, got {lr}")
    if len(betas) != 2:
        raise ValueError(f"betas must be two numbers, beta0 and beta2, got {betas}")
    if not betas[0] > 0:
        raise ValueError(f"betas[0] must be > 0, got {betas[0]}")
    if betas[0] > 1:
        warnings.warn(
            f"betas[0] = {betas[0]} > 1 leaves most parameters without inertia; the paper's is 0.1", stacklevel=3
        )
    if not 0 <= betas[1] < 1:
        raise ValueError(f"betas[1] must lie in [0, 1), got {betas[1]}")
    if not 0 < eps < 1:
        raise ValueError(f"eps must lie in (0, 1), got {eps}; it is the distance of the largest inertia from 1")
    if not decay >= 0:
        raise ValueError(f"weight_decay must be >= 0, got {decay}")
    if not 0 <= dampening <= 1:
        raise ValueError(f"dampening must lie in [0, 1], got {dampening}")
    if options["inertia_scope"] not in get_args(InertiaScope):
        allowed = ", ".join(map(repr, get_args(InertiaScope)))
        raise ValueError(f"inertia_scope must be one of {allowed}, got {options['inertia_scope']!r}")
    if options["foreach"] and (options["capturable"] or options["batched"]):
        raise ValueError("foreach must be None or False with capturable or batched, got True")


def check_params(groups: Sequence[dict[str, Any]]) -> None:
    """Raise a ``ValueError`` if Adai cannot update a parameter, or batches of models do not agree in their size."""
    for p in (p for group in groups for p in group["params"]):
        if not p.is_floating_point():
            raise ValueError(f"params must be real floating-point tensors, got one of {p.dtype}")
    sizes = {p.shape[:1] if group["batched"] else None for group in groups for p in group["params"]}
    if len(sizes) > 1 or torch.Size([]) in sizes:
        raise ValueError(
            f"with batched=True the first axis of all params must count the same models, got lengths {sizes}"
        )
