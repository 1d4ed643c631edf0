"""The paper's backbones: each one's first layer becomes parallel branches, one for every feature matrix.

All take a list of inputs, one for each branch. An input is ``(N, F)``, dense or a
:class:`~zoo.local_augmentation.sparse.SparseMatrix`, and gets its own dropout in each of K passes; or it is a stack
``(K, N, F)`` with one matrix for each pass. Logits come back as ``(K, N, C)``.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCN2Conv
from torch_geometric.nn.inits import glorot, zeros

from zoo.local_augmentation.dropout import bernoulli_mask, dropout, dropout_
from zoo.local_augmentation.sparse import Features, Graph, SparseMatrix

Init = Literal["glorot", "shifted_normal"]
COLUMNS_PER_BLOCK = 256  # so many columns of all nodes stay in a CPU's cache over several propagations


def branch_width(total: int, num_branches: int, name: str = "hidden_channels") -> int:
    """Share of one branch in the first layer's width (or heads), such that all together have the backbone's.

    Raises:
        ValueError: If ``total`` does not split into so many branches; it is called ``name`` there.
    """
    if num_branches < 1:
        raise ValueError(f"num_branches must be at least 1, got {num_branches}")
    if total < num_branches or total % num_branches:
        raise ValueError(
            f"{name} must be a multiple of {num_branches}, the number of branches (one for each generated matrix and "
            f"one for the node's own features), got {total}"
        )
    return total // num_branches


def check_dropout(**rates: float) -> None:
    """Raise a ``ValueError`` that names the first rate outside [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must be in [0, 1), got {rate}")


def initialize(tensor: Tensor, init: Init, out_channels: int) -> None:
    """Fill a weight ``(*, in, out)`` or a bias ``(*, 1, out)``: Glorot and zero, or the authors' code's ``N(-s, s^2)``.

    There s is ``1 / sqrt(out_channels)``; with few units most of them start dead, and training takes longer.
    """
    if init == "shifted_normal":
        scale = 1 / math.sqrt(out_channels)
        nn.init.normal_(tensor, -scale, scale)
    elif init == "glorot":
        zeros(tensor) if tensor.shape[-2] == 1 else glorot(tensor)
    else:
        raise ValueError(f"init must be 'glorot' or 'shifted_normal', got {init!r}")


def samples_in(inputs: list[Features]) -> int:
    """Number of passes K that the inputs hold: that of the first stack among them, else 1."""
    return next((x.shape[-3] for x in inputs if isinstance(x, Tensor) and x.dim() > 2), 1)


class FeatureLinear(nn.Module):
    """Dropout, then a product with a weight, of node features in all K passes at once.

    Args:
        in_channels: Number of node features F.
        out_channels: Width of the result.
        dropout: Rate on the features. A sparse input drops its stored values only, which has the same law.
        num_replicas: Independent weights S, on a leading axis of the result.
        share_noise: One dropout mask for all replicas; the features are then read once for all.
        inplace: Drop out a stack ``(K, N, F)`` in place, as :class:`torch.nn.Dropout` does.
        init: Of the weight, see :func:`initialize`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dropout: float = 0.5,
        num_replicas: int = 1,
        share_noise: bool = True,
        inplace: bool = False,
        init: Init = "glorot",
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.share_noise = share_noise or num_replicas == 1
        self.inplace = inplace
        self.weight = nn.Parameter(torch.empty(num_replicas, out_channels, in_channels))
        initialize(self.weight.data.transpose(1, 2), init, out_channels)

    def forward(self, x: Features, num_samples: int) -> Tensor:
        """Result ``(S, K, N, out)`` for ``x`` of shape ``(N, F)``, ``(K, N, F)`` or ``(S, K, N, F)``."""
        num_replicas = len(self.weight)
        if isinstance(x, Tensor) and x.dim() == 4:
            return torch.stack([F.linear(own, weight) for own, weight in zip(self._drop(x), self.weight)])
        if not self.share_noise:
            return torch.stack([self._product(x, weight, num_samples) for weight in self.weight])
        out = self._product(x, self.weight.flatten(0, 1), num_samples)
        return out.unflatten(-1, (num_replicas, -1)).movedim(-2, 0)

    def _product(self, x: Features, weight: Tensor, num_samples: int) -> Tensor:
        if isinstance(x, SparseMatrix):
            stacked = x.stacked(num_samples)
            values = dropout(stacked.values, self.dropout, self.training)
            return stacked.matmul(weight.t(), values).view(num_samples, x.shape[0], -1)
        if x.dim() == 2:
            return F.linear(dropout(x.expand(num_samples, *x.shape), self.dropout, self.training), weight)
        return F.linear(self._drop(x), weight)

    def _drop(self, x: Tensor) -> Tensor:
        if self.training and self.inplace:
            return dropout_(x, self.dropout)
        return dropout(x, self.dropout, self.training)


class LAGCN(nn.Module):
    r"""GCN whose first layer sees the generated and the own features side by side.

    .. math:: h = \big\Vert_{g=0}^{G} \mathrm{ReLU}(P \, \mathrm{drop}(X_g) W_g + b_g), \qquad
              \mathrm{out} = P \, \mathrm{drop}(h) W + b, \qquad P = \tilde D^{-1/2} (A + I) \tilde D^{-1/2}

    With one branch it is the GCN of Kipf and Welling.

    Args:
        in_channels: Number of node features F.
        hidden_channels: Width of all branches together; a multiple of ``num_branches``.
        num_classes: Number of classes C.
        num_branches: Number of inputs, G + 1.
        dropout: Rate on the inputs and on the hidden layer.
        init: ``"glorot"``, or ``"shifted_normal"`` as in the authors' code, see :func:`initialize`.
        num_replicas: Networks S trained side by side, each with its own initialisation and hidden dropout.
        share_noise: The replicas share inputs and the inputs' dropout, which makes S of them little dearer than one;
            each follows the same law, but they are no longer independent of each other.
        inplace: Drop out stacked inputs in place.

    Raises:
        ValueError: If a number is out of range or the width does not split into the branches.

    Source:
        Liu et al., ICML 2022, section 3.2, equation 7.

    Example:
        >>> graph = Graph(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> net = LAGCN(in_channels=3, hidden_channels=16, num_classes=4, num_branches=2)
        >>> net([torch.rand(5, 2, 3), torch.rand(2, 3)], graph).shape  # 5 passes, 2 nodes, 4 classes
        torch.Size([5, 2, 4])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_classes: int,
        num_branches: int = 2,
        dropout: float = 0.5,
        init: Init = "glorot",
        num_replicas: int = 1,
        share_noise: bool = True,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        check_dropout(dropout=dropout)
        if num_replicas < 1:
            raise ValueError(f"num_replicas must be at least 1, got {num_replicas}")
        width = branch_width(hidden_channels, num_branches)
        self.dropout = dropout
        self.num_replicas = num_replicas
        self.branches = nn.ModuleList(
            FeatureLinear(in_channels, width, dropout, num_replicas, share_noise, inplace, init)
            for _ in range(num_branches)
        )
        self.branch_bias = nn.Parameter(torch.empty(num_replicas, 1, 1, hidden_channels))
        self.weight = nn.Parameter(torch.empty(num_replicas, hidden_channels, num_classes))
        self.bias = nn.Parameter(torch.empty(num_replicas, 1, 1, num_classes))
        initialize(self.branch_bias.data, init, width)
        initialize(self.weight.data, init, num_classes)
        initialize(self.bias.data, init, num_classes)

    def forward(self, inputs: list[Features], graph: Graph, num_samples: int | None = None) -> Tensor:
        """Logits ``(K, N, C)``; with replicas ``(S, K, N, C)``. K is ``num_samples`` or that of the stacked inputs."""
        num_samples = num_samples or samples_in(inputs)
        products = [branch(x, num_samples) for branch, x in zip(self.branches, inputs, strict=True)]
        hidden = (graph.propagation @ torch.cat(products, dim=-1) + self.branch_bias).relu()
        logits = graph.propagation @ (dropout(hidden, self.dropout, self.training) @ self.weight[:, None]) + self.bias
        return logits if self.num_replicas > 1 else logits[0]


class LAGAT(nn.Module):
    r"""GAT whose first layer's heads are shared out among the generated and the own features.

    .. math:: h = \big\Vert_{g=0}^{G} \mathrm{ELU}(\mathrm{GATConv}_g(\mathrm{drop}(X_g))), \qquad
              \mathrm{out} = \mathrm{GATConv}(\mathrm{drop}(h))

    With one branch it is the GAT of Velickovic et al. The attention coefficients are dropped out too.

    Args:
        in_channels: Number of node features F.
        hidden_channels: Width of one head.
        num_classes: Number of classes C.
        num_branches: Number of inputs, G + 1.
        heads: Heads of the first layer, all branches together; a multiple of ``num_branches``.
        out_heads: Heads of the second layer, which are averaged.
        dropout: Rate on inputs, hidden layer and attention.
        elu_alpha: The ELU's alpha; the authors of local augmentation use 0.2.
        inplace: Drop out stacked inputs in place.

    Raises:
        ValueError: If a number is out of range or the heads do not split into the branches.

    Source:
        Liu et al., ICML 2022, section 3.2 and appendix D.

    Example:
        >>> graph = Graph(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> LAGAT(in_channels=3, hidden_channels=8, num_classes=4)([torch.rand(5, 2, 3), torch.rand(2, 3)], graph).shape
        torch.Size([5, 2, 4])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_classes: int,
        num_branches: int = 2,
        heads: int = 8,
        out_heads: int = 1,
        dropout: float = 0.6,
        elu_alpha: float = 1.0,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        check_dropout(dropout=dropout)
        if min(hidden_channels, out_heads) < 1:
            raise ValueError(f"hidden_channels and out_heads must be at least 1, got {hidden_channels} and {out_heads}")
        branch_heads = branch_width(heads, num_branches, "heads")
        width = hidden_channels * branch_heads
        self.dropout = dropout
        self.elu_alpha = elu_alpha
        self.branches = nn.ModuleList(
            FeatureLinear(in_channels, width, dropout, inplace=inplace) for _ in range(num_branches)
        )
        self.attentions = nn.ModuleList(
            GATConv(width, hidden_channels, branch_heads, dropout=dropout) for _ in range(num_branches)
        )
        for attention in self.attentions:
            attention.lin = nn.Identity()  # the branch's product takes its place: it knows sparse and stacked features
        self.out = GATConv(width * num_branches, num_classes, out_heads, concat=False, dropout=dropout)

    def forward(self, inputs: list[Features], graph: Graph, num_samples: int | None = None) -> Tensor:
        """Logits ``(K, N, C)``; K is ``num_samples`` or that of the stacked inputs."""
        num_samples = num_samples or samples_in(inputs)
        edge_index = graph.copies(num_samples)  # attention differs in every pass, so each gets its own copy
        hidden = [
            F.elu(attention(branch(x, num_samples).flatten(0, 2), edge_index), self.elu_alpha)
            for attention, branch, x in zip(self.attentions, self.branches, inputs, strict=True)
        ]
        logits = self.out(dropout(torch.cat(hidden, dim=-1), self.dropout, self.training), edge_index)
        return logits.view(num_samples, graph.num_nodes, -1)


class FixedGraphGCN2Conv(GCN2Conv):
    """:class:`~torch_geometric.nn.GCN2Conv` that propagates a stack of K node matrices with one sparse product."""

    def propagate(self, propagation: SparseMatrix, x: Tensor, edge_weight: None = None) -> Tensor:
        return (propagation @ x.view(-1, propagation.shape[0], x.shape[-1])).flatten(0, 1)


class LAGCNII(nn.Module):
    r"""GCNII whose input layer sees the generated and the own features side by side.

    .. math:: H_0 = \big\Vert_{g=0}^{G} \mathrm{ReLU}(\mathrm{drop}(X_g) W_g + b_g), \qquad
              S = (1 - \alpha) P \, \mathrm{drop}(H_{l-1}) + \alpha H_0, \qquad
              H_l = \mathrm{ReLU}(\beta_l S W_l + (1 - \beta_l) S), \qquad \beta_l = \ln(\theta / l + 1)

    With one branch it is the GCNII of Chen et al.

    Args:
        in_channels: Number of node features F.
        hidden_channels: Width of all branches together; a multiple of ``num_branches``.
        num_classes: Number of classes C.
        num_branches: Number of inputs, G + 1.
        num_layers: Number of graph convolutions.
        alpha: Share of the input layer in every convolution.
        theta: How much of the weight the convolutions keep with depth (the paper's lambda).
        dropout: Rate on inputs and on every layer.
        inplace: Drop out stacked inputs in place.

    Raises:
        ValueError: If a number is out of range or the width does not split into the branches.

    Source:
        Liu et al., ICML 2022, section 3.2 and appendix D; Chen et al., ICML 2020, equation 5.

    Example:
        >>> graph = Graph(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> net = LAGCNII(in_channels=3, hidden_channels=8, num_classes=4, num_layers=3)
        >>> net([torch.rand(5, 2, 3), torch.rand(2, 3)], graph).shape
        torch.Size([5, 2, 4])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_classes: int,
        num_branches: int = 2,
        num_layers: int = 64,
        alpha: float = 0.1,
        theta: float = 0.5,
        dropout: float = 0.6,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        check_dropout(dropout=dropout)
        width = branch_width(hidden_channels, num_branches)
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if not theta > 0:
            raise ValueError(f"theta must be > 0, got {theta}")
        self.dropout = dropout
        self.branches = nn.ModuleList(
            FeatureLinear(in_channels, width, dropout, inplace=inplace) for _ in range(num_branches)
        )
        self.branch_bias = nn.Parameter(torch.zeros(hidden_channels))
        self.convs = nn.ModuleList(
            FixedGraphGCN2Conv(hidden_channels, alpha, theta, layer, normalize=False)
            for layer in range(1, num_layers + 1)
        )
        self.out = nn.Linear(hidden_channels, num_classes)

    def forward(self, inputs: list[Features], graph: Graph, num_samples: int | None = None) -> Tensor:
        """Logits ``(K, N, C)``; K is ``num_samples`` or that of the stacked inputs."""
        num_samples = num_samples or samples_in(inputs)
        products = [branch(x, num_samples)[0] for branch, x in zip(self.branches, inputs, strict=True)]
        first = hidden = (torch.cat(products, dim=-1) + self.branch_bias).relu().flatten(0, 1)
        for conv in self.convs:
            hidden = conv(dropout(hidden, self.dropout, self.training), first, graph.propagation).relu()
        logits = self.out(dropout(hidden, self.dropout, self.training))
        return logits.view(num_samples, graph.num_nodes, -1)


@torch.no_grad()
def mixed_order_propagation(x: Tensor, propagation: SparseMatrix, order: int) -> Tensor:
    r"""Average of a node matrix over neighbourhoods of growing order: :math:`\frac1{m+1} \sum_{i=0}^m P^i x`.

    Args:
        x: Dense node features, shape ``(N, F)``; no gradient reaches them.
        propagation: The matrix P.
        order: The highest power m, at least 0.

    Returns:
        The averages, shape ``(N, F)``.

    Example:
        >>> graph = Graph(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> mixed_order_propagation(torch.tensor([[1.0], [0.0]]), graph.propagation, order=1)
        tensor([[0.7500],
                [0.2500]])
    """
    out = torch.empty_like(x)
    block = COLUMNS_PER_BLOCK if x.device.type == "cpu" else x.shape[1]
    for columns, total in zip(x.split(block, dim=1), out.split(block, dim=1)):
        total.copy_(columns)
        for _ in range(order):
            columns = propagation @ columns
            total.add_(columns)
    return out.div_(order + 1)


class LAGRAND(nn.Module):
    r"""GRAND: a perceptron on features that are propagated after whole nodes were dropped.

    .. math:: \bar X = \frac1{m+1} \sum_{i=0}^m P^i (\epsilon \odot X), \quad \epsilon_v \sim
              \mathrm{Bernoulli}(1 - \delta), \qquad \mathrm{out} = \mathrm{MLP}(\bar X)

    In training every input, generated or own, gives K views, each a pass of its own. In evaluation the nodes' own
    features alone are used, scaled by :math:`1 - \delta`.

    Args:
        in_channels: Number of node features F.
        hidden_channels: Width of the perceptron's hidden layer.
        num_classes: Number of classes C.
        dropnode: Rate delta at which nodes are dropped.
        order: Highest power m of the propagation.
        input_dropout: Rate on the propagated features.
        hidden_dropout: Rate on the hidden layer.
        batch_norm: Batch normalisation before both layers.

    Raises:
        ValueError: If a number is out of range.

    Source:
        Feng et al., NeurIPS 2020, section 3; with generated inputs Liu et al., ICML 2022, section 3.2.

    Example:
        >>> graph = Graph(torch.tensor([[0, 1], [1, 0]]), num_nodes=2)
        >>> net = LAGRAND(in_channels=3, hidden_channels=8, num_classes=4)
        >>> net([torch.rand(2, 3), torch.rand(2, 3)], graph, num_samples=5).shape  # 5 views of each of two inputs
        torch.Size([10, 2, 4])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_classes: int,
        dropnode: float = 0.5,
        order: int = 8,
        input_dropout: float = 0.5,
        hidden_dropout: float = 0.5,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        check_dropout(dropnode=dropnode, input_dropout=input_dropout, hidden_dropout=hidden_dropout)
        if hidden_channels < 1:
            raise ValueError(f"hidden_channels must be at least 1, got {hidden_channels}")
        if order < 0:
            raise ValueError(f"order must be at least 0, got {order}")
        self.dropnode = dropnode
        self.order = order
        self.input_dropout = input_dropout
        self.hidden_dropout = hidden_dropout
        self.input_norm = nn.BatchNorm1d(in_channels) if batch_norm else nn.Identity()
        self.hidden = nn.Linear(in_channels, hidden_channels)
        self.hidden_norm = nn.BatchNorm1d(hidden_channels) if batch_norm else nn.Identity()
        self.out = nn.Linear(hidden_channels, num_classes)

    def forward(self, inputs: list[Features], graph: Graph, num_samples: int = 1) -> Tensor:
        """Logits ``(K * len(inputs), N, C)`` in training, ``(1, N, C)`` of the last input in evaluation.

        Args:
            inputs: Features ``(N, F)``, the nodes' own ones last.
            graph: The graph.
            num_samples: Views K of each input.
        """
        dense = [x.to_dense() if isinstance(x, SparseMatrix) else x for x in inputs]
        if not self.training:
            return self._perceptron(
                mixed_order_propagation(dense[-1] * (1 - self.dropnode), graph.propagation, self.order)
            )[None]
        views = []
        for x in dense:
            for _ in range(num_samples):
                kept = bernoulli_mask((len(x), 1), 1 - self.dropnode, x.dtype, x.device)
                views.append(self._perceptron(mixed_order_propagation(x * kept, graph.propagation, self.order)))
        return torch.stack(views)

    def _perceptron(self, x: Tensor) -> Tensor:
        hidden = self.hidden(dropout(self.input_norm(x), self.input_dropout, self.training)).relu()
        return self.out(dropout(self.hidden_norm(hidden), self.hidden_dropout, self.training))
