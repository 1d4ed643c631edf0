"""The loss along the straight line between two states of a network."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DataParallel, DistributedDataParallel

from callbacks.path_result import Curve, PathResult, check_alphas
from callbacks.reuse import Reuse
from callbacks.states import (
    COMPILED,
    RESET,
    Groups,
    State,
    check_alike,
    check_buffers,
    lerp,
    moving_entries,
    plain_names,
    reset_statistic,
    some_of,
)

Measure = Callable[[Tensor, Tensor], Tensor]


def interpolate_path(
    model: nn.Module,
    state_a: State,
    state_b: State,
    dataloader: Iterable[Any],
    *,
    groups: Groups = None,
    **options: Any,
) -> PathResult:
    """The loss along the line between two states of a network; see :func:`interpolate_paths`, which has the arguments.

    Args:
        model: The network.
        state_a: State at alpha = 0.
        state_b: State at alpha = 1.
        dataloader: Batches ``(x, y, ...)``.
        groups: Modules that move, by the beginning of their names; all if ``None``.
        **options: Further arguments of :func:`interpolate_paths`.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> batches = [(torch.ones(4, 1), torch.ones(4, 1))]
        >>> a, b = {"weight": torch.zeros(1, 1)}, {"weight": torch.ones(1, 1)}
        >>> interpolate_path(net, a, b, batches, num_alphas=3, loss_fn=nn.functional.mse_loss).loss
        array([1.  , 0.25, 0.  ])
    """
    return interpolate_paths(model, state_a, state_b, dataloader, {"path": groups}, **options)["path"]


@torch.no_grad()
def interpolate_paths(
    model: nn.Module,
    state_a: State,
    state_b: State,
    dataloader: Iterable[Any],
    groups: Mapping[str, Groups],
    *,
    num_alphas: int = 50,
    alphas: Sequence[float] | None = None,
    loss_fn: Measure = F.cross_entropy,
    metrics: Mapping[str, Measure] | None = None,
    buffers: str = "interpolate",
    statistics_loader: Iterable[Any] | None = None,
    device: torch.device | str | None = None,
    distributed: bool = False,
) -> dict[str, PathResult]:
    """The loss along several lines that end in the same state, each with a part of the network that moves.

    The model is called in evaluation mode and without gradients. Its own tensors are never written to and its flags
    are left as they were. The dataloader is gone through once, every batch serves all positions, and what does not
    depend on the position is computed once (:class:`~callbacks.reuse.Reuse`). The model must be deterministic.

    Tied parameters move once, a compiled model is evaluated uncompiled, and of a model wrapped by
    ``DistributedDataParallel`` the wrapped one is taken.

    Args:
        model: The network; ``model(x)`` gives the predictions.
        state_a: State at alpha = 0, as ``state_dict()`` gives it.
        state_b: State at alpha = 1.
        dataloader: Batches ``(x, y, ...)``.
        groups: For each line the modules that move, by the beginning of their names; ``None`` moves all.
        num_alphas: Positions, equally far apart from 0 to 1, both included.
        alphas: The positions themselves, ascending.
        loss_fn: Of predictions and targets, averaged over the batch.
        metrics: Further measures like it, by name.
        buffers: See :func:`lerp_state`. ``"recompute"`` takes, at each position, the averages of the batches'
            statistics over ``statistics_loader``.
        statistics_loader: Batches ``(x, ...)`` for it, of at least two examples; smaller ones are left out.
        device: Where to compute; the model's own if ``None``.
        distributed: Add up what the processes of ``torch.distributed`` measure, each on its own batches.

    Returns:
        What was measured, by the names of ``groups``.

    Raises:
        ValueError: If the states do not fit each other or the model, a group has no entry, a loss is NaN, or an
            argument is not allowed.

    Source:
        Vlaar and Frankle, *What Can Linear Interpolation of Neural Network Loss Landscapes Tell Us?*, ICML 2022;
        ``"recompute"`` is what Lucas et al., ICML 2021, do.
    """
    positions = check_alphas(torch.linspace(0, 1, num_alphas, dtype=torch.float64) if alphas is None else alphas)
    check_buffers(buffers)
    line = _Line(model, state_a, state_b, groups, device)
    layers = _normalisation_layers(line.model)
    if buffers != "interpolate" and not layers:
        warnings.warn(f"buffers={buffers!r} changes nothing: the model has no running statistics", stacklevel=2)
        buffers = "interpolate"
    if buffers == "recompute" and statistics_loader is None:
        raise ValueError("statistics_loader must be given with buffers='recompute', got None")
    with _evaluating(line.model):
        states = line.states(positions, buffers)
        if statistics_loader is not None and buffers == "recompute":
            statistics = _recompute(line, states, layers, statistics_loader, distributed)
            states = {name: _With(of, statistics[name]) for name, of in states.items()}
        tally = _Tally(positions, groups, {"loss": loss_fn, **(metrics or {})}, line.device)
        for x, y, *_ in dataloader:
            x, y = x.to(line.device), y.to(line.device)
            for name, outputs in line.outputs(states, x):
                tally.add(name, outputs, y)
    return tally.results(buffers, distributed)


def gauss_length(logits: Tensor) -> Tensor:
    r"""Length of the Gauss map of curves: how far their direction turns, in radians; 0 for a straight line.

    .. math:: \sum_j \angle(z_{j+1} - z_j, \; z_{j+2} - z_{j+1})

    which tends to the integral of the tangent's turning as the positions become dense. A step of length zero turns
    nothing.

    Args:
        logits: Curves at successive positions, shape ``(n, examples, classes)``.

    Returns:
        The length for each example, shape ``(examples,)``.

    Raises:
        ValueError: If there are not three dimensions.

    Source:
        Lucas et al., *On Monotonic Linear Interpolation of Neural Network Parameters*, ICML 2021; here as the turning
        angle of a polygon, without derivatives.

    Example:
        >>> corner = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]])  # a right angle
        >>> gauss_length(corner)
        tensor([1.5708])
    """
    if logits.dim() != 3:
        raise ValueError(f"logits must have shape (alphas, examples, classes), got {tuple(logits.shape)}")
    steps = logits.diff(dim=0)
    lengths = steps.norm(dim=-1, keepdim=True)
    unit = steps / lengths.clamp_min(torch.finfo(steps.dtype).tiny)
    before, after = unit[:-1], unit[1:]
    angles = 2 * torch.atan2((after - before).norm(dim=-1), (after + before).norm(dim=-1))  # accurate near 0 and pi
    turns = (lengths[:-1] > 0) & (lengths[1:] > 0)
    return (angles * turns.squeeze(-1)).sum(dim=0)


def has_statistics(model: nn.Module) -> bool:
    """Whether a model has normalisation layers with running statistics."""
    return bool(_normalisation_layers(model))


class _Line:
    """The line between two states, in terms of the model's own tensors."""

    def __init__(
        self,
        model: nn.Module,
        state_a: State,
        state_b: State,
        groups: Mapping[str, Groups],
        device: torch.device | str | None,
    ) -> None:
        while isinstance(model, (DistributedDataParallel, DataParallel)):
            model = model.module
        self.model = model
        a, b = plain_names(state_a), plain_names(state_b)
        check_alike(a, b)
        parameters = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self.tensors = {name.replace(COMPILED, ""): tensor for name, tensor in parameters}
        _check_fits(b, model, self.tensors)
        self.own_names = {name.replace(COMPILED, ""): name for name, _ in parameters}
        first: dict[int, str] = {}
        self.alias_of = {name: first.setdefault(id(tensor), name) for name, tensor in self.tensors.items()}
        self.device = torch.device(device) if device is not None else next(iter(self.tensors.values())).device
        names = [name for name in b if self.alias_of.get(name) == name]
        self.a = {name: a[name].to(self.device) for name in names}
        self.b = {name: b[name].to(self.device) for name in names}
        self.reuses: dict[str, Reuse] = {}
        self.moving = {line: moving_entries(b, modules, self.alias_of) for line, modules in groups.items()}

    def states(self, alphas: Curve, buffers: str) -> dict[str, "_States"]:
        """For each line the states at all positions, made when they are asked for."""
        return {line: _States(self, alphas, moving, buffers) for line, moving in self.moving.items()}

    def outputs(self, states: Mapping[str, "_States"], x: Tensor) -> Iterator[tuple[str, Iterator[Tensor]]]:
        """For each line the model's outputs for ``x`` at all positions."""
        for line, of_line in states.items():
            if line not in self.reuses:
                self.reuses[line] = self._reuse(line, of_line, x[:2])
            with self.reuses[line].on_a_batch():
                yield line, self._outputs(self.reuses[line], of_line, x)

    def _outputs(self, reuse: Reuse, states: "_States", x: Tensor) -> Iterator[Tensor]:
        for alpha, state in zip(states.alphas, states):
            reuse.alpha = float(alpha)
            yield self.call(state, x)

    def _reuse(self, line: str, states: "_States", x: Tensor) -> Reuse:
        """Found in evaluation mode, at the first and the last position."""
        moving = set(self.moving[line])
        ends = {
            id(self.tensors[name]): (self.a[name] if name in moving else self.b[name], self.b[name]) for name in self.b
        }
        trials = [lambda alpha=alpha: self.call(states.at(alpha), x) for alpha in states.alphas[[0, -1]]]
        with _evaluating(self.model):
            return Reuse(self.model, ends, {id(self.tensors[name]) for name in moving}, trials)

    def call(self, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.model, {self.own_names[name]: value for name, value in state.items()}, (x,))


