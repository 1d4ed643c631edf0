"""Local augmentation: generated features of a neighbour beside each node's own."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo.local_augmentation.cvae import NeighborDecoder
from zoo.local_augmentation.sparse import Features, SparseMatrix


class FitBuffers:
    """A hook before ``load_state_dict`` that gives buffers the shape of what is loaded into them.

    For buffers whose size depends on the data, which a module does not know when it is built.
    """

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
        for name in self.names:
            if prefix + name in state_dict:
                buffer = module.get_buffer(name)
                setattr(module, name, buffer.new_empty(state_dict[prefix + name].shape))


class LocalAugmentation(nn.Module):
    r"""Draw feature matrices from a frozen generator and put them beside the nodes' own features.

    .. math:: [\bar X_1, \dots, \bar X_G, \tilde X] \quad (\text{concat}) \qquad\text{or}\qquad
              \tfrac12 (\tilde X + \bar X) \quad (\text{average})

    A draw is kept as its latents z, from which :meth:`decode` gives the same features again.

    Args:
        generator: Trained generator; frozen here, so that it costs no gradients.
        num_generated: Matrices G in a draw.
        mode: ``"concat"`` gives a backbone G + 1 inputs, one for each of its branches; ``"average"`` one input for an
            unchanged backbone (one generated matrix; with more, their mean).
        pool_size: 0 draws afresh every time, as the paper does. Otherwise a pool of so many draws is kept, the oldest
            one is replaced at each call of :meth:`sample`, and samples are taken from the pool: most of the decoding
            is saved, and the draws of one iteration are no longer independent.

    Raises:
        ValueError: If a number or ``mode`` is out of range.

    Source:
        Liu et al., ICML 2022, section 3.2 and algorithm 1; the average in appendix D.

    Example:
        >>> augment = LocalAugmentation(NeighborDecoder(in_channels=5), num_generated=2)
        >>> x = torch.eye(5)
        >>> [tuple(branch.shape) for branch in augment(x, raw_x=x, num_samples=4)]  # 4 draws for 4 passes
        [(4, 5, 5), (4, 5, 5), (5, 5)]
    """

    pool: Tensor
    oldest: Tensor

    def __init__(
        self,
        generator: NeighborDecoder,
        num_generated: int = 1,
        mode: Literal["concat", "average"] = "concat",
        pool_size: int = 0,
    ) -> None:
        super().__init__()
        if num_generated < 1:
            raise ValueError(f"num_generated must be at least 1 with a generator, got {num_generated}")
        if mode not in ("concat", "average"):
            raise ValueError(f"mode must be 'concat' or 'average', got {mode!r}")
        if pool_size < 0:
            raise ValueError(f"pool_size must be 0 (no pool) or more, got {pool_size}")
        self.generator = generator.eval().requires_grad_(False)
        self.num_generated = num_generated
        self.mode = mode
        self.pool_size = pool_size
        self.register_buffer("pool", torch.empty(0))  # latents (pool_size, G, N, L); the nodes are not known yet
        self.register_buffer("oldest", torch.zeros(1, dtype=torch.long))
        self._condition: tuple[Tensor, Tensor] | None = None
        self._decoded_pool: Tensor | None = None
        self.register_load_state_dict_pre_hook(FitBuffers("pool"))
        self.generator.register_load_state_dict_post_hook(self._forget)

    def train(self, mode: bool = True) -> "LocalAugmentation":
        super().train(mode)
        self.generator.eval()
        return self

    def _forget(self, *_: object) -> None:
        self._condition = self._decoded_pool = None  # both were computed with other weights

    def condition(self, raw_x: Tensor) -> Tensor:
        """The generator's condition on the centres, shape ``(N, hidden)``; computed once for the same tensor."""
        if self._condition is None or self._condition[0] is not raw_x:
            with torch.no_grad():
                self._condition = raw_x, self.generator.condition(raw_x)
        return self._condition[1]

    def sample(self, num_nodes: int, num_samples: int = 1) -> Tensor:
        """Draw latents on the generator's device, shape ``(num_samples, G, N, L)``, without the pool."""
        weight = self.generator.output.weight
        size = (num_samples, self.num_generated, num_nodes, self.generator.latent_dim)
        return torch.randn(size, device=weight.device, dtype=weight.dtype)

    def decode(self, z: Tensor, raw_x: Tensor, out: Tensor | None = None) -> Tensor:
        """Turn latents ``(*, N, L)`` into row-normalised features ``(*, N, F)``, into ``out`` if given."""
        return self.generator.decode(z, self.condition(raw_x), out=out)

    def draw(self, raw_x: Tensor, num_samples: int = 1, out: Tensor | None = None) -> Tensor:
        """Draw features afresh, or from the pool if there is one.

        Args:
            raw_x: Raw features of the nodes, shape ``(N, F)``.
            num_samples: How many draws of G matrices.
            out: Where to write, shape ``(num_samples, G, N, F)``; allocated if ``None``.

        Returns:
            Row-normalised features without gradient, shape ``(num_samples, G, N, F)``.
        """
        if self.pool_size == 0:
            return self.decode(self.sample(len(raw_x), num_samples), raw_x, out)
        pool = self._refreshed_pool(raw_x)
        chosen = torch.randint(self.pool_size, (num_samples,), device=pool.device)
        return torch.index_select(pool, 0, chosen, out=out)

    def _refreshed_pool(self, raw_x: Tensor) -> Tensor:
        if len(self.pool) == 0:
            self.pool = self.sample(len(raw_x), self.pool_size)
        else:
            fresh = self.sample(len(raw_x))
            self.pool.index_copy_(0, self.oldest, fresh)
            if self._decoded_pool is not None:
                self._decoded_pool.index_copy_(0, self.oldest, self.decode(fresh, raw_x))
            self.oldest.add_(1).remainder_(self.pool_size)
        if self._decoded_pool is None:
            self._decoded_pool = self.decode(self.pool, raw_x)
        return self._decoded_pool

    def combine(self, x: Features, generated: Tensor) -> list[Features]:
        """The inputs of a backbone's branches.

        Args:
            x: Row-normalised features of the nodes, shape ``(N, F)``.
            generated: Generated features, shape ``(*, G, N, F)``.

        Returns:
            With ``"concat"`` G tensors ``(*, N, F)``, then ``x``; with ``"average"`` one tensor ``(*, N, F)``.
        """
        if self.mode == "concat":
            return [*generated.unbind(-3), x]
        dense = x.to_dense() if isinstance(x, SparseMatrix) or x.layout != torch.strided else x
        return [(dense + generated.mean(dim=-3)) / 2]

    def forward(self, x: Features, raw_x: Tensor, num_samples: int = 1) -> list[Features]:
        return self.combine(x, self.draw(raw_x, num_samples))
