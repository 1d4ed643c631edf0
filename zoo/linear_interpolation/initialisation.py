"""Initial weights that are not random: fitted to random labels, at a barrier, trained but for a part."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

State = Mapping[str, Tensor]


def fit_random_labels(
    net: nn.Module,
    x: Tensor,
    num_classes: int,
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 0.05,
    momentum: float = 0.9,
    generator: torch.Generator | None = None,
) -> float:
    """Fit a network in place to labels that have nothing to do with its inputs: an adversarial initialisation.

    Each label is an independent uniform class, drawn once. SGD with momentum, at a constant step size.

    Args:
        net: The network; ``net(x)`` gives logits ``(B, C)``.
        x: Inputs, shape ``(N, *)``, where the network is.
        num_classes: Number of classes C.
        epochs: Passes over the inputs.
        batch_size: Inputs of a step; a smaller last batch is left out, unless it is the only one.
        lr: Step size.
        momentum: Of SGD.
        generator: Source of randomness, on the CPU; the global one if ``None``.

    Returns:
        The share of the random labels that the network met in the last epoch, while it was training.

    Source:
        Liu, Papailiopoulos and Achlioptas, *Bad Global Minima Exist and SGD Can Reach Them*, NeurIPS 2020; as used by
        Vlaar and Frankle, ICML 2022. Neither step size nor number of epochs of the latter is known to us.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
        >>> fit_random_labels(net, torch.randn(32, 20), num_classes=2, epochs=100, batch_size=16)
        1.0
    """
    y = torch.randint(num_classes, (len(x),), generator=generator).to(x.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    num_batches = max(1, len(x) // batch_size)
    net.train()
    correct = torch.zeros((), device=x.device)
    with torch.enable_grad():
        for _ in range(epochs):
            correct.zero_()
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for batch in order.split(batch_size)[:num_batches]:
                logits = net(x[batch])
                optimizer.zero_grad()
                F.cross_entropy(logits, y[batch]).backward()
                optimizer.step()
                correct += (logits.argmax(dim=1) == y[batch]).sum()
    optimizer.zero_grad()
    return float(correct) / min(num_batches * batch_size, len(x))


def interpolated(state_a: State, state_b: State, alpha: float) -> dict[str, Tensor]:
    r"""The state :math:`(1 - \alpha) \theta_a + \alpha \theta_b`; integers are those of ``state_b``.

    Example:
        >>> interpolated({"w": torch.zeros(1)}, {"w": torch.ones(1)}, 0.25)
        {'w': tensor([0.2500])}
    """
    return {name: torch.lerp(state_a[name], b, alpha) if b.is_floating_point() else b for name, b in state_b.items()}


@torch.no_grad()
def losses_between(
    net: nn.Module, state_a: State, state_b: State, x: Tensor, y: Tensor, alphas: Sequence[float]
) -> Tensor:
    """Cross-entropy at positions on the line between two states, running statistics interpolated with the weights.

    Args:
        net: The network, in the mode that it is to be called in; it is left as it is.
        state_a: State at alpha = 0.
        state_b: State at alpha = 1.
        x: Inputs, shape ``(N, *)``.
        y: Classes, shape ``(N,)``, int64.
        alphas: Positions.

    Returns:
        The losses, shape ``(len(alphas),)``.

    Example:
        >>> net = nn.Linear(1, 2, bias=False)
        >>> a, b = {"weight": torch.zeros(2, 1)}, {"weight": torch.tensor([[1.0], [0.0]])}
        >>> losses_between(net, a, b, torch.ones(1, 1), torch.tensor([0]), [0.0, 1.0])
        tensor([0.6931, 0.3133])
    """
    states = (interpolated(state_a, state_b, alpha) for alpha in alphas)
    return torch.stack([F.cross_entropy(functional_call(net, state, (x,)).float(), y) for state in states])


def highest_above_line(losses: Tensor) -> int:
    """Position at which equally spaced losses lie highest above the straight line between their ends.

    Returns:
        Its index; 0 if no loss lies above the line.

    Example:
        >>> highest_above_line(torch.tensor([3.0, 3.5, 1.0, 0.0]))
        1
    """
    line = torch.lerp(losses[0], losses[-1], torch.linspace(0, 1, len(losses), device=losses.device))
    above = losses - line
    above[[0, -1]] = 0.0
    return int(above.argmax())


def redrawn(state: State, groups: Sequence[str], generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Another draw of an initial state's random values, for some modules.

    The values of each tensor are permuted. If they are independent and of one law, as the usual initialisations have
    them, that is a draw from this law, whichever it is; constants stay.

    Args:
        state: A state before training, by name.
        groups: Modules to draw again, by the beginning of their names.
        generator: Source of randomness, on the CPU; the global one if ``None``.

    Returns:
        The new values of these modules; nothing of the others.

    Raises:
        ValueError: If a group has no entry in the state.

    Example:
        >>> redrawn({"fc.bias": torch.zeros(2), "conv.bias": torch.ones(2)}, ["fc"])
        {'fc.bias': tensor([0., 0.])}
    """
    check_groups(state, groups)
    chosen = {name: value for name, value in state.items() if f"{name}.".startswith(tuple(f"{g}." for g in groups))}
    return {
        name: value.flatten()[torch.randperm(value.numel(), generator=generator).to(value.device)].view(value.shape)
        for name, value in chosen.items()
    }


def check_groups(state: State, groups: Sequence[str]) -> None:
    """Raise a ``ValueError`` unless there is at least one group and each has entries in the state."""
    if isinstance(groups, str) or not groups:
        raise ValueError(f"groups must be a list of at least one module name, got {groups!r}")
    for group in groups:
        if not any(f"{name}.".startswith(f"{group}.") for name in state):
            raise ValueError(
                f"groups must name modules of the model, got {group!r}; it has {', '.join(parents(state))}"
            )


def parents(state: State) -> list[str]:
    """Names of the modules that hold a state's entries, two levels deep.

    Example:
        >>> parents({"net.layer1.0.weight": torch.ones(1), "net.head.bias": torch.ones(1)})
        ['net.head', 'net.layer1']
    """
    return sorted({".".join(name.split(".")[:-1][:2]) for name in state})


def matching(state: State, source: State) -> dict[str, Tensor]:
    """The entries of another network's state that fit: of the same name and shape.

    A name matches without the ``net.`` of a module that wraps the network, and torchvision's ``fc`` matches ``head``.

    Args:
        state: State of the network that is to begin from them.
        source: State of the other network.

    Returns:
        What fits, by the names of ``state``.

    Example:
        >>> list(matching({"net.head.bias": torch.zeros(2)}, {"fc.bias": torch.ones(2), "fc.weight": torch.ones(2, 2)}))
        ['net.head.bias']
    """
    found = {}
    for name, value in state.items():
        bare = name.removeprefix("net.")
        for candidate in (name, bare, bare.replace("head.", "fc.", 1) if bare.startswith("head.") else bare):
            if candidate in source and source[candidate].shape == value.shape:
                found[name] = source[candidate]
                break
    return found


def check_fit_arguments(epochs: int, batch_size: int, lr: float, momentum: float) -> None:
    """Raise a ``ValueError`` that names the first argument of :func:`fit_random_labels` that is out of range."""
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not lr > 0 or not math.isfinite(lr):
        raise ValueError(f"lr must be > 0 and finite, got {lr}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
