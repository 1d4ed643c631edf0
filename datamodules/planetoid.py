"""Citation graphs for node classification: Cora, CiteSeer and PubMed with the Planetoid splits."""

import copy
import os
from functools import cached_property

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader
from torch_geometric.data import Data

from datamodules.planetoid_raw import download_failure, read_planetoid
from datamodules.root import data_root
from datamodules.splits import random_split
from datamodules.stand_ins import citation_graph

TITLES = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
SPLITS = ("public", "full", "random")
IF_UNAVAILABLE = ("error", "stand_in")
PUBLIC_SIZES = {"num_train_per_class": 20, "num_val": 500, "num_test": 1000}


class PlanetoidDataModule(pl.LightningDataModule):
    """One citation graph as a single full-graph batch, the same for training, validation, test and prediction.

    The batch is a :class:`~torch_geometric.data.Data` with ``x`` ``(N, F)``, ``raw_x`` ``(N, F)`` (the features as
    stored), ``edge_index`` ``(2, E)`` (symmetric, sorted), ``y`` ``(N,)`` and the boolean ``train_mask``,
    ``val_mask``, ``test_mask`` ``(N,)``. A Trainer gets the same object in every step, moved to its device once, so a
    model may keep what it computes of a graph for as long as the object is the same.

    The raw files lie as PyG lays them out, ``<root>/planetoid/Cora/raw/ind.cora.x`` and so on, and are downloaded when
    one is missing. Nothing else is written.

    PyG's ``LightningNodeData`` is not used: it wants the graph at construction, so files would be read or fetched
    before any error in the other arguments shows, and it copies nothing less.

    Args:
        name: ``"cora"``, ``"citeseer"`` or ``"pubmed"``, in any case.
        root: Folder of all data; ``None`` means the variable ``ZOO_DATA``, else ``data/``.
        split: ``"public"`` (20 training nodes a class, 500 validation, 1,000 test), ``"full"`` (the public one with
            all remaining nodes in training) or ``"random"``.
        normalize_features: Divide each feature row by its sum; a zero row stays zero.
        remove_self_loops: Leave out the edges from a node to itself. Only CiteSeer has any: 124.
        if_unavailable: What to do when the data is neither there nor to be downloaded: ``"error"``, or ``"stand_in"``
            for a generated graph of the same size, with a warning (see :func:`~datamodules.stand_ins.citation_graph`).
        num_train_per_class: Training nodes of each class in a random split.
        num_val: Validation nodes in a random split.
        num_test: Test nodes in a random split.
        seed: Seed of the random split.

    Raises:
        ValueError: If an argument is out of range, or a size is given for a split that has its own.

    Example:
        >>> datamodule = PlanetoidDataModule("cora", if_unavailable="stand_in")
        >>> datamodule.name, datamodule.split
        ('cora', 'public')
    """

    name: str

    def __init__(
        self,
        name: str = "cora",
        root: str | os.PathLike[str] | None = None,
        split: str = "public",
        normalize_features: bool = True,
        remove_self_loops: bool = True,
        if_unavailable: str = "error",
        num_train_per_class: int = PUBLIC_SIZES["num_train_per_class"],
        num_val: int = PUBLIC_SIZES["num_val"],
        num_test: int = PUBLIC_SIZES["num_test"],
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_choice("name", name.lower(), tuple(TITLES))
        _check_choice("split", split, SPLITS)
        _check_choice("if_unavailable", if_unavailable, IF_UNAVAILABLE)
        sizes = {"num_train_per_class": num_train_per_class, "num_val": num_val, "num_test": num_test}
        for size_name, size in sizes.items():
            _check_size(size_name, size, split)
        self.name = name.lower()
        self.folder = data_root(root) / "planetoid" / TITLES[self.name] / "raw"
        self.split = split
        self.normalize_features = normalize_features
        self.remove_self_loops = remove_self_loops
        self.if_unavailable = if_unavailable
        self.sizes = sizes
        self.seed = seed
        self._batch = Data()
        self._placement: tuple[torch.device, torch.dtype] | None = None

    @cached_property
    def data(self) -> Data:
        """The graph on the CPU, read (and if need be downloaded) at first use."""
        if self.is_stand_in:
            graph = citation_graph(self.name)
        else:
            graph = read_planetoid(self.folder, self.name, self.remove_self_loops)
        if self.split == "full":
            graph.train_mask = graph.labeled_mask & ~(graph.val_mask | graph.test_mask)
        elif self.split == "random":
            generator = torch.Generator().manual_seed(self.seed)
            masks = random_split(graph.y, **self.sizes, labeled_mask=graph.labeled_mask, generator=generator)
            graph.train_mask, graph.val_mask, graph.test_mask = masks
        graph.raw_x = graph.x
        if self.normalize_features:
            graph.x = normalize_rows(graph.raw_x)
        return graph

    @cached_property
    def is_stand_in(self) -> bool:
        """Whether the graph is a generated one, because the real one is out of reach.

        Raises:
            FileNotFoundError: If it is out of reach and ``if_unavailable`` is ``"error"``.
        """
        if self._unavailable is None:
            return False
        if self.if_unavailable == "error":
            raise FileNotFoundError(
                f"{TITLES[self.name]} is not available: {self._unavailable}. Connect to the network, or set ZOO_DATA "
                f"(or --data.root) to the folder that holds planetoid/{TITLES[self.name]}/raw, or train on a generated "
                "graph with --data.if_unavailable stand_in"
            )
        rank_zero_warn(
            f"TRAINING ON A STAND-IN, NOT ON {TITLES[self.name].upper()}: {self._unavailable}. A generated citation "
            "graph of the same size takes its place; its accuracies say nothing about the real data."
        )
        return True

    @property
    def num_features(self) -> int:
        """Features per node."""
        return self.data.num_features

    @property
    def num_classes(self) -> int:
        """Classes of the nodes."""
        return int(self.data.y.max()) + 1

    @property
    def description(self) -> str:
        """The data in one line, for tables: name, size, split, and whether it is a stand-in."""
        title = TITLES[self.name]
        if self.is_stand_in:
            title = f"STAND-IN for {title}: generated stochastic-block-model citation graph"
        return f"{title} ({self.data.num_nodes:,} nodes, {self.data.num_edges:,} edges, {self.split} split)"

    def prepare_data(self) -> None:
        """Download the raw files if any is missing."""
        _ = self.is_stand_in

    def setup(self, stage: str) -> None:
        """Read the graph.

        Raises:
            MisconfigurationException: If the Trainer uses more than one device.
        """
        if self.trainer is not None and self.trainer.world_size > 1:
            raise MisconfigurationException(
                f"one graph in one batch cannot be shared among {self.trainer.world_size} devices; "
                "use --trainer.devices 1"
            )
        _ = self.data

    def train_dataloader(self) -> DataLoader:
        """One batch, the graph."""
        # The loader draws a worker seed at every epoch; its own generator leaves the global stream to the model.
        return DataLoader([self.data], batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        """One batch, the graph."""
        return self.train_dataloader()

    def test_dataloader(self) -> DataLoader:
        """One batch, the graph."""
        return self.train_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """One batch, the graph."""
        return self.train_dataloader()

    def transfer_batch_to_device(self, batch: Data, device: torch.device, dataloader_idx: int) -> Data:
        """The graph on the Trainer's device in its precision; the same object every time.

        Lightning converts tensors to the precision of the Trainer, but does not look into a ``Data``.
        """
        assert self.trainer is not None  # only a Trainer calls this
        convert = self.trainer.precision_plugin.convert_input
        placement = (device, convert(torch.empty(0)).dtype)
        if placement != self._placement:
            # The first batch may be asked for in a validation, whose inference tensors could not be trained on.
            with torch.inference_mode(False):
                self._batch = copy.copy(self.data).apply(lambda tensor: convert(tensor.to(device)))
            self._placement = placement
        return self._batch

    @cached_property
    def _unavailable(self) -> str | None:  # cached, so that a failing download is tried once and not at every access
        return download_failure(self.folder, self.name)


def normalize_rows(x: Tensor) -> Tensor:
    r"""Divide each row by its sum; a row that sums to zero stays as it is.

    PyG's ``NormalizeFeatures`` differs: it leaves rows with a sum below one unscaled, as PubMed's may be.

    Args:
        x: Features, shape ``(N, F)``, not negative.

    Returns:
        The scaled features, shape ``(N, F)``.

    Example:
        >>> normalize_rows(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
        tensor([[0.2500, 0.7500],
                [0.0000, 0.0000]])
    """
    total = x.sum(dim=1, keepdim=True)
    return x / total.masked_fill(total == 0, 1.0)


def _check_choice(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(allowed)}, got {value!r}")


def _check_size(argument: str, value: int, split: str) -> None:
    if value < 1:
        raise ValueError(f"{argument} must be at least 1, got {value}")
    if split != "random" and value != PUBLIC_SIZES[argument]:
        raise ValueError(f"{argument}={value} needs split='random'; the {split} split has sizes of its own")
