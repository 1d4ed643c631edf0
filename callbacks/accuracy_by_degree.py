"""Test accuracy by node degree: do well or badly connected nodes gain?"""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import degree
from torchmetrics import Metric

DegreeBins = Sequence[tuple[int, int | None]]
BINS = ((0, 1), (2, 5), (6, 20), (21, None))


def accuracy_by_degree(prediction: Tensor, y: Tensor, node_degree: Tensor, bins: DegreeBins = BINS) -> Tensor:
    """Accuracy of the nodes in each bin of degrees.

    Args:
        prediction: Predicted class of each node, shape ``(N,)``.
        y: True class of each node, shape ``(N,)``.
        node_degree: Degree of each node, shape ``(N,)``; see :func:`degree_without_self_loops`.
        bins: Lowest and highest degree of each bin, both included; ``None`` as the last bin's highest leaves it open.

    Returns:
        The share of right predictions in each bin, shape ``(len(bins),)``; NaN where a bin is empty.

    Raises:
        ValueError: If the bins are empty, out of order or overlap.

    Source:
        Liu et al., *Local Augmentation for Graph Neural Networks*, ICML 2022, table 7.

    Example:
        >>> prediction, y = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
        >>> accuracy_by_degree(prediction, y, node_degree=torch.tensor([1, 1, 2, 9]), bins=((1, 1), (2, None)))
        tensor([0.5000, 1.0000])
    """
    metric = DegreeBinnedAccuracy(bins).to(y.device)
    metric.update(prediction, y, node_degree)
    return metric.compute()


def degree_without_self_loops(edge_index: Tensor, num_nodes: int) -> Tensor:
    """Edges that come in from other nodes; in a symmetric graph, the number of neighbours.

    Args:
        edge_index: Edges, shape ``(2, E)``.
        num_nodes: Number of nodes ``N``.

    Returns:
        The degree of each node, shape ``(N,)``, int64.

    Example:
        >>> degree_without_self_loops(torch.tensor([[0, 1, 2], [1, 0, 2]]), num_nodes=3)
        tensor([1, 1, 0])
    """
    target = edge_index[1, edge_index[0] != edge_index[1]]
    return degree(target, num_nodes, dtype=torch.long)


class DegreeBinnedAccuracy(Metric):
    """:func:`accuracy_by_degree` over several graphs or processes.

    Args:
        bins: Lowest and highest degree of each bin, both included; ``None`` as the last bin's highest leaves it open.

    Raises:
        ValueError: If the bins are empty, out of order or overlap.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: Tensor
    count: Tensor

    def __init__(self, bins: DegreeBins = BINS) -> None:
        super().__init__()
        _check_bins(bins)
        self.bins = [(low, high) for low, high in bins]
        self.add_state("correct", torch.zeros(len(bins), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(bins), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, y: Tensor, node_degree: Tensor) -> None:
        """Add nodes.

        Args:
            prediction: Predicted class of each node, shape ``(N,)``.
            y: True class of each node, shape ``(N,)``.
            node_degree: Degree of each node, shape ``(N,)``.
        """
        in_bin = torch.stack(
            [(node_degree >= low) & (True if high is None else node_degree <= high) for low, high in self.bins]
        )
        self.correct += (in_bin & (prediction == y)).sum(dim=1)
        self.count += in_bin.sum(dim=1)

    def compute(self) -> Tensor:
        """The accuracy of each bin, shape ``(len(bins),)``; NaN where a bin is empty."""
        return self.correct / self.count


class AccuracyByDegree(pl.Callback):
    """Logs the test accuracy and the number of test nodes in each bin of degrees, self loops not counted.

    The names are ``test/acc_degree_2-5`` and ``test/nodes_degree_2-5``, ``1`` for a bin of one degree, ``21+`` for an
    open one.

    Works on any LightningModule whose test batch is a :class:`~torch_geometric.data.Data` with ``edge_index``, ``y``
    and ``test_mask``, and whose ``predict_step(batch, batch_idx)`` returns the class scores ``(N, C)`` of all nodes.

    Args:
        bins: Lowest and highest degree of each bin, both included; ``None`` as the last bin's highest leaves it open.

    Raises:
        ValueError: If the bins are empty, out of order or overlap.

    Example:
        >>> trainer = pl.Trainer(callbacks=[AccuracyByDegree(bins=[(1, 3), (4, None)])], logger=False)
    """

    def __init__(self, bins: DegreeBins = BINS) -> None:
        self.metric = DegreeBinnedAccuracy(bins)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.metric.reset()
        self.metric.to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Data,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        with trainer.precision_plugin.forward_context():
            scores = pl_module.predict_step(batch, batch_idx)
        if scores.dim() != 2 or len(scores) != len(batch.y):
            raise ValueError(f"predict_step must return scores of shape ({len(batch.y)}, C), got {tuple(scores.shape)}")
        mask = batch.test_mask
        node_degree = degree_without_self_loops(batch.edge_index, len(batch.y))
        self.metric.update(scores.argmax(dim=1)[mask], batch.y[mask], node_degree[mask])

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        accuracies = self.metric.compute()
        for bin_, accuracy, count in zip(self.metric.bins, accuracies, self.metric.count):
            pl_module.log(f"test/acc_degree_{_label(*bin_)}", accuracy)
            pl_module.log(f"test/nodes_degree_{_label(*bin_)}", count.float())


def _label(low: int, high: int | None) -> str:
    if high is None:
        return f"{low}+"
    return str(low) if low == high else f"{low}-{high}"


def _check_bins(bins: DegreeBins) -> None:
    allowed = "pairs (lowest, highest) of increasing, non-overlapping degrees >= 0, of which the last may end in None"
    next_low: int | None = 0
    for low, high in bins:
        if next_low is None or low < next_low or (high is not None and high < low):
            raise ValueError(f"bins must be {allowed}, got {bins!r}")
        next_low = None if high is None else high + 1
    if not bins:
        raise ValueError(f"bins must be {allowed}, got none")
