"""What label noise does to a training: whether wrong labels are memorised, found, or forgotten in time."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryPrecision, BinaryRecall


class _Share(Metric):
    """A number of cases in a number of samples."""

    is_differentiable = False
    full_state_update = False
    cases: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("cases", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The share, a scalar in [0, 1]; NaN without samples."""
        return self.cases / self.total


class NoiseRate(_Share):
    """Share of labels that are wrong.

    Example:
        >>> NoiseRate()(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 2, 3]))
        tensor(0.5000)
    """

    def update(self, y: Tensor, clean_y: Tensor) -> None:
        """Add labels.

        Args:
            y: As given, shape ``(B,)``.
            clean_y: Without noise, shape ``(B,)``.
        """
        self.cases += (y != clean_y).sum()
        self.total += y.numel()


class MemorizationRate(_Share):
    """Share of the wrongly labelled samples for which the network says the wrong label.

    Example:
        >>> MemorizationRate()(torch.tensor([5, 2, 0]), torch.tensor([5, 1, 0]), torch.tensor([4, 2, 0]))
        tensor(0.5000)
    """

    higher_is_better = False

    def update(self, preds: Tensor, y: Tensor, clean_y: Tensor) -> None:
        """Add predictions.

        Args:
            preds: Predicted labels ``(B,)``, or logits ``(B, K)``.
            y: Labels as given, shape ``(B,)``.
            clean_y: Labels without noise, shape ``(B,)``.
        """
        wrong = y != clean_y
        self.cases += (wrong & (_labels(preds) == y)).sum()
        self.total += wrong.sum()


class Agreement(_Share):
    """Share of samples for which the network says a label.

    Example:
        >>> Agreement()(torch.tensor([5, 2]), torch.tensor([5, 1]))
        tensor(0.5000)
    """

    higher_is_better = True

    def update(self, preds: Tensor, y: Tensor) -> None:
        """Add predictions.

        Args:
            preds: Predicted labels ``(B,)``, or logits ``(B, K)``.
            y: Labels, shape ``(B,)``.
        """
        self.cases += (_labels(preds) == y).sum()
        self.total += y.numel()


def _labels(preds: Tensor) -> Tensor:
    return preds.argmax(dim=1) if preds.ndim == 2 else preds


class NoiseDetection(MetricCollection):
    """How well a score tells wrong labels: ``precision`` and ``recall`` at a threshold, and ``auroc`` over all of them.

    Update it with scores in [0, 1] and with whether each label is wrong, both ``(N,)``.

    Args:
        threshold: Labels of a larger score are held for wrong; in [0, 1].

    Raises:
        ValueError: If the threshold is out of range.

    Example:
        >>> detection = NoiseDetection()
        >>> detection.update(torch.tensor([0.9, 0.8, 0.1, 0.2]), torch.tensor([1, 0, 0, 1]))
        >>> {name: value.item() for name, value in detection.compute().items()}
        {'auroc': 0.75, 'precision': 0.5, 'recall': 0.5}
    """

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
        super().__init__(
            {"precision": BinaryPrecision(threshold), "recall": BinaryRecall(threshold), "auroc": BinaryAUROC()}
        )


