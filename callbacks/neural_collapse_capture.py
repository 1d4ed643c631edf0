"""What layers of a network give while it is called, in evaluation mode."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

FEATURES, LOGITS = "features", "logits"  # what the classifier is given, and what it gives


@contextmanager
def captured(layers: Mapping[str, nn.Module], classifier: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within it, every call of a network puts its layers' outputs into the dictionary, also if it is compiled.

    Args:
        layers: Modules by name; of one that is called several times the last output counts.
        classifier: Its input is kept as ``"features"``, its output as ``"logits"``.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> with captured({"flat": net[0]}, net[1]) as found:
        ...     _ = net(torch.ones(3, 2, 2))
        >>> {name: tuple(value.shape) for name, value in found.items()}
        {'flat': (3, 4), 'features': (3, 4), 'logits': (3, 2)}
    """
    found: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []

    def keep(name: str) -> Any:
        return lambda module, args, output: found.__setitem__(name, output)

    def keep_both(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        found[FEATURES], found[LOGITS] = next(iter((*args, *kwargs.values()))), output

    # Code that has been compiled before the hooks were there would not call them.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        handles += [module.register_forward_hook(keep(name)) for name, module in layers.items()]
        handles.append(classifier.register_forward_hook(keep_both, with_kwargs=True))
        with eager:
            yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it the module is in evaluation mode; afterwards every submodule is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def first_ones_buffers(module: nn.Module) -> Iterator[None]:
    """Within it all processes have the first one's buffers: the running statistics of each may differ."""
    buffers = list(module.buffers()) if dist.is_available() and dist.is_initialized() else []
    before = [buffer.clone() for buffer in buffers]
    try:
        for buffer in buffers:
            dist.broadcast(buffer, src=0)
        yield
    finally:
        for buffer, values in zip(buffers, before):
            buffer.copy_(values)


def find_classifier(module: nn.Module, path: str | None) -> nn.Module:
    """The linear layer that decides, of weight ``(K, d)``.

    Args:
        module: The network.
        path: Name of the layer; if ``None`` it is ``module.head``, or else the last :class:`~torch.nn.Linear`.

    Raises:
        ValueError: If there is no such layer, or its weight is no matrix.
    """
    found = find_layer(module, path, "classifier") if path is not None else getattr(module, "head", None)
    if found is None:
        found = next((part for part in reversed(list(module.modules())) if isinstance(part, nn.Linear)), None)
    weight = getattr(found, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(f"classifier must name a layer with a weight (K, d), got {path or type(found).__name__}")
    return found  # type: ignore[return-value]


def find_layer(module: nn.Module, path: str, argument: str) -> nn.Module:
    """A submodule by its name.

    Raises:
        ValueError: If there is none.
    """
    try:
        return module.get_submodule(path)
    except AttributeError:
        names = ", ".join(name for name, _ in module.named_modules() if name) or "no submodules"
        raise ValueError(f"{argument} must name a module of the model, got {path!r}; it has {names}") from None
