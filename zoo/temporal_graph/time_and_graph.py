"""Time-and-graph: a graph network at every snapshot, and a recurrence over what it gives, interleaved."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo.temporal_graph.layers import activation_function
from zoo.temporal_graph.memo import Memo
from zoo.temporal_graph.sequences import sequence_encoder
from zoo.temporal_graph.snapshots import stack_snapshots, step_graphs
from zoo.temporal_graph.window import TemporalWindow

GATES = {"gru": 3, "lstm": 4}


class TimeAndGraph(nn.Module):
    r"""A representation of nodes that is carried from snapshot to snapshot.

    .. math:: S_t = \mathrm{Cell}\big(\mathrm{GNN}_\text{in}(X_t, A_t), \; \mathrm{GNN}_\text{rec}(S_{t-1}, A_t)\big),
              \qquad Z = S_T

    What needs no earlier state, the network on the inputs, works on the snapshots of all steps and windows at once,
    and on one that several windows share only once. Without a network on the states, the rest is an encoder of
    sequences.

    Args:
        gnn_in: Network on the inputs. With ``gnn_rec`` it gives all gates side by side: 3 D features for a GRU, 4 D
            for an LSTM.
        gnn_rec: Network on the states, from D to as many; ``None`` if the recurrence does not see the graph.
        cell: ``"gru"`` or ``"lstm"``; without ``gnn_rec``, ``"attention"`` and ``"mean"`` too.
        hidden_channels: Size D of the state.
        activation: Of what ``gnn_in`` gives, where an encoder of sequences takes it.
        edge_weight: Makes weights ``(*)`` of edge features ``(*, C)``; the first feature is the weight if ``None``.

    Raises:
        ValueError: If there is no such cell, or the networks do not give what it needs.

    Source:
        Gao and Ribeiro, ICML 2022; with ``gnn_rec`` and an LSTM that has peepholes, Seo et al., *Structured Sequence
        Modeling with Graph Convolutional Recurrent Networks*, 2016, model 2.

    Example:
        >>> from zoo.temporal_graph import gcn_gru
        >>> from datamodules.temporal_dyncsl import skip_link_window
        >>> gcn_gru(1, 1, hidden_channels=16)(skip_link_window(19, [2, 3, 2, 3], label=0)).shape
        torch.Size([19, 16])
    """

    def __init__(
        self,
        gnn_in: nn.Module,
        gnn_rec: nn.Module | None = None,
        cell: Literal["gru", "lstm", "attention", "mean"] = "gru",
        hidden_channels: int = 16,
        activation: str = "softplus",
        edge_weight: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.gnn_in, self.gnn_rec, self.cell = gnn_in, gnn_rec, cell
        self.activation = activation_function(activation)
        self.edge_weight = edge_weight
        self.hidden_channels = self.out_channels = hidden_channels
        if gnn_rec is None:
            self.encoder = sequence_encoder(cell, gnn_in.out_channels, hidden_channels)  # type: ignore[arg-type]
            self.out_channels = self.encoder.out_channels  # type: ignore[assignment]
        else:
            check_gates(cell, hidden_channels, gnn_in=gnn_in, gnn_rec=gnn_rec)
        if gnn_rec is not None and cell == "lstm":
            self.peephole = nn.Parameter(torch.zeros(3, hidden_channels))  # of input, forget and output gate
        self._static = Memo()

    def forward(self, window: TemporalWindow) -> Tensor:
        """Represent the nodes of all windows, shape ``(N, out_channels)``."""
        stack = stack_snapshots(window, self.edge_weight, self._static)
        inputs = stack.over_time(self.gnn_in(stack.x, stack.graph))
        if self.gnn_rec is None:
            return self.encoder(self.activation(inputs))
        state = inputs.new_zeros(len(inputs), self.hidden_channels)
        memory = torch.zeros_like(state)
        for gates, graph in zip(inputs.unbind(1), step_graphs(window, self.edge_weight, self._static)):
            recurrent = self.gnn_rec(state, graph)
            if self.cell == "gru":
                state = gru_step(gates, recurrent, state)
            else:
                state, memory = lstm_step(gates + recurrent, memory, self.peephole)
        return state


def check_gates(cell: str, hidden_channels: int, **networks: nn.Module) -> None:
    """Raise a ``ValueError`` that names the first network that does not give what the cell needs."""
    if cell not in GATES:
        raise ValueError(f"cell must be gru or lstm where gnn_rec is given, got {cell!r}")
    for name, network in networks.items():
        if network.out_channels != GATES[cell] * hidden_channels:
            raise ValueError(
                f"{name} must give {GATES[cell]} times hidden_channels = {hidden_channels} for a {cell}, "
                f"got {network.out_channels}"
            )


def gru_step(inputs: Tensor, recurrent: Tensor, state: Tensor) -> Tensor:
    """One step of a GRU from its gates before the activation, as ``torch.nn.GRUCell`` computes them.

    Args:
        inputs: Of the input, reset, update and candidate side by side, shape ``(N, 3 D)``.
        recurrent: Of the state, in the same order, shape ``(N, 3 D)``.
        state: Shape ``(N, D)``.
    """
    size = state.shape[1]
    reset, update = (inputs[:, : 2 * size] + recurrent[:, : 2 * size]).sigmoid().chunk(2, dim=1)
    candidate = torch.tanh(inputs[:, 2 * size :] + reset * recurrent[:, 2 * size :])
    return torch.lerp(candidate, state, update)


def lstm_step(gates: Tensor, memory: Tensor, peephole: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM whose gates look at the memory.

    Args:
        gates: Input, forget, candidate and output before the activation, shape ``(N, 4 D)``.
        memory: Shape ``(N, D)``.
        peephole: Weights of the memory in the input, forget and output gates, shape ``(3, D)``.

    Returns:
        The state and the memory.
    """
    inward, forget, candidate, outward = gates.chunk(4, dim=1)
    inward, forget = torch.sigmoid(inward + peephole[0] * memory), torch.sigmoid(forget + peephole[1] * memory)
    memory = forget * memory + inward * torch.tanh(candidate)
    return torch.sigmoid(outward + peephole[2] * memory) * torch.tanh(memory), memory
