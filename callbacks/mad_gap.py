"""MADGap: how far a graph network has smoothed near and remote nodes into one."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import add_self_loops, sort_edge_index
from torchmetrics import Metric

BLOCK = 512  # rows of the distance matrix that are in memory at a time


def mad_gap(representation: Tensor, edge_index: Tensor, near: int = 3, far: int = 8) -> Tensor:
    r"""Mean average distance between remote nodes minus that between near nodes.

    .. math:: \mathrm{MADGap} = \mathrm{MAD}^{\mathrm{far}} - \mathrm{MAD}^{\mathrm{near}}, \qquad
        \mathrm{MAD} = \operatorname{mean}_i \operatorname{mean}_j D_{ij}, \qquad
        D_{ij} = 1 - \cos(h_i, h_j)

    The inner mean goes over the pairs of node ``i`` whose distance is not zero, the outer one over the nodes that
    have such a pair. Large values mean that information and noise are kept apart; near zero or below, over-smoothing.

    Args:
        representation: One row ``h_i`` for each node, shape ``(N, H)``.
        edge_index: Edges of a symmetric graph, shape ``(2, E)``.
        near: Pairs at most this many hops apart are near.
        far: Pairs at least this many hops apart are remote, pairs without any path among them.

    Returns:
        The gap, a scalar in ``[-2, 2]``; NaN if the graph has no near or no remote pairs.

    Raises:
        ValueError: Unless ``1 <= near < far``.

    Source:
        Chen et al., *Measuring and Relieving the Over-smoothing Problem for Graph Neural Networks from the Topological
        View*, AAAI 2020, equations 1 to 4 and section 4.

    Example:
        >>> pair_and_loner = torch.tensor([[0, 1], [1, 0]])
        >>> h = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> mad_gap(h, pair_and_loner, near=1, far=2)  # far: (1 + 1 - sqrt(1/2) + (1 + 1 - sqrt(1/2)) / 2) / 3
        tensor(0.3536)
    """
    near_distance, far_distance = average_distances(representation, edge_index, near, far)
    return far_distance.nanmean() - near_distance.nanmean()


def average_distances(representation: Tensor, edge_index: Tensor, near: int, far: int) -> tuple[Tensor, Tensor]:
    """Mean cosine distance of each node to its near and to its remote nodes.

    Works through the distance matrix in blocks of rows, so memory grows with ``N + E``.

    Args:
        representation: One row for each node, shape ``(N, H)``.
        edge_index: Edges of a symmetric graph, shape ``(2, E)``.
        near: Pairs at most this many hops apart are near.
        far: Pairs at least this many hops apart are remote.

    Returns:
        The mean distance to near and to remote nodes, each ``(N,)``, over pairs whose distance is not zero; NaN for a
        node that has none.

    Raises:
        ValueError: Unless ``1 <= near < far``.

    Example:
        >>> average_distances(torch.eye(3), torch.tensor([[0, 1], [1, 0]]), near=1, far=2)
        (tensor([1., 1., nan]), tensor([1., 1., 1.]))
    """
    _check_hops(near, far)
    direction = F.normalize(representation.float(), dim=1)
    search = _HopSearch(edge_index, len(direction))
    means = []
    for rows in torch.arange(len(direction), device=direction.device).split(BLOCK):
        distance = 1 - direction[rows] @ direction.t()
        is_near, is_far = search.near_and_far(rows, near, far)
        means.append(torch.stack([_masked_row_mean(distance, is_near), _masked_row_mean(distance, is_far)]))
    near_distance, far_distance = torch.cat(means, dim=1)
    return near_distance, far_distance


class MeanAverageDistanceGap(Metric):
    """:func:`mad_gap` over several graphs or processes, with its two parts.

    Args:
        near: Pairs at most this many hops apart are near.
        far: Pairs at least this many hops apart are remote.

    Raises:
        ValueError: Unless ``1 <= near < far``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    distance: Tensor
    count: Tensor

    def __init__(self, near: int = 3, far: int = 8) -> None:
        super().__init__()
        _check_hops(near, far)
        self.near = near
        self.far = far
        self.add_state("distance", torch.zeros(2), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, representation: Tensor, edge_index: Tensor) -> None:
        """Add a graph.

        Args:
            representation: One row for each node, shape ``(N, H)``.
            edge_index: Edges of a symmetric graph, shape ``(2, E)``.
        """
        distances = torch.stack(average_distances(representation, edge_index, self.near, self.far))
        self.distance += distances.nansum(dim=1)
        self.count += distances.isfinite().sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """The mean average distances ``mad_near`` and ``mad_far``, and their difference ``mad_gap``."""
        near, far = self.distance / self.count
        return {"mad_near": near, "mad_far": far, "mad_gap": far - near}


