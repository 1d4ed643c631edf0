"""Callbacks that give a fit other initial weights than the model's own random ones."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torchvision.models import get_weight

from zoo.linear_interpolation.initialisation import (
    check_fit_arguments,
    check_groups,
    fit_random_labels,
    highest_above_line,
    interpolated,
    losses_between,
    matching,
    parents,
    redrawn,
)

State = dict[str, Tensor]
DRY_EXAMPLES = 16  # training examples that an initialiser looks at in a fast_dev_run


class Initialiser(Callback):
    """Gives a fit its initial weights, before the first step. A fit that goes on from a checkpoint has its own.

    Global randomness is left as it was, so that the fit draws what it would have drawn without. All processes begin
    from the weights of the first one.

    Attributes:
        final_metrics: What is known of the initial weights, by name; kept in checkpoints.
    """

    def __init__(self) -> None:
        self.final_metrics: dict[str, float] = {}

    def initial_state(self, trainer: Trainer, pl_module: LightningModule) -> State:
        """The weights to begin from; fills ``final_metrics``."""
        raise NotImplementedError

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is not None:
            return
        with isolate_rng():
            state = self.initial_state(trainer, pl_module)
        pl_module.load_state_dict(trainer.strategy.broadcast(state))

    def state_dict(self) -> dict[str, Any]:
        return {"final_metrics": dict(self.final_metrics)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.final_metrics = dict(state_dict["final_metrics"])


class AdversarialInit(Initialiser):
    """Begins from weights that fit random labels of the training inputs; see :func:`fit_random_labels`.

    Works on any LightningModule whose ``forward(x)`` gives logits, with a datamodule whose training batches are
    ``(x, y, ...)``; inputs are taken without augmentation where the datamodule has an attribute ``augment``. Logs the
    share of random labels that were met as ``init/random_label_acc``.

    Args:
        epochs: Passes over the training inputs.
        batch_size: Inputs of a step.
        lr: Step size, constant.
        momentum: Of SGD.
        seed: Of labels and order.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self, epochs: int = 20, batch_size: int = 128, lr: float = 0.05, momentum: float = 0.9, seed: int = 0
    ) -> None:
        super().__init__()
        check_fit_arguments(epochs, batch_size, lr, momentum)
        self.options: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "momentum": momentum}
        self.seed = seed

    def initial_state(self, trainer: Trainer, pl_module: LightningModule) -> State:
        net = copy.deepcopy(pl_module)
        x, _, num_classes = training_data(trainer)
        options = self.options | ({"epochs": 1} if trainer.fast_dev_run else {})  # type: ignore[attr-defined]
        torch.manual_seed(self.seed)
        accuracy = fit_random_labels(net, x, num_classes, **options)
        rank_zero_info(f"AdversarialInit: {accuracy:.1%} of the random labels are met")
        self.final_metrics["init/random_label_acc"] = accuracy
        return net.state_dict()