class _States:
    """The states at all positions of a line."""

    def __init__(self, line: _Line, alphas: Curve, moving: Sequence[str], buffers: str) -> None:
        self.line, self.alphas, self.moving, self.buffers = line, alphas, moving, buffers

    def __len__(self) -> int:
        return len(self.alphas)

    def at(self, alpha: float) -> dict[str, Tensor]:
        return lerp(self.line.a, self.line.b, float(alpha), self.moving, self.buffers)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return map(self.at, self.alphas)


class _With(_States):
    """States with entries of their own at each position."""

    def __init__(self, states: _States, entries: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__(states.line, states.alphas, states.moving, states.buffers)
        self.entries = entries

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for state, entries in zip(super().__iter__(), self.entries):
            yield {**state, **entries}


class _Tally:
    """Sums over examples of what is measured on each line at each position, kept on the device."""

    def __init__(
        self, alphas: Curve, lines: Mapping[str, Groups], measures: Mapping[str, Measure], device: torch.device
    ) -> None:
        self.alphas, self.lines, self.measures = alphas, lines, measures
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = {
            line: {name: torch.zeros(len(alphas), dtype=self.dtype, device=device) for name in (*measures, "accuracy")}
            for line in lines
        }
        self.turns = {line: torch.zeros((), dtype=self.dtype, device=device) for line in lines}
        self.count = torch.zeros((), dtype=self.dtype, device=device)
        self.num_classes: int | None = None
        self._last: object = None

    def add(self, line: str, outputs: Iterator[Tensor], y: Tensor) -> None:
        """Add a batch with targets ``y``, given its outputs at all positions in turn."""
        if self._last is not y:  # the batch is new, not only the line
            self._last = y
            self.count += len(y)
        window: list[Tensor] = []
        for position, output in enumerate(outputs):
            output = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
            for name, measure in self.measures.items():
                self.sums[line][name][position] += measure(output, y).to(self.dtype) * len(y)
            if self._are_classes(output, y):
                self.num_classes = output.shape[1]
                self.sums[line]["accuracy"][position] += (output.argmax(dim=1) == y).sum()
            window = [*window[-2:], output.reshape(len(y), -1)]
            if len(window) == 3:
                self.turns[line] += gauss_length(torch.stack(window)).sum()

    @staticmethod
    def _are_classes(output: Tensor, y: Tensor) -> bool:
        return output.dim() == 2 and y.dim() == 1 and not y.is_floating_point()

    def results(self, buffers: str, distributed: bool) -> dict[str, PathResult]:
        """The means, as results by line."""
        sums = [self.count, *self.turns.values(), *(of for each in self.sums.values() for of in each.values())]
        if distributed:
            for one in sums:
                dist.all_reduce(one)
        if not self.count:
            raise ValueError("dataloader must give at least one batch, got none")
        return {line: self._result(line, groups, buffers) for line, groups in self.lines.items()}

    def _result(self, line: str, groups: Groups, buffers: str) -> PathResult:
        means = {name: (of / self.count).cpu().numpy() for name, of in self.sums[line].items()}
        accuracy = means.pop("accuracy")
        return PathResult(
            alphas=self.alphas,
            loss=means.pop("loss"),
            accuracy=None if self.num_classes is None else accuracy,
            num_classes=self.num_classes,
            gauss_length=float(self.turns[line] / self.count),
            metrics=means,
            buffers=buffers,
            groups=None if groups is None else tuple(groups),
        )


def _recompute(
    line: _Line,
    states: Mapping[str, _States],
    layers: Mapping[str, nn.Module],
    loader: Iterable[Any],
    distributed: bool,
) -> dict[str, list[dict[str, Tensor]]]:
    """The running statistics at each position of each line: averages over the batches, weighted by their sizes."""
    names = [f"{layer}.{entry}" for layer in layers for entry in RESET]
    names = [name for name in (name.lstrip(".") for name in names) if name in line.b]
    fresh = {
        key: [{name: reset_statistic(name, line.b[name]) for name in names} for _ in range(len(of))]
        for key, of in states.items()
    }
    seen = 0
    with _collecting(layers.values()):
        for x, *_ in loader:
            if len(x) < 2:
                continue
            x = x.to(line.device)
            seen += len(x)
            for layer in layers.values():
                layer.momentum = len(x) / seen  # type: ignore[assignment]
            for _, outputs in line.outputs({key: _With(of, fresh[key]) for key, of in states.items()}, x):
                for _output in outputs:
                    pass  # the call itself is what counts
    if not seen:
        raise ValueError("statistics_loader must give batches of at least 2 examples, got none")
    if distributed:
        _average(fresh, seen, line.device)
    return fresh


def _average(statistics: Mapping[str, Sequence[Mapping[str, Tensor]]], seen: int, device: torch.device) -> None:
    """Average statistics over processes, weighted by the examples that each has seen."""
    total = torch.tensor(float(seen), device=device)
    dist.all_reduce(total)
    for entries in (one for of_line in statistics.values() for one in of_line):
        for value in (value for value in entries.values() if value.is_floating_point()):
            value.mul_(seen / total)
            dist.all_reduce(value)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without ``torch.compile``; all flags are put back."""
    flags = [(module, module.training) for module in model.modules()]
    compiled = any(COMPILED in f"{name}." for name, _ in model.named_modules())
    try:
        model.eval()
        if compiled:
            with torch.compiler.set_stance("force_eager"):  # compiled code holds the model's own tensors
                yield
        else:
            yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _collecting(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Normalisation layers in training mode, to collect statistics; momentum and flags are put back."""
    before = [(layer, layer.training, layer.momentum) for layer in layers]
    try:
        for layer, *_ in before:
            layer.training = True
        yield
    finally:
        for layer, training, momentum in before:
            layer.training, layer.momentum = training, momentum


def _normalisation_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that have running statistics, by plain name."""
    return {
        f"{name}.".replace(COMPILED, "").removesuffix("."): module
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    }


def _check_fits(state: Mapping[str, Tensor], model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    lacking = sorted(plain_names(model.state_dict()).keys() - state.keys())
    if lacking:
        raise ValueError(f"the states must be the model's, got none of its {some_of(lacking)}")
    for name, value in state.items():
        if name not in tensors:
            raise ValueError(f"the states must be the model's, which has no {name}")
        if tensors[name].shape != value.shape:
            raise ValueError(
                f"the states must be the model's, whose {name} has shape {tuple(tensors[name].shape)}, got "
                f"{tuple(value.shape)}"
            )
