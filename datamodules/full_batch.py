"""Data of which all training samples are one batch, as for simulations of gradient descent."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader


class FullBatchDataModule(pl.LightningDataModule):
    """One batch an epoch: all training samples, or all held-out ones, which serve validation, test and prediction.

    No model is selected by the held-out samples: they are the test's.

    Attributes:
        train: The training samples, a tuple of tensors; a subclass draws them.
        test: The held-out ones.
    """

    validates = False
    train: Any
    test: Any

    def train_dataloader(self) -> DataLoader:
        """All training samples as one batch."""
        return _one_batch(self.train)

    def val_dataloader(self) -> DataLoader:
        """All held-out samples as one batch."""
        return _one_batch(self.test)

    def test_dataloader(self) -> DataLoader:
        """All held-out samples as one batch."""
        return _one_batch(self.test)

    def predict_dataloader(self) -> DataLoader:
        """All held-out samples as one batch."""
        return _one_batch(self.test)


def _one_batch(batch: Any) -> DataLoader:
    # A loader draws a worker seed at every epoch; its own generator leaves the global stream to the model.
    return DataLoader([batch], batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]
