"""Which of the generators seen during pre-training to keep: two scores, and the network that is asked."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.inits import glorot
from torch_geometric.utils import k_hop_subgraph

from zoo.local_augmentation.backbones import FeatureLinear
from zoo.local_augmentation.dropout import dropout
from zoo.local_augmentation.sparse import Features, Graph


def bald(log_probs: Tensor) -> Tensor:
    r"""Mutual information between the label and the network's dropout, averaged over nodes.

    .. math:: U = H\Big[\tfrac1M \textstyle\sum_m p_m\Big] - \tfrac1M \sum_m H[p_m] \;\ge 0

    Large where the passes are each sure and disagree: what the paper says it keeps.

    Args:
        log_probs: Log-probabilities of M stochastic passes, shape ``(M, N, C)``.

    Returns:
        The score in nats, scalar.

    Source:
        Liu et al., ICML 2022, section 3.1; Houlsby et al., 2011.

    Example:
        >>> sure_but_divided = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> bald(sure_but_divided.log())
        tensor(0.6931)
    """
    probs = log_probs.exp()
    return torch.special.entr(probs.mean(dim=0)).sum(dim=-1).mean() - torch.special.entr(probs).sum(dim=-1).mean()


def cross_entropy_gap(log_probs: Tensor, y: Tensor) -> Tensor:
    r"""Cross-entropy of the averaged passes less the average cross-entropy of the passes.

    .. math:: U' = -\log\Big(\tfrac1M \textstyle\sum_m p_m[y]\Big) + \tfrac1M \sum_m \log p_m[y] \;\le 0

    Largest where the passes agree: what the authors' code keeps, and nearly the opposite of :func:`bald`.

    Args:
        log_probs: Log-probabilities of M stochastic passes, shape ``(M, N, C)``.
        y: Labels, shape ``(N,)``.

    Returns:
        The score in nats, scalar.

    Example:
        >>> log_probs = torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]]]).log()
        >>> cross_entropy_gap(log_probs, torch.tensor([0])).abs() < 1e-6  # the passes agree
        tensor(True)
    """
    of_label = log_probs[:, torch.arange(len(y), device=y.device), y]
    mean = of_label.logsumexp(dim=0) - torch.tensor(float(len(log_probs))).log()
    return (of_label.mean(dim=0) - mean).mean()


class ReceptiveFieldGCN(nn.Module):
    """Two-layer GCN that computes the logits of chosen nodes, exactly, from the nodes within two hops of them.

    Always stochastic: its dropout is the sampler of the scores.

    Args:
        graph: The graph.
        nodes: Indices of the nodes whose logits are wanted.
        in_channels: Number of node features F.
        num_classes: Number of classes C.
        hidden_channels: Width of the hidden layer.
        dropout: Rate on features and hidden layer.

    Attributes:
        field: Indices of the nodes within two hops, whose features :meth:`forward` takes, shape ``(R,)``.

    Example:
        >>> path = Graph(torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]]), num_nodes=4)
        >>> gcn = ReceptiveFieldGCN(path, nodes=torch.tensor([0]), in_channels=3, num_classes=2)
        >>> gcn.field
        tensor([0, 1, 2])
        >>> gcn(torch.rand(3, 3)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        graph: Graph,
        nodes: Tensor,
        in_channels: int,
        num_classes: int,
        hidden_channels: int = 32,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        near, self.field = (
            k_hop_subgraph(nodes, hops, graph.edge_index, num_nodes=graph.num_nodes)[0] for hops in (1, 2)
        )
        self.dropout = dropout
        self._inner = graph.propagation.block(near, self.field)
        self._outer = graph.propagation.block(nodes, near)
        self.features = FeatureLinear(in_channels, hidden_channels, dropout)
        self.hidden_bias = nn.Parameter(torch.zeros(hidden_channels))
        self.weight = nn.Parameter(torch.empty(hidden_channels, num_classes))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        glorot(self.weight)

    def forward(self, x: Features) -> Tensor:
        """Logits of the chosen nodes for the features of the field, ``(R, F)``."""
        hidden = (self._inner @ self.features(x, num_samples=1)[0, 0] + self.hidden_bias).relu()
        return self._outer @ (dropout(hidden, self.dropout) @ self.weight) + self.bias

    def fit(self, x: Features, y: Tensor, num_steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Take full-batch steps on the cross-entropy of the chosen nodes.

        Args:
            x: Features of the field, ``(R, F)``.
            y: Labels of the chosen nodes.
            num_steps: How many steps.
            optimizer: Over this network's parameters; keeps its state from call to call.
        """
        with torch.enable_grad():
            for _ in range(num_steps):
                optimizer.zero_grad()
                F.cross_entropy(self(x), y).backward()
                optimizer.step()

    @torch.no_grad()
    def sample(self, x: Features, num_samples: int) -> Tensor:
        """Log-probabilities ``(M, nodes, C)`` of so many stochastic passes over the field's features."""
        return torch.stack([self(x).log_softmax(dim=-1) for _ in range(num_samples)])
