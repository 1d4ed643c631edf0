"""TGAT and TGN: networks on the events of a window, an event being an edge at a step."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import TransformerConv
from torch_geometric.nn.models.tgn import TimeEncoder
from torch_geometric.utils import scatter

from zoo.temporal_graph.graph import Graph
from zoo.temporal_graph.layers import activation_function
from zoo.temporal_graph.sequences import num_heads
from zoo.temporal_graph.window import TemporalWindow


def presence(window: TemporalWindow) -> tuple[Tensor, Tensor]:
    """Which edges are there at each step, ``(E, T)``, and their features then, ``(E, T, C)``."""
    if window.present is not None:
        return window.present, window.edge_attr
    num_edges, num_steps = window.edge_index.shape[1], window.x.shape[1]
    everywhere = torch.ones(num_edges, num_steps, dtype=torch.bool, device=window.x.device)
    return everywhere, window.edge_attr[:, None].expand(-1, num_steps, -1)


class TemporalTransformer(nn.Module):
    """Two layers of attention, PyG's ``TransformerConv``, to the other ends of edges that know their age.

    Args:
        in_channels: Node features.
        out_channels: Features D that come out.
        edge_channels: Edge features, besides the code of the age.
        time_channels: Size of that code.
        activation: Between the layers.
    """

    def __init__(
        self, in_channels: int, out_channels: int, edge_channels: int, time_channels: int, activation: str
    ) -> None:
        super().__init__()
        heads, edge_dim = num_heads(out_channels), edge_channels + time_channels
        self.time = TimeEncoder(time_channels)
        self.first = TransformerConv(in_channels, out_channels // heads, heads, edge_dim=edge_dim)
        self.second = TransformerConv(out_channels, out_channels // heads, heads, edge_dim=edge_dim)
        self.activation = activation_function(activation)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, age: Tensor) -> Tensor:
        """From nodes ``(N, F)`` and edges ``(E, C)`` of an age ``(E,)`` to nodes ``(N, D)``."""
        attr = torch.cat([edge_attr, self.time(age.to(x.dtype))], dim=1)
        return self.second(self.activation(self.first(x, edge_index, attr)), edge_index, attr)


class TGAT(nn.Module):
    """Attention to all events of the window, of which each carries its age and what its source was like then.

    A node itself is what it is at the last step: of its own past it knows only what loops tell.

    Args:
        in_channels: Node features F.
        edge_channels: Edge features C.
        hidden_channels: Features D of each layer.
        activation: Between the layers.
        time_channels: Size of the code of an age, cosines of learned frequencies.

    Source:
        Xu et al., *Inductive Representation Learning on Temporal Graphs*, ICLR 2020; without its sampling.

    Example:
        >>> from datamodules.temporal_dyncsl import skip_link_window
        >>> TGAT(1, 1, 16)(skip_link_window(19, [2, 3, 2, 3], label=0)).shape
        torch.Size([19, 16])
    """

    def __init__(
        self,
        in_channels: int,
        edge_channels: int,
        hidden_channels: int,
        activation: str = "softplus",
        time_channels: int = 8,
    ) -> None:
        super().__init__()
        self.out_channels = hidden_channels
        self.attention = TemporalTransformer(
            in_channels, hidden_channels, edge_channels + in_channels, time_channels, activation
        )

    def forward(self, window: TemporalWindow) -> Tensor:
        """Represent the nodes of all windows, shape ``(N, D)``."""
        present, edge_attr = presence(window)
        edge, step = present.nonzero().unbind(1)
        edge_index = window.edge_index[:, edge]
        carried = torch.cat([edge_attr[edge, step], window.x[edge_index[0], step]], dim=1)
        return self.attention(window.x[:, -1], edge_index, carried, window.x.shape[1] - 1 - step)


class TGN(nn.Module):
    r"""A memory of each node that its events update in order of time, then attention to its latest events.

    .. math:: S_i \leftarrow \mathrm{GRU}\big([S_i, x_i, \overline{S_j}, \overline{x_j}, \overline{a_{ij}},
              \phi(\Delta t_i)], S_i\big)

    A message holds the memories and features of both ends, the edge's features and the time since the node's last
    event; those of one step are averaged, over both directions of edges. Averaging commutes with joining them side by
    side, so that the mean of the far ends is one sparse product and no message is ever laid out. The memory is empty
    when a window begins, and gradients pass through all of its steps.

    Args:
        in_channels: Node features F.
        edge_channels: Edge features C.
        hidden_channels: Size D of the memory and of each layer.
        activation: Between the layers of attention.
        time_channels: Size of the code of a time, cosines of learned frequencies.

    Source:
        Rossi et al., *Temporal Graph Networks for Deep Learning on Dynamic Graphs*, 2020: identity messages, their
        mean, and attention over the last event of each pair.

    Example:
        >>> from datamodules.temporal_dyncsl import skip_link_window
        >>> TGN(1, 1, 16)(skip_link_window(19, [2, 3, 2, 3], label=0)).shape
        torch.Size([19, 16])
    """

    def __init__(
        self,
        in_channels: int,
        edge_channels: int,
        hidden_channels: int,
        activation: str = "softplus",
        time_channels: int = 8,
    ) -> None:
        super().__init__()
        self.out_channels = self.hidden_channels = hidden_channels
        self.time = TimeEncoder(time_channels)
        message = 2 * hidden_channels + 2 * in_channels + edge_channels + time_channels
        self.cell = nn.GRUCell(message, hidden_channels)
        self.attention = TemporalTransformer(
            hidden_channels + in_channels, hidden_channels, edge_channels, time_channels, activation
        )

    def forward(self, window: TemporalWindow) -> Tensor:
        """Represent the nodes of all windows, shape ``(N, D)``."""
        present, edge_attr = presence(window)
        memory = self.memories(window, present, edge_attr)
        last = present.shape[1] - 1 - present.flip(1).long().argmax(dim=1)  # of each edge, its latest step
        latest = edge_attr[torch.arange(len(last), device=last.device), last]
        nodes = torch.cat([memory, window.x[:, -1]], dim=1)
        return self.attention(nodes, window.edge_index, latest, present.shape[1] - 1 - last)

    def memories(self, window: TemporalWindow, present: Tensor, edge_attr: Tensor) -> Tensor:
        """The memory of each node after the last step, shape ``(N, D)``.

        Args:
            window: The windows.
            present: Which edges are there at each step, boolean ``(E, T)``.
            edge_attr: Their features then, shape ``(E, T, C)``.
        """
        x, num_nodes, steps = window.x, len(window.x), window.x.shape[1]
        both = torch.cat([window.edge_index, window.edge_index.flip(0)], dim=1)
        order = both[1].argsort(stable=True)
        source, target = both = both[:, order]
        there = present.to(x.dtype).repeat(2, 1)[order]
        count = scatter(there, target, 0, num_nodes)
        share = there / count.clamp(min=1)[target]  # of an event in the mean of its node's messages, (2 E, T)
        far_x, attr = (
            scatter(share[..., None] * values, target, 0, num_nodes)
            for values in (x[source], edge_attr.repeat(2, 1, 1)[order])
        )
        age = self.time(since_last(count > 0).to(x.dtype).flatten()).view(num_nodes, steps, -1)
        known = torch.cat([x, far_x, attr, age], dim=2)
        events = Graph(both, num_nodes)
        memory = x.new_zeros(num_nodes, self.hidden_channels)
        for step in range(steps):
            far = events.reweighted(share[:, step]).sum @ memory
            updated = self.cell(torch.cat([memory, far, known[:, step]], dim=1), memory)
            memory = torch.where(count[:, step, None] > 0, updated, memory)
        return memory


def since_last(active: Tensor) -> Tensor:
    """Steps since a node's last event before each step; since the window's begin where there is none.

    Args:
        active: Whether a node has an event, boolean ``(N, T)``.

    Example:
        >>> since_last(torch.tensor([[True, False, True, True]]))
        tensor([[0, 1, 2, 1]])
    """
    step = torch.arange(active.shape[1], device=active.device)
    latest = torch.where(active, step, 0).cummax(dim=1).values
    return step - torch.nn.functional.pad(latest[:, :-1], (1, 0))
