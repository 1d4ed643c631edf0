"""Whether a training catapults, and whether it runs at the edge of stability."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

CATAPULT = 10.0  # times the first loss
EDGE = (0.95, 1.05)


class StabilityMonitor(pl.Callback):
    r"""Watches the sharpness in units of what gradient descent tolerates, :math:`\eta \lambda / 2`.

    At the end of epochs it logs what the last check has found: ``stability/ratio``, this number (the mean over
    replicas), ``stability/catapults``, the share of replicas whose loss has been above ten times its first value, and
    ``stability/at_edge``, the share of those whose ratio was in [0.95, 1.05] for so many checks in a row, this one the
    last.

    Works with any module that has ``sharpness(batch)``, the largest eigenvalue of the Hessian (a scalar, or one for
    each of several replicas), and whose ``training_step`` returns the loss, or a dictionary with ``"loss"``, of the
    same shape. If it takes many steps of descent, ``"loss"`` is the highest of them, and ``"first_loss"`` the one
    before. The step size is the module's ``lr`` if it has a tensor of this name, else that of the first optimizer.

    Args:
        every_n_steps: Training batches between two checks.
        num_checks: Checks in a row at the edge that count.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: When the training starts, if the module has no ``sharpness``.

    Source:
        Lewkowycz et al., *The Large Learning Rate Phase of Deep Learning*, 2020 (catapult); Cohen et al., *Gradient
        Descent on Neural Networks Typically Occurs at the Edge of Stability*, ICLR 2021.

    Example:
        >>> trainer = pl.Trainer(callbacks=[StabilityMonitor(every_n_steps=10)], logger=False)
    """

    def __init__(self, every_n_steps: int = 1, num_checks: int = 3) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("num_checks", num_checks)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.every_n_steps, self.num_checks = every_n_steps, num_checks
        self.batches = 0
        self.first_loss: Tensor | None = None
        self.peak_loss: Tensor | None = None
        self.checks_at_edge: Tensor | None = None
        self.found: dict[str, Tensor] = {}

    @property
    def catapult(self) -> Tensor:
        """Whether the loss has been above ten times its first value, of the loss's shape."""
        assert self.first_loss is not None
        assert self.peak_loss is not None
        return self.peak_loss > CATAPULT * self.first_loss

    @property
    def at_edge(self) -> Tensor:
        """Whether the last checks all found the edge of stability, of the sharpness's shape."""
        assert self.checks_at_edge is not None
        return self.checks_at_edge >= self.num_checks

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not callable(getattr(pl_module, "sharpness", None)):
            raise MisconfigurationException(
                f"StabilityMonitor needs a module with sharpness(batch), got {type(pl_module).__name__}"
            )

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        told = outputs if isinstance(outputs, dict) else {"loss": outputs}
        loss = told["loss"].detach()
        first = told.get("first_loss", loss) if self.first_loss is None else self.first_loss
        self.first_loss = first.detach().to(loss.device)
        self.peak_loss = loss if self.peak_loss is None else torch.maximum(self.peak_loss.to(loss.device), loss)
        self.batches += 1
        if self.batches % self.every_n_steps == 0:
            self._check(trainer, pl_module, batch)

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        own = getattr(pl_module, "lr", None)
        lr = own if isinstance(own, Tensor) else trainer.optimizers[0].param_groups[0]["lr"]
        ratio = lr * pl_module.sharpness(batch) / 2  # type: ignore[operator]
        inside = (ratio >= EDGE[0]) & (ratio <= EDGE[1])
        before = 0 if self.checks_at_edge is None else self.checks_at_edge.to(ratio.device)
        self.checks_at_edge = torch.where(inside, before + 1, 0)
        found = {"ratio": ratio, "catapults": self.catapult, "at_edge": self.at_edge}
        self.found = {f"stability/{name}": value.float().mean() for name, value in found.items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log_dict(self.found)

    def state_dict(self) -> dict[str, Any]:
        names = ("batches", "first_loss", "peak_loss", "checks_at_edge")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)
