"""A callback that watches what the last layer is given collapse."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from callbacks.evaluation_data import as_in_a_test, evaluation_loader, on_device
from callbacks.neural_collapse import BiasTarget, NanPolicy, check_options
from callbacks.neural_collapse_capture import (
    FEATURES,
    LOGITS,
    captured,
    evaluating,
    find_classifier,
    find_layer,
    first_ones_buffers,
)
from callbacks.neural_collapse_measure import Sample, Samples, measure
from callbacks.neural_collapse_metric import NeuralCollapse
from callbacks.neural_collapse_plot import DRAWN, draw_collapse
from callbacks.neural_collapse_statistics import GlobalMean


class NeuralCollapseCallback(pl.Callback):
    """Measures neural collapse of the training data after epochs: NC1 to NC4 of what the last layer is given.

    Logs ``nc/<result>`` for every result of :func:`~callbacks.neural_collapse.neural_collapse`: ``nc/nc1``,
    ``nc/trace_ratio``, ``nc/nc2_features``, ``nc/nc2_classifier``, ``nc/nc3``, ``nc/nc4_bias``, ``nc/ncc_agreement``
    and so on. The log folder gets ``nc.png``, the curves over epochs.

    The training data come as in an evaluation: in order, each sample once, without augmentation where the datamodule
    has an attribute ``augment``, and with the network in evaluation mode. Nothing that the run draws at random changes
    by it. With several processes each measures its share of the data, and the sums are added up.

    Works on any LightningModule that calls a linear layer in its ``forward(x)``, and whose batch is ``(x, y, ...)``
    with integer labels ``(B,)``.

    Args:
        classifier: Name of the linear layer, as ``"net.fc"``; if ``None`` it is the module's ``head``, or else its last
            :class:`~torch.nn.Linear`.
        every_n_epochs: Epochs between two measurements, at least 1; the last epoch is always measured.
        two_pass: Whether the data are gone through twice, class means first. Else there is no ``ncc_agreement``, and
            ``nc1`` takes a d x d matrix for d features.
        cache_bytes: Features up to this size are kept from the first pass for the second; beyond it the network is
            called again.
        global_mean: ``"sample"`` or ``"class"``: the mean of all samples or of the class means.
        center_classifier: Whether ``nc2_classifier`` and ``nc3`` subtract the mean of the classifier's rows first.
        bias_target: What the classifier's output at the global mean is compared with in ``nc4_bias``: a number, 0 for
            cross-entropy, or ``"1/K"``, for the squared loss.
        nan_policy: Where a class has no sample: ``"nan"`` or ``"skip"``.
        dataloader: Batches to measure, for what is not the Trainer's training data.
        prefix: What stands for ``nc`` in the names, for a second callback.

    Attributes:
        history: Results by epoch, counted from 0, and name.

    Raises:
        ValueError: If an argument is out of range, or (before training) the model has no such layer.

    Source:
        Papyan, Han and Donoho, *Prevalence of neural collapse during the terminal phase of deep learning training*,
        PNAS 2020.

    Example:
        >>> trainer = pl.Trainer(callbacks=[NeuralCollapseCallback(every_n_epochs=10)], logger=False)
    """

    def __init__(
        self,
        classifier: str | None = None,
        every_n_epochs: int = 1,
        two_pass: bool = True,
        cache_bytes: int = 2**28,
        global_mean: GlobalMean = "sample",
        center_classifier: bool = True,
        bias_target: BiasTarget = 0.0,
        nan_policy: NanPolicy = "nan",
        dataloader: Iterable[Any] | None = None,
        prefix: str = "nc",
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes must be at least 0, got {cache_bytes}")
        check_options(global_mean=global_mean, bias_target=bias_target, nan_policy=nan_policy)
        self.classifier = classifier
        self.every_n_epochs = every_n_epochs
        self.two_pass = two_pass
        self.cache_bytes = cache_bytes
        self.global_mean, self.center_classifier = global_mean, center_classifier
        self.bias_target, self.nan_policy = bias_target, nan_policy
        self.dataloader = dataloader
        self.prefix = prefix
        self.layers: dict[str, str] = {}
        self.history: dict[int, dict[str, float]] = {}
        self._loader: Iterable[Any] | None = None
        self._metrics: dict[str, NeuralCollapse] = {}

    @property
    def state_key(self) -> str:
        """One state for each prefix."""
        return f"{type(self).__name__}({self.prefix})"

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = dict(state_dict["history"])

    @property
    def final_metrics(self) -> dict[str, float]:
        """The last results, by the names that are logged."""
        return dict(self.history[max(self.history)]) if self.history else {}

    @property
    def final_curves(self) -> dict[str, tuple[list[float], list[float]]]:
        """Epochs, counted from 0, and values of every result, by the names that are logged."""
        epochs = sorted(self.history)
        return {
            name: ([float(epoch) for epoch in epochs], [self.history[epoch][name] for epoch in epochs])
            for name in self.final_metrics
        }

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.history = {}  # a checkpoint, if there is one, is read after this
        if isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
            name = type(trainer.strategy).__name__
            raise MisconfigurationException(f"{type(self).__name__} needs all weights on every device, got {name}")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        find_classifier(pl_module, self.classifier)
        for path in self.layers.values():
            find_layer(pl_module, path, "layers")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._loader = evaluation_loader(trainer, self.dataloader)
        self._metrics = {}
        done = trainer.current_epoch - 1
        if done not in self.history and self._is_due(trainer, done):
            self._record(trainer, pl_module, done)  # the checkpoint was written before its epoch was measured

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._is_due(trainer, trainer.current_epoch):
            self._record(trainer, pl_module, trainer.current_epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.current_epoch - 1
        if last not in self.history and last >= 0:  # the training has ended before max_epochs
            self._record(trainer, pl_module, last)
        folder = trainer.log_dir  # asked for in every process
        if folder is not None and self.history and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._draw(Path(folder))
        self._loader, self._metrics = None, {}

    def _is_due(self, trainer: pl.Trainer, epoch: int) -> bool:
        return epoch >= 0 and ((epoch + 1) % self.every_n_epochs == 0 or epoch + 1 == trainer.max_epochs)

    def _record(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> None:
        """Measure, keep and log."""
        results = {
            self.name_of(layer, result): value
            for layer, of_layer in self._measure(trainer, pl_module).items()
            for result, value in of_layer.items()
        }
        self.history[epoch] = dict(zip(results, torch.stack(list(results.values())).tolist()))
        # As self.log does at an epoch's end, at a tenth of its cost: there are many results, and none to be averaged.
        trainer.callback_metrics.update(results)
        for logger in trainer.loggers:
            logger.log_metrics({**self.history[epoch], "epoch": epoch}, step=trainer.global_step - 1)

    def name_of(self, layer: str, result: str) -> str:
        """The name that a result is logged by."""
        return f"{self.prefix}/{result}"

    @property
    def file_name(self) -> str:
        """The name of the figure."""
        return f"{self.prefix}.png"

    def features_of(self, layer: str, output: Tensor) -> Tensor:
        """What is measured of a layer's output, ``(B, d)``."""
        return output

    @torch.no_grad()
    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, dict[str, Tensor]]:
        layers = {name: find_layer(pl_module, path, "layers") for name, path in self.layers.items()}
        classifier = find_classifier(pl_module, self.classifier)
        with ExitStack() as stack:
            stack.enter_context(isolate_rng(include_cuda=pl_module.device.type == "cuda"))
            stack.enter_context(as_in_a_test(trainer))
            stack.enter_context(evaluating(pl_module))
            stack.enter_context(first_ones_buffers(pl_module))
            found = stack.enter_context(captured(layers, classifier))
            samples = Samples(partial(self._samples, trainer, pl_module, found), self.cache_bytes * self.two_pass)
            metric_of = partial(self._metric, trainer, classifier)
            return measure(samples, self._metrics, metric_of, self.two_pass)

    def _samples(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, found: dict[str, Tensor]
    ) -> Iterator[Sample]:
        assert self._loader is not None
        for x, y, *_ in on_device(trainer, self._loader):
            found.clear()
            with trainer.precision_plugin.forward_context():
                pl_module(x)
            missing = [name for name in (*self.layers, FEATURES) if name not in found]
            if missing:
                raise MisconfigurationException(f"forward(x) must call the layer {missing[0]}, which it does not")
            features = {layer: self.features_of(layer, found[layer]) for layer in (*self.layers, FEATURES)}
            yield Sample(features, y, found[LOGITS].argmax(dim=1))

    def _metric(self, trainer: pl.Trainer, classifier: nn.Module, layer: str, features: Tensor) -> NeuralCollapse:
        """The metric of a layer; in float32 about the first batch's mean where there is no float64."""
        exact = features.device.type != "mps"
        return NeuralCollapse(
            len(classifier.weight),  # type: ignore[arg-type]
            features.shape[1],
            classifier=classifier if layer == FEATURES else None,
            global_mean=self.global_mean,
            center_classifier=self.center_classifier,
            bias_target=self.bias_target,
            second_moment=not self.two_pass,
            nan_policy=self.nan_policy,
            dtype=torch.float64 if exact else torch.float32,
            shift=None if exact else trainer.strategy.broadcast(features.float().mean(dim=0)),
        ).to(features.device)

    @rank_zero_only
    def _draw(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        layers = [*self.layers, FEATURES]
        curves = self.final_curves
        by_layer = {
            layer: {
                result: curves[self.name_of(layer, result)] for result in DRAWN if self.name_of(layer, result) in curves
            }
            for layer in layers
        }
        partial = folder / f"{self.file_name}.partial"  # renamed when whole
        draw_collapse(by_layer).savefig(partial, format="png", dpi=150)
        partial.replace(folder / self.file_name)
