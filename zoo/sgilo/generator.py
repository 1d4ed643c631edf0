"""Generators that may be entered halfway: what solvers ask of them."""

from typing import Any

from torch import Tensor, nn


class SplitGenerator(nn.Module):
    """A generator whose layers fall into a prefix and a suffix at any of its splits.

    A subclass says how many splits there are, ``num_splits``, and how many numbers the input has, ``latent_dim``, and
    defines :meth:`latent_shape`, :meth:`prefix`, :meth:`suffix` and, for several splits, :meth:`between`. At every
    split the two make up the whole: ``suffix(prefix(z, i), i)`` is ``forward(z)``.

    What the prefix hands over, the state, is a tensor in most networks. Where it is more, as in
    :class:`~zoo.sgilo.StyleGAN2`, :meth:`latent` and :meth:`with_latent` tell which of its tensors a solver moves.
    """

    num_splits: int
    latent_dim: int

    def latent_shape(self, split: int) -> tuple[int, ...]:
        """Shape of the latent of one image at a split.

        Args:
            split: From 1, nearest to the input, to ``num_splits``.
        """
        raise NotImplementedError

    def prefix(self, z: Tensor, split: int) -> Any:
        """The layers before a split.

        Args:
            z: Input of the generator, ``(B, k)``.
            split: From 1 to ``num_splits``.

        Returns:
            The state at the split.
        """
        raise NotImplementedError

    def suffix(self, state: Any, split: int) -> Tensor:
        """The layers after a split.

        Args:
            state: As :meth:`prefix` returns it.
            split: From 1 to ``num_splits``.

        Returns:
            The images, ``(B, *)``.
        """
        raise NotImplementedError

    def between(self, state: Any, split: int, later: int) -> Any:
        """The layers between two splits.

        Args:
            state: As :meth:`prefix` returns it at ``split``.
            split: From 1 to ``num_splits``.
            later: From ``split`` to ``num_splits``.

        Returns:
            The state at the later split.
        """
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        return self.suffix(self.prefix(z, 1), 1)

    def latent(self, state: Any) -> Tensor:
        """The tensor of a state that a solver moves, ``(B, *latent_shape)``."""
        return state

    def with_latent(self, state: Any, latent: Tensor) -> Any:
        """The state with another tensor in that place."""
        return latent

    def check_split(self, split: int) -> None:
        """Refuse a split that the generator does not have.

        Raises:
            ValueError: If there is no such split.
        """
        if not 1 <= split <= self.num_splits:
            raise ValueError(f"split must be from 1 to {self.num_splits}, got {split}")
