"""The robust network that is attacked: trained once, and kept."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from zoo.auto_conjugate_gradient.module import AdversarialClassifier, check_perturbation
from zoo.classifier import Precision

log = logging.getLogger(__name__)


@dataclass
class RobustTraining:
    """How a robust network is built, trained by :class:`AdversarialClassifier`, and kept.

    Args:
        backbone: Name of the network, see :data:`zoo.backbones.BACKBONES`.
        backbone_args: Its further arguments.
        mean: Mean of each channel, or one for all.
        std: Their standard deviations.
        eps: Largest change of a pixel in training.
        num_steps: Steps of the attack in training.
        relative_step_size: Their size in units of ``eps``.
        ramp_epochs: Epochs in which ``eps`` grows from 0.
        lr: Step size of SGD with Nesterov's momentum, > 0.
        momentum: In [0, 1).
        weight_decay: >= 0.
        lr_schedule: ``"constant"`` or ``"cosine"``.
        max_epochs: Passes over the training images.
        precision: Of the :class:`~pytorch_lightning.Trainer`, such as ``"bf16-mixed"``.
        seed: Of the whole training; the run's own seed does not change the network.
        cache_dir: Folder of finished networks; ``None`` takes the variable ``ZOO_CACHE``, else ``cache``.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> training = RobustTraining(backbone="cnn", eps=0.3)
        >>> training.module(num_classes=10, input_shape=(1, 28, 28)).eps
        0.3
    """

    backbone: str = "cnn"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.25,)
    eps: float = 8 / 255
    num_steps: int = 1
    relative_step_size: float = 1.25
    ramp_epochs: float = 0.0
    lr: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    max_epochs: int = 8
    precision: Precision = "32-true"
    seed: int = 0
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        check_perturbation(self.eps, self.num_steps, self.relative_step_size, self.ramp_epochs)
        if not self.lr > 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must be in (0, 1), got {self.momentum}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")
        if self.max_epochs < 1:
            raise ValueError(f"max_epochs must be at least 1, got {self.max_epochs}")

    def module(self, num_classes: int, input_shape: tuple[int, int, int]) -> AdversarialClassifier:
        """The classifier before its training, drawn from the global generator."""
        return AdversarialClassifier(
            num_classes,
            input_shape=input_shape,
            backbone=self.backbone,
            backbone_args=self.backbone_args or None,
            mean=self.mean,
            std=self.std,
            eps=self.eps,
            num_steps=self.num_steps,
            relative_step_size=self.relative_step_size,
            ramp_epochs=self.ramp_epochs,
            lr_schedule=self.lr_schedule,
            optimizer=partial(
                torch.optim.SGD, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=True
            ),
        )

    def folder(self, data: LightningDataModule) -> Path:
        """Where the network of this configuration, data and code is kept."""
        key = hashlib.sha256()
        for part in self._fingerprint(data):
            key.update(part)
        root = Path(self.cache_dir or os.environ.get("ZOO_CACHE") or "cache")
        return root / "robust_networks" / key.hexdigest()[:16]

    def _fingerprint(self, data: LightningDataModule) -> Iterator[bytes]:
        config = {name: value for name, value in asdict(self).items() if name != "cache_dir"}
        yield json.dumps(config, sort_keys=True).encode()
        yield torch.__version__.encode()
        for source in ("module.py", "network.py", "perturbation.py", "training.py"):
            yield Path(__file__).with_name(source).read_bytes()
        with (
            isolate_rng()
        ):  # the first batch, as augmented from a known state, stands for images, order and augmentation
            torch.manual_seed(0)
            loader = data.train_dataloader()
            batch = next(iter(loader))
        yield str(len(loader)).encode()
        for tensor in batch[:2]:
            yield tensor.cpu().contiguous().numpy().tobytes()

    def obtain(
        self,
        data: LightningDataModule,
        num_classes: int,
        input_shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
        **trainer: Any,
    ) -> dict[str, Tensor]:
        """The weights of the trained network: from the cache, or trained now and put there.

        Processes that want the same network wait for the first one to train it.

        Args:
            data: Has ``train_dataloader``, whose batches are images in [0, 1], labels, and what else.
            num_classes: Number of classes.
            input_shape: Channels, height and width of an image.
            device: Where to train.
            **trainer: Further arguments of the :class:`~pytorch_lightning.Trainer`.

        Raises:
            MisconfigurationException: If several processes share the data, and the network is not in the cache.
        """
        folder = self.folder(data)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            weights = self._read(folder / "network.pt")
            if weights is not None:
                return weights
            if data.trainer is not None and data.trainer.world_size > 1:
                raise MisconfigurationException(
                    f"The robust network is trained by one process, got {data.trainer.world_size}; train it first, "
                    "by the same command with --trainer.devices 1"
                )
            return self._train_into(folder, data, num_classes, input_shape, device, **trainer)

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        if not path.exists():
            return None
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            rank_zero_warn(f"The cached network {path} cannot be read ({error}); it is trained anew.")
            return None
        log.info(f"Robust network: read from {path}")
        return weights

    def _train_into(self, folder: Path, data: LightningDataModule, *shape: Any, **trainer: Any) -> dict[str, Tensor]:
        log.info(f"Robust network: training for {self.max_epochs} epochs, once; it will be kept in {folder}")
        partial_folder = folder.with_suffix(
            ".partial"
        )  # renamed when whole, so that the cache never holds half a network
        shutil.rmtree(partial_folder, ignore_errors=True)
        logger = CSVLogger(partial_folder, name="", version="")
        weights = self.fit(data, *shape, logger=logger, **trainer)
        torch.save(weights, partial_folder / "network.pt")
        (partial_folder / "config.json").write_text(json.dumps(asdict(self), indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial_folder, folder)
        return weights

    def fit(
        self,
        data: LightningDataModule,
        num_classes: int,
        input_shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
        **trainer: Any,
    ) -> dict[str, Tensor]:
        """Train a network; the arguments are those of :meth:`obtain`.

        Returns:
            Its weights, on the CPU. The global random state is left as it was.
        """
        device = torch.device(device)
        on_gpu: dict[str, Any] = {"accelerator": "gpu", "devices": [device.index or 0]}
        options: dict[str, Any] = {"accelerator": device.type, "devices": 1} if device.type != "cuda" else on_gpu
        options |= {"logger": False, "enable_checkpointing": False, "enable_model_summary": False} | trainer
        with isolate_rng():
            torch.manual_seed(self.seed)
            module = self.module(num_classes, input_shape)
            inner = Trainer(max_epochs=self.max_epochs, precision=self.precision, **options)
            inner.fit(module, data.train_dataloader(), val_dataloaders=[])
        if inner.interrupted:
            raise KeyboardInterrupt
        return {name: value.cpu() for name, value in module.net.state_dict().items()}
