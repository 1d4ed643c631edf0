"""The training data as in an evaluation: without augmentation, in order, nothing left out and nothing twice."""

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SequentialSampler, Subset

AS_IN_EVALUATION = {"augment": False, "second_view": False, "drop_last": False}


def evaluation_loader(trainer: pl.Trainer, dataloader: Iterable[Any] | None = None) -> Iterable[Any]:
    """Batches of the training data for measurements, this process's share of them.

    A datamodule that has an attribute ``augment`` is asked for its training data with ``augment``, ``second_view`` and
    ``drop_last`` (those that it has) set to false, and with batches of ``eval_batch_size``. Else it is the loader that
    the Trainer trains on.

    A :class:`~torch.utils.data.DataLoader` that shuffles is gone through in order, with its last batch; among several
    processes its samples are shared out once each. A sampler of the user's own is left as it is.

    Args:
        trainer: That fits.
        dataloader: Batches to use instead.

    Raises:
        MisconfigurationException: If the Trainer has several loaders.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if dataloader is not None:
        loader: Any = dataloader
    elif hasattr(datamodule, "augment"):
        loader = _loader_of(datamodule)
    else:
        loader = trainer.train_dataloader
        if isinstance(loader, (dict, list, tuple)):
            raise MisconfigurationException(
                f"one training dataloader is needed, got {len(loader)}; say which batches to take with dataloader=..."
            )
    return in_order(loader, trainer.global_rank, trainer.world_size)


def _loader_of(datamodule: Any) -> Any:
    datamodule = copy.copy(datamodule)
    for name, value in AS_IN_EVALUATION.items():
        if hasattr(datamodule, name):
            setattr(datamodule, name, value)
    if hasattr(datamodule, "eval_batch_size"):
        datamodule.batch_size = datamodule.eval_batch_size
    loader = datamodule.train_dataloader()
    if isinstance(getattr(loader, "sampler", None), DistributedSampler):
        loader.sampler.shuffle = False  # the loader is a fresh one, nobody else's
    return loader


def in_order(loader: Iterable[Any], rank: int = 0, world_size: int = 1) -> Iterable[Any]:
    """A loader's samples in order, every ``world_size``-th of them; the loader itself, if its order is its own affair.

    Args:
        loader: Batches.
        rank: Of this process.
        world_size: Number of processes.

    Example:
        >>> [batch.tolist() for batch in in_order(DataLoader(range(5), batch_size=2, shuffle=True, drop_last=True))]
        [[0, 1], [2, 3], [4]]
    """
    usual = (RandomSampler, SequentialSampler, DistributedSampler)
    if not isinstance(loader, DataLoader) or loader.batch_size is None or type(loader.sampler) not in usual:
        return loader
    if isinstance(loader.sampler, RandomSampler) and loader.sampler.replacement:
        return loader
    size = len(loader.dataset)  # type: ignore[arg-type]
    return DataLoader(
        loader.dataset if world_size == 1 else Subset(loader.dataset, range(rank, size, world_size)),
        loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


@contextmanager
def as_in_a_test(trainer: pl.Trainer) -> Iterator[None]:
    """The Trainer says that it tests: hooks of the data, which may augment in training, see no training."""
    stage = trainer.state.stage
    try:
        trainer.testing = True
        yield
    finally:
        trainer.state.stage = stage


def on_device(trainer: pl.Trainer, loader: Iterable[Any]) -> Iterator[Any]:
    """The batches on the Trainer's device; in a ``fast_dev_run`` as few as it allows."""
    limit = trainer.limit_train_batches if trainer.fast_dev_run else math.inf  # type: ignore[attr-defined]
    for batch in loader if limit == math.inf else islice(loader, int(limit)):
        yield trainer.strategy.batch_to_device(batch)
