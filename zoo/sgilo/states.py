"""States of a generator within a solver: of several chains, at a split, and the best of them."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.sgilo.generator import SplitGenerator
from zoo.sgilo.solver import DataTerm, Reconstruction

Reduction = Literal["best", "mean"]


def state_at(generator: SplitGenerator, start: Reconstruction | None, split: int) -> Any:
    """The state at a split that belongs to what another solver found."""
    assert start is not None
    generator.check_split(split)
    if start.split > split:
        raise ValueError(f"split must be at least {start.split}, where the start stands, got {split}")
    with torch.no_grad():
        if start.split == 0:
            return generator.prefix(start.state, split)
        return start.state if start.split == split else generator.between(start.state, start.split, split)


def suffix_of(generator: SplitGenerator, state: Any, split: int) -> Callable[[Tensor], Tensor]:
    """What makes images of latents at a split, the rest of the state being given."""
    return lambda latent: generator.suffix(generator.with_latent(state, latent), split)


def decoded(
    generator: SplitGenerator, state: Any, latent: Tensor, split: int, error: Tensor, history: dict[str, Tensor]
) -> Reconstruction:
    """The images of latents, with their state."""
    state = generator.with_latent(state, latent)
    with torch.no_grad():
        return Reconstruction(generator.suffix(state, split), state, split, error, history)


def reduced(
    generator: SplitGenerator,
    state: Any,
    latent: Tensor,
    split: int,
    term: DataTerm,
    history: dict[str, Tensor],
    num_chains: int,
    reduction: Reduction,
) -> Reconstruction:
    """The best chain of each image; or its state with the mean of all chains' images."""
    error = term.error(latent)
    if num_chains == 1:
        return decoded(generator, state, latent, split, error, history)
    state = generator.with_latent(state, latent)
    kept, least = best(state, error, num_chains)
    with torch.no_grad():
        if reduction == "best":
            return Reconstruction(generator.suffix(kept, split), kept, split, least, history)
        images = generator.suffix(state, split)
        return Reconstruction(images.view(num_chains, -1, *images.shape[1:]).mean(0), kept, split, least, history)


def repeated(state: Any, num_images: int, num_chains: int) -> Any:
    """The state for several chains of each image, chain after chain; what all images share stays as it is."""
    if num_chains == 1:
        return state
    return _map(lambda one: one.repeat(num_chains, *[1] * (one.ndim - 1)) if len(one) == num_images else one, state)


def best(state: Any, error: Tensor, num_chains: int) -> tuple[Any, Tensor]:
    """Of each image the chain of the smallest error: its state, and the error."""
    least, chain = error.view(num_chains, -1).min(0)
    rows = chain * len(chain) + torch.arange(len(chain), device=chain.device)
    return _map(lambda one: one[rows] if len(one) == len(error) else one, state), least


def _map(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Apply a function to every tensor of a state, which is one, or a tuple of some, of tuples, and of ``None``."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    values = [_map(function, one) for one in state]
    return type(state)(*values) if hasattr(state, "_fields") else type(state)(values)
