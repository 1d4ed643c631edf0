"""Inner products of the gradients of single samples, without a loop over samples."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap

Criterion = Callable[[Tensor, Tensor], Tensor]
Calls = list[tuple[Tensor, Tensor]]  # what a layer was given and the gradient of what it gave, for each call
METHODS = ("gram", "vmap")


def gradient_gram(
    model: nn.Module,
    criterion: Criterion,
    x: Tensor,
    y: Tensor,
    params: Collection[nn.Parameter] | None = None,
    method: Literal["gram", "vmap"] = "gram",
    chunk_size: int | None = None,
) -> Tensor:
    r"""Inner products :math:`\langle\nabla\ell(w, z_i), \nabla\ell(w, z_j)\rangle` of the gradients of all samples.

    ``"gram"`` adds up the inner products layer by layer: for a linear layer from what goes in and what comes back, so
    that no gradient is ever formed; for convolutions and other layers from the layer's own gradients. A layer takes one
    tensor and gives one, sample by sample. ``"vmap"`` forms all gradients, of any network.

    The network is called as it is: bring it into evaluation mode if it has dropout or batch normalisation.

    Args:
        model: The network, of inputs ``(B, *)``.
        criterion: Loss of its outputs and the targets, a mean over the batch.
        x: Inputs, shape ``(B, *)``.
        y: Targets, shape ``(B, *)``.
        params: The parameters that count; all that require a gradient if ``None``.
        method: ``"gram"`` or ``"vmap"``.
        chunk_size: Samples that go through the network at once; all if ``None``. The result is the same.

    Returns:
        Shape ``(B, B)``.

    Raises:
        ValueError: If there is no such method, an argument is out of range, or a parameter belongs to several layers,
            which ``"gram"`` cannot tell apart.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> gradient_gram(net, lambda output, y: output.sum() / len(y), x, torch.zeros(2))
        tensor([[ 9.,  0.],
                [ 0., 16.]])
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    chosen = _chosen(model, params)
    if not chosen:
        return torch.zeros(len(x), len(x), device=x.device, dtype=next(model.parameters()).dtype)
    if method == "vmap":
        gradients = per_sample_gradients(model, criterion, x, y, params, chunk_size)
        return gradients @ gradients.T
    return _gram_by_layers(model, criterion, x, y, chosen, chunk_size or len(x))


