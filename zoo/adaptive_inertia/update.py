"""The arithmetic of Adai: many tensors at once in pieces that stay in the cache, or one tensor after the other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

PIECE_ON_CPU = 2**18  # elements a thread: with gradient, states and a temporary 6 MB, a share of the L3 cache
PIECE_ELSEWHERE = 2**25  # bounds the memory for temporaries


class Slot(NamedTuple):
    """A parameter, its gradient, its states and the options of its group."""

    param: Tensor
    grad: Tensor
    state: dict[str, Tensor]
    group: dict[str, Any]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What a step reads and writes."""
        return self.param, self.grad, *(self.state[name] for name in ("exp_avg", "exp_avg_sq", "beta1_prod"))


class Schedule(NamedTuple):
    """What depends on the number of steps that a tensor has made.

    Args:
        correction2: ``1 - beta2 ** t``.
        corrects: Whether ``beta1_prod`` can still be seen beside 1; it is then kept up to date.
    """

    correction2: Any
    corrects: bool


def schedule(slot: Slot) -> Schedule:
    """From the step count, which is read if it is on the host and kept as a tensor if it is not."""
    step, group = slot.state["step"], slot.group
    if group["capturable"]:
        return Schedule(1 - group["betas"][1] ** step, corrects=True)
    count = float(step)
    invisible = torch.finfo(slot.state["beta1_prod"].dtype).eps / 4  # 1 - x rounds to 1 below eps / 4
    return Schedule(1 - group["betas"][1] ** count, corrects=(1 - group["smallest_eps"]) ** count > invisible)


def exponent(group: dict[str, Any]) -> float:
    """Of the ratio of a squared gradient to the mean; 1 for the paper's method."""
    return 1 / (3 - 2 * group["dampening"])


