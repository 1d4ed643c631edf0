"""Going on where a run stopped: the random state, and the checkpoints that may be gone on from."""

import io
import pickle
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import TorchCheckpointIO

from zoo.files import whole


class RandomState(Callback):
    """Keeps the global random state in checkpoints, so that a resumed run draws what an uninterrupted one would.

    The state is put back when the fit starts, before its first batch. Data loaders that shuffle go on with the right
    orders too, as they draw their seeds from the same state.
    """

    def __init__(self) -> None:
        self._restored: Mapping[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return collect_random_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._restored is not None:
            restore_random_state(self._restored)
            self._restored = None


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces; Lightning writes into the system's temporary folder.

    Where that is another disk, Lightning's last step is a copy: cut short, it leaves half a checkpoint and not the
    one before.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):  # on no disk of this machine
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()  # torch.save into a file tells of a full disk as of an error of its own
        torch.save(checkpoint, content)
        with whole(Path(path)) as partial:
            partial.write_bytes(content.getbuffer())


def collect_random_state() -> dict[str, Any]:
    """State of the generators of Python, NumPy and torch, of values that ``torch.load`` trusts.

    Example:
        >>> state = collect_random_state()
        >>> first = torch.rand(3)
        >>> restore_random_state(state)
        >>> torch.equal(first, torch.rand(3))
        True
    """
    kind, keys, *position = np.random.get_state(legacy=True)  # noqa: NPY002  the global generator is what others draw from
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *position),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put back what :func:`collect_random_state` gave; CUDA states only where there are as many devices."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numpy_keys, *position = state["numpy"]
    np.random.set_state((kind, numpy_keys.numpy().astype(np.uint32), *position))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def find_checkpoint(ckpt_path: str, runs: Path) -> Path:
    """The file that ``--ckpt_path`` means.

    Args:
        ckpt_path: A file; or ``"last"`` or ``"best"``, of the newest run that has it.
        runs: Folder of the recipe's runs, ``logs/<recipe>``.

    Raises:
        ValueError: If there is no such file.
    """
    if ckpt_path not in ("last", "best"):
        path = Path(ckpt_path)
        if not path.is_file():
            raise ValueError(f"ckpt_path must be a checkpoint file, or last or best, got {ckpt_path!r}: no such file")
        return path
    versions = sorted(runs.glob("version_*"), key=lambda folder: int(folder.name.removeprefix("version_")))
    for version in reversed(versions):
        checkpoint = version / "checkpoints" / f"{ckpt_path}.ckpt"
        if checkpoint.is_file():
            return checkpoint
    raise ValueError(
        f"ckpt_path {ckpt_path!r}: no run under {runs} has a checkpoint {ckpt_path}.ckpt yet; leave it away to start"
    )


def check_checkpoint(path: Path, model: LightningModule) -> dict[str, Any]:
    """Read a checkpoint and make sure that it is one of this model.

    Args:
        path: The checkpoint.
        model: What its weights are for.

    Returns:
        The checkpoint.

    Raises:
        ValueError: If the file is no checkpoint, or one whose parameters have other names or shapes.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    except pickle.UnpicklingError as error:  # whose message says how to read the file nonetheless
        raise ValueError(
            f"ckpt_path {str(path)!r} is not a checkpoint that can be read: it must hold tensors and plain values, as "
            "other contents could run as code"
        ) from error
    except Exception as error:  # a broken file raises what it likes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"ckpt_path {str(path)!r} is not a checkpoint that can be read: {reason}") from error
    parameters = model.named_parameters(remove_duplicate=False)  # a checkpoint has every name of what has several
    wanted = {name: tuple(parameter.shape) for name, parameter in parameters}
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            has = f"has {found[name]} for" if name in found else "lacks"
            raise ValueError(_other_model(path, model, f"it {has} the parameter {name} of shape {shape}"))
    for name in found:
        if name not in wanted and name not in buffers:
            raise ValueError(_other_model(path, model, f"it has {name}, which this model does not know"))
    return checkpoint


def _other_model(path: Path, model: LightningModule, difference: str) -> str:
    name = type(model).__name__
    return f"ckpt_path {str(path)!r} is a checkpoint of another model than this {name}: {difference}"
