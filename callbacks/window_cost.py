"""What a training step costs: time, memory and edges for each window of a batch."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

KEPT = ("seconds", "cpu_seconds", "timed_windows", "windows", "edges", "steps", "saved_bytes", "saved_windows")


class WindowCostMonitor(pl.Callback):
    """Measures training steps and tells their cost for each window.

    ``cost/ms_per_window``, forward, backward and update together, and ``cost/edges_per_window``, edges of the union of
    each window's snapshots, are means over all steps but the first few. On a CPU ``cost/cpu_ms_per_window`` is the
    processor's time, which other programs on the machine disturb less. ``cost/saved_mb_per_window`` is what the first
    forward pass keeps for the backward pass, in 10^6 bytes, the same on any device; on a GPU ``cost/peak_mb`` is the
    most that was allocated at any time. Device and host are synchronised where a step begins and ends, which itself
    takes time.

    Works on any module whose batch has ``edge_index`` ``(2, E)`` and ``ptr`` ``(B + 1,)``, as a PyG ``Batch`` has.

    A resumed run goes on with what checkpoints keep. Its first steps are slow again, so they are not timed; their
    edges count.

    Args:
        warmup: Steps that are not timed, at the begin of the training.

    Raises:
        ValueError: If ``warmup`` is negative.

    Example:
        >>> trainer = pl.Trainer(callbacks=[WindowCostMonitor(warmup=3)], logger=False)
    """

    def __init__(self, warmup: int = 5) -> None:
        if warmup < 0:
            raise ValueError(f"warmup must be 0 or more, got {warmup}")
        self.warmup = warmup
        self._restored = False
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.seconds, self.cpu_seconds, self.timed_windows = 0.0, 0.0, 0
        self.windows, self.edges, self.steps = 0, 0, 0
        self._own_steps = 0  # of this process
        self._on_cpu = False
        self.saved_bytes = 0
        self.saved_windows = 0
        self._peak = 0
        self._begun = self._cpu_begun = 0.0
        self._hooks: torch.autograd.graph.saved_tensors_hooks | None = None

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in KEPT:
            setattr(self, name, state_dict[name])
        self._restored = True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._restored:
            self._restored, self._own_steps = False, 0
        else:
            self.reset()
        self._on_cpu = pl_module.device.type == "cpu"
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not hasattr(batch, "edge_index") or not hasattr(batch, "ptr"):
            raise MisconfigurationException(
                f"WindowCostMonitor needs batches with edge_index and ptr, got {type(batch).__name__}"
            )
        if self.saved_windows == 0:
            self.saved_windows = len(batch.ptr) - 1
            self._hooks = _count_saved(self)
            self._hooks.__enter__()
        _synchronise(pl_module.device)
        self._begun, self._cpu_begun = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        _synchronise(pl_module.device)
        taken, cpu_taken = time.perf_counter() - self._begun, time.process_time() - self._cpu_begun
        self._stop_counting()
        self.steps += 1
        self._own_steps += 1
        if self.steps > self.warmup:
            self.windows += len(batch.ptr) - 1
            self.edges += batch.edge_index.shape[1]
        if self._own_steps > self.warmup:
            self.seconds += taken
            self.cpu_seconds += cpu_taken
            self.timed_windows += len(batch.ptr) - 1

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(pl_module.device)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop_counting()

    def _stop_counting(self) -> None:
        if self._hooks is not None:
            self._hooks.__exit__()
            self._hooks = None

    @property
    def final_metrics(self) -> dict[str, float]:
        """The costs; empty before the warm-up is over."""
        if self.windows == 0:
            return {}
        costs = {
            "cost/edges_per_window": self.edges / self.windows,
            "cost/saved_mb_per_window": 1e-6 * self.saved_bytes / self.saved_windows,
        }
        if self.timed_windows:  # none where a run was resumed and ended within a warm-up
            costs["cost/ms_per_window"] = 1e3 * self.seconds / self.timed_windows
            if self._on_cpu:
                costs["cost/cpu_ms_per_window"] = 1e3 * self.cpu_seconds / self.timed_windows
        return costs | ({"cost/peak_mb": 1e-6 * self._peak} if self._peak else {})


def _count_saved(monitor: WindowCostMonitor) -> torch.autograd.graph.saved_tensors_hooks:
    """Hooks that add up the memory kept for the backward pass, each storage once."""
    seen: dict[int, Tensor] = {}  # keeps what it has seen, so that no address comes again

    def pack(tensor: Tensor) -> Tensor:
        for part in _parts(tensor):
            storage = part.untyped_storage()
            if storage.data_ptr() not in seen:
                seen[storage.data_ptr()] = part.detach()
                monitor.saved_bytes += storage.nbytes()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def _parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that hold the memory: those inside a wrapper such as PyG's ``EdgeIndex``, or the tensor itself."""
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in _parts(getattr(tensor, name))]
    if tensor.layout == torch.sparse_csr:
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
