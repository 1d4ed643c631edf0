"""Evaluate a network at many positions of a line: what does not depend on the position is computed once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Ends = Mapping[int, tuple[Tensor, Tensor]]


class Reuse:
    """What a model can reuse when it is called on one batch at many positions of a line.

    Modules that hold no moved tensor and whose inputs do not depend on the position return their first output again:
    the stem and the first stages of a ResNet whose last stage moves, or a branch beside it. Linear and convolutional
    layers that move, but whose inputs do not, are affine in their weights: their outputs at the two ends give all
    others. Which modules these are is found by a trial with few examples, whatever the order or graph in which the
    model calls them; every later call compares the inputs, in value, and computes as ever when they differ.

    The model must be deterministic. Without gradients only.

    Args:
        model: The network, called with :func:`torch.func.functional_call`.
        ends: The values at alpha = 0 and 1 of each parameter and buffer, by ``id`` of the model's own.
        moved: ``id`` of those that move.
        trials: Two calls of the model on the same few examples, at different positions.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
        >>> states = [{"1.weight": torch.zeros(1, 1)}, {"1.weight": torch.ones(1, 1)}]
        >>> ends = {id(own): (own, own) for own in net.parameters()}
        >>> ends[id(net[1].weight)] = (states[0]["1.weight"], states[1]["1.weight"])
        >>> trials = [lambda state=state: torch.func.functional_call(net, state, torch.ones(1, 1)) for state in states]
        >>> with torch.no_grad():
        ...     reuse = Reuse(net, ends, {id(net[1].weight)}, trials)
        >>> len(reuse.unmoved), len(reuse.affine)
        (1, 1)
    """

    def __init__(self, model: nn.Module, ends: Ends, moved: set[int], trials: Sequence[Callable[[], object]]) -> None:
        unmoved = list(_unmoved_blocks(model, moved))
        affine = [module for module in model.modules() if _is_affine(module) and _tensors(module) & moved]
        constant = _with_constant_inputs([*unmoved, *affine], trials)
        self.unmoved = [module for module in unmoved if module in constant]
        self.affine = [module for module in affine if module in constant]
        self.ends = ends
        self.alpha = 0.0

    def ends_of(self, own: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The values at alpha = 0 and 1 of one of the model's own tensors; of ``None`` nothing."""
        return (None, None) if own is None else self.ends[id(own)]

    @contextmanager
    def on_a_batch(self) -> Iterator[None]:
        """Within it the model is called on one batch, at the position ``alpha`` that is set before each call."""
        forwards: dict[nn.Module, Callable[..., Any]] = {module: _Unmoved(module) for module in self.unmoved}
        forwards |= {module: _Affine(module, self) for module in self.affine}
        before: dict[nn.Module, Any] = {module: vars(module).get("forward") for module in forwards}
        try:
            for module, forward in forwards.items():
                module.forward = forward
            yield
        finally:
            for module, forward in before.items():
                del module.forward
                if forward is not None:
                    module.forward = forward  # somebody else's


def _tensors(module: nn.Module) -> set[int]:
    return {id(tensor) for tensor in (*module.parameters(), *module.buffers())}


def _unmoved_blocks(module: nn.Module, moved: set[int]) -> Iterator[nn.Module]:
    """The largest modules below this one that hold tensors, but no moved one."""
    for child in module.children():
        own = _tensors(child)
        if own & moved:
            yield from _unmoved_blocks(child, moved)
        elif own and not isinstance(child, torch.jit.ScriptModule):
            yield child


def _is_affine(module: nn.Module) -> bool:
    return type(module) in (nn.Linear, *CONVOLUTIONS)  # a subclass may compute something else


def _with_constant_inputs(modules: Sequence[nn.Module], trials: Sequence[Callable[[], object]]) -> set[nn.Module]:
    """The modules that are called in every trial, once, with the same inputs."""
    seen = [_inputs(modules, trial) for trial in trials]
    return {module for module in modules if all(_alike(calls[module], seen[0][module]) for calls in seen)}


def _inputs(modules: Sequence[nn.Module], trial: Callable[[], object]) -> dict[nn.Module, list[Any]]:
    calls: dict[nn.Module, list[Any]] = {module: [] for module in modules}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        plain = not kwargs and all(isinstance(arg, Tensor) for arg in args)
        calls[module].append([arg.clone() for arg in args] if plain else None)  # clones: it may be written into

    handles: list[RemovableHandle] = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    try:
        trial()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _alike(calls: list[Any], others: list[Any]) -> bool:
    once = len(calls) == len(others) == 1 and calls[0] is not None and others[0] is not None
    return once and _same(calls[0], others[0])


def _same(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(tensors) == len(others) and all(map(_equal, tensors, others))


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)  # views of one tensor


class _Unmoved:
    """The forward of a module that returns its first output for as long as its inputs are those of the first call."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.forward: Callable[..., Any] = module.forward
        self.call: _Call | None = None
        self.serves = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.serves or kwargs or not all(isinstance(arg, Tensor) for arg in args):
            return self.forward(*args, **kwargs)
        if self.call is None:
            before = [buffer.clone() for buffer in self.module.buffers()]
            output = self.forward(*args)
            self.serves = isinstance(output, Tensor)
            if self.serves:
                self.call = _Call(args, before, output, self.module)
            return output
        if self.call.is_repeated(args, self.module):
            return self.call.again(self.module)
        self.serves, self.call = False, None
        return self.forward(*args)


class _Call:
    """A call of a module: what went in, what came out, and what it wrote into the module's statistics."""

    def __init__(self, args: Sequence[Tensor], before: list[Tensor], output: Tensor, module: nn.Module) -> None:
        self.args, self.output = args, output
        self.before = before
        self.after = [buffer.clone() for buffer in module.buffers()]
        self.versions = self._versions()

    def _versions(self) -> list[int]:
        return [tensor._version for tensor in (*self.args, self.output)]

    def is_repeated(self, args: Sequence[Tensor], module: nn.Module) -> bool:
        """Whether it is the same call, and nobody has written into its input or output since."""
        return (
            self.versions == self._versions() and _same(args, self.args) and _same(list(module.buffers()), self.before)
        )

    def again(self, module: nn.Module) -> Tensor:
        for buffer, after in zip(module.buffers(), self.after):
            if not _equal(buffer, after):
                buffer.copy_(after)
        return self.output


class _Affine:
    """The forward of a layer that moves and whose input does not: the line between its outputs at the ends."""

    def __init__(self, module: Any, reuse: Reuse) -> None:
        self.forward: Callable[..., Any] = module.forward
        self.product: Callable[..., Tensor] = module._conv_forward if isinstance(module, CONVOLUTIONS) else F.linear
        self.ends = list(zip(reuse.ends_of(module.weight), reuse.ends_of(module.bias)))
        self.reuse = reuse
        self.input: Tensor | None = None
        self.version = 0
        self.outputs: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        if self.input is None:
            self.input, self.version = x, x._version
            self.outputs = [self.product(x, weight, bias) for weight, bias in self.ends]
        if self.version != self.input._version or not _equal(x, self.input):
            return self.forward(x)
        start, end = self.outputs
        return torch.lerp(start, end, self.reuse.alpha)