class NoiseSeparationLogger(pl.Callback):
    """Logs how far the noise that a module has learned tells wrong training labels from right ones.

    Logs ``noise/precision``, ``noise/recall`` and ``noise/auroc`` (:class:`NoiseDetection`), and the mean scores of
    wrong and of right labels, ``noise/score_wrong`` and ``noise/score_right``. To loggers that draw histograms
    (TensorBoard) it gives those of the scores, and of what the noise takes from the other classes.

    Works on any LightningModule with ``noise_score()``, a score in [0, 1] of each training label, ``(N,)``; what the
    noise takes from other classes is read off ``noise()``, ``(N, K)``, if there is one. The datamodule has
    ``train_labels`` and ``train_clean_labels``, ``(N,)``.

    When the fit ends, ``final_metrics`` has the metrics, and ``final_curves`` the shares of wrong and of right labels
    by score, ``noise/wrong`` and ``noise/right``: the middles of the bins, and the heights.

    Args:
        every_n_epochs: Epochs between two logs, at least 1; the last epoch of ``max_epochs`` is always logged.
        threshold: Score from which a label is held for wrong, in [0, 1].
        bins: Bins of the final histograms, at least 1.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> trainer = pl.Trainer(callbacks=[NoiseSeparationLogger(every_n_epochs=10)], logger=False)
    """

    def __init__(self, every_n_epochs: int = 1, threshold: float = 0.5, bins: int = 20) -> None:
        for name, number in {"every_n_epochs": every_n_epochs, "bins": bins}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.every_n_epochs = every_n_epochs
        self.bins = bins
        self.detection = NoiseDetection(threshold)
        self.final_metrics: dict[str, float] = {}
        self.final_curves: dict[str, tuple[list[float], list[float]]] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not hasattr(pl_module, "noise_score"):
            raise ValueError(f"NoiseSeparationLogger needs a module with noise_score(), got {type(pl_module).__name__}")
        wrong_labels(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs and epoch != trainer.max_epochs:
            return
        score, wrong = self._scores(trainer, pl_module)
        pl_module.log_dict({f"noise/{name}": value for name, value in self._metrics(score, wrong).items()})
        histograms = {"score_wrong": score[wrong], "score_right": score[~wrong]}
        if hasattr(pl_module, "noise"):
            removed = (-pl_module.noise()).amax(dim=1)  # type: ignore[operator]
            histograms |= {"removed_wrong": removed[wrong], "removed_right": removed[~wrong]}
        for logger in trainer.loggers:
            draw = getattr(getattr(logger, "experiment", None), "add_histogram", None)
            if draw is not None:
                for name, values in histograms.items():
                    draw(f"noise/{name}", values, trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score, wrong = self._scores(trainer, pl_module)
        self.final_metrics = {f"noise/{name}": float(value) for name, value in self._metrics(score, wrong).items()}
        middles = [(i + 0.5) / self.bins for i in range(self.bins)]
        for name, scores in {"wrong": score[wrong], "right": score[~wrong]}.items():
            counts = torch.histc(scores.float().cpu(), self.bins, min=0, max=1)
            self.final_curves[f"noise/{name}"] = (middles, (counts / max(len(scores), 1)).tolist())

    def _scores(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> tuple[Tensor, Tensor]:
        score = pl_module.noise_score().detach()  # type: ignore[operator]
        wrong = wrong_labels(trainer).to(score.device)
        if score.shape != wrong.shape:
            raise ValueError(
                f"noise_score() must have one value for each of {len(wrong)} training labels, got {tuple(score.shape)}"
            )
        return score, wrong

    def _metrics(self, score: Tensor, wrong: Tensor) -> dict[str, Tensor]:
        self.detection.to(score.device).reset()
        self.detection.update(score, wrong.long())
        means = {"score_wrong": score[wrong].mean(), "score_right": score[~wrong].mean()}
        return self.detection.compute() | means


def wrong_labels(trainer: pl.Trainer) -> Tensor:
    """Which training labels of the Trainer's datamodule are wrong, ``(N,)``.

    Raises:
        ValueError: If the datamodule does not tell.
    """
    datamodule = getattr(trainer, "datamodule", None)
    y, clean_y = (getattr(datamodule, name, None) for name in ("train_labels", "train_clean_labels"))
    if y is None or clean_y is None:
        raise ValueError(
            f"a datamodule with train_labels and train_clean_labels is needed, got {type(datamodule).__name__}"
        )
    return y != clean_y


class Memorization(pl.Callback):
    """Goes once more over the training batches when the fit ends, and compares what the network says with the labels.

    ``final_metrics`` then has, in evaluation mode and without any noise that the module adds in training:
    ``memorization/given``, the share of samples for which it says the label as given; ``memorization/clean``, the
    label without noise; ``memorization/wrong``, the wrong label, among those that have one
    (:class:`MemorizationRate`); and ``memorization/noise_rate``.

    Works on any LightningModule that gives logits ``(B, K)`` of ``batch[0]``; a batch is ``(x, y, ..., clean_y)`` with
    the labels without noise in fourth place. A training set that is augmented is seen augmented. It has as many
    samples as the training's batches: what ``drop_last`` leaves out is left out here too.
    """

    def __init__(self) -> None:
        self.final_metrics: dict[str, float] = {}

    @torch.no_grad()
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        given, clean, wrong, rate = Agreement(), Agreement(), MemorizationRate(), NoiseRate()
        metrics = {"given": given, "clean": clean, "wrong": wrong, "noise_rate": rate}
        for metric in metrics.values():
            metric.to(pl_module.device)
        training = pl_module.training
        pl_module.eval()
        for batch in self._batches(trainer, pl_module):
            if len(batch) < 4:
                raise ValueError(f"a batch must be (x, y, index, clean_y, ...), got {len(batch)} parts")
            with trainer.precision_plugin.forward_context():
                preds = pl_module(batch[0]).argmax(dim=1)
            given.update(preds, batch[1])
            clean.update(preds, batch[3])
            wrong.update(preds, batch[1], batch[3])
            rate.update(batch[1], batch[3])
        pl_module.train(training)
        self.final_metrics = {f"memorization/{name}": float(metric.compute()) for name, metric in metrics.items()}

    @staticmethod
    def _batches(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterable[Sequence[Tensor]]:
        loader = trainer.train_dataloader
        assert loader is not None
        for i, batch in enumerate(loader):
            if i == trainer.num_training_batches:  # as few as limit_train_batches allows
                return
            yield trainer.strategy.batch_to_device(batch)


class LastVsBest(pl.Callback):
    """Keeps the best and the last value of a metric, whose distance tells how much was lost after the best epoch.

    ``final_metrics`` has ``"<monitor> (best)"``, ``"<monitor> (last)"``, ``"<monitor> (best epoch)"`` and
    ``"<monitor> (lost)"``, the best less the last, positive if it has become worse. A resumed run goes on with what it
    had.

    Args:
        monitor: Name of a metric that validation or training steps log, for the epoch.
        mode: ``"max"`` or ``"min"``, which is better.

    Raises:
        ValueError: If there is no such mode, or (when an epoch ends) no such metric.

    Example:
        >>> trainer = pl.Trainer(callbacks=[LastVsBest("val/clean_acc")], logger=False)
    """

    def __init__(self, monitor: str = "val/clean_acc", mode: Literal["max", "min"] = "max") -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be one of max, min, got {mode!r}")
        self.monitor, self.mode = monitor, mode
        self.values: dict[int, float] = {}

    @property
    def state_key(self) -> str:
        """One state for each metric."""
        return f"{type(self).__name__}({self.monitor})"

    @property
    def final_metrics(self) -> dict[str, float]:
        """Best, last, the best one's epoch, and what was lost; empty before the first epoch ends."""
        if not self.values:
            return {}
        sign = 1 if self.mode == "max" else -1
        best = max(self.values, key=lambda epoch: sign * self.values[epoch])
        last = self.values[max(self.values)]
        found = {"best": self.values[best], "last": last, "best epoch": float(best)}
        found["lost"] = sign * (found["best"] - last)
        return {f"{self.monitor} ({name})": value for name, value in found.items()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            known = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ValueError(f"monitor must be a metric that is logged, one of {known}, got {self.monitor!r}")
        self.values[trainer.current_epoch] = float(value)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = dict(state_dict["values"])
