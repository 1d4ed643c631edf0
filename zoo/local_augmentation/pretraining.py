"""Pre-training of the generator through its own Trainer, with selection and a cache."""

import csv
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from filelock import FileLock
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torch_geometric.data import Data

from zoo.local_augmentation.cvae import (
    Likelihood,
    NeighborCVAE,
    NeighborDecoder,
    NeighborPairDataset,
    OutAct,
    check_generator,
)
from zoo.local_augmentation.selection import ReceptiveFieldGCN, bald, cross_entropy_gap
from zoo.local_augmentation.sparse import Graph, as_features

log = logging.getLogger(__name__)

Criterion = Literal["bald", "ce_gap", "last"]


class NeighborPairDataModule(LightningDataModule):
    """Batches of (neighbour, centre) features over all edges of a graph, shuffled in every epoch.

    Args:
        edge_index: Both directions of every edge, shape ``(2, E)``.
        x: Raw node features, shape ``(N, F)``.
        batch_size: Pairs in a batch.
        remove_self_loops: Leave out the pairs of a node with itself.
    """

    def __init__(self, edge_index: Tensor, x: Tensor, batch_size: int = 64, remove_self_loops: bool = False) -> None:
        super().__init__()
        self.pairs = NeighborPairDataset(edge_index, x, remove_self_loops)
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        """Batches are gathered whole: one indexing operation instead of ``batch_size``."""
        batches = BatchSampler(RandomSampler(self.pairs), self.batch_size, drop_last=False)
        return DataLoader(self.pairs, sampler=batches, batch_size=None)


class NeighborCVAEModule(LightningModule):
    """Fits a generator to (neighbour, centre) pairs; logs each epoch's mean loss and its two parts, in nats per pair.

    Args:
        cvae: The generator.
        lr: Adam's step size.
    """

    def __init__(self, cvae: NeighborCVAE, lr: float = 0.01) -> None:
        super().__init__()
        self.cvae = cvae
        self.lr = lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        parts = self.cvae.elbo(*batch)
        size = len(batch[0])
        self._sums += torch.stack(
            [parts["rec"].detach() * size, parts["kl"].detach() * size, self._sums.new_tensor(size)]
        )
        return parts["rec"] + parts["kl"]

    def on_train_epoch_start(self) -> None:
        self._sums = torch.zeros(3, device=self.device)  # logged once an epoch: a step is too short to log in

    def on_train_epoch_end(self) -> None:
        rec, kl = self._sums[:2] / self._sums[2]
        self.log_dict({"loss": rec + kl, "rec": rec, "kl": kl})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=self.device.type in ("cpu", "cuda"))


class GeneratorSelection(Callback):
    """Keeps the generator of the step at which an auxiliary GCN scores its features highest.

    The GCN is first trained on the nodes' own features, then asked every few steps: features are generated, and the
    spread of its dropout passes on the training nodes is the score. After a new best score (past the warm-up) the
    generator is stored and the GCN goes on training on the generated features. Randomness is the callback's own: the
    generator's training is the same with any criterion. If no step qualifies, the last generator stays.

    Args:
        data: Graph with ``x`` (row-normalised), ``raw_x``, ``edge_index``, ``y`` and ``train_mask``.
        criterion: ``"bald"`` (the paper), ``"ce_gap"`` (the authors' code) or ``"last"`` (no selection).
        every_n_steps: Steps between two scores; the authors score at every one.
        mc_samples: Dropout passes M in a score.
        warmup_steps: No generator is stored up to this step.
        update_steps: Steps of the GCN on the features of each stored generator.
        seed: Of the callback's own randomness.

    Attributes:
        scores: ``(step, score)`` of every look so far.
        selected_step: Step of the generator that is kept, ``None`` for the last one.

    Source:
        Liu et al., ICML 2022, section 3.1 and appendix B.
    """

    def __init__(
        self,
        data: Data,
        criterion: Criterion = "bald",
        every_n_steps: int = 25,
        mc_samples: int = 20,
        warmup_steps: int = 200,
        update_steps: int = 20,
        seed: int = 0,
    ) -> None:
        check_selection(criterion, every_n_steps, mc_samples, warmup_steps, update_steps)
        self.data = data
        self.criterion = criterion
        self.every_n_steps = every_n_steps
        self.mc_samples = mc_samples
        self.warmup_steps = warmup_steps
        self.update_steps = update_steps
        self.seed = seed
        self.scores: list[tuple[int, float]] = []
        self.selected_step: int | None = None
        self._selected: dict[str, Tensor] = {}
        self._best = float("-inf")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.criterion == "last":
            return
        data = self.data.to(pl_module.device)
        nodes = data.train_mask.nonzero().flatten()
        self._y = data.y[nodes]
        with isolate_rng():
            torch.manual_seed(self.seed)
            graph = Graph(data.edge_index, data.num_nodes)
            self._gcn = ReceptiveFieldGCN(graph, nodes, data.x.shape[1], int(data.y.max()) + 1).to(pl_module.device)
            self._optimizer = torch.optim.Adam(self._gcn.parameters(), lr=0.01, weight_decay=5e-4)
            self._gcn.fit(as_features(data.x[self._gcn.field]), self._y, 100, self._optimizer)
        self._raw_field = data.raw_x[self._gcn.field]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self.criterion != "last" and trainer.global_step % self.every_n_steps == 0:
            with isolate_rng():
                torch.manual_seed(self.seed + trainer.global_step)
                score = self._look(_cvae(pl_module), trainer.global_step)
            pl_module.log("selection_score", score, batch_size=1)

    def _look(self, cvae: NeighborCVAE, step: int) -> float:
        was_training = cvae.training
        generated = cvae.eval().generate(self._raw_field)[0]
        cvae.train(was_training)
        log_probs = self._gcn.sample(generated, self.mc_samples)
        score = float(bald(log_probs) if self.criterion == "bald" else cross_entropy_gap(log_probs, self._y))
        self.scores.append((step, score))
        if score > self._best:
            self._best = score
            if step > self.warmup_steps:
                self.selected_step = step
                self._selected = {name: value.clone() for name, value in cvae.state_dict().items()}
                self._gcn.fit(generated, self._y, self.update_steps, self._optimizer)
        return score

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._selected:
            _cvae(pl_module).load_state_dict(self._selected)


