"""Image classification from memory: MNIST, Fashion-MNIST, CIFAR and array files, with label noise where wanted."""

import os
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.augmentation import auto_augment, cutout, normalize, random_crop_flip
from datamodules.batches import BatchOrder, ImageBatches, View
from datamodules.images import KINDS, Images, array_file, digits_like, download_failure, read_images, resize_images
from datamodules.label_noise import HumanNoise, LabelNoise, human_labels_failure, noise_rate
from datamodules.root import data_root

IF_UNAVAILABLE = ("error", "stand_in")


@dataclass(frozen=True)
class Part:
    """The images of the training, the validation or the test.

    Attributes:
        x: Images, shape ``(N, H, W, C)``, uint8.
        y: Labels as given, shape ``(N,)``, int64.
        clean_y: Labels without noise, shape ``(N,)``, int64.
    """

    x: Tensor
    y: Tensor
    clean_y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def select(self, rows: Tensor) -> "Part":
        """Some of the images."""
        return Part(self.x[rows], self.y[rows], self.clean_y[rows])


class VisionDataModule(LightningDataModule):
    """Images that lie in memory as bytes, are moved to the device once, and are augmented there in batches.

    Label noise comes first, on all training images; then validation images are split off, and of the rest a subset is
    taken. A batch is an :class:`~datamodules.batches.ImageBatch`, in training, validation and test alike: images,
    labels as given, positions, clean labels. Validation labels are as noisy as the training's, test labels are clean.

    Args:
        name: ``"mnist"``, ``"fashion_mnist"``, ``"cifar10"``, ``"cifar100"``, ``"digits"`` (scikit-learn's), or the
            path of an ``.npz`` file with ``x_train``, ``y_train``, ``x_test``, ``y_test`` (images uint8, NHWC).
        batch_size: Images of a training batch, on each device.
        eval_batch_size: Images of a validation or test batch.
        augment: Crop and mirror every training image at random.
        crop_padding: Pixels that the crop may shift by.
        flip: Whether the augmentation mirrors.
        second_view: Add a strongly augmented view of the images: AutoAugment, crop, mirror, cutout.
        normalize: Scale channels to mean 0 and standard deviation 1 over the dataset, else to [0, 1].
        resize: Side of the images in pixels, if they are to be made smaller or larger.
        train_fraction: Share of the training images that is used, in (0, 1].
        subset_per_class: Training images of each clean class, in place of a share.
        test_fraction: Share of the test images that is used, the first ones, in (0, 1].
        val_fraction: Share of all training images that is kept for validation, in [0, 1).
        label_noise: Changes the labels of training and validation images.
        drop_last: Leave out a smaller last batch.
        independent_batches: Draw each training batch from all images, whatever the others hold, as theories
            of stochastic gradients assume, in place of a shuffled pass; see :class:`~datamodules.batches.BatchOrder`.
        root: Folder of all data; ``None`` means ``ZOO_DATA``, else ``data/``.
        if_unavailable: ``"error"``, or ``"stand_in"``: train on scikit-learn's digits, and say so.
        seed: Of noise, split, subset and order; ``None`` takes the one of ``seed_everything``, 0 if there is none.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from datamodules.label_noise import SymmetricNoise
        >>> data = VisionDataModule("digits", batch_size=32, subset_per_class=20, label_noise=SymmetricNoise(0.5))
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.x.shape, data.num_train, data.num_classes
        (torch.Size([32, 1, 8, 8]), 200, 10)
    """

    name: str

    def __init__(
        self,
        name: str = "cifar10",
        batch_size: int = 128,
        eval_batch_size: int = 500,
        augment: bool = False,
        crop_padding: int = 4,
        flip: bool = True,
        second_view: bool = False,
        normalize: bool = True,
        resize: int | None = None,
        train_fraction: float = 1.0,
        subset_per_class: int | None = None,
        test_fraction: float = 1.0,
        val_fraction: float = 0.1,
        label_noise: LabelNoise | None = None,
        drop_last: bool = True,
        independent_batches: bool = False,
        root: str | None = None,
        if_unavailable: str = "error",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if name not in KINDS and not name.endswith(".npz"):
            raise ValueError(f"name must be one of {', '.join(KINDS)}, or the path of an .npz file, got {name!r}")
        if if_unavailable not in IF_UNAVAILABLE:
            raise ValueError(f"if_unavailable must be one of {', '.join(IF_UNAVAILABLE)}, got {if_unavailable!r}")
        if if_unavailable == "stand_in" and name not in KINDS:
            raise ValueError(f"if_unavailable must be error for a file of your own, got 'stand_in' with {name!r}")
        _check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        _check_at_least(1, resize=resize, subset_per_class=subset_per_class)
        _check_at_least(0, crop_padding=crop_padding)
        _check_share(train_fraction=train_fraction, test_fraction=test_fraction)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
        if subset_per_class is not None and train_fraction != 1:
            raise ValueError(
                f"train_fraction must be 1 where subset_per_class is given, got {train_fraction} and {subset_per_class}"
            )
        self.root = data_root(root)
        if isinstance(label_noise, HumanNoise) and label_noise.root is None:
            label_noise = replace(label_noise, root=str(self.root))
        self.name = name
        self.batch_size, self.eval_batch_size, self.drop_last = batch_size, eval_batch_size, drop_last
        self.independent_batches = independent_batches
        self.augment, self.crop_padding, self.flip, self.second_view = augment, crop_padding, flip, second_view
        self.normalize, self.resize = normalize, resize
        self.train_fraction, self.subset_per_class = train_fraction, subset_per_class
        self.test_fraction, self.val_fraction = test_fraction, val_fraction
        self.label_noise = label_noise
        self.if_unavailable = if_unavailable
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self._on_device: dict[tuple[str, torch.device], Part] = {}

    @cached_property
    def images(self) -> Images:
        """The whole dataset, read (and if need be downloaded) at first use, in the size that is asked for."""
        images = digits_like(KINDS[self.name]) if self.is_stand_in else read_images(self.name, self.root)
        if self.resize and images.x_train.shape[1:3] != (self.resize, self.resize):
            size = (self.resize, self.resize)
            images.x_train, images.x_test = resize_images(images.x_train, size), resize_images(images.x_test, size)
        return images

    @cached_property
    def is_stand_in(self) -> bool:
        """Whether other images take the place of the real ones, because these are out of reach.

        Raises:
            FileNotFoundError: If they are out of reach and ``if_unavailable`` is ``"error"``.
        """
        return self._replaced(download_failure(self.name, self.root), self.title, "scikit-learn's handwritten digits")

    @cached_property
    def noise_is_stand_in(self) -> bool:
        """Whether drawn noise takes the place of people's labels, because these are out of reach.

        Raises:
            FileNotFoundError: If they are out of reach and ``if_unavailable`` is ``"error"``.
        """
        if not isinstance(self.label_noise, HumanNoise):
            return False
        if self.is_stand_in:  # people have not labelled the digits
            return True
        why = human_labels_failure(self.label_noise.file)
        return self._replaced(why, "CIFAR-10N", self.label_noise.stand_in.description)

    def _replaced(self, why: str | None, title: str, substitute: str) -> bool:
        if why is None:
            return False
        if self.if_unavailable == "error":
            raise FileNotFoundError(
                f"{title} is not available: {why}. Connect to the network, or set ZOO_DATA (or --data.root) to the "
                "folder that holds it"
                + (", or train on a stand-in with --data.if_unavailable stand_in" if self.name in KINDS else "")
            )
        rank_zero_warn(
            f"TRAINING ON A STAND-IN, NOT ON {title.upper()}: {why}. Its place is taken by: {substitute}; the "
            "accuracies say nothing about the real data."
        )
        return True

    @cached_property
    def noise(self) -> LabelNoise | None:
        """The noise that is applied."""
        if isinstance(self.label_noise, HumanNoise) and self.noise_is_stand_in:
            return self.label_noise.stand_in
        return self.label_noise

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The images of training (``"train"``), validation (``"val"``) and test (``"test"``), on the CPU.

        Raises:
            ValueError: If there are fewer images than asked for.
        """
        images = self.images
        clean = images.y_train
        y = clean if self.noise is None else self.noise(clean, images.num_classes, self._generator("noise"))
        whole = Part(images.x_train, y, clean)
        order = torch.randperm(len(whole), generator=self._generator("split"))
        num_val = round(self.val_fraction * len(whole))
        train = self._subset(order[num_val:], clean)
        num_test = max(1, round(self.test_fraction * len(images.y_test)))
        test_labels = images.y_test[:num_test]
        return {
            "train": whole.select(train),
            "val": whole.select(order[:num_val]),
            "test": Part(images.x_test[:num_test], test_labels, test_labels),
        }

    def _subset(self, rows: Tensor, clean: Tensor) -> Tensor:
        """The training images that are used, among shuffled ones."""
        if self.subset_per_class is None:
            return rows[: max(1, round(self.train_fraction * len(rows)))]
        classes = [rows[clean[rows] == label] for label in clean.unique()]
        smallest = min(map(len, classes))
        if self.subset_per_class > smallest and not self.is_stand_in:  # a stand-in gives what it has
            raise ValueError(
                f"subset_per_class must be at most {smallest}, the smallest class, got {self.subset_per_class}"
            )
        chosen = torch.cat([members[: self.subset_per_class] for members in classes])
        return chosen[torch.randperm(len(chosen), generator=self._generator("subset"))]

    def _generator(self, purpose: str) -> torch.Generator:
        """A source of randomness for one purpose, so that one choice does not change another."""
        return torch.Generator().manual_seed(self.seed * 16 + ("noise", "split", "subset").index(purpose))

    @property
    def title(self) -> str:
        """Name of the dataset."""
        return KINDS[self.name].title if self.name in KINDS else str(array_file(self.name, self.root))

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.images.num_classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        height, width, channels = self.images.x_train.shape[1:]
        return channels, height, width

    @property
    def num_train(self) -> int:
        """Training images; a batch's ``index`` lies in [0, num_train)."""
        return len(self.parts["train"])

    @property
    def train_labels(self) -> Tensor:
        """Labels of the training images as given, shape ``(num_train,)``."""
        return self.parts["train"].y

    @property
    def train_clean_labels(self) -> Tensor:
        """Labels of the training images without noise, shape ``(num_train,)``."""
        return self.parts["train"].clean_y

    @property
    def noise_rate(self) -> float:
        """Share of the training images whose label is wrong."""
        return noise_rate(self.train_labels, self.train_clean_labels)

    @property
    def validates(self) -> bool:
        """Whether there are validation images."""
        return self.val_fraction > 0

    @property
    def description(self) -> str:
        """The data in one line, for tables: name, sizes, noise, and whether it is a stand-in."""
        title = self.title
        if self.is_stand_in:
            title = f"STAND-IN for {title}: scikit-learn's handwritten digits"
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in self.parts.items() if len(part))
        text = f"{title} ({sizes} images of {' x '.join(map(str, self.input_shape))}"
        if self.noise is not None:
            stand_in = "STAND-IN for human labels: " if self.noise_is_stand_in else ""
            text += f"; {stand_in}{self.noise.description}, {100 * self.noise_rate:.2f} % of the labels wrong"
        return text + ")"

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, for pixels in [0, 1]."""
        if not self.normalize:
            return torch.zeros(self.input_shape[0]), torch.ones(self.input_shape[0])
        if self.name in KINDS and not self.is_stand_in:
            return torch.tensor(KINDS[self.name].mean), torch.tensor(KINDS[self.name].std)
        pixels = self.images.x_train.double().flatten(0, 2) / 255
        return pixels.mean(0).float(), pixels.std(0).clamp_min(1e-3).float()

    def prepare_data(self) -> None:
        """Download what is missing."""
        _ = self.noise_is_stand_in if isinstance(self.label_noise, HumanNoise) else self.is_stand_in

    def setup(self, stage: str) -> None:
        """Read the images, and log the share of wrong labels.

        Raises:
            ValueError: If there are fewer images than a batch holds.
        """
        whole = self.drop_last or self.independent_batches  # there is no smaller batch
        if stage == "fit" and whole and self.num_train < self.batch_size * self._world()[0]:
            way_out = "" if self.independent_batches else " (or set drop_last to false)"
            raise ValueError(
                f"batch_size must be at most {self.num_train // self._world()[0]}, the training images of a device, "
                f"got {self.batch_size}{way_out}"
            )
        if stage == "fit" and self.trainer is not None:
            for logger in self.trainer.loggers:
                logger.log_hyperparams({"noise_rate": self.noise_rate})

    def train_dataloader(self) -> DataLoader:
        """Training batches in an order that the seed shuffles anew in every epoch."""
        strong = partial(self._strong_view, *self._statistics_on_device()) if self.second_view else None
        return self._loader("train", self._view(self.augment), strong)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Validation batches; none if ``val_fraction`` is 0."""
        return self._loader("val", self._view(False)) if self.validates else []

    def test_dataloader(self) -> DataLoader:
        """Test batches."""
        return self._loader("test", self._view(False))

    def predict_dataloader(self) -> DataLoader:
        """Test batches."""
        return self.test_dataloader()

    def _loader(self, name: str, view: View, second_view: View | None = None) -> DataLoader:
        part = self._placed(name)
        training = name == "train"
        order = BatchOrder(
            len(part),
            self.batch_size if training else self.eval_batch_size,
            shuffle=training,
            drop_last=training and self.drop_last,
            seed=self.seed,
            num_replicas=self._world()[0],
            rank=self._world()[1],
            independent=self.independent_batches,
        )
        batches = ImageBatches(part.x, part.y, part.clean_y, view, second_view)
        # A loader draws a worker seed at every epoch; its own generator leaves the global stream to the model.
        return DataLoader(batches, batch_size=None, sampler=order, generator=torch.Generator())

    def _placed(self, name: str) -> Part:
        """A part on the Trainer's device; the same tensors every time."""
        key = (name, self._device())
        if key not in self._on_device:
            part = self.parts[name]
            tensors = (tensor.to(key[1]).contiguous() for tensor in (part.x, part.y, part.clean_y))
            self._on_device[key] = Part(*tensors)
        return self._on_device[key]

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    def _world(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)

    def _statistics_on_device(self) -> tuple[Tensor, Tensor]:
        mean, std = self.statistics
        return mean.to(self._device()), std.to(self._device())

    def _view(self, augment: bool) -> View:
        mean, std = self._statistics_on_device()
        if not augment:
            return partial(normalize, mean=mean, std=std)
        return partial(self._weak_view, mean, std)

    def _weak_view(self, mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
        return normalize(random_crop_flip(x, self.crop_padding, self.flip), mean, std)

    def _strong_view(self, mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
        size = x.shape[1] // 2  # 16 of CIFAR's 32 pixels
        return cutout(self._weak_view(mean, std, auto_augment(x)), size)


def _check_at_least(lowest: int, **values: int | None) -> None:
    for argument, value in values.items():
        if value is not None and value < lowest:
            raise ValueError(f"{argument} must be at least {lowest}, got {value}")


def _check_share(**values: float) -> None:
    for argument, value in values.items():
        if not 0 < value <= 1:
            raise ValueError(f"{argument} must be in (0, 1], got {value}")
