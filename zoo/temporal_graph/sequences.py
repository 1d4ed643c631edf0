"""Encoders of sequences, each interchangeable with the others; and how to work on equal sequences only once."""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

SAMPLE = 128  # rows, about, by which it is guessed whether many are alike
LARGE = 64 * SAMPLE  # rows from which on the guess is worth its price
MANY = 0.8  # share of different ones from which on working on each once does not pay


def distinct_rows(sequences: Tensor) -> tuple[Tensor, Tensor] | None:
    """Find the rows that differ. A fixed random projection tells them apart, and the result is compared: exact.

    Args:
        sequences: Shape ``(R, *)``.

    Returns:
        The position of one row of each kind ``(K,)``, and the kind of each row ``(R,)``; ``None`` if nearly all rows,
        or those of a sample of many, differ, so that there is little to win.

    Example:
        >>> first, kind = distinct_rows(torch.tensor([[0, 1], [5, 5], [0, 1]]))
        >>> len(first), bool(kind[0] == kind[2] != kind[1])
        (2, True)
    """
    rows = sequences.flatten(1)
    if len(rows) >= LARGE and not _few(_kinds(rows[:: len(rows) // SAMPLE]), SAMPLE):
        return None
    found = _kinds(rows)
    return found if _few(found, len(rows)) else None


def _few(found: tuple[Tensor, Tensor] | None, num_rows: int) -> bool:
    return found is not None and len(found[0]) <= MANY * num_rows


def _kinds(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    kinds, kind = (rows * _projection(rows.shape[1], rows.device)).sum(dim=1).unique(return_inverse=True)
    position = torch.arange(len(rows), device=rows.device)
    first = torch.empty_like(kinds, dtype=torch.long).scatter_(0, kind, position)
    return (first, kind) if torch.equal(rows[first].index_select(0, kind), rows) else None


@lru_cache
def _projection(size: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.rand(size, dtype=torch.double, generator=torch.Generator().manual_seed(0)).to(device)


class DistinctSequences(nn.Module):
    """An encoder that is run on the sequences that differ, and its results dealt out: exact, and much less work.

    Edges that are there or not have at most ``2 ** T - 1`` histories. Where nearly all differ, or where the sequences
    are themselves learned, the encoder is run on all.

    Args:
        encoder: Any one of this module.

    Example:
        >>> encoder = DistinctSequences(RecurrentEncoder(1, 16))
        >>> encoder(torch.ones(1000, 8, 1)).shape
        torch.Size([1000, 16])
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels: int = encoder.out_channels  # type: ignore[assignment]

    def forward(self, sequences: Tensor) -> Tensor:
        found = None if sequences.requires_grad or len(sequences) == 0 else distinct_rows(sequences)
        if found is None:
            return self.encoder(sequences)
        first, kind = found
        return self.encoder(sequences[first]).index_select(0, kind)


class RecurrentEncoder(nn.Module):
    """The last state of a recurrent network.

    Args:
        in_channels: Features F of a step.
        out_channels: Size D of the state.
        cell: ``"gru"`` or ``"lstm"``.

    Raises:
        ValueError: If there is no such cell.

    Example:
        >>> RecurrentEncoder(3, 16, cell="lstm")(torch.randn(5, 7, 3)).shape
        torch.Size([5, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, cell: Literal["gru", "lstm"] = "gru") -> None:
        super().__init__()
        if cell not in ("gru", "lstm"):
            raise ValueError(f"cell must be gru or lstm, got {cell!r}")
        self.out_channels = out_channels
        self.net = (nn.GRU if cell == "gru" else nn.LSTM)(in_channels, out_channels, batch_first=True)

    def forward(self, sequences: Tensor) -> Tensor:
        """Encode ``(R, T, F)`` as ``(R, D)``."""
        if len(sequences) == 0:  # a graph without edges
            return sequences.new_zeros(0, self.out_channels)
        last = self.net(sequences)[1]
        return (last[0] if isinstance(last, tuple) else last)[-1]


class SelfAttentionEncoder(nn.Module):
    """What the last step attends to among all steps; without a position, so that the order of the others is lost.

    Args:
        in_channels: Features F of a step; projected to D if it differs.
        out_channels: Width D.
        heads: Of the attention; ``None`` for :func:`num_heads`.

    Source:
        Sankar et al., *DySAT*, WSDM 2020, in the form of Gao and Ribeiro's comparison: no mask, no position code.

    Example:
        >>> SelfAttentionEncoder(16, 16)(torch.randn(5, 7, 16)).shape
        torch.Size([5, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, heads: int | None = None) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.project = nn.Identity() if in_channels == out_channels else nn.Linear(in_channels, out_channels)
        self.attention = nn.MultiheadAttention(out_channels, heads or num_heads(out_channels), batch_first=True)

    def forward(self, sequences: Tensor) -> Tensor:
        """Encode ``(R, T, F)`` as ``(R, D)``."""
        if len(sequences) == 0:
            return sequences.new_zeros(0, self.out_channels)
        steps = self.project(sequences)
        return self.attention(steps[:, -1:], steps, steps, need_weights=False)[0].squeeze(1)


class MeanEncoder(nn.Module):
    """The mean over time: what is left of a history if its order is thrown away (a control).

    Args:
        in_channels: Features F of a step.

    Example:
        >>> MeanEncoder(1)(torch.tensor([[[1.0], [0.0]]]))
        tensor([[0.5000]])
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels

    def forward(self, sequences: Tensor) -> Tensor:
        """Encode ``(R, T, F)`` as ``(R, F)``."""
        return sequences.mean(dim=1)


ENCODERS = ("gru", "lstm", "attention", "mean")


def sequence_encoder(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    """An encoder by name, run on distinct sequences only.

    Args:
        kind: ``"gru"``, ``"lstm"``, ``"attention"`` or ``"mean"``.
        in_channels: Features F of a step.
        out_channels: Width D of the code; the mean has F.

    Raises:
        ValueError: If there is no such encoder.
    """
    if kind not in ENCODERS:
        raise ValueError(f"an encoder must be one of {', '.join(ENCODERS)}, got {kind!r}")
    if kind == "attention":
        return DistinctSequences(SelfAttentionEncoder(in_channels, out_channels))
    if kind == "mean":
        return MeanEncoder(in_channels)
    return DistinctSequences(RecurrentEncoder(in_channels, out_channels, cell=kind))  # type: ignore[arg-type]


def num_heads(width: int) -> int:
    """The largest power of two that is at most the square root of the width, rounded up, and divides it.

    Example:
        >>> num_heads(16), num_heads(20), num_heads(7)
        (4, 4, 1)
    """
    limit = math.ceil(math.sqrt(width))
    return max(heads for heads in (2**k for k in range(limit)) if heads <= limit and width % heads == 0)
