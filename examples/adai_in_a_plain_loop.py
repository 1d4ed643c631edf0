"""Adai in a plain torch loop: one line differs from SGD with momentum."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.adaptive_inertia import AdaiW


def main(epochs: int = 10) -> float:
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(x[:1500], y[:1500]), batch_size=50, shuffle=True)
    net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = AdaiW(net.parameters(), lr=1.0, weight_decay=5e-4)  # ten times the rate of SGD with momentum 0.9
    for epoch in range(epochs):
        for batch, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(batch), labels).backward()
            optimizer.step()
        inertia = [round(float(share), 3) for share in optimizer.inertia_quantiles([0.05, 0.5, 0.95])]
        print(f"epoch {epoch}: inertia of 5, 50 and 95 % of the parameters at most {inertia}")
    accuracy = (net(x[1500:]).argmax(1) == y[1500:]).float().mean().item()
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
