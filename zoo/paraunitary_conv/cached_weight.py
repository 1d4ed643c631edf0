"""A weight that is computed once where nothing changes it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class CachedWeight(nn.Module):
    """A module with a parametrized ``weight``, which in evaluation is computed once, until something changes it.

    Its forward uses :meth:`current_weight`.
    """

    weight: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: tuple[list[tuple[Tensor, int]], Tensor] | None = None

    def current_weight(self) -> Tensor:
        """The weight; in evaluation, where no gradient is asked of it, computed once for as long as it holds.

        It is computed anew after an optimizer step or any other change in place, ``load_state_dict``, ``to`` and
        ``train`` or ``eval``; only what is written through a parameter's ``.data`` in evaluation goes unseen.
        """
        sources = self._sources()
        if sources is None:
            return self.weight
        if self._kept is None or not _unchanged(self._kept[0], sources):
            with torch.inference_mode(False), torch.no_grad():  # an inference tensor would be of no use to attacks
                self._kept = ([(tensor, tensor._version) for tensor in sources], self.weight)
        return self._kept[1]

    def _sources(self) -> list[Tensor] | None:
        """What the weight is made of; ``None`` where it must not be kept."""
        if self.training or torch.compiler.is_compiling() or not parametrize.is_parametrized(self, "weight"):
            return None
        made_of: Any = self.parametrizations["weight"]  # type: ignore[index]
        parameters = list(made_of.parameters())
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
            return None
        originals = [getattr(made_of, f"original{i}") for i in range(made_of.ntensors)]
        tensors = [*originals, *made_of.buffers()]
        # torch.func calls with tensors that are no parameters, and inference tensors do not count their changes
        swapped = any(not isinstance(tensor, nn.Parameter) for tensor in originals)
        return None if swapped or any(tensor.is_inference() for tensor in tensors) else tensors

    def train(self, mode: bool = True) -> "CachedWeight":
        self._kept = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> "CachedWeight":
        self._kept = None
        return super()._apply(*args, **kwargs)


def _unchanged(kept: list[tuple[Tensor, int]], sources: list[Tensor]) -> bool:
    return len(kept) == len(sources) and all(
        tensor is source and version == source._version for (tensor, version), source in zip(kept, sources)
    )
