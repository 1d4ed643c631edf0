"""The classifier that learns with SOP, and the simulation of the linear theory."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.classifier import Classifier, full_precision
from zoo.sparse_over_parameterization.linear import OverparamLinear, corrupted_system, sparse_recovery
from zoo.sparse_over_parameterization.overparameterization import SparseOverParam, consistency_kl


class SOPClassifier(Classifier):
    """A classifier whose every training sample has a sparse noise vector; everything else is as in ``Classifier``.

    A batch is ``(x, y, index, ...)``, where ``index`` names the training sample, 0 to ``num_train - 1``; its fifth part
    is the second, strongly augmented view, where ``consistency`` asks for one. Validation and test look at the network
    alone, by cross-entropy.

    Several batches to a step of the optimizer (``accumulate_grad_batches``) are one large batch, and so are those of
    several processes: the steps of u and v are ``alpha`` over the number of samples that the optimizer's step averages
    over. If the datamodule has ``train_labels``, a mistaken ``num_train`` and a checkpoint of other labels are refused
    before training starts, otherwise samples that change their label are noticed at the end of the epoch.

    Args:
        num_train: Training samples N.
        alpha_u: Step size of u; the paper's is 10 on CIFAR-10.
        alpha_v: Step size of v; the paper's is 10 on CIFAR-10.
        init_std: Standard deviation of their start.
        u_loss: ``"ce+mse"`` or ``"ce"``, what u learns from.
        project: Keep u and v in [-1, 1].
        eps: Smallest probability.
        consistency: Weight of the consistency of two views, >= 0; SOP+ has 0.9.
        balance: Weight of the class balance, >= 0; SOP+ has 0.1.
        **classifier: Arguments of :class:`~zoo.classifier.Classifier`; a ``criterion`` is that of validation and test.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = SOPClassifier(10, num_train=2000, input_shape=(1, 28, 28), backbone="cnn")
        >>> model.noise_score().shape, model.noise().shape
        (torch.Size([2000]), torch.Size([2000, 10]))
    """

    def __init__(
        self,
        num_classes: int,
        num_train: int,
        alpha_u: float = 10.0,
        alpha_v: float = 10.0,
        init_std: float = 1e-8,
        u_loss: Literal["ce+mse", "ce"] = "ce+mse",
        project: bool = False,
        eps: float = 1e-4,
        consistency: float = 0.0,
        balance: float = 0.0,
        **classifier: Any,
    ) -> None:
        super().__init__(num_classes, **classifier)
        if not consistency >= 0:
            raise ValueError(f"consistency must be >= 0, got {consistency}")
        self.consistency = consistency
        self.overparam = SparseOverParam(
            num_train, num_classes, init_std, alpha_u, alpha_v, eps, project, u_loss, balance
        )
        # Every process moves the same rows by itself; DDP would send all of them at every step.
        self._ddp_params_and_buffers_to_ignore = [f"overparam.{name}" for name, _ in self.overparam.named_buffers()]

    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or datamodule is None:
            return
        if self.consistency and getattr(datamodule, "second_view", True) is False:
            raise ValueError(f"consistency must be 0 where the data has no second_view, got {self.consistency}")
        labels = getattr(datamodule, "train_labels", None)
        if labels is not None:
            self.overparam.set_labels(labels)

    def on_fit_start(self) -> None:
        self.overparam.broadcast()

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        if not self.consistency:
            return super().training_step(batch, batch_idx)
        views = torch.cat([batch[0], second_view(batch)])
        logits, strong = full_precision(self(views)).chunk(2)
        loss = self.loss(logits, batch) + self.consistency * consistency_kl(logits, strong)
        self.log_step("train", loss, logits, batch)
        return loss

    def loss(self, logits: Tensor, batch: Sequence[Tensor]) -> Tensor:
        if not self.training:
            return super().loss(logits, batch)
        if len(batch) < 3:
            raise ValueError(f"a batch must be (x, y, index, ...), index naming each sample, got {len(batch)} parts")
        loss, _ = self.overparam(logits, batch[1], batch[2])
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.overparam.step()

    def on_train_epoch_end(self) -> None:
        self.overparam.check_labels()

    def noise(self) -> Tensor:
        """The noise of all training samples, ``(N, K)``."""
        return self.overparam.noise()

    def noise_score(self) -> Tensor:
        """How far each training label is held for wrong, in [0, 1], ``(N,)``."""
        return self.overparam.noise_score()


def second_view(batch: Sequence[Tensor | None]) -> Tensor:
    """The strongly augmented view of a batch, its fifth part.

    Raises:
        ValueError: If there is none.
    """
    if len(batch) < 5 or batch[4] is None:
        raise ValueError(
            "consistency needs batches (x, y, index, clean_y, second_view), got none with a second view; "
            "VisionDataModule gives them with --data.second_view true"
        )
    return batch[4]


class LinearRecovery(LightningModule):
    """The linear model on many random instances at once, for every rank and every number of corrupted samples.

    For a rank r and a number k it logs, over the instances, the largest relative error of descent
    (``error/rank_r_k``), the share recovered (``recovered/rank_r_k``: error below ``tol``), the largest error of the
    convex program (``convex/rank_r_k``) and the largest distance between the two, relative to the signal's length
    (``distance/rank_r_k``).

    Args:
        ranks: Ranks of the design.
        num_corrupted: Numbers of corrupted samples.
        num_instances: Instances of each combination.
        num_samples: Rows N of the design.
        num_features: Columns P.
        alpha: Step size of u and v in units of that of theta.
        gamma: Where u and v start.
        num_steps: Steps in an epoch.
        tol: Relative error below which a signal counts as recovered, > 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        ranks: Sequence[int] = (4,),
        num_corrupted: Sequence[int] = (4,),
        num_instances: int = 5,
        num_samples: int = 50,
        num_features: int = 70,
        alpha: float = 0.5,
        gamma: float = 1e-4,
        num_steps: int = 2000,
        tol: float = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        if not tol > 0:
            raise ValueError(f"tol must be > 0, got {tol}")
        for name, values in {"ranks": ranks, "num_corrupted": num_corrupted}.items():
            if not values:
                raise ValueError(f"{name} must hold at least one value, got none")
        if min(ranks) < 1:
            raise ValueError(f"ranks must be at least 1, got {list(ranks)}")
        self.automatic_optimization = False
        self.cases = [f"rank_{rank}_{k}" for rank in ranks for k in num_corrupted]
        self.systems = [
            corrupted_system(num_instances, num_samples, num_features, rank, k) for rank in ranks for k in num_corrupted
        ]
        design, y = (torch.cat(parts) for parts in zip(*((system.design, system.y) for system in self.systems)))
        self.model = OverparamLinear(design, y, alpha, gamma)
        self.convex: tuple[Tensor, ...] = ()

    def on_fit_start(self) -> None:
        self.convex = self._by_case(sparse_recovery(self.model.design, self.model.y, self.model.lam)[0])

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.model.fit(self.hparams["num_steps"])
        self.optimizers().step()  # type: ignore[union-attr]

    def on_train_epoch_end(self) -> None:
        for case, system, own, convex in zip(self.cases, self.systems, self._by_case(self.model.theta), self.convex):
            error = system.relative_error(own)
            metrics = {
                "error": error.max(),
                "recovered": (error < self.hparams["tol"]).double().mean(),
                "convex": system.relative_error(convex).max(),
                "distance": ((own - convex).norm(dim=1) / system.theta.norm(dim=1)).max(),
            }
            self.log_dict({f"{name}/{case}": value for name, value in metrics.items()})

    def _by_case(self, theta: Tensor) -> tuple[Tensor, ...]:
        return theta.cpu().split(self.hparams["num_instances"])

    def train_dataloader(self) -> DataLoader:
        """One chunk of steps an epoch."""
        return DataLoader(torch.zeros(1))  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A counter, as the model descends by itself: Lightning keeps checkpoints only where it counts."""
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.0)