class MADGap(pl.Callback):
    """Logs ``test/mad_gap``, ``test/mad_near`` and ``test/mad_far`` of a node representation; see :func:`mad_gap`.

    Works on any LightningModule whose test batch is a :class:`~torch_geometric.data.Data` with ``edge_index``. The
    representation is what the module's ``embed(batch)`` returns, ``(N, H)``; a module without it is asked for its
    class scores ``(N, C)`` by ``predict_step(batch, batch_idx)``.

    Args:
        near: Pairs at most this many hops apart are near.
        far: Pairs at least this many hops apart are remote.

    Raises:
        ValueError: Unless ``1 <= near < far``.

    Example:
        >>> trainer = pl.Trainer(callbacks=[MADGap(near=2, far=5)], logger=False)
    """

    def __init__(self, near: int = 3, far: int = 8) -> None:
        self.metric = MeanAverageDistanceGap(near, far)

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
        embed = getattr(pl_module, "embed", None)
        with trainer.precision_plugin.forward_context():
            representation = pl_module.predict_step(batch, batch_idx) if embed is None else embed(batch)
        if representation.dim() != 2 or len(representation) != batch.num_nodes:
            source = "predict_step" if embed is None else "embed"
            shape = tuple(representation.shape)
            raise ValueError(f"{source} must return one row for each of the {batch.num_nodes} nodes, got shape {shape}")
        self.metric.update(representation, batch.edge_index)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log_dict({f"test/{name}": value for name, value in self.metric.compute().items()})


class _HopSearch:
    """Breadth-first search from many nodes at once, one bit for each pair of a source and a node.

    Args:
        edge_index: Edges, shape ``(2, E)``.
        num_nodes: Number of nodes ``N``.
    """

    def __init__(self, edge_index: Tensor, num_nodes: int) -> None:
        looped, _ = add_self_loops(edge_index.cpu(), num_nodes=num_nodes)  # so that no node is without an edge
        self.source, target = sort_edge_index(looped, sort_by_row=False).numpy()
        self.first_edge = np.searchsorted(target, np.arange(num_nodes))

    def near_and_far(self, rows: Tensor, near: int, far: int) -> tuple[Tensor, Tensor]:
        """Whether each node is near to, and whether it is far from, each of ``rows``; two masks ``(len(rows), N)``."""
        itself = F.one_hot(rows.cpu(), len(self.first_edge)).t().bool()
        reached = np.packbits(itself.numpy(), axis=1)
        for hop in range(1, far):
            reached = np.bitwise_or.reduceat(reached[self.source], self.first_edge, axis=0)
            if hop == near:
                is_near = self._unpack(reached, len(rows)) & ~itself
        is_far = ~self._unpack(reached, len(rows))
        return is_near.t().to(rows.device), is_far.t().to(rows.device)

    @staticmethod
    def _unpack(bits: np.ndarray, count: int) -> Tensor:
        return torch.from_numpy(np.unpackbits(bits, axis=1, count=count)).bool()


def _masked_row_mean(distance: Tensor, mask: Tensor) -> Tensor:
    rounding = 10 * torch.finfo(distance.dtype).eps  # rows that point the same way are this far apart
    mask = mask & (distance > rounding)
    return (distance * mask).sum(dim=1) / mask.sum(dim=1)


def _check_hops(near: int, far: int) -> None:
    if not 1 <= near < far:
        raise ValueError(f"near and far must be hops with 1 <= near < far, got near={near}, far={far}")
