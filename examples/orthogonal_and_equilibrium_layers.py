"""Convolutions that keep the norm, and then a fixed point z = tanh(W z + features), in a network of your own."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from zoo.deep_equilibrium import DEQ, FixedPointSolver, deq_init_
from zoo.paraunitary_conv import MaxMin, OrthogonalConv2d


class MyNetwork(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        first = OrthogonalConv2d(1, 16, kernel_size=4, stride=2)  # four phases of one channel: inputs are preserved
        self.convs = nn.Sequential(first, MaxMin(), OrthogonalConv2d(16, 16, kernel_size=3), MaxMin(), nn.Flatten())
        self.inject, self.weight = nn.Linear(256, width), nn.Linear(width, width, bias=False)
        deq_init_(self.weight.weight, "goe", sigma_w=0.5)
        self.deq = DEQ(lambda z, x: torch.tanh(self.weight(z) + x), FixedPointSolver("broyden", max_iter=60))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deq(self.inject(self.convs(x))))


def main(epochs: int = 10) -> tuple[float, MyNetwork]:
    images, y = map(torch.tensor, load_digits(return_X_y=True))
    net, x = MyNetwork(), (images / 16).float().view(-1, 1, 8, 8)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(1500).split(50):
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    print(accuracy := (net(x[1500:]).argmax(1) == y[1500:]).float().mean().item())
    return accuracy, net


if __name__ == "__main__":
    main()
