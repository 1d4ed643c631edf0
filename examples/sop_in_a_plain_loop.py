"""SOP's loss in a plain loop: half of the labels are drawn anew, and the loss finds out which."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.sparse_over_parameterization import SparseOverParam


def main(epochs: int = 40) -> tuple[float, float]:
    torch.manual_seed(0)
    digits = load_digits()
    x, clean = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    x_train, y_train = x[:1500], clean[:1500].clone()
    y_train[::2] = torch.randint(10, (750,))
    index = torch.arange(1500)  # which training sample each one is
    loader = DataLoader(TensorDataset(x_train, y_train, index), batch_size=50, shuffle=True)
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    sop = SparseOverParam(num_samples=1500, num_classes=10, alpha_u=10.0, alpha_v=10.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for batch, labels, which in loader:
            loss, _ = sop(net(batch), labels, which)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sop.step()
    score, wrong = sop.noise_score(), y_train != clean[:1500]
    auc = (score[wrong][:, None] > score[~wrong]).float().mean().item()
    accuracy = (net(x[1500:]).argmax(1) == clean[1500:]).float().mean().item()
    print(f"test accuracy {accuracy:.3f}; a wrong label scores higher than a right one in {auc:.2f} of the pairs")
    return accuracy, auc


if __name__ == "__main__":
    main()
