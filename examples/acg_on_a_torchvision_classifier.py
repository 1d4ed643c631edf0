"""An attack by ACG on a plain torchvision network, and the same by APGD."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torchvision.models import resnet18

from zoo.auto_conjugate_gradient import ACG, APGD


def main(epochs: int = 3, images: int = 100) -> dict[str, float]:
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images / 16).float()[:, None].expand(-1, 3, -1, -1)  # images in [0, 1]
    y = torch.tensor(digits.target)
    model = resnet18(num_classes=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(1500).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    model.eval()
    x, y = x[1500 : 1500 + images], y[1500 : 1500 + images]
    accuracy = {"clean": (model(x).argmax(1) == y).float().mean().item()}
    for attack in (ACG, APGD):
        result = attack(norm="Linf", eps=0.05, n_iter=20, n_restarts=1, loss="cw")(model, x, y)
        accuracy[attack.__name__] = (model(result.x_adv).argmax(1) == y).float().mean().item()
    print(accuracy)
    return accuracy


if __name__ == "__main__":
    main()
