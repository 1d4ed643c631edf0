"""Weights that are trained once and kept."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]


def cache_folder(
    kind: str, config: Mapping[str, Any], sources: Iterable[str], data: LightningDataModule, cache_dir: str | None
) -> Path:
    """Where the weights of a configuration, of some data and of this code are kept.

    Args:
        kind: Of the weights: a folder of the cache.
        config: Every setting that changes the weights.
        sources: Names of the files of this room that change them.
        data: Its first training batch, in an order drawn from a known state, stands for images and order.
        cache_dir: Root of the cache; ``None`` takes the variable ``ZOO_CACHE``, else ``cache``.
    """
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    key.update(torch.__version__.encode())
    for source in sources:
        key.update(Path(__file__).with_name(source).read_bytes())
    with isolate_rng():
        torch.manual_seed(0)
        loader = data.train_dataloader()
        batch = next(iter(loader))
    key.update(str(len(loader)).encode())
    key.update(batch[0].cpu().contiguous().numpy().tobytes())
    return Path(cache_dir or os.environ.get("ZOO_CACHE") or "cache") / kind / key.hexdigest()[:16]


def kept_weights(folder: Path, config: Mapping[str, Any], train: Callable[[Path], Weights]) -> Weights:
    """The weights from the cache, or trained now and put there; processes that want the same wait for the first one.

    Args:
        folder: Theirs in the cache; beside them it has the configuration and whatever ``train`` writes.
        config: Of the training, for people to read.
        train: Trains, and may write logs into the folder that it is given.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        weights = _read(folder / "weights.pt")
        if weights is not None:
            return weights
        log.info(f"{folder.parent.name}: training, once; it will be kept in {folder}")
        partial = folder.with_suffix(".partial")  # renamed when whole, so that the cache never holds half of it
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        weights = train(partial)
        torch.save(weights, partial / "weights.pt")
        (partial / "config.json").write_text(json.dumps(config, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        return weights


def _read(path: Path) -> Weights | None:
    if not path.exists():
        return None
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        rank_zero_warn(f"The cached weights {path} cannot be read ({error}); they are trained anew.")
        return None
    log.info(f"{path.parents[1].name}: read from {path}")
    return weights
