"""Temporal graph models beside PyTorch Geometric Temporal's layers and plain loops, in one run.

``python benchmarks/temporal_graph.py`` (or ``make bench BENCH=temporal_graph``). All sides of a table take turns;
figures are medians, with their range. Forecasts are timed over an epoch of England-COVID, forward, backward and Adam's
step, with hidden size 16 on all sides; the peers are given each batch as block-diagonal snapshots, made beforehand.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import ModuleType

import torch
import torch.nn.functional as F
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from datamodules import DynCSLDataModule, EnglandCovidDataModule, TemporalGraphWindow, temporal_window
from zoo.console import console
from zoo.temporal_graph import ENCODERS, DistinctSequences, RecurrentEncoder, TemporalForecaster

SIZE = 16
INSTALL = "pip install --no-deps torch-geometric-temporal==0.56.2"
Snapshot = tuple[Tensor, Tensor, Tensor]
Batch = tuple[TemporalGraphWindow, list[Snapshot]]


def peers() -> ModuleType | None:
    """The recurrent layers of PyTorch Geometric Temporal, ``None`` if it is not installed.

    One of its files imports ``torch_sparse`` for an annotation; a placeholder serves where that is missing.
    """
    if find_spec("torch_geometric_temporal") is None:
        return None
    if find_spec("torch_sparse") is None:
        placeholder = ModuleType("torch_sparse")
        placeholder.SparseTensor = Tensor  # type: ignore[attr-defined]
        sys.modules["torch_sparse"] = placeholder
    try:
        from torch_geometric_temporal.nn import recurrent
    except ImportError as error:
        console().print(f"torch_geometric_temporal is there, but cannot be imported: {error}")
        return None
    return recurrent


class Loop(nn.Module):
    """GCN-GRU in plain PyG: convolutions snapshot by snapshot, then a GRU; the same function as ours."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GCNConv(1, SIZE), GCNConv(SIZE, SIZE)
        self.gru = nn.GRU(SIZE, SIZE, batch_first=True)
        self.head = Head()

    def forward(self, snapshots: list[Snapshot]) -> Tensor:
        """Forecasts from node features, edges and weights of each step."""
        states = []
        for x, index, weight in snapshots:
            y = self.second(F.softplus(self.first(x, index, weight)), index, weight)
            states.append(F.softplus(y))
        return self.head(self.gru(torch.stack(states, dim=1))[1][0])


class Recurrence(nn.Module):
    """A layer of the package, called at every snapshot.

    Args:
        layer: Called with node features, edges, weights and the state.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, Head()

    def forward(self, snapshots: list[Snapshot]) -> Tensor:
        """Forecasts from node features, edges and weights of each step."""
        state = None
        for x, index, weight in snapshots:
            state = self.layer(x, index, weight, state)
        return self.head(state)


class Head(nn.Module):
    """The perceptron that all sides end with."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 1)

    def forward(self, z: Tensor) -> Tensor:
        """From ``(N, 16)`` to ``(N, 1)``."""
        return self.out(F.softplus(self.hidden(F.softplus(z))))


def snapshots_of(window: TemporalGraphWindow) -> list[Snapshot]:
    """Node features, edges and weights of each step of a batch; the peer's DCRNN fails on weights that are 0."""
    assert window.present is not None
    found = []
    for step in range(window.x.shape[1]):
        there = window.present[:, step]
        found.append((window.x[:, step], window.edge_index[:, there], window.edge_attr[there, step, 0].clamp(min=1e-6)))
    return found


