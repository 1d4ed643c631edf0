"""Watches the bounds on the generalisation gap grow, from gradients of training samples and of fresh ones."""

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric

from callbacks.evaluation_data import as_in_a_test, evaluation_loader, on_device
from callbacks.gradient_discrepancy_gram import METHODS, gradient_gram
from callbacks.neural_collapse_capture import evaluating
from callbacks.stability_bound import (
    ExpectedStabilityBound,
    IncoherenceBound,
    LiBound,
    discrepancy,
    largest_distance,
    squared_norms,
)
from callbacks.stability_bound_history import StepHistory

Criterion = Callable[[Tensor, Tensor], Tensor]


class GradientDiscrepancy(StepHistory):
    r"""Compares gradients of training samples with those of fresh ones, and adds up the bounds that they make.

    Before training it fixes pairs, each of a training sample and a validation sample, which must be drawn as training
    samples are: with the same label noise, and never trained on. Every so many steps it takes the gradients of all of
    them at the present weights, and counts them for all steps until the next time, each over its own alpha squared.

    After every epoch it logs, of the steps so far:

    - ``bound/stability``, ``bound/mean_inside``, ``bound/unconditional`` and ``bound/condition_fraction``
      (:class:`~callbacks.stability_bound.ExpectedStabilityBound`), ``bound/li`` and ``bound/incoherence``;
    - ``discrepancy/mean``, the mean over pairs and steps of the squared distance of their gradients, and
      ``discrepancy/squared_norm``, that of the squared length of a training sample's gradient;
    - of the last measurement alone, ``discrepancy/median`` (over pairs), and ``discrepancy/largest_distance`` between
      any two gradients (not squared), which the theorem wants below ``alpha / sqrt(8 c2)``.

    What the run draws at random does not change by it, and a resumed run goes on with the same sums. Among several
    processes each has ``num_pairs`` pairs of its own. The bounds other than the first are for Gaussian noise.

    Works on any LightningModule with ``forward(x)`` and one optimizer, whose batches are ``(x, y, ...)``. The optimizer
    has ``alpha_of(group)``, or an ``alpha`` in each of its ``param_groups``: the noise's standard deviation over the
    learning rate in the coming step, or what divides the gradient in the noise's natural parameter. If it has a
    ``noise``, this one's ``smoothness`` and ``divergence_constant`` are taken. Only parameters of the optimizer that
    require a gradient count.

    Args:
        num_pairs: Pairs K, at least 2: the first K samples of the training and of the validation data, which should be
            in random order.
        every_n_steps: Steps from one measurement to the next, at least 1.
        method: ``"gram"`` or ``"vmap"``; see :func:`~callbacks.gradient_discrepancy_gram.gradient_gram`.
        chunk_size: Samples that go through the network at once; all ``2 K`` if ``None``.
        constant: ``"paper"`` or ``"tight"``; see :class:`~callbacks.stability_bound.ExpectedStabilityBound`.
        loss_range: The loss whose gap is bounded lies in [0, loss_range]; 1 for the 0-1 error.
        criterion: Loss that is trained on, of ``forward(x)`` and ``y``, a mean over the batch; the module's own
            ``criterion`` if ``None``.

    Attributes:
        history: What was logged, by step and name.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: Before training, if module, optimizer or data are not of that kind.

    Source:
        Banerjee et al., *Stability Based Generalization Bounds for Exponential Family Langevin Dynamics*, ICML 2022.

    Example:
        >>> trainer = pl.Trainer(callbacks=[GradientDiscrepancy(num_pairs=32, every_n_steps=50)], logger=False)
    """

    def __init__(
        self,
        num_pairs: int = 48,
        every_n_steps: int = 100,
        method: Literal["gram", "vmap"] = "gram",
        chunk_size: int | None = None,
        constant: Literal["paper", "tight"] = "paper",
        loss_range: float = 1.0,
        criterion: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, number, lowest in (("num_pairs", num_pairs, 2), ("every_n_steps", every_n_steps, 1)):
            if number < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {number}")
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        ExpectedStabilityBound(2, 1, constant=constant, loss_range=loss_range)  # says what is wrong with these two
        self.num_pairs, self.every_n_steps = num_pairs, every_n_steps
        self.method, self.chunk_size = method, chunk_size
        self.constant, self.loss_range = constant, loss_range
        self.criterion = criterion
        self.metrics: dict[str, Metric] = {}
        self._grams: list[Tensor] = []  # of the last measurement, one for each group of parameters
        self._weights: list[float] = []  # of these, over the steps since they were last counted
        self._steps = 0
        self._saved: dict[str, dict[str, Tensor]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.history, self.metrics, self._saved = {}, {}, {}  # a checkpoint, if there is one, is read after this
        self._grams, self._weights, self._steps = [], [], 0
        if isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
            name = type(trainer.strategy).__name__
            raise MisconfigurationException(f"GradientDiscrepancy needs all weights on every device, got {name}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_optimizers(trainer.optimizers)
        if self.criterion is None and not callable(getattr(pl_module, "criterion", None)):
            raise MisconfigurationException(
                f"GradientDiscrepancy needs a criterion, or a module that has one, got {type(pl_module).__name__}"
            )
        if any(isinstance(part, (_BatchNorm, _DropoutNd)) for part in pl_module.modules()):
            rank_zero_warn(
                "GradientDiscrepancy takes gradients in evaluation mode, which are not those that batch normalisation "
                "or dropout train with: the bounds are not those of this training."
            )
        self._x, self._y = self._pairs(trainer, pl_module)

    def _pairs(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the training samples, then of those they are compared with."""
        loaders = {"training": evaluation_loader(trainer), "validation": validation_loader(trainer)}
        with as_in_a_test(trainer), isolate_rng(include_cuda=pl_module.device.type == "cuda"):
            parts = [first_samples(on_device(trainer, loader), self.num_pairs) for loader in loaders.values()]
        found = min(len(y) for _, y in parts)
        if found < self.num_pairs and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            sizes = " and ".join(f"{len(y)} {name}" for name, (_, y) in zip(loaders, parts))
            raise MisconfigurationException(
                f"num_pairs must be at most {found} with {sizes} samples, got {self.num_pairs}"
            )
        x, y = (torch.cat([part[i][:found] for part in parts]) for i in range(2))
        return (x.to(next(pl_module.parameters()).dtype) if x.is_floating_point() else x), y

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self.metrics:
            self.metrics = self._make_metrics(trainer, len(batch[1]))
            for name, metric in self.metrics.items():
                metric.to(pl_module.device)
                for key, value in self._saved.get(name, {}).items():
                    setattr(metric, key, value.to(pl_module.device))

    def _make_metrics(self, trainer: pl.Trainer, batch_size: int) -> dict[str, Metric]:
        num_train = training_samples(trainer)
        batch_size *= trainer.world_size * trainer.accumulate_grad_batches
        if batch_size > num_train:
            raise MisconfigurationException(
                f"a step must take at most the {num_train} training samples, got one of {batch_size}"
            )
        if num_train / 2 < batch_size < num_train:
            rank_zero_warn(
                f"A step takes {batch_size} of {num_train} samples, and the theorem at most half of them: "
                "bound/stability is the unconditional bound."
            )
        noise = getattr(trainer.optimizers[0], "noise", None)
        stability = ExpectedStabilityBound(
            num_train,
            batch_size,
            getattr(noise, "smoothness", 1.0),
            self.constant,
            getattr(noise, "divergence_constant", None),
            self.loss_range,
        )
        return {
            "stability": stability,
            "li": LiBound(num_train, batch_size, self.loss_range),
            "incoherence": IncoherenceBound(num_train, batch_size, self.loss_range),
            "discrepancy": MeanMetric(),
            "squared_norm": MeanMetric(),
        }

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if not self._grams or trainer.global_step % self.every_n_steps == 0:
            self._count()
            self._grams = self._measure(pl_module, optimizer)
            self._weights = [0.0] * len(self._grams)
        for i, group in enumerate(optimizer.param_groups):
            self._weights[i] += alpha_of(optimizer, group) ** -2
        self._steps += 1

    def _measure(self, pl_module: pl.LightningModule, optimizer: Optimizer) -> list[Tensor]:
        """Inner products of the gradients at the present weights, by groups of parameters."""
        with ExitStack() as stack:
            stack.enter_context(evaluating(pl_module))
            stack.enter_context(torch.autocast(pl_module.device.type, enabled=False))
            if "torch._dynamo" in sys.modules:  # code that has been compiled before would not call hooks
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            criterion = self.criterion or pl_module.criterion
            return [
                gradient_gram(
                    pl_module,
                    criterion,  # type: ignore[arg-type]
                    self._x,
                    self._y,
                    [p for p in group["params"] if p.requires_grad],
                    self.method,
                    self.chunk_size,
                )
                for group in optimizer.param_groups
            ]

    def _count(self) -> None:
        """Add the steps since the last time to the sums."""
        if not self._steps:
            return
        grams = torch.stack(self._grams)
        plain, shares = grams.sum(dim=0), grams.new_tensor(self._weights) / self._steps
        scaled = torch.einsum("g,gij->ij", shares, grams)
        for name in ("stability", "li", "incoherence"):
            self.metrics[name].update(scaled, weight=self._steps)
        self.metrics["discrepancy"].update(discrepancy(plain).mean(), self._steps)
        self.metrics["squared_norm"].update(squared_norms(plain).mean(), self._steps)
        self._weights, self._steps = [0.0] * len(self._grams), 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._grams:
            return
        self._count()
        self.record(trainer, self._results(trainer))

    def _results(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        values = {name: metric.compute() for name, metric in self.metrics.items()}
        stability = values.pop("stability")
        results = {"bound/stability": stability.pop("bound")}
        results |= {f"bound/{name}": value for name, value in stability.items()}
        results |= {"bound/li": values["li"], "bound/incoherence": values["incoherence"]}
        results |= {"discrepancy/mean": values["discrepancy"], "discrepancy/squared_norm": values["squared_norm"]}
        plain = torch.stack(self._grams).sum(dim=0)
        reduce = trainer.strategy.reduce
        return results | {
            "discrepancy/median": reduce(discrepancy(plain).median(), reduce_op="mean"),
            "discrepancy/largest_distance": reduce(largest_distance(plain).sqrt(), reduce_op="max"),
        }

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "grams": self._grams,
            "weights": self._weights,
            "steps": self._steps,
            "metrics": {
                name: {key: getattr(metric, key) for key in metric._defaults} for name, metric in self.metrics.items()
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._grams, self._weights = list(state_dict["grams"]), list(state_dict["weights"])
        self._steps, self._saved = state_dict["steps"], state_dict["metrics"]


def validation_loader(trainer: pl.Trainer) -> Any:
    """The one validation dataloader of a Trainer.

    Raises:
        MisconfigurationException: If there is none, or several.
    """
    loader = trainer.val_dataloaders
    if not loader or isinstance(loader, (list, tuple, dict)):
        raise MisconfigurationException(
            f"one validation dataloader is needed, for fresh samples, got {len(loader) if loader else 'none'}"
        )
    return loader


def check_optimizers(optimizers: list[Optimizer]) -> None:
    """Raise a ``MisconfigurationException`` unless there is one optimizer that tells its alpha."""
    names = ", ".join(type(optimizer).__name__ for optimizer in optimizers) or "none"
    tell = [
        hasattr(one, "alpha_of") or all(group.get("alpha") is not None for group in one.param_groups)
        for one in optimizers
    ]
    if tell != [True]:
        raise MisconfigurationException(
            "GradientDiscrepancy needs one optimizer with alpha_of(group), or an alpha in its param_groups, such as "
            f"zoo.efld.EFLD, got {names}"
        )


def alpha_of(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """The alpha of the coming step."""
    return optimizer.alpha_of(group) if hasattr(optimizer, "alpha_of") else group["alpha"]


def training_samples(trainer: pl.Trainer) -> int:
    """Number of training samples: the datamodule's ``num_train``, or the length of the dataset.

    Raises:
        MisconfigurationException: If neither tells.
    """
    number = getattr(getattr(trainer, "datamodule", None), "num_train", None)
    dataset = getattr(trainer.train_dataloader, "dataset", None)
    if number is None and hasattr(dataset, "__len__"):
        number = len(dataset)  # type: ignore[arg-type]
    if number is None:
        raise MisconfigurationException(
            "GradientDiscrepancy needs a datamodule with num_train, or a dataset of known length, got neither"
        )
    return number


def first_samples(batches: Iterable[Any], number: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the first samples of batches ``(x, y, ...)``.

    Example:
        >>> x, y = first_samples([(torch.zeros(2, 3), torch.zeros(2)), (torch.ones(2, 3), torch.ones(2))], 3)
        >>> x.shape, y
        (torch.Size([3, 3]), tensor([0., 0., 1.]))
    """
    taken: list[tuple[Tensor, Tensor]] = []
    for x, y, *_ in batches:
        taken.append((x, y))
        if sum(len(part) for _, part in taken) >= number:
            break
    x, y = (torch.cat(parts)[:number] for parts in zip(*taken))
    return x, y