def _cvae(module: LightningModule) -> NeighborCVAE:
    assert isinstance(module, NeighborCVAEModule)
    return module.cvae


def check_selection(criterion: str, every_n_steps: int, mc_samples: int, warmup_steps: int, update_steps: int) -> None:
    """Raise a ``ValueError`` that names the first argument of the selection that is out of range."""
    if criterion not in get_args(Criterion):
        raise ValueError(f"criterion must be 'bald', 'ce_gap' or 'last', got {criterion!r}")
    lowest = {"every_n_steps": (every_n_steps, 1), "mc_samples": (mc_samples, 1)}
    lowest |= {"warmup_steps": (warmup_steps, 0), "update_steps": (update_steps, 0)}
    for name, (value, minimum) in lowest.items():
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


@dataclass
class GeneratorPretraining:
    """How the generator is built, trained, selected and kept.

    Args:
        hidden_channels: Width of encoder and decoder.
        latent_dim: Size of z.
        likelihood: ``"bernoulli"`` for features in [0, 1], ``"gaussian"`` for any.
        batch_norm: Batch normalisation in encoder and decoder.
        out_act: The decoder's last activation; ``None`` takes the likelihood's.
        lr: Adam's step size.
        batch_size: Pairs in a step.
        max_epochs: Passes over all pairs.
        remove_self_loops: Leave out the pairs of a node with itself.
        criterion: Which generator to keep, see :class:`GeneratorSelection`.
        every_n_steps: Steps between two scores.
        mc_samples: Dropout passes in a score.
        warmup_steps: No generator is stored up to this step.
        update_steps: Steps of the scoring network on the features of each stored generator.
        seed: Of the whole pre-training; the run's own seed does not change the generator.
        cache_dir: Folder of finished generators; ``None`` takes the variable ``ZOO_CACHE``, else ``cache``.
    """

    hidden_channels: int = 256
    latent_dim: int = 10
    likelihood: Likelihood = "bernoulli"
    batch_norm: bool = False
    out_act: OutAct | None = None
    lr: float = 0.01
    batch_size: int = 64
    max_epochs: int = 10
    remove_self_loops: bool = False
    criterion: Criterion = "bald"
    every_n_steps: int = 25
    mc_samples: int = 20
    warmup_steps: int = 200
    update_steps: int = 20
    seed: int = 0
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        check_generator(self.hidden_channels, self.latent_dim, self.likelihood, self.out_act)
        check_selection(self.criterion, self.every_n_steps, self.mc_samples, self.warmup_steps, self.update_steps)
        if not self.lr > 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")
        for name in ("batch_size", "max_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def _architecture(self) -> dict[str, object]:
        names = ("hidden_channels", "latent_dim", "likelihood", "batch_norm", "out_act")
        return {name: getattr(self, name) for name in names}

    def decoder(self, in_channels: int) -> NeighborDecoder:
        """An untrained decoder of this architecture, to load a trained one into."""
        return NeighborDecoder(in_channels, **self._architecture())  # type: ignore[arg-type]

    def check(self, data: Data) -> None:
        """Raise a ``ValueError`` if a generator cannot be fitted to the graph, before any work starts."""
        NeighborPairDataset(data.edge_index, data.raw_x, self.remove_self_loops)
        low, high = data.raw_x.min().item(), data.raw_x.max().item()
        if self.likelihood == "bernoulli" and not 0 <= low <= high <= 1:
            raise ValueError(
                f"likelihood 'bernoulli' needs raw features in [0, 1], got values in [{low:g}, {high:g}]; "
                "use likelihood 'gaussian'"
            )

    def folder(self, data: Data) -> Path:
        """Where the generator of this configuration, graph and code is kept."""
        key = hashlib.sha256()
        for part in self._fingerprint(data):
            key.update(part)
        root = Path(self.cache_dir or os.environ.get("ZOO_CACHE") or "cache")
        return root / "generators" / key.hexdigest()[:16]

    def _fingerprint(self, data: Data) -> Iterator[bytes]:
        config = {name: value for name, value in asdict(self).items() if name != "cache_dir"}
        yield json.dumps(config, sort_keys=True).encode()
        yield torch.__version__.encode()
        for source in ("cvae.py", "selection.py", "pretraining.py"):
            yield Path(__file__).with_name(source).read_bytes()
        tensors = (data.raw_x, data.edge_index) + (
            () if self.criterion == "last" else (data.x, data.y, data.train_mask)
        )
        for tensor in tensors:
            yield tensor.cpu().contiguous().numpy().tobytes()

    def obtain(self, data: Data, device: torch.device | str = "cpu", **trainer: Any) -> dict[str, Tensor]:
        """The weights of the trained generator: from the cache, or trained now and put there.

        Beside them the folder keeps the configuration and ``metrics.csv``, the losses and scores of the training.
        Processes that want the same generator wait for the first one to train it.

        Args:
            data: As for :meth:`fit`.
            device: Where to train.
            **trainer: Further arguments of the :class:`~pytorch_lightning.Trainer`.
        """
        folder = self.folder(data)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            weights = self._read(folder / "generator.pt")
            return self._train_into(folder, data, device, **trainer) if weights is None else weights

    def losses(self, data: Data) -> list[float]:
        """Mean loss of each epoch in which the kept generator was trained, in nats per pair; empty if there is none."""
        path = self.folder(data) / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        if not path.exists():
            return None
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            rank_zero_warn(f"The cached generator {path} cannot be read ({error}); it is trained anew.")
            return None
        log.info(f"Generator: read from {path}")
        return weights

    def _train_into(self, folder: Path, data: Data, device: torch.device | str, **trainer: Any) -> dict[str, Tensor]:
        log.info(f"Generator: pre-training for {self.max_epochs} epochs, once; it will be kept in {folder}")
        partial = folder.with_suffix(".partial")  # renamed when whole, so that the cache never holds half a generator
        shutil.rmtree(partial, ignore_errors=True)
        logger = CSVLogger(partial, name="", version="")
        weights = self.fit(data, device, logger=logger, **trainer).state_dict()
        torch.save(weights, partial / "generator.pt")
        (partial / "config.json").write_text(json.dumps(asdict(self), indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        return weights

    def fit(self, data: Data, device: torch.device | str = "cpu", **trainer: Any) -> NeighborCVAE:
        """Train and select a generator.

        Args:
            data: Graph with ``raw_x`` and ``edge_index``; to select also ``x``, ``y`` and ``train_mask``.
            device: Where to train.
            **trainer: Further arguments of the :class:`~pytorch_lightning.Trainer`.

        Returns:
            The generator, on the CPU, in evaluation mode. The global random state is left as it was.
        """
        self.check(data)
        device = torch.device(device)
        on_gpu: dict[str, Any] = {"accelerator": "gpu", "devices": [device.index or 0]}
        options: dict[str, Any] = {"accelerator": device.type, "devices": 1} if device.type != "cuda" else on_gpu
        options |= {"logger": False, "enable_checkpointing": False, "enable_model_summary": False} | trainer
        callbacks = options.pop("callbacks", [])
        with isolate_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            torch.manual_seed(self.seed)
            module = NeighborCVAEModule(NeighborCVAE(data.raw_x.shape[1], **self._architecture()), self.lr)  # type: ignore[arg-type]
            pairs = NeighborPairDataModule(
                data.edge_index.cpu(), data.raw_x.cpu(), self.batch_size, self.remove_self_loops
            )
            selection = GeneratorSelection(
                data,
                self.criterion,
                self.every_n_steps,
                self.mc_samples,
                self.warmup_steps,
                self.update_steps,
                self.seed,
            )
            inner = Trainer(max_epochs=self.max_epochs, callbacks=[selection, *callbacks], **options)
            inner.fit(module, datamodule=pairs)
        if inner.interrupted:
            raise KeyboardInterrupt
        return module.cvae.cpu().eval()
