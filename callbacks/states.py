"""States of a network as ``state_dict()`` gives them: the line between two, and how far they are apart."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BUFFERS = ("interpolate", "recompute", "final")
RESET = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}  # statistics by torch's names, as they start
COMPILED = "_orig_mod."  # what torch.compile puts into names

State = Mapping[str, Any]
Groups = Sequence[str] | None


def lerp_state(
    state_a: State, state_b: State, alpha: float, *, groups: Groups = None, buffers: str = "interpolate"
) -> dict[str, Tensor]:
    r"""A state on the line from ``state_a`` to ``state_b``.

    .. math:: \theta(\alpha) = (1 - \alpha) \, \theta_a + \alpha \, \theta_b

    for every floating-point entry; integers are those of ``state_b``. Exact at 0 and 1. Names that differ only by the
    ``_orig_mod.`` of ``torch.compile`` are the same.

    Args:
        state_a: State at alpha = 0, as ``state_dict()`` gives it.
        state_b: State at alpha = 1, with the same names and shapes.
        alpha: Position, finite; outside [0, 1] the line goes on.
        groups: Modules that move, by the beginning of their names, ``["layer1", "head"]``; the others are at
            ``state_b``. All move if ``None``.
        buffers: The running statistics of normalisation layers: ``"interpolate"`` moves them as all else, ``"final"``
            leaves them at ``state_b``, ``"recompute"`` resets them (mean 0, variance 1) for a pass over data.

    Returns:
        The state, under the names without ``_orig_mod.``. What does not move is ``state_b``'s own tensor, no copy.

    Raises:
        ValueError: If the states differ in names or shapes, a group has no entry, or an argument is not allowed.

    Source:
        Goodfellow et al., *Qualitatively characterizing neural network optimization problems*, ICLR 2015; layer-wise:
        Chatterji et al., *The intriguing role of module criticality*, ICLR 2020.

    Example:
        >>> a, b = {"w": torch.zeros(2), "steps": torch.tensor(0)}, {"w": torch.ones(2), "steps": torch.tensor(9)}
        >>> lerp_state(a, b, 0.25)
        {'w': tensor([0.2500, 0.2500]), 'steps': tensor(9)}
    """
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be finite, got {alpha}")
    check_buffers(buffers)
    a, b = plain_names(state_a), plain_names(state_b)
    check_alike(a, b)
    return lerp(a, b, alpha, moving_entries(b, groups, {}), buffers)


def weight_distance(state_a: State, state_b: State, *, normalize: bool = False) -> float:
    r"""Euclidean distance of two states, ``||a - b||``, over floating-point entries without running statistics.

    Tensors that share memory, as tied parameters do, count once.

    Args:
        state_a: A state, as ``state_dict()`` gives it.
        state_b: Another one with the same names and shapes.
        normalize: Divide by ``||a||``.

    Raises:
        ValueError: If the states differ in names or shapes.

    Source:
        Lucas et al., *On Monotonic Linear Interpolation of Neural Network Parameters*, ICML 2021.

    Example:
        >>> weight_distance({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([1.0, 3.0])}, normalize=True)
        3.0
    """
    a, b = plain_names(state_a), plain_names(state_b)
    check_alike(a, b)
    names = _parameters(b)
    distance = _norm(b[name].double() - a[name].to(b[name].device).double() for name in names)
    return distance / weight_norm(state_a) if normalize else distance


def weight_norm(state: State) -> float:
    """Euclidean norm of a state, over the entries of :func:`weight_distance`.

    Example:
        >>> weight_norm({"w": torch.tensor([3.0, 4.0]), "bn.running_mean": torch.ones(1)})
        5.0
    """
    entries = plain_names(state)
    return _norm(entries[name].double() for name in _parameters(entries))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state on the CPU; tensors that share memory do so in the copy.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> copy = snapshot(net)
        >>> _ = net.weight.data.zero_()
        >>> bool(copy["weight"] != 0)
        True
    """
    copies: dict[tuple[Any, ...], Tensor] = {}
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    return {name: copies.setdefault(_place(value), value.detach().clone().cpu()) for name, value in state.items()}


def check_buffers(buffers: str) -> None:
    """Raise a ``ValueError`` unless this is a treatment of running statistics."""
    if buffers not in BUFFERS:
        raise ValueError(f"buffers must be one of {', '.join(BUFFERS)}, got {buffers!r}")


def check_groups(groups: Groups, state: State) -> None:
    """Raise a ``ValueError`` unless every group has entries in the state."""
    moving_entries(plain_names(state), groups, {})


def plain_names(state: State) -> dict[str, Tensor]:
    """The tensors of a state by their names without what ``torch.compile`` puts into them."""
    return {name.replace(COMPILED, ""): value for name, value in state.items() if isinstance(value, Tensor)}


def lerp(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float, moving: Sequence[str], buffers: str
) -> dict[str, Tensor]:
    state = dict(b)
    moving = [name for name in moving if name in b and (buffers == "interpolate" or not _is_statistic(name))]
    if moving:
        start, end = ([of[name] for name in moving] for of in (a, b))
        state.update(zip(moving, torch._foreach_lerp(start, end, alpha)))
    if buffers == "recompute":
        state.update({name: reset_statistic(name, value) for name, value in b.items() if _is_statistic(name)})
    return state


def moving_entries(state: Mapping[str, Tensor], groups: Groups, alias_of: Mapping[str, str]) -> list[str]:
    """The entries that move; of tied ones the first name, which ``alias_of`` gives."""
    if isinstance(groups, str):
        raise ValueError(f"groups must be a list of module names, got the single string {groups!r}")
    names = list(state)
    if groups is not None:
        parts = {group: [name for name in names if f"{name}.".startswith(f"{group}.")] for group in groups}
        for group, found in parts.items():
            if not found:
                top = sorted({name.partition(".")[0] for name in names})
                raise ValueError(f"groups must name modules of the model, got {group!r}; it has {', '.join(top)}")
        names = [name for found in parts.values() for name in found]
        if not names:
            raise ValueError("groups must name at least one module, got none")
    moves = [alias_of.get(name, name) for name in names if _is_continuous(state[name])]
    return list(dict.fromkeys(moves))


def _is_continuous(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in RESET


def reset_statistic(name: str, value: Tensor) -> Tensor:
    return torch.full_like(value, RESET[name.rpartition(".")[2]])


def _parameters(state: Mapping[str, Tensor]) -> list[str]:
    """Names of continuous entries that are no statistics; of those that share memory the first."""
    found: dict[tuple[Any, ...], str] = {}
    for name, value in state.items():
        if _is_continuous(value) and not _is_statistic(name):
            found.setdefault(_place(value), name)
    return list(found.values())


def _place(value: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies in memory."""
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.abs().square().sum()) for tensor in tensors))


def check_alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    unlike = sorted(a.keys() ^ b.keys())
    if unlike:
        raise ValueError(f"state_a and state_b must have the same names; only one of them has {some_of(unlike)}")
    for name, value in b.items():
        if a[name].shape != value.shape:
            raise ValueError(
                f"state_a and state_b must have the same shapes, got {tuple(a[name].shape)} and {tuple(value.shape)} "
                f"for {name}"
            )


def some_of(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
