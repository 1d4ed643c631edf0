"""Images per second of the data layer beside torchvision's dataset and a DataLoader, in one run.

``python benchmarks/vision.py`` (or ``make bench BENCH=vision``): CIFAR-10's training images, cropped, mirrored and
normalised, in shuffled batches of 128, one pass after another on both sides.
"""

import argparse
import statistics
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from datamodules import VisionDataModule
from datamodules.images import KINDS
from zoo.console import console, quiet


class InMemoryCIFAR10(datasets.CIFAR10):
    """Torchvision's dataset with images that have been read already; every item is made as torchvision makes it."""

    def __init__(self, data: VisionDataModule, transform: transforms.Compose) -> None:
        self.data = data.parts["train"].x.numpy()
        self.targets = data.parts["train"].y.tolist()
        self.transform, self.target_transform = transform, None


def peer(data: VisionDataModule, num_workers: int) -> DataLoader:
    """What one writes with torchvision."""
    kind = KINDS["cifar10"]
    steps = [transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(kind.mean, kind.std)])
    dataset = InMemoryCIFAR10(data, transform)
    return DataLoader(
        dataset, data.batch_size, shuffle=True, drop_last=True, num_workers=num_workers, persistent_workers=True
    )


def write_floor(data: VisionDataModule) -> None:
    """Write as many floats as an epoch has, once: below this no augmentation can go."""
    batch = torch.empty(data.batch_size, *data.input_shape)
    for _ in range(data.num_train // data.batch_size):
        batch.fill_(1.0)


def go_through(batches: Iterable) -> None:
    """Take every batch of an epoch."""
    for _ in batches:
        pass


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the data; by default ZOO_DATA, else data/")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--workers", type=positive, default=2, help="of torchvision's DataLoader")
    parser.add_argument("--rounds", type=positive, default=5, help="epochs of each side")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    with quiet():
        data = VisionDataModule("cifar10", augment=True, val_fraction=0.0, root=args.root, if_unavailable="stand_in")
        title = f"{data.description}\n{machine()}"
    ours, theirs = data.train_dataloader(), peer(data, args.workers)
    sides = {
        "ours": lambda: go_through(ours),
        "torchvision": lambda: go_through(theirs),
        "floor": lambda: write_floor(data),
    }
    seconds = take_turns(sides, args.rounds)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    table = Table("", "an epoch", "images a second", "ours is faster by", title=title, title_justify="left")
    names = {"ours": "ours, in this process", "torchvision": f"torchvision, {args.workers} workers"}
    for name, words in (names | {"floor": "floor: write the floats once"}).items():
        rate = len(ours) * data.batch_size / median[name]
        table.add_row(words, in_words(seconds[name]), f"{rate:,.0f}", f"{median[name] / median['ours']:.2f}x")
    console().print(table)


if __name__ == "__main__":
    main()