def scale_and_floor(mean: Tensor, group: dict[str, Any], correction2: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    r"""The tensors a and b of :math:`1 - \mu = \mathrm{clip}\big((a v)^k,\; b,\; 1\big)`, without a look at the mean.

    Where the mean is 0, nothing has moved yet, and b makes every inertia ``1 - beta0``.
    """
    beta0, eps = group["betas"][0], group["eps"]
    still = mean == 0
    scale = (beta0 ** (1 / exponent(group)) / (correction2 * mean)).clamp(max=torch.finfo(dtype).max)
    floor = still.to(dtype) * (min(max(beta0, eps), 1.0) - eps) + eps
    return torch.where(still, 0.0, scale).to(dtype), floor


class Single:
    """One tensor, step by step as the equations stand.

    Args:
        slot: The tensor.
    """

    def __init__(self, slot: Slot) -> None:
        self.group = slot.group
        self.param, self.grad, self.exp_avg, self.exp_avg_sq, self.beta1_prod = slot.tensors
        self.correction2, self.corrects = schedule(slot)

    def gradient(self) -> Tensor:
        """The gradient to go down, in the precision of the states, with the coupled decay."""
        grad = self.grad.to(self.exp_avg.dtype)
        if self.group["maximize"]:
            grad = -grad
        if self.group["weight_decay"] and not self.group["decoupled_weight_decay"]:
            grad = grad.add(self.param, alpha=self.group["weight_decay"])
        return grad

    def accumulate(self) -> Tensor:
        """Update the average of squared gradients; returns :meth:`total`."""
        grad, beta2 = self.gradient(), self.group["betas"][1]
        self.exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        return self.total()

    def total(self) -> Tensor:
        """The sum of the corrected squared gradients, a scalar or one value for each model of a batch, ``(S,)``."""
        v = self.exp_avg_sq
        return (v.reshape(len(v), -1).sum(dim=1) if self.group["batched"] else v.sum()) / self.correction2

    def complement(self, mean: Tensor) -> Tensor:
        """One minus the inertia, which is more exact near an inertia of 1 than the inertia itself."""
        mean = mean.to(self.param.device)
        if self.group["batched"]:
            mean = mean.reshape(-1, *[1] * (self.exp_avg_sq.dim() - 1))
        scale, floor = scale_and_floor(mean, self.group, self.correction2, self.exp_avg_sq.dtype)
        ratio = self.exp_avg_sq * scale
        if exponent(self.group) != 1:
            ratio.pow_(exponent(self.group))
        return torch.maximum(ratio, floor).clamp_(max=1.0)

    def apply(self, mean: Tensor) -> None:
        """Update the momentum and the parameter."""
        group, grad, rest = self.group, self.gradient(), self.complement(mean)
        lr, dampening = group["lr"], group["dampening"]
        if group["weight_decay"] and group["decoupled_weight_decay"]:
            self.param.mul_(1 - lr * group["weight_decay"])
        if dampening == 1:
            self.exp_avg.lerp_(grad, rest)
        else:
            self.exp_avg.addcmul_(self.exp_avg, rest, value=-1).addcmul_(grad, rest**dampening)
        step_size = lr * group["betas"][0] ** (1 - dampening)
        if not self.corrects:
            self.param.add_(self.exp_avg, alpha=-step_size)
            return
        self.beta1_prod.addcmul_(self.beta1_prod, rest, value=-1)
        if isinstance(step_size, Tensor):
            self.param.add_(self.exp_avg / (self.beta1_prod - 1) * step_size)
        else:
            self.param.addcdiv_(self.exp_avg, self.beta1_prod - 1, value=step_size)


class Pieces(NamedTuple):
    """Flat pieces of several tensors, with the pieces of their gradients and states."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    beta1_prods: list[Tensor]
    sizes: list[int]


class Many:
    """Tensors with the same options and the same age, as :class:`Single` in few passes over memory.

    A step is bound by memory: pieces are taken through all of its operations while they are in the cache, and
    temporaries are written into the same place again and again.

    Args:
        slots: The tensors, dense, of one device and type.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.group = slots[0].group
        self.correction2, self.corrects = schedule(slots[0])
        self.batches = list(pack(slots))
        like = slots[0].state["exp_avg"]
        largest = max(sum(batch.sizes) for batch in self.batches)
        self.changes_gradients = (
            slots[0].grad.dtype != like.dtype
            or self.group["maximize"]
            or (self.group["weight_decay"] and not self.group["decoupled_weight_decay"])
        )
        self.work = like.new_empty(2 if self.changes_gradients else 1, largest)

    def accumulate(self) -> Tensor:
        """As :meth:`Single.accumulate`."""
        return torch.stack([self._accumulate(batch) for batch in self.batches]).sum() / self.correction2

    def apply(self, mean: Tensor) -> None:
        """As :meth:`Single.apply`."""
        mean = mean.to(self.work.device)
        scale, floor = scale_and_floor(mean, self.group, self.correction2, self.work.dtype)
        for batch in self.batches:
            self._apply(batch, scale, floor)

    def _gradients(self, batch: Pieces) -> list[Tensor]:
        """As :meth:`Single.gradient`; the gradients themselves where nothing changes them."""
        if not self.changes_gradients:
            return batch.grads
        whole, grads = self._room(1, batch)
        maximize, decay = self.group["maximize"], self.group["weight_decay"]
        if self.group["decoupled_weight_decay"]:
            decay = 0.0
        if decay and wants_few_passes(whole) and batch.grads[0].dtype == whole.dtype:
            for grad, param, piece in zip(batch.grads, batch.params, grads):
                torch.add(grad, param, alpha=-decay if maximize else decay, out=piece)
        else:
            torch._foreach_copy_(grads, batch.grads)
            if decay:
                torch._foreach_add_(grads, batch.params, alpha=-decay if maximize else decay)
        if maximize:
            whole.neg_()
        return grads

    def _room(self, row: int, batch: Pieces) -> tuple[Tensor, list[Tensor]]:
        """Room for a temporary, whole and in pieces as those of the batch."""
        whole = self.work[row, : sum(batch.sizes)]
        return whole, list(torch.split(whole, batch.sizes))

    def _accumulate(self, batch: Pieces) -> Tensor:
        grads, beta2 = self._gradients(batch), self.group["betas"][1]
        torch._foreach_mul_(batch.exp_avg_sqs, beta2)
        torch._foreach_addcmul_(batch.exp_avg_sqs, grads, grads, 1 - beta2)
        if wants_few_passes(self.work):
            return torch.stack([v.sum() for v in batch.exp_avg_sqs]).sum()
        return torch.stack(torch._foreach_norm(batch.exp_avg_sqs, 1)).sum()

    def _apply(self, batch: Pieces, scale: Tensor, floor: Tensor) -> None:
        group, grads = self.group, self._gradients(batch)
        lr, dampening = group["lr"], group["dampening"]
        whole, pieces = self._room(0, batch)
        write(torch.mul, batch.exp_avg_sqs, scale, whole, pieces)
        if exponent(group) != 1:
            whole.pow_(exponent(group))
        torch.maximum(whole, floor, out=whole).clamp_(max=1.0)  # one minus the inertia
        if dampening == 1:
            torch._foreach_lerp_(batch.exp_avgs, grads, pieces)
        else:
            torch._foreach_addcmul_(batch.exp_avgs, batch.exp_avgs, pieces, -1)
            torch._foreach_addcmul_(batch.exp_avgs, grads, torch._foreach_pow(pieces, dampening))
        if group["weight_decay"] and group["decoupled_weight_decay"]:
            decay = -lr * group["weight_decay"]  # not a product with 1 + decay, which 16 bits would round
            torch._foreach_add_(batch.params, batch.params, alpha=decay)
        step_size = lr * group["betas"][0] ** (1 - dampening)
        if self.corrects:
            torch._foreach_addcmul_(batch.beta1_prods, batch.beta1_prods, pieces, -1)
            write(torch.sub, batch.beta1_prods, 1.0, whole, pieces)
            torch._foreach_addcdiv_(batch.params, batch.exp_avgs, pieces, step_size)
        else:
            torch._foreach_add_(batch.params, batch.exp_avgs, alpha=-step_size)


def write(
    operation: Callable[..., Tensor], tensors: list[Tensor], other: Any, whole: Tensor, pieces: list[Tensor]
) -> None:
    """Write ``operation(tensor, other)`` of all tensors into the pieces of a whole: in few kernels, or few passes."""
    if wants_few_passes(whole):
        for tensor, piece in zip(tensors, pieces):
            operation(tensor, other, out=piece)
    else:
        torch._foreach_copy_(pieces, tensors)
        operation(whole, other, out=whole)


def wants_few_passes(tensor: Tensor) -> bool:
    """Whether passes over memory cost more than calls do; an accelerator wants few kernels."""
    return tensor.device.type == "cpu"


def batches_of(slots: Sequence[Slot]) -> list[Many | Single]:
    """Split the tensors into what is updated together."""
    singles: list[Many | Single] = []
    alike: dict[Any, list[Slot]] = {}
    for slot in slots:
        if fits_a_batch(slot):
            kind = id(slot.group), slot.param.device, slot.param.dtype, slot.grad.dtype, float(slot.state["step"])
            alike.setdefault(kind, []).append(slot)
        else:
            singles.append(Single(slot))
    return singles + [Many(members) for members in alike.values()]


def fits_a_batch(slot: Slot) -> bool:
    """Whether a parameter can be seen as a flat piece of memory, and its options leave a choice."""
    group, param = slot.group, slot.param
    if group["foreach"] is False or group["capturable"] or group["batched"] or torch.compiler.is_compiling():
        return False
    plain = type(param) in (Tensor, torch.nn.Parameter) and param.device.type != "meta" and param.numel() > 0
    return plain and is_dense(param)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements lie side by side in memory, in whatever order of the axes.

    Example:
        >>> is_dense(torch.ones(2, 3).t()), is_dense(torch.ones(2, 3)[:, :2])
        (True, False)
    """
    sizes = [(stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size > 1]
    expected = 1
    for stride, size in sorted(sizes):
        if stride != expected:
            return False
        expected *= size
    return True


def flat(tensor: Tensor, like: Tensor) -> Tensor:
    """The elements in the order in which those of ``like``, which is dense, lie in memory: a view, if it has the same.

    Example:
        >>> flat(torch.tensor([[1, 2], [3, 4]]), like=torch.ones(2, 2).t())
        tensor([1, 3, 2, 4])
    """
    if not same_layout(tensor, like):
        tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape lie in memory in the same order; axes of size 1 have none."""
    return a.stride() == b.stride() or all(
        size == 1 or one == other for size, one, other in zip(a.shape, a.stride(), b.stride())
    )


def pack(slots: Sequence[Slot]) -> Iterator[Pieces]:
    """Cut large tensors and gather small ones, so that every batch has about the same size."""
    limit = PIECE_ON_CPU * torch.get_num_threads() if wants_few_passes(slots[0].param) else PIECE_ELSEWHERE
    held: list[Sequence[Tensor]] = []
    sizes: list[int] = []
    for slot in slots:
        for pieces in cut([flat(tensor, slot.param) for tensor in slot.tensors], slot.param.numel(), limit):
            held.append(pieces)
            sizes.append(pieces[0].numel())
            if sum(sizes) >= limit:
                yield gather(held, sizes)
                held, sizes = [], []
    if held:
        yield gather(held, sizes)


def gather(held: Sequence[Sequence[Tensor]], sizes: list[int]) -> Pieces:
    """Pieces of several tensors, from the pieces of each with those of its gradient and states."""
    params, grads, exp_avgs, exp_avg_sqs, beta1_prods = map(list, zip(*held))
    return Pieces(params, grads, exp_avgs, exp_avg_sqs, beta1_prods, sizes)


def cut(tensors: Sequence[Tensor], size: int, limit: int) -> Iterable[Sequence[Tensor]]:
    """Pieces of flat tensors of one size, none longer than the limit."""
    return [tensors] if size <= limit else zip(*(torch.split(tensor, limit) for tensor in tensors))


def mean_square(totals: Sequence[Tensor], slots: Sequence[Slot]) -> Tensor:
    """The mean of the corrected squared gradients over all elements; stays on the device."""
    dtype = torch.float64 if any(total.dtype == torch.float64 for total in totals) else torch.float32
    device = totals[0].device
    total = torch.stack([total.to(device, dtype) for total in totals]).sum(dim=0)
    return total / sum(slot.param.numel() // (len(slot.param) if slot.group["batched"] else 1) for slot in slots)
