"""Local augmentation around a graph network that is not ours: PyG's GraphSAGE on a graph of two kinds of nodes."""

import torch
import torch.nn.functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GraphSAGE
from torch_geometric.utils import stochastic_blockmodel_graph

from zoo.local_augmentation import GeneratorPretraining, LocalAugmentation, sharpened_consistency_loss


def main(epochs: int = 30, generator_epochs: int = 3) -> float:
    torch.manual_seed(0)
    y = torch.arange(4).repeat_interleave(75)
    edge_index = stochastic_blockmodel_graph([75] * 4, (0.005 + 0.045 * torch.eye(4)).tolist())
    words = torch.bernoulli(torch.full((4, 60), 0.1).add_(0.2 * torch.rand(4, 60))[y])
    x = words / words.sum(1, keepdim=True).clamp(min=1)
    train = torch.cat([torch.arange(start, start + 10) for start in range(0, 300, 75)])
    graph = Data(x=x, raw_x=words, edge_index=edge_index, y=y)
    cvae = GeneratorPretraining(criterion="last", max_epochs=generator_epochs).fit(graph)
    augment = LocalAugmentation(cvae)  # draws features that a node's neighbours might have
    net = GraphSAGE(in_channels=120, hidden_channels=32, num_layers=2, out_channels=4, dropout=0.5)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=5e-4)
    for _ in range(epochs):
        drawn = augment.draw(words, num_samples=4)[:, 0]  # (4, N, F)
        log_probs = torch.stack([net(torch.cat([x, x_bar], 1), edge_index) for x_bar in drawn]).log_softmax(-1)
        supervised = sum(F.nll_loss(log_prob[train], y[train]) for log_prob in log_probs) / 4
        loss = supervised + sharpened_consistency_loss(log_probs, temperature=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    accuracy = (net(torch.cat([x, augment.draw(words, num_samples=1)[0, 0]], 1), edge_index).argmax(1) == y).float()
    print(f"accuracy on all nodes {accuracy.mean():.3f}")
    return accuracy.mean().item()


if __name__ == "__main__":
    main()
