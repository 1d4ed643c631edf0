"""Local augmentation as published, step by step, with none of the zoo's shortcuts: what its speed is measured against.

Dense diagonal matrices normalise the rows, the generator is run with gradients and detached afterwards, features and
dropout are dense, and every pass is a loop iteration of its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

HIDDEN, LATENT = 256, 10


def propagation_matrix(edge_index: Tensor, num_nodes: int) -> Tensor:
    """The symmetrically normalised adjacency matrix with self loops, sparse COO ``(N, N)``."""
    adjacency = torch.eye(num_nodes)
    adjacency[edge_index[0], edge_index[1]] = 1
    scale = torch.diag(adjacency.sum(dim=1).pow(-0.5))
    return (scale @ adjacency @ scale).to_sparse_coo().coalesce()


def normalize_by_diagonal(x: Tensor) -> Tensor:
    """Divide the rows of ``(N, F)`` by their sums, as a product with a dense ``(N, N)`` diagonal matrix."""
    inverse = x.sum(dim=1).reciprocal()
    inverse[inverse.isinf()] = 0
    return torch.diag(inverse) @ x


class PlainCVAE(nn.Module):
    """The generator, with the condition concatenated anew at every call.

    Args:
        in_channels: Number of node features F.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(2 * in_channels, HIDDEN)
        self.mean = nn.Linear(HIDDEN, LATENT)
        self.log_var = nn.Linear(HIDDEN, LATENT)
        self.decoder = nn.Linear(LATENT + in_channels, HIDDEN)
        self.output = nn.Linear(HIDDEN, in_channels)

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        hidden = F.relu(self.decoder(torch.cat([z, c], dim=1)))
        return torch.sigmoid(self.output(hidden))

    def loss(self, x: Tensor, c: Tensor) -> Tensor:
        hidden = F.relu(self.encoder(torch.cat([x, c], dim=1)))
        mean, log_var = self.mean(hidden), self.log_var(hidden)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        rec = F.binary_cross_entropy(self.decode(z, c), x, reduction="sum")
        kl = -0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum()
        return (rec + kl) / len(x)

    def generate(self, raw_x: Tensor) -> Tensor:
        """Features ``(N, F)`` of a random neighbour of each node, normalised."""
        return normalize_by_diagonal(self.decode(torch.randn(len(raw_x), LATENT), raw_x).detach())


class PlainGCN(nn.Module):
    """Two graph convolutions, the first with one branch for each input, on dense features.

    Args:
        in_channels: Number of node features F.
        branch_channels: Width of one branch.
        num_branches: Number of inputs.
        num_classes: Number of classes C.
    """

    def __init__(self, in_channels: int, branch_channels: int, num_branches: int, num_classes: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(in_channels, branch_channels, bias=False) for _ in range(num_branches))
        self.biases = nn.ParameterList(torch.zeros(branch_channels) for _ in range(num_branches))
        self.out = nn.Linear(branch_channels * num_branches, num_classes, bias=False)
        self.out_bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, inputs: list[Tensor], propagation: Tensor) -> Tensor:
        hidden = [
            F.relu(torch.sparse.mm(propagation, branch(F.dropout(x, 0.5, self.training))) + bias)
            for x, branch, bias in zip(inputs, self.branches, self.biases)
        ]
        together = F.dropout(torch.cat(hidden, dim=1), 0.5, self.training)
        return F.log_softmax(torch.sparse.mm(propagation, self.out(together)) + self.out_bias, dim=1)


def consistency_loss(log_probs: list[Tensor], temperature: float = 0.5) -> Tensor:
    """Mean squared distance of each pass to the sharpened mean of all."""
    probs = [one.exp() for one in log_probs]
    mean = torch.stack(probs).mean(dim=0)
    target = (mean.pow(1 / temperature) / mean.pow(1 / temperature).sum(dim=1, keepdim=True)).detach()
    return sum((one - target).pow(2).sum(dim=1).mean() for one in probs) / len(probs)  # type: ignore[return-value]


class PlainRun:
    """What the published procedure needs of a graph.

    Args:
        data: Graph with ``x``, ``raw_x``, ``edge_index``, ``y``, ``train_mask`` and ``val_mask``.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        num_nodes, in_channels = data.x.shape
        self.num_classes = int(data.y.max()) + 1
        self.propagation = propagation_matrix(data.edge_index, num_nodes)
        self.cvae = PlainCVAE(in_channels)
        self.cvae_optimizer = torch.optim.Adam(self.cvae.parameters(), lr=0.01)
        self.scorer = PlainGCN(in_channels, 32, 1, self.num_classes)
        self.model = PlainGCN(in_channels, 8, 2, self.num_classes)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01, weight_decay=5e-4)

    def epoch(self, num_samples: int = 4) -> None:
        """One epoch of LAGCN: K passes one by one, the loss, Adam's step, and a validation with a fresh draw."""
        data = self.data
        self.model.train()
        self.optimizer.zero_grad()
        log_probs = [self.model([self.cvae.generate(data.raw_x), data.x], self.propagation) for _ in range(num_samples)]
        train, y = data.train_mask, data.y
        loss = sum(F.nll_loss(one[train], y[train]) for one in log_probs) / num_samples
        (loss + consistency_loss(log_probs)).backward()
        self.optimizer.step()
        self.model.eval()
        validated = self.model([self.cvae.generate(data.raw_x), data.x], self.propagation)
        F.nll_loss(validated[data.val_mask], y[data.val_mask]).item()

    def pretraining_step(self, batch_size: int = 64, mc_samples: int = 100) -> None:
        """One step of the generator, and the score of its features by stochastic passes over the whole graph."""
        data = self.data
        edges = data.edge_index[:, torch.randint(data.edge_index.shape[1], (batch_size,))]
        self.cvae_optimizer.zero_grad()
        self.cvae.loss(data.raw_x[edges[1]], data.raw_x[edges[0]]).backward()
        self.cvae_optimizer.step()
        generated = self.cvae.generate(data.raw_x)
        train = data.train_mask
        passes = [self.scorer([generated], self.propagation)[train].exp() for _ in range(mc_samples)]
        mean = torch.stack(passes).mean(dim=0)
        entropy = torch.stack([torch.special.entr(one).sum(dim=1).mean() for one in passes])
        (torch.special.entr(mean).sum(dim=1).mean() - entropy.mean()).item()
