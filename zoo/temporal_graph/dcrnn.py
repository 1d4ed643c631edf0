"""DCRNN: a GRU whose gates are graph networks of input and state."""

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import glorot

from zoo.temporal_graph.graph import Graph
from zoo.temporal_graph.layers import ChebyshevLayer, activation_function, chebyshev_terms
from zoo.temporal_graph.memo import Memo
from zoo.temporal_graph.snapshots import stack_snapshots, step_graphs
from zoo.temporal_graph.window import TemporalWindow


class DCRNN(nn.Module):
    r"""A gated recurrence on graphs, whose gates are networks of two Chebyshev layers each.

    .. math:: r = \sigma(G_r([X_t, S], A_t)), \quad u = \sigma(G_u([X_t, S], A_t)), \quad
              k = \tanh(G_k([X_t, r \odot S], A_t)), \quad S \leftarrow u \odot S + (1 - u) \odot k

    The first layer's share of the input needs no state and is computed for all steps, windows and gates at once; the
    gates r and u propagate together.

    Args:
        in_channels: Node features F.
        hidden_channels: Size D of the state.
        activation: Between the two layers of a gate.
        order: Terms K of the Chebyshev polynomials.
        edge_weight: Makes weights ``(*)`` of edge features ``(*, C)``; the first feature is the weight if ``None``.

    Source:
        Li et al., *Diffusion Convolutional Recurrent Neural Network*, ICLR 2018, in the form of Gao and Ribeiro's
        comparison: Chebyshev layers in place of diffusion in both directions.

    Example:
        >>> from datamodules.temporal_dyncsl import skip_link_window
        >>> DCRNN(1, 16)(skip_link_window(19, [2, 3, 2, 3], label=0)).shape
        torch.Size([19, 16])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        activation: str = "softplus",
        order: int = 2,
        edge_weight: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = self.hidden_channels = hidden_channels
        self.activation = activation_function(activation)
        self.edge_weight = edge_weight
        self.of_input = ChebyshevLayer(in_channels, 3 * hidden_channels, order)  # reset, update, candidate
        self.of_state = ChebyshevLayer(hidden_channels, 2 * hidden_channels, order, bias=False)
        self.of_reset_state = ChebyshevLayer(hidden_channels, hidden_channels, order, bias=False)
        self.gates = ParallelChebyshevLayer(2, hidden_channels, order)
        self.candidate = ChebyshevLayer(hidden_channels, hidden_channels, order)
        self._static = Memo()

    def forward(self, window: TemporalWindow) -> Tensor:
        """Represent the nodes of all windows, shape ``(N, D)``."""
        size = self.hidden_channels
        stack = stack_snapshots(window, self.edge_weight, self._static)
        inputs = stack.over_time(self.of_input(stack.x, stack.graph))
        state = inputs.new_zeros(len(inputs), size)
        for now, graph in zip(inputs.unbind(1), step_graphs(window, self.edge_weight, self._static)):
            gates = self.activation(now[:, : 2 * size] + self.of_state(state, graph))
            reset, update = self.gates(gates.view(-1, 2, size), graph).sigmoid().unbind(1)
            candidate = self.activation(now[:, 2 * size :] + self.of_reset_state(reset * state, graph))
            state = torch.lerp(torch.tanh(self.candidate(candidate, graph)), state, update)
        return state


class ParallelChebyshevLayer(nn.Module):
    """Several Chebyshev layers, each with features of its own, that propagate together.

    Args:
        num: How many.
        channels: Features that go in and come out of each.
        order: Terms K.
    """

    def __init__(self, num: int, channels: int, order: int) -> None:
        super().__init__()
        self.order = order
        self.weight = nn.Parameter(torch.empty(num, order, channels, channels))
        self.bias = nn.Parameter(torch.zeros(num, channels))
        glorot(self.weight)

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """From features ``(N, num, D)`` to as many."""
        terms = chebyshev_terms(x, graph, self.order).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], terms, self.weight.flatten(1, 2)).transpose(0, 1)
