"""Daily cases of COVID-19 in the regions of England, and how many people moved between them."""

import json
import os
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from datamodules.temporal_forecast import ForecastDataModule, GraphSequence
from datamodules.temporal_splits import Split
from datamodules.temporal_windows import EdgeHistories, edge_histories

URL = (
    "https://raw.githubusercontent.com/benedekrozemberczki/pytorch_geometric_temporal/master/dataset/england_covid.json"
)
FILE = "england_covid.json"
TIMEOUT = 10.0  # seconds of silence from the server
NUM_REGIONS, NUM_DAYS = 129, 61


class EnglandCovidDataModule(ForecastDataModule):
    """New cases on the next day in 129 regions of England, over 61 days from 3 March 2020.

    The one feature of a region is its cases of a day; a directed edge's weight is the number of people who moved that
    day. The file ``<root>/england_covid.json`` (1.4 MB) is fetched from the repository of PyTorch Geometric Temporal
    where it is missing. That package's own loader standardises each region by all days, the test's among them; here
    the scale is that of the training part.

    Args:
        root: Folder of all data; ``None`` means the variable ``ZOO_DATA``, else ``data/``.
        window: Days of a window.
        split: ``"chronological"``, ``"interleaved"`` (what public copies of the authors' code do: not a forecast of
            the future) or ``"node"``.
        batch_size: Windows of a training batch, on each device.
        eval_batch_size: Windows of a batch in validation and test.
        padding_value: Weight of an edge on days without it; outside [0, 1].
        keep_edges: Whether the edges are used.
        if_unavailable: What to do when the file is neither there nor to be downloaded: ``"error"``, or ``"stand_in"``
            for generated epidemics of the same size, with a warning.
        seed: Of the order; ``None`` takes the one of ``seed_everything``.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Panagopoulos et al., *Transfer Graph Neural Networks for Pandemic Forecasting*, AAAI 2021.

    Example:
        >>> EnglandCovidDataModule(if_unavailable="stand_in").window
        7
    """

    title = "England-COVID"
    unit = "cases"

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        window: int = 7,
        split: Split = "chronological",
        batch_size: int = 4,
        eval_batch_size: int = 64,
        padding_value: float = -1.0,
        keep_edges: bool = True,
        if_unavailable: str = "error",
        seed: int | None = None,
    ) -> None:
        super().__init__(
            root, window, split, batch_size, eval_batch_size, padding_value, keep_edges, if_unavailable, seed
        )
        self.path = self.root / FILE

    def unavailable(self) -> str | None:
        if self.path.is_file():
            return None
        try:
            download(self.path)
        except (OSError, HTTPException, ValueError) as error:
            return f"there is no {self.path}, and the download from {URL} failed ({error})"
        return None

    def read(self) -> GraphSequence:
        return read_england_covid(self.path)

    def stand_in(self) -> GraphSequence:
        return generated_epidemic()


def download(path: Path) -> None:
    """Fetch the file. It appears when all of it has come and reads well; else nothing changes.

    Args:
        path: Where to put it; the folder is made if need be.

    Raises:
        OSError: If the server cannot be reached, or the folder cannot be written.
        HTTPException: If the answer breaks off.
        ValueError: If what came is not the data.
    """
    with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer:
        content = answer.read()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="download-") as fresh:
        (Path(fresh) / FILE).write_bytes(content)
        read_england_covid(Path(fresh) / FILE)
        os.replace(Path(fresh) / FILE, path)


def read_england_covid(path: Path) -> GraphSequence:
    """Read the file.

    Raises:
        ValueError: If it is damaged, or a day has no edge.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        cases = torch.tensor(content["y"], dtype=torch.float32)
        edges, weights = content["edge_mapping"]["edge_index"], content["edge_mapping"]["edge_weight"]
        days = [str(day) for day in range(len(cases))]
        index = [torch.tensor(edges[day], dtype=torch.long).reshape(-1, 2).t() for day in days]
        weight = [torch.tensor(weights[day], dtype=torch.float32).reshape(-1, 1) for day in days]
        return GraphSequence(cases[:, :, None], 1, edge_histories(index, weight, cases.shape[1]))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, so that it is fetched anew") from error


def generated_epidemic() -> GraphSequence:
    """An epidemic that moves with people between regions, of the size of the data; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(NUM_REGIONS, 2, generator=generator)
    near = torch.exp(-torch.cdist(place, place) / 0.1)
    pairs = (near > 0.05).nonzero().t()
    moves = 1000 * near[pairs[0], pairs[1]] * torch.rand(NUM_DAYS, pairs.shape[1], generator=generator)
    infected, cases = torch.ones(NUM_REGIONS), []
    for day in range(NUM_DAYS):
        flow = torch.zeros(NUM_REGIONS).index_add_(0, pairs[1], moves[day] * infected[pairs[0]]) / 3000
        rate = 1.15 - 0.3 * day / NUM_DAYS
        infected = (rate * (0.9 * infected + 0.1 * flow)).clamp(0.5, 60)
        cases.append(torch.poisson(infected, generator=generator))
    present = torch.rand(pairs.shape[1], NUM_DAYS, generator=generator) < 0.5
    present[pairs[0] == pairs[1]] = True
    order = (pairs[1] * NUM_REGIONS + pairs[0]).argsort()
    histories = EdgeHistories(pairs[:, order], moves.t()[order, :, None] * present[order, :, None], present[order])
    return GraphSequence(torch.stack(cases)[:, :, None], 1, histories)
