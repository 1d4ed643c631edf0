"""EvolveGCN: a graph convolution whose weights, not its nodes, have a state."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import glorot

from zoo.temporal_graph.layers import activation_function
from zoo.temporal_graph.memo import Memo
from zoo.temporal_graph.snapshots import step_graphs
from zoo.temporal_graph.window import TemporalWindow, num_windows, pointers

INITIAL = ("learned", "zeros")


class EvolvingWeight(nn.Module):
    r"""The weight matrix of a layer, its rows the states of a recurrent cell.

    Args:
        in_channels: Features that the layer is given, the size of a state.
        out_channels: Features that it gives, the number of rows.
        variant: ``"O"``: an LSTM whose input is the matrix itself; ``"H"``: a GRU whose input are the nodes of the
            highest scores, one for each row.
        initial: ``"learned"`` or ``"zeros"``.
    """

    def __init__(self, in_channels: int, out_channels: int, variant: str, initial: str) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(out_channels, in_channels), requires_grad=initial == "learned")
        if initial == "learned":
            glorot(self.start)
        self.cell = nn.LSTMCell(in_channels, in_channels) if variant == "O" else nn.GRUCell(in_channels, in_channels)
        if variant == "H":
            self.score = nn.Parameter(torch.randn(in_channels))

    def after(self, num_steps: int) -> Tensor:
        """The matrix after so many steps of the LSTM, shape ``(out, in)``."""
        weight, memory = self.start, torch.zeros_like(self.start)
        for _ in range(num_steps):
            weight, memory = self.cell(weight, (weight, memory))
        return weight

    def evolve(self, weight: Tensor, x: Tensor) -> Tensor:
        """The matrices after one more step of the GRU.

        Args:
            weight: One for each window, shape ``(B, out, in)``.
            x: What the layer is given, shape ``(B, n, in)``.
        """
        score, chosen = (x @ (self.score / self.score.norm())).topk(weight.shape[1], dim=1)
        summary = x.take_along_dim(chosen[:, :, None], dim=1) * score.tanh()[:, :, None]
        return self.cell(summary.flatten(0, 1), weight.flatten(0, 1)).view_as(weight)


class EvolveGCN(nn.Module):
    r"""Two graph convolutions without bias, of the last snapshot, with weights that have seen all.

    .. math:: Y_t = P_t X_t W_t^\top, \qquad W_t = \mathrm{LSTM}(W_{t-1}) \;\text{(O)} \quad\text{or}\quad
              W_t = \mathrm{GRU}(\text{top nodes of } X_t, W_{t-1}) \;\text{(H)}

    In variant O the weights do not depend on the data, so that only the last snapshot matters, and only it is
    computed. Public copies of the authors' code start from zeros; there, in variant O, all rows remain equal, and a
    layer gives the same feature D times.

    Args:
        in_channels: Node features F.
        hidden_channels: Features D of each layer; in variant H no more than a window has nodes.
        variant: ``"O"`` or ``"H"``.
        activation: Between the layers.
        initial: Whether the first weights are ``"learned"`` or ``"zeros"``.
        edge_weight: Makes weights ``(*)`` of edge features ``(*, C)``; the first feature is the weight if ``None``.

    Raises:
        ValueError: If ``variant`` or ``initial`` is none of these.

    Source:
        Pareja et al., *EvolveGCN*, AAAI 2020.

    Example:
        >>> from datamodules.temporal_dyncsl import skip_link_window
        >>> EvolveGCN(1, 16, variant="H")(skip_link_window(19, [2, 3, 2, 3], label=0)).shape
        torch.Size([19, 16])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        variant: Literal["O", "H"] = "O",
        activation: str = "softplus",
        initial: Literal["learned", "zeros"] = "learned",
        edge_weight: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if variant not in ("O", "H"):
            raise ValueError(f"variant must be O or H, got {variant!r}")
        if initial not in INITIAL:
            raise ValueError(f"initial must be one of {', '.join(INITIAL)}, got {initial!r}")
        self.out_channels, self.variant = hidden_channels, variant
        self.activation = activation_function(activation)
        self.edge_weight = edge_weight
        sizes = [in_channels, hidden_channels, hidden_channels]
        self.weights = nn.ModuleList(EvolvingWeight(a, b, variant, initial) for a, b in pairwise(sizes))
        self._static = Memo()

    def forward(self, window: TemporalWindow) -> Tensor:
        """Represent the nodes of all windows, shape ``(N, D)``."""
        graphs = step_graphs(window, self.edge_weight, self._static)
        first, second = self.weights
        assert isinstance(first, EvolvingWeight)
        assert isinstance(second, EvolvingWeight)
        if self.variant == "O":
            matrix = graphs[-1].gcn
            y = self.activation((matrix @ window.x[:, -1]) @ first.after(len(graphs)).t())
            return (matrix @ y) @ second.after(len(graphs)).t()
        windows = self._equal_windows(window)
        w1, w2 = (one.start.expand(windows, -1, -1) for one in (first, second))
        for step, graph in enumerate(graphs):
            x = window.x[:, step].view(windows, -1, window.x.shape[2])
            w1 = first.evolve(w1, x)
            y = self.activation(graph.gcn @ (x @ w1.mT).flatten(0, 1)).view(windows, -1, self.out_channels)
            w2 = second.evolve(w2, y)
        return graphs[-1].gcn @ (y @ w2.mT).flatten(0, 1)

    def _equal_windows(self, window: TemporalWindow) -> int:
        windows, ptr = num_windows(window), pointers(window)
        size = len(window.x) // windows
        if not torch.equal(ptr, size * torch.arange(windows + 1, device=ptr.device)):
            raise ValueError(f"windows must have equally many nodes in EvolveGCN-H, got {ptr.diff().tolist()}")
        if size < self.out_channels:
            raise ValueError(
                f"hidden_channels must be at most the {size} nodes in EvolveGCN-H, got {self.out_channels}"
            )
        return windows
