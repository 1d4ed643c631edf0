"""Traffic at detectors on the motorways of California, every five minutes."""

import csv
import math
import os
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils import coalesce

from datamodules.temporal_forecast import ForecastDataModule, GraphSequence, missing
from datamodules.temporal_splits import Split

DETECTORS = {"04": 307, "08": 170}
STEPS_A_DAY = 288
NUM_TARGETS = 3  # flow, occupancy, speed


class PeMSDataModule(ForecastDataModule):
    """Flow, occupancy and speed five minutes ahead at the detectors of a district, from an hour's windows.

    Minute of the day and day of the week, counted from the first step, are two more features. The graph stays: the
    pairs of ``distance.csv``, in both directions, each once, its weight the distance. The files
    ``<root>/pems04/pems04.npz`` (``data`` of shape ``(D, n, 3)``) and ``<root>/pems04/distance.csv`` (``from, to,
    cost``) are those of the ASTGCN repository; no server is known that could be relied on, so they are not fetched.

    Args:
        district: ``"04"`` (307 detectors, January and February 2018) or ``"08"`` (170, July and August 2016).
        root: Folder of all data; ``None`` means the variable ``ZOO_DATA``, else ``data/``.
        window: Steps of a window; twelve are an hour.
        split: ``"chronological"``, ``"interleaved"`` or ``"node"``.
        batch_size: Windows of a training batch, on each device.
        eval_batch_size: Windows of a batch in validation and test.
        keep_edges: Whether the edges are used.
        if_unavailable: What to do when a file is missing: ``"error"``, or ``"stand_in"`` for three days of generated
            traffic on a ring road, with a warning.
        seed: Of the order; ``None`` takes the one of ``seed_everything``.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Guo et al., *Attention Based Spatial-Temporal Graph Convolutional Networks for Traffic Flow Forecasting*, AAAI
        2019.

    Example:
        >>> PeMSDataModule("08", if_unavailable="stand_in").title
        'PeMS08'
    """

    unit = "vehicles per 5 minutes, share, miles per hour"

    def __init__(
        self,
        district: Literal["04", "08"] = "04",
        root: str | os.PathLike[str] | None = None,
        window: int = 12,
        split: Split = "chronological",
        batch_size: int = 128,
        eval_batch_size: int = 128,
        keep_edges: bool = True,
        if_unavailable: str = "error",
        seed: int | None = None,
    ) -> None:
        if district not in DETECTORS:
            raise ValueError(f"district must be one of {', '.join(DETECTORS)}, got {district!r}")
        super().__init__(root, window, split, batch_size, eval_batch_size, -1.0, keep_edges, if_unavailable, seed)
        self.title = f"PeMS{district}"
        folder = self.root / f"pems{district}"
        self.traffic, self.distances = folder / f"pems{district}.npz", folder / "distance.csv"
        self.district = district

    def unavailable(self) -> str | None:
        return missing([self.traffic, self.distances])

    def read(self) -> GraphSequence:
        traffic = read_traffic(self.traffic)
        return GraphSequence(with_clock(traffic), NUM_TARGETS, read_distances(self.distances, traffic.shape[1]))

    def stand_in(self) -> GraphSequence:
        traffic, edges = generated_traffic(DETECTORS[self.district])
        return GraphSequence(with_clock(traffic), NUM_TARGETS, edges)


def read_traffic(path: Path) -> Tensor:
    """Measurements, shape ``(D, n, 3)``.

    Raises:
        ValueError: If the file is damaged or has another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            traffic = torch.from_numpy(file["data"].astype(np.float32))
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be an array file with an entry 'data' ({error})") from error
    if traffic.dim() != 3 or traffic.shape[2] < NUM_TARGETS:
        raise ValueError(f"{path} must hold data of shape (steps, detectors, 3), got {tuple(traffic.shape)}")
    if not traffic.isfinite().all():
        raise ValueError(f"{path} holds values that are not finite")
    return traffic[:, :, :NUM_TARGETS]


def read_distances(path: Path, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Edges in both directions, each once, sorted by target; and their distances, ``(P, 1)``.

    A pair that is listed in both directions, or twice, keeps the distance listed first.

    Raises:
        ValueError: If a line is not two detectors and a distance.
    """
    listed: dict[tuple[int, int], float] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if number == 1 and not row[0].strip().isdigit():
                continue  # names of the columns
            try:
                a, b, cost = int(row[0]), int(row[1]), float(row[2])
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}, line {number}: expected from, to, cost, got {row}") from error
            if not (0 <= a < num_nodes and 0 <= b < num_nodes):
                raise ValueError(f"{path}, line {number} names detectors outside 0 to {num_nodes - 1}: {row}")
            listed.setdefault((min(a, b), max(a, b)), cost)
    if not listed:
        raise ValueError(f"{path} lists no pair of detectors")
    pairs = torch.tensor(list(listed)).t()
    return in_both_directions(pairs, torch.tensor(list(listed.values()))[:, None])


def in_both_directions(pairs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The edges and their reverses, sorted by target, each once.

    Example:
        >>> in_both_directions(torch.tensor([[0], [1]]), torch.tensor([[5.0]]))[0]
        tensor([[1, 0],
                [0, 1]])
    """
    both = torch.cat([pairs, pairs.flip(0)], dim=1)
    return coalesce(both, torch.cat([weights, weights]), reduce="mean", sort_by_row=False)


def with_clock(traffic: Tensor) -> Tensor:
    """Measurements ``(D, n, 3)`` with the minute of the day and the day of the week, ``(D, n, 5)``."""
    step = torch.arange(len(traffic))
    clock = torch.stack([step % STEPS_A_DAY * 5.0, step // STEPS_A_DAY % 7], dim=1)
    return torch.cat([traffic, clock[:, None].expand(-1, traffic.shape[1], -1)], dim=2)


def generated_traffic(num_nodes: int, num_days: int = 3) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Rush hours that run along a ring road; the same at every call.

    Args:
        num_nodes: Detectors.
        num_days: Days of 288 steps.

    Returns:
        Measurements ``(D, n, 3)``, and the edges with their distances.

    Example:
        >>> generated_traffic(10, num_days=1)[0].shape
        torch.Size([288, 10, 3])
    """
    generator = torch.Generator().manual_seed(0)
    phase = torch.arange(num_nodes) / num_nodes
    hour = torch.arange(num_days * STEPS_A_DAY)[:, None] / 12 - 2 * phase
    demand = 0.5 - 0.35 * torch.cos(2 * math.pi * hour / 24) - 0.15 * torch.cos(4 * math.pi * hour / 24)
    demand = demand + 0.05 * torch.randn(demand.shape, generator=generator)
    flow = (300 * demand).clamp(min=0)
    occupancy = (0.1 * demand**2).clamp(0, 1)
    speed = 65 - 15 * demand**2
    node = torch.arange(num_nodes)
    distance = 100 + 400 * torch.rand(num_nodes, 1, generator=generator)
    edges = in_both_directions(torch.stack([node, (node + 1) % num_nodes]), distance)
    return torch.stack([flow, occupancy, speed], dim=2), edges