def per_sample_gradients(
    model: nn.Module,
    criterion: Criterion,
    x: Tensor,
    y: Tensor,
    params: Collection[nn.Parameter] | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """The gradient of every sample's loss, in one vector each.

    Args:
        model: The network, of inputs ``(B, *)``.
        criterion: Loss of its outputs and the targets, a mean over the batch.
        x: Inputs, shape ``(B, *)``.
        y: Targets, shape ``(B, *)``.
        params: The parameters that count; all that require a gradient if ``None``.
        chunk_size: Samples at once; all if ``None``.

    Returns:
        Shape ``(B, d)``, parameters in the order of ``model.parameters()``.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> per_sample_gradients(net, lambda output, y: output.mean(), torch.eye(2), torch.zeros(2))
        tensor([[1., 0., 1.],
                [0., 1., 1.]])
    """
    chosen = {name: p.detach() for name, p in _chosen(model, params).items()}

    def loss(weights: dict[str, Tensor], one_x: Tensor, one_y: Tensor) -> Tensor:
        return criterion(functional_call(model, weights, (one_x[None],)), one_y[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0), chunk_size=chunk_size)(chosen, x, y)
    return torch.cat([gradient.flatten(1) for gradient in found.values()], dim=1)


def _chosen(model: nn.Module, params: Collection[nn.Parameter] | None) -> dict[str, nn.Parameter]:
    """The parameters that count, by name; every one once."""
    wanted = None if params is None else {id(p) for p in params}
    return {name: p for name, p in model.named_parameters() if (p.requires_grad if wanted is None else id(p) in wanted)}


def _gram_by_layers(
    model: nn.Module, criterion: Criterion, x: Tensor, y: Tensor, params: dict[str, nn.Parameter], chunk_size: int
) -> Tensor:
    layers = _layers(model, params)
    chunks = [_calls(model, layers, criterion, *part) for part in zip(x.split(chunk_size), y.split(chunk_size))]
    total = x.new_zeros(len(x), len(x), dtype=next(iter(params.values())).dtype)
    for layer, names in layers.items():
        calls = [chunk[layer] for chunk in chunks if chunk[layer]]
        if calls:
            total += _linear_gram(layer, names, calls) if _is_plain(layer, calls) else _gram_of(layer, names, calls)
    return total


def _layers(model: nn.Module, params: dict[str, nn.Parameter]) -> dict[nn.Module, list[str]]:
    """Modules that own parameters that count, and these parameters' names in them."""
    wanted = {id(p): name for name, p in params.items()}
    owners: dict[int, nn.Module] = {}
    layers: dict[nn.Module, list[str]] = {}
    for module in model.modules():
        names = [name for name, p in module.named_parameters(recurse=False) if id(p) in wanted]
        for name in names:
            key = id(module.get_parameter(name))
            if key in owners:
                raise ValueError(
                    f"method must be 'vmap' where layers share a parameter, as {wanted[key]} is shared, got 'gram'"
                )
            owners[key] = module
        if names:
            layers[module] = names
    return layers


def _calls(
    model: nn.Module, layers: dict[nn.Module, list[str]], criterion: Criterion, x: Tensor, y: Tensor
) -> dict[nn.Module, Calls]:
    """What each layer is given for these samples, and the gradient of each sample's loss by what it gives."""
    given: list[tuple[nn.Module, Tensor]] = []
    probes: list[Tensor] = []

    def add_probe(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        given.append((layer, args[0].detach()))
        probes.append(torch.zeros_like(output, requires_grad=True))
        return output + probes[-1]  # its gradient is that of the output, and no weight's gradient need be computed

    with torch.enable_grad(), _hooked(layers, add_probe):
        loss = criterion(model(x), y) * len(x)  # the sum over the samples
        found = torch.autograd.grad(loss, probes, allow_unused=True)
    calls: dict[nn.Module, Calls] = {layer: [] for layer in layers}
    for (layer, inputs), backward in zip(given, found):
        if backward is not None:
            calls[layer].append((inputs, backward))
    return calls


@contextmanager
def _hooked(layers: Collection[nn.Module], hook: Callable[..., Tensor]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_plain(layer: nn.Module, calls: list[Calls]) -> bool:
    """Whether it is a linear layer that each sample goes through once, as one vector."""
    return type(layer) is nn.Linear and all(len(chunk) == 1 and chunk[0][0].ndim == 2 for chunk in calls)


def _linear_gram(layer: nn.Module, names: list[str], calls: list[Calls]) -> Tensor:
    """The gradient of a weight is an outer product, so that the inner product is one of two numbers."""
    inputs, backward = (joined([chunk[0][i] for chunk in calls]) for i in range(2))
    of_inputs = inputs @ inputs.T if "weight" in names else 0
    return (backward @ backward.T) * (of_inputs + (1 if "bias" in names else 0))


def _gram_of(layer: nn.Module, names: list[str], calls: list[Calls]) -> Tensor | float:
    """Inner products of a layer's own gradients, which are formed; those of several calls are summed first."""
    total: Tensor | float = 0.0
    gradients = [[_gradients(layer, names, *call) for call in chunk] for chunk in calls]
    for name in names:
        rows = joined([reduce(torch.add, (one[name].flatten(1) for one in chunk)) for chunk in gradients])
        total = rows @ rows.T + total
    return total


def _gradients(layer: nn.Module, names: list[str], inputs: Tensor, backward: Tensor) -> dict[str, Tensor]:
    """Each sample's gradient of the layer's parameters, ``(B, *)`` by name."""
    if type(layer) is nn.Linear:
        weight = torch.einsum("b...o,b...i->boi", backward, inputs)
        return {"weight": weight, "bias": backward.flatten(1, -2).sum(1)}
    if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros":
        return {"weight": backward.flatten(2) @ _patches(layer, inputs).mT, "bias": backward.sum((2, 3))}
    weights = {name: layer.get_parameter(name).detach() for name in names}

    def gradient(one: Tensor, back: Tensor) -> dict[str, Tensor]:
        return vjp(lambda weights: functional_call(layer, weights, (one[None],)), weights)[1](back[None])[0]

    return vmap(gradient)(inputs, backward)


def _patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """What each output position of a convolution sees, ``(B, C k k, L)``; a view and a copy are faster than unfold."""
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice)
    for axis in (0, 1):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        padded = padded.unfold(axis + 2, reach, layer.stride[axis])
    seen = padded[..., :: layer.dilation[0], :: layer.dilation[1]]  # (B, C, H, W, k, k)
    return seen.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)


def joined(parts: list[Tensor]) -> Tensor:
    """The parts one after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