def epoch_of(model: nn.Module, batches: list[Batch], ours: bool) -> Callable[[], object]:
    """An epoch of training on prepared batches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def epoch() -> None:
        for window, snapshots in batches:
            optimizer.zero_grad()
            forecast = model(window if ours else snapshots)
            F.mse_loss(forecast, window.y).backward()
            optimizer.step()

    return epoch


def forecasts(data: EnglandCovidDataModule, rounds: int) -> None:
    """GCN-GRU and DCRNN beside the peers."""
    batches = [(window, snapshots_of(window)) for window in data.train_dataloader()]
    ours: dict[str, nn.Module] = {
        name: TemporalForecaster(encoder=encoder) for name, encoder in (("GCN-GRU", "gcn_gru"), ("DCRNN", "dcrnn"))
    }
    theirs: dict[str, tuple[str, nn.Module]] = {"a loop of GCNConv, then nn.GRU": ("GCN-GRU", Loop())}
    package = peers()
    if package is not None:
        theirs["torch_geometric_temporal TGCN (one convolution a gate)"] = "GCN-GRU", Recurrence(package.TGCN(1, SIZE))
        theirs["torch_geometric_temporal DCRNN (K=2, one layer a gate)"] = (
            "DCRNN",
            Recurrence(package.DCRNN(1, SIZE, K=2)),
        )
    actions = {name: epoch_of(model, batches, ours=True) for name, model in ours.items()}
    actions |= {name: epoch_of(model, batches, ours=False) for name, (_, model) in theirs.items()}
    seconds = take_turns(actions, rounds)
    compared = {name: of for name, (of, _) in theirs.items()}
    show(f"An epoch of {data.description}, batches of {data.batch_size}", "an epoch", seconds, compared)
    if package is None:
        console().print(f"torch_geometric_temporal is not installed, so its layers were left out: {INSTALL}")
    if find_spec("torch_scatter") is None:
        console().print("torch_spatiotemporal needs torch_scatter and torch_sparse, so it was left out.")


def models(data: EnglandCovidDataModule, rounds: int) -> None:
    """All models beside each other."""
    batches: list[Batch] = [(window, []) for window in data.train_dataloader()]
    actions = {name: epoch_of(TemporalForecaster(encoder=name), batches, ours=True) for name in ENCODERS}
    seconds = take_turns(actions, rounds)
    show(f"Our models, an epoch, batches of {data.batch_size}", "an epoch", seconds, {})


def histories(batch_size: int, rounds: int) -> None:
    """The edge GRU on all histories and on those that differ."""
    window = next(iter(DynCSLDataModule(batch_size=batch_size, seed=0).train_dataloader()))
    plain = RecurrentEncoder(1, SIZE)
    distinct = DistinctSequences(plain)

    def step(encoder: nn.Module) -> Callable[[], object]:
        return lambda: encoder(window.edge_attr).square().sum().backward()

    with torch.no_grad():
        gap = float((plain(window.edge_attr) - distinct(window.edge_attr)).abs().max())
    kinds = len(window.edge_attr.flatten(1).unique(dim=0))
    seconds = take_turns({"distinct histories": step(distinct), "all histories": step(plain)}, rounds)
    edges = f"{len(window.edge_attr):,} edges, {kinds} histories"
    title = f"Edge GRU on DynCSL, {batch_size} sequences: {edges}; gap {gap:.1e}"
    show(title, "forward and backward", seconds, {"all histories": "distinct histories"})


def sharing(data: EnglandCovidDataModule, rounds: int) -> None:
    """All windows at once, with the snapshots that they share worked on once or each time."""
    windows = data.parts["test"]
    batch = windows[torch.arange(len(windows))]
    alone = batch._replace(snapshot_id=None)
    model = TemporalForecaster(encoder="gcn_gru")

    def step(window: TemporalGraphWindow) -> Callable[[], object]:
        return lambda: model(window).square().sum().backward()

    steps = len(batch.snapshot_id.unique()) if batch.snapshot_id is not None else 0
    seconds = take_turns({"each snapshot once": step(batch), "each for every window": step(alone)}, rounds)
    title = f"GCN-GRU on all {len(windows)} windows: {steps} snapshots, {alone.x.shape[1] * len(windows)} in windows"
    show(title, "forward and backward", seconds, {"each for every window": "each snapshot once"})


def unions(data: EnglandCovidDataModule, rounds: int) -> None:
    """Batches of windows out of one table of histories, and windows put together one by one."""
    windows = data.parts["train"]
    every = torch.arange(len(windows))
    batch = windows[every]
    days = {
        int(step): (index, weight[:, None])
        for w in every.tolist()
        for step, (_, index, weight) in zip(range(w, w + windows.length), snapshots_of(windows[torch.tensor([w])]))
    }

    def one_by_one() -> None:
        for w in every.tolist():
            indices, attrs = zip(*(days[step] for step in range(w, w + windows.length)))
            temporal_window(batch.x[:129], indices, attrs, batch.y[:129])

    seconds = take_turns({"one table": lambda: windows[every], "window by window": one_by_one}, rounds)
    show(f"The unions of {len(windows)} windows", "all", seconds, {"window by window": "one table"})


def show(title: str, unit: str, seconds: Mapping[str, list[float]], compared: Mapping[str, str]) -> None:
    """Print a table: each side, and by how much the side that it is compared with is faster."""
    table = Table("", unit, "ours is faster by", title=f"{title}\n{machine()}", title_justify="left")
    for name, values in seconds.items():
        ours = compared.get(name)
        factor = "" if ours is None else f"{statistics.median(values) / statistics.median(seconds[ours]):.1f}x"
        table.add_row(name, in_words(values), factor)
    console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=5, help="epochs of each side; steps: ten times as many")
    parser.add_argument("--batch-size", type=positive, default=4, help="windows of a batch of England-COVID")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    data = EnglandCovidDataModule(batch_size=args.batch_size, if_unavailable="stand_in")
    for batch_size in (20, 140):  # of the recipe, and all
        histories(batch_size, 10 * args.rounds)
    unions(data, args.rounds)
    sharing(data, args.rounds)
    forecasts(data, args.rounds)
    models(data, args.rounds)


if __name__ == "__main__":
    main()
