"""Probes of neural collapse and of linear interpolation on a module of your own that gives scores of (x, y) batches."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from callbacks import LinearInterpolation, NeuralCollapseCallback


class MyClassifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = resnet18(num_classes=10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.expand(-1, 3, -1, -1))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(epochs: int = 5, images: int = 500) -> tuple[NeuralCollapseCallback, LinearInterpolation]:
    digits = load_digits()
    x, y = torch.tensor(digits.images / 16).float()[:images, None], torch.tensor(digits.target)[:images]
    data = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
    collapse = NeuralCollapseCallback(every_n_epochs=1)
    path = LinearInterpolation(num_alphas=11, buffers=["recompute"], parts=["train"], dataloaders={"train": data})
    pl.Trainer(max_epochs=epochs, callbacks=[collapse, path], logger=False).fit(MyClassifier(), data)
    print([round(found["nc/nc1"], 3) for found in collapse.history.values()], path.final_metrics)
    return collapse, path


if __name__ == "__main__":
    main()
