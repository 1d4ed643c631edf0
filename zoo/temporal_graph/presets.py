"""The models of the paper's comparison by name, in the sizes of its scripts."""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from zoo.temporal_graph.dcrnn import DCRNN
from zoo.temporal_graph.events import TGAT, TGN
from zoo.temporal_graph.evolve_gcn import EvolveGCN
from zoo.temporal_graph.layers import EdgeWeight, chebyshev, gat, gcn
from zoo.temporal_graph.sequences import sequence_encoder
from zoo.temporal_graph.time_and_graph import GATES, TimeAndGraph
from zoo.temporal_graph.time_then_graph import TimeThenGraph

Kind = Literal["gru", "lstm", "attention", "mean"]
Sum = Literal["gcn", "sum"]


def gru_gcn(
    in_channels: int,
    edge_channels: int,
    hidden_channels: int = 16,
    activation: str = "softplus",
    node_encoder: Kind = "gru",
    edge_encoder: Kind | None = "gru",
    edge_to_scalar: Literal["softplus", "mean"] = "softplus",
    propagation: Sum = "gcn",
    gnn_activation: str | None = None,
) -> TimeThenGraph:
    """The paper's own model: recurrent codes of nodes and edges, then two graph convolutions.

    For DynCSL it is ``edge_to_scalar="mean"``, ``propagation="sum"`` and ``gnn_activation="identity"``.

    Args:
        in_channels: Node features F.
        edge_channels: Edge features C.
        hidden_channels: Width D of all parts.
        activation: Of the nodes' codes, and between the convolutions.
        node_encoder: ``"gru"``, ``"lstm"``, ``"attention"`` or ``"mean"``.
        edge_encoder: The same, or ``None`` for the bare union.
        edge_to_scalar: How an edge's code becomes a weight.
        propagation: ``"gcn"``, normalised and with self loops, or ``"sum"``.
        gnn_activation: Between the convolutions, if it differs.
    """
    nodes = sequence_encoder(node_encoder, in_channels, hidden_channels)
    edges = None if edge_encoder is None else sequence_encoder(edge_encoder, edge_channels, hidden_channels)
    width: int = nodes.out_channels  # type: ignore[assignment]
    return TimeThenGraph(
        nodes, edges, gcn(width, hidden_channels, gnn_activation or activation, propagation), activation, edge_to_scalar
    )


def gcn_gru(
    in_channels: int,
    edge_channels: int,
    hidden_channels: int = 16,
    activation: str = "softplus",
    cell: Kind = "gru",
    propagation: Sum = "gcn",
) -> TimeAndGraph:
    """Two graph convolutions at every snapshot, and a GRU over time.

    Args:
        in_channels: Node features F.
        edge_channels: Edge features C.
        hidden_channels: Width D of all parts.
        activation: Between and after the convolutions.
        cell: ``"gru"``, ``"lstm"``, ``"attention"`` or ``"mean"``.
        propagation: ``"gcn"``, normalised and with self loops, or ``"sum"``.
    """
    network = gcn(in_channels, hidden_channels, activation, propagation)
    return TimeAndGraph(network, None, cell, hidden_channels, activation, EdgeWeight(edge_channels))


def dysat(
    in_channels: int, edge_channels: int, hidden_channels: int = 16, activation: str = "softplus"
) -> TimeAndGraph:
    """Two layers of attention at every snapshot, and attention over time; see :func:`gcn_gru` for the arguments."""
    network = gat(in_channels, hidden_channels, edge_channels, activation)
    return TimeAndGraph(network, None, "attention", hidden_channels, activation)


def gcrn_m2(
    in_channels: int,
    edge_channels: int,
    hidden_channels: int = 16,
    activation: str = "softplus",
    cell: Literal["gru", "lstm"] = "lstm",
    order: int = 2,
) -> TimeAndGraph:
    """An LSTM whose gates are Chebyshev networks of input and of state.

    Args:
        in_channels: Node features F.
        edge_channels: Edge features C.
        hidden_channels: Width D of all parts.
        activation: Between the layers of a network.
        cell: ``"lstm"``, or ``"gru"`` for a recurrence of fewer gates.
        order: Terms K of the Chebyshev polynomials.
    """
    gates = GATES[cell] * hidden_channels
    of_input, of_state = (
        chebyshev(size, hidden_channels, gates, activation, order) for size in (in_channels, hidden_channels)
    )
    return TimeAndGraph(of_input, of_state, cell, hidden_channels, activation, EdgeWeight(edge_channels))


def dcrnn(
    in_channels: int, edge_channels: int, hidden_channels: int = 16, activation: str = "softplus", order: int = 2
) -> DCRNN:
    """See :class:`~zoo.temporal_graph.dcrnn.DCRNN`."""
    return DCRNN(in_channels, hidden_channels, activation, order, EdgeWeight(edge_channels))


def evolve_gcn_o(
    in_channels: int,
    edge_channels: int,
    hidden_channels: int = 16,
    activation: str = "softplus",
    initial: Literal["learned", "zeros"] = "learned",
) -> EvolveGCN:
    """See :class:`~zoo.temporal_graph.evolve_gcn.EvolveGCN`."""
    return EvolveGCN(in_channels, hidden_channels, "O", activation, initial, EdgeWeight(edge_channels))


def evolve_gcn_h(
    in_channels: int,
    edge_channels: int,
    hidden_channels: int = 16,
    activation: str = "softplus",
    initial: Literal["learned", "zeros"] = "learned",
) -> EvolveGCN:
    """See :class:`~zoo.temporal_graph.evolve_gcn.EvolveGCN`."""
    return EvolveGCN(in_channels, hidden_channels, "H", activation, initial, EdgeWeight(edge_channels))


ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "gru_gcn": gru_gcn,
    "gcn_gru": gcn_gru,
    "dysat": dysat,
    "gcrn_m2": gcrn_m2,
    "dcrnn": dcrnn,
    "evolve_gcn_o": evolve_gcn_o,
    "evolve_gcn_h": evolve_gcn_h,
    "tgat": TGAT,
    "tgn": TGN,
}


def build_encoder(
    name: str,
    in_channels: int,
    edge_channels: int,
    hidden_channels: int = 16,
    activation: str = "softplus",
    encoder_args: dict[str, Any] | None = None,
) -> nn.Module:
    """A model by name.

    Args:
        name: One of :data:`ENCODERS`.
        in_channels: Node features F.
        edge_channels: Edge features C.
        hidden_channels: Width D.
        activation: ``"softplus"``, ``"tanh"``, ``"relu"`` or ``"identity"``.
        encoder_args: Further arguments of the model.

    Raises:
        ValueError: If there is no such model, or it does not take the arguments.

    Example:
        >>> build_encoder("dcrnn", in_channels=1, edge_channels=1).out_channels
        16
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, got {name!r}")
    if hidden_channels < 1:
        raise ValueError(f"hidden_channels must be at least 1, got {hidden_channels}")
    try:
        return ENCODERS[name](in_channels, edge_channels, hidden_channels, activation, **(encoder_args or {}))
    except TypeError as error:
        raise ValueError(f"encoder_args do not fit {name}: {error}") from error
