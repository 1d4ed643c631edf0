"""The neural-collapse metric beside a plain computation, and what the callback adds to an epoch on MNIST, in one run.

``python benchmarks/neural_collapse.py`` (or ``make bench BENCH=neural_collapse``). Figures are medians, with their
range. The metric's sides take turns. Of the epochs every second one is measured; the floor is one forward pass over the
training images, without which nothing can be said about them.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytorch_lightning as pl
import torch
from plain_neural_collapse import plain_nc1
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch import Tensor

from callbacks import NeuralCollapse, NeuralCollapseCallback, WithinClassVariability
from datamodules import VisionDataModule
from zoo.classifier import Classifier
from zoo.console import console, quiet
from zoo.logs import loggers

BATCH_SIZE = 256
PER_CLASS = 2  # samples of each class
WARM_UP = 6  # epochs


class OnePass:
    """The metric with the second moment: one pass over the batches, then the results."""

    def __init__(self, features: Tensor, target: Tensor, num_classes: int) -> None:
        self.batches = list(zip(features.split(BATCH_SIZE), target.split(BATCH_SIZE)))
        self.metric = NeuralCollapse(num_classes, features.shape[1])
        self.processor_seconds: list[float] = []

    def update(self) -> None:
        """Go over the batches."""
        self.metric.reset()
        for batch in self.batches:
            self.metric.update(*batch)

    def compute(self) -> Tensor:
        """NC1, with all other results."""
        self.metric._computed = None  # or the results of the last call would be given again
        begun = time.process_time()
        results = self.metric.compute()
        self.processor_seconds.append(time.process_time() - begun)
        return results["nc1"]


def two_passes(features: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """NC1 without the second moment: class means, then the deviations from them."""
    batches = list(zip(features.split(BATCH_SIZE), target.split(BATCH_SIZE)))
    first = NeuralCollapse(num_classes, features.shape[1], second_moment=False)
    for batch in batches:
        first.update(*batch)
    whitened = first.whitening()
    assert whitened is not None
    second = WithinClassVariability(first.class_means, whitened)
    for batch in batches:
        second.update(*batch)
    return second.compute()


def metric_table(num_classes: int, num_features: int, rounds: int) -> Table:
    """Time and memory of the metric and of the plain computation."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(num_classes).repeat(PER_CLASS)
    means = torch.randn(num_classes, num_features, generator=generator)
    features = means[target] + 0.5 * torch.randn(len(target), num_features, generator=generator)
    one_pass = OnePass(features, target, num_classes)
    nc1: dict[str, float] = {}
    sides = {
        "update": one_pass.update,
        "compute": lambda: nc1.update(one=float(one_pass.compute())),
        "two": lambda: nc1.update(two=float(two_passes(features, target, num_classes))),
        "plain": lambda: nc1.update(plain=float(plain_nc1(features.double(), target, num_classes))),
    }
    seconds = take_turns(sides, rounds)
    state = sum(part.nbytes for part in one_pass.metric.metric_state.values()) / 1e6
    whole = [sum(parts) for parts in zip(seconds["update"], seconds["compute"])]
    title = f"{len(target):,} samples, d = {num_features:,}, K = {num_classes:,}, float64\n{machine()}"
    header = ("", "in all", "of it compute", "processor time of that", "kept beside a batch", "NC1")
    table = Table(*header, title=title, title_justify="left")
    light = 8 * num_classes * (num_features + 2) / 1e6
    kept = f"{features.double().nbytes / 1e6 + 16 * num_features**2 / 1e6:.0f} MB"
    compute = in_words(seconds["compute"]), in_words(one_pass.processor_seconds[1:])
    table.add_row("NeuralCollapse", in_words(whole), *compute, f"{state:.0f} MB", f"{nc1['one']:.10f}")
    table.add_row("second pass for NC1", in_words(seconds["two"]), "", "", f"{light:.0f} MB", f"{nc1['two']:.10f}")
    table.add_row("class by class, pseudo-inverse", in_words(seconds["plain"]), "", "", kept, f"{nc1['plain']:.10f}")
    return table