class BarrierInit(Initialiser):
    """Begins from the barrier of an earlier run: of the same model and data, trained first, in the same way.

    The earlier run is what the same fit would have been without this callback. The barrier is where the loss on
    training data lies highest above the straight line between its values at the ends; running statistics are
    interpolated with the weights. Logs the position as ``init/alpha``, and the losses there and at the earlier run's
    ends as ``init/loss``, ``init/first_loss`` and ``init/last_loss``.

    With several processes each trains the earlier run alone.

    Args:
        alpha: The position, if it is not to be looked for.
        num_alphas: Positions that are looked at, both ends included.
        max_examples: Training examples that the loss is taken on.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, alpha: float | None = None, num_alphas: int = 50, max_examples: int = 1000) -> None:
        super().__init__()
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], or None to look for the barrier, got {alpha}")
        if num_alphas < 3:
            raise ValueError(f"num_alphas must be at least 3, got {num_alphas}")
        if max_examples < 1:
            raise ValueError(f"max_examples must be at least 1, got {max_examples}")
        self.alpha, self.num_alphas, self.max_examples = alpha, num_alphas, max_examples

    def initial_state(self, trainer: Trainer, pl_module: LightningModule) -> State:
        first = copy.deepcopy(pl_module.state_dict())
        last = earlier_run(trainer, pl_module)
        x, y, _ = training_data(trainer, self.max_examples)
        alpha = self._position(pl_module, first, last, x, y)
        pl_module.eval()
        losses = losses_between(pl_module, first, last, x, y, [0.0, alpha, 1.0])
        pl_module.train()
        names = ("init/first_loss", "init/loss", "init/last_loss")
        self.final_metrics |= {"init/alpha": alpha, **dict(zip(names, losses.tolist()))}
        return interpolated(first, last, alpha)

    def _position(self, net: LightningModule, first: State, last: State, x: Tensor, y: Tensor) -> float:
        if self.alpha is not None:
            return self.alpha
        alphas = torch.linspace(0, 1, self.num_alphas).tolist()
        net.eval()
        found = highest_above_line(losses_between(net, first, last, x, y, alphas))
        net.train()
        if found == 0:
            rank_zero_warn("BarrierInit: the earlier run's path has no barrier; the fit begins where it began.")
        return alphas[found]


class PartialReset(Initialiser):
    """Begins from trained weights, except for some modules, which are random again.

    The random values are a draw of their own, as :func:`redrawn` gives it, with the running statistics at their start.

    With several processes each trains the earlier run alone.

    Args:
        groups: The modules, by the beginning of their names: ``["net.layer4"]``.
        weights: Checkpoint of the trained weights; ``None`` trains them first, as the same fit without this callback.
        seed: Of the random values.

    Raises:
        ValueError: If there is no group, or the checkpoint cannot be read or is not the model's.
    """

    def __init__(self, groups: list[str], weights: str | None = None, seed: int = 0) -> None:
        super().__init__()
        if isinstance(groups, str) or not groups:
            raise ValueError(f"groups must be a list of at least one module name, got {groups!r}")
        self.groups, self.weights, self.seed = groups, weights, seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        state = pl_module.state_dict()
        check_groups(state, self.groups)
        if self.weights is None:
            return
        lacking = state.keys() - matching(state, read_weights(self.weights)).keys()
        if lacking:
            raise ValueError(
                f"weights must be a checkpoint of this model, got {self.weights!r}, lacking {min(lacking)}"
            )

    def initial_state(self, trainer: Trainer, pl_module: LightningModule) -> State:
        random = copy.deepcopy(pl_module.state_dict())
        if self.weights is None:
            trained = earlier_run(trainer, pl_module)
        else:
            trained = matching(random, read_weights(self.weights))
        return trained | redrawn(random, self.groups, torch.Generator().manual_seed(self.seed))


class PretrainedInit(Initialiser):
    """Begins from weights that were trained elsewhere, where their names and shapes fit; see :func:`matching`.

    Logs the share of the model's values that they are as ``init/pretrained_share``.

    Args:
        weights: A checkpoint or state file, or the name of torchvision's weights, ``"ResNet18_Weights.IMAGENET1K_V1"``,
            which are downloaded if need be and fit a ``resnet18`` with ``backbone_args: {stem: imagenet}``.
        keep_random: Modules that keep their own random values, by the beginning of their names.

    Raises:
        ValueError: If the weights cannot be had, or none of them fits.
    """

    def __init__(self, weights: str, keep_random: list[str] | None = None) -> None:
        super().__init__()
        self.weights, self.keep_random = weights, list(keep_random or [])
        self._found: State = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        state = pl_module.state_dict()
        if self.keep_random:
            check_groups(state, self.keep_random)
        kept = tuple(f"{group}." for group in self.keep_random)
        found = matching(state, read_weights(self.weights))
        self._found = {name: value for name, value in found.items() if not f"{name}.".startswith(kept or ("\0",))}
        if not self._found:
            raise ValueError(f"weights must fit the model, got {self.weights!r}, of which nothing does")

    def initial_state(self, trainer: Trainer, pl_module: LightningModule) -> State:
        state = pl_module.state_dict()
        others = {name: value for name, value in state.items() if name not in self._found}
        if others:
            rank_zero_info(f"PretrainedInit: no weights for {', '.join(parents(others))}")
        size, found = (sum(value.numel() for value in values.values()) for values in (state, self._found))
        self.final_metrics["init/pretrained_share"] = found / size
        return state | self._found


def training_data(trainer: Trainer, max_examples: int | None = None) -> tuple[Tensor, Tensor, int]:
    """Training inputs without augmentation and their classes, on the device, and the number of classes.

    Raises:
        MisconfigurationException: If the Trainer has no datamodule.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        max_examples = DRY_EXAMPLES
    datamodule = of_its_own(trainer)
    if hasattr(datamodule, "augment"):
        datamodule.augment = False
    batches: list[tuple[Tensor, Tensor]] = []
    loader: Iterable[Any] = datamodule.train_dataloader()
    for batch in loader:
        x, y, *_ = trainer.precision_plugin.convert_input(trainer.strategy.batch_to_device(batch))
        batches.append((x, y))
        if max_examples and sum(len(y) for _, y in batches) >= max_examples:
            break
    x, y = (torch.cat(parts)[:max_examples] for parts in zip(*batches))
    return x, y, int(getattr(datamodule, "num_classes", int(y.max()) + 1))


def of_its_own(trainer: Trainer) -> LightningDataModule:
    """A copy of the Trainer's datamodule that shares the data.

    Raises:
        MisconfigurationException: If the Trainer has none.
    """
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    if datamodule is None:
        raise MisconfigurationException("The initialiser needs a datamodule, got none")
    return copy.copy(datamodule)


def earlier_run(trainer: Trainer, pl_module: LightningModule) -> State:
    """Train a copy of the module as the Trainer is going to train it; returns its state. The module stays as it is."""
    model = copy.deepcopy(pl_module)
    device = pl_module.device
    bar = trainer.progress_bar_callback
    limit = trainer.limit_train_batches
    inner = Trainer(
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=trainer.precision,
        limit_train_batches=None if limit == 1.0 else limit,  # 1.0 is the default, but said aloud it is announced
        limit_val_batches=0,
        num_sanity_val_steps=0,
        gradient_clip_val=trainer.gradient_clip_val,
        gradient_clip_algorithm=trainer.gradient_clip_algorithm,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=bar is not None,
        callbacks=[type(bar)()] if bar else [],
        default_root_dir=trainer.default_root_dir,
    )
    rank_zero_info(f"The earlier run: {trainer.max_epochs} epochs")
    inner.fit(model, datamodule=of_its_own(trainer))
    if inner.interrupted:
        raise KeyboardInterrupt
    return {name: value.to(device) for name, value in model.state_dict().items()}


def read_weights(weights: str) -> State:
    """The tensors of a checkpoint or state file, or of torchvision's weights of this name.

    Raises:
        ValueError: If there is no such file and no such name, or it cannot be read or downloaded.
    """
    path = Path(weights)
    try:
        if path.is_file():
            content = torch.load(path, map_location="cpu", weights_only=True)
            content = content.get("state_dict", content)
        else:
            content = get_weight(weights).get_state_dict(progress=False, check_hash=True)
        return {name: value for name, value in content.items() if isinstance(value, Tensor)}
    except Exception as error:  # a broken file raises what it likes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"weights must be a checkpoint file or the name of torchvision's weights, got {weights!r}: {reason}"
        ) from error