class Clock(pl.Callback):
    """The times at which epochs begin, and the last one ends: of the wall and of the processor."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.times.append((time.perf_counter(), time.process_time()))

    on_train_end = on_train_epoch_start

    def epochs(self, clock: int) -> list[float]:
        """Seconds of each epoch, after those that warm up, on the wall's clock (0) or the processor's (1)."""
        times = [both[clock] for both in self.times[WARM_UP:]]
        return [end - begin for begin, end in pairwise(times)]


def callback_table(per_class: int | None, epochs: int, root: Path | None) -> Table:
    """Epochs of an MLP on MNIST with and without a measurement."""
    pl.seed_everything(0)
    data = VisionDataModule("mnist", batch_size=100, subset_per_class=per_class, val_fraction=0.0, root=root)  # type: ignore[arg-type]
    network = {"hidden_channels": [128] * 4, "batch_norm": True}
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=2e-3)
    model = Classifier(10, (1, 28, 28), backbone="mlp", backbone_args=network, optimizer=sgd)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=WARM_UP + 2 * epochs,
            callbacks=[NeuralCollapseCallback(every_n_epochs=2), clock],
            logger=loggers(Path(folder) / "run/version_0"),
            enable_model_summary=False,
            enable_progress_bar=False,
            accelerator="cpu",
        )
        trainer.fit(model, datamodule=data)
    title = f"{data.description}: an epoch of 784-128-128-128-128-10, batches of 100"
    header = ("", "time", "of an epoch", "processor time", "of an epoch")
    table = Table(*header, title=title, title_justify="left")
    floor = list(zip(*forward_passes(model, data, epochs)))
    rows: list[list[str]] = [
        ["an epoch: logs, checkpoints"],
        ["with NeuralCollapseCallback"],
        ["floor: a forward pass"],
    ]
    for i in (0, 1):
        plain, measured = clock.epochs(i)[0::2], clock.epochs(i)[1::2]
        epoch = statistics.median(plain)
        shares = ["", f"{statistics.median(measured) / epoch - 1:+.1%}", f"{statistics.median(floor[i]) / epoch:+.1%}"]
        for row, seconds, share in zip(rows, (plain, measured, list(floor[i])), shares):
            row += [in_words(seconds), share]
    for row in rows:
        table.add_row(*row)
    return table


def forward_passes(model: Classifier, data: VisionDataModule, rounds: int) -> list[tuple[float, float]]:
    """Seconds, of the wall and of the processor, of passes over the training images in large batches."""
    data.batch_size, data.drop_last = data.eval_batch_size, False
    batches = list(data.train_dataloader())
    model.eval()

    @torch.no_grad()
    def go_through() -> tuple[float, float]:
        begun = time.perf_counter(), time.process_time()
        for batch in batches:
            model(batch.x)
        return time.perf_counter() - begun[0], time.process_time() - begun[1]

    go_through()
    return [go_through() for _ in range(rounds)]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the data; by default ZOO_DATA, else data/")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--classes", type=positive, default=1000)
    parser.add_argument("--features", type=positive, default=2048)
    parser.add_argument("--rounds", type=positive, default=1, help="of the metric's sides")
    parser.add_argument("--epochs", type=positive, default=30, help="with a measurement, and as many without")
    parser.add_argument("--whole", action="store_true", help="all 60,000 images too, for a tenth of the epochs")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    console().print(metric_table(args.classes, args.features, args.rounds))
    with quiet():
        tables = [callback_table(100, args.epochs, args.root)]
        tables += [callback_table(None, max(args.epochs // 10, 1), args.root)] if args.whole else []
    for table in tables:
        console().print(table)


if __name__ == "__main__":
    main()
