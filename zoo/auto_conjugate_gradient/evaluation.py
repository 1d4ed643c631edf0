"""The module whose test attacks a network."""

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassAccuracy

from zoo.auto_conjugate_gradient.attack import Attack
from zoo.auto_conjugate_gradient.history import AttackHistory
from zoo.auto_conjugate_gradient.losses import is_adversarial
from zoo.auto_conjugate_gradient.result import AttackResult
from zoo.auto_conjugate_gradient.success import AttackComparison, AttackSuccess
from zoo.auto_conjugate_gradient.training import RobustTraining
from zoo.classifier import full_precision

SUMS = ("seconds", "num_contradicted", "num_outside")
TOLERANCE = 1e-6


class AttackEvaluation(LightningModule):
    """Attacks a robust network in its test, by one attack or by several on the same images.

    The network is one of your own, or is trained before the first epoch as ``training`` says, once, and kept in the
    cache (:class:`~zoo.auto_conjugate_gradient.training.RobustTraining`). The fit has no more to do: it should be one
    epoch of one step, for the sake of its checkpoint. A checkpoint of
    :class:`~zoo.auto_conjugate_gradient.module.AdversarialClassifier` with the same network can be tested as well.

    Images have pixels in [0, 1]. Only those are attacked that the network has right. For each attack the test logs
    ``test/success/<attack>``, the share of these that it broke; ``test/robust_acc/<attack>``, the share of all images
    that withstood; ``test/margin/<attack>``, the mean of the largest margins; ``test/gradients/<attack>``, for an
    image; ``test/seconds/<attack>``, processor time on a CPU, else wall time; ``test/num_attacked/<attack>``,
    ``test/num_broken/<attack>``, and how many results are not what they say, 0 if all is well: the class of
    ``x_adv`` is another one when it is looked at again, or a point lies outside of the ball
    (``test/num_contradicted/<attack>``, ``test/num_outside/<attack>``). For each two attacks it logs
    ``test/only/<one>_not_<other>``, images that one broke and the other did not, and
    ``test/higher/<one>_than_<other>``, images where one reached the larger margin. ``test/acc`` is the accuracy on
    clean images, and the validation looks at nothing else.

    The test step returns the attacks' traces, where they record them, for callbacks that follow a search.

    Args:
        num_classes: Number of classes.
        attacks: The attacks, by name.
        input_shape: Channels, height and width of an image.
        network: A network that takes pixels in [0, 1] and needs no training.
        training: How one is trained, where ``network`` is ``None``.
        num_paths: Of how many of the first attacked images the search paths are kept, for drawing.

    Raises:
        ValueError: If an argument is out of range, or both or neither of ``network`` and ``training`` are given.

    Example:
        >>> from zoo.auto_conjugate_gradient import ACG, APGD
        >>> attacks = {"acg": ACG(eps=0.1), "apgd": APGD(eps=0.1)}
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        >>> evaluation = AttackEvaluation(10, attacks, input_shape=(1, 28, 28), network=net)
    """

    main_metric = None

    def __init__(
        self,
        num_classes: int,
        attacks: dict[str, Attack],
        input_shape: tuple[int, int, int] = (3, 32, 32),
        network: nn.Module | None = None,
        training: RobustTraining | None = None,
        num_paths: int = 2,
    ) -> None:
        super().__init__()
        if not attacks:
            raise ValueError("attacks must name at least one attack, got none")
        for name in attacks:
            if not name.isidentifier():
                raise ValueError(f"attacks must have names of letters, digits and underscores, got {name!r}")
        if num_paths < 0:
            raise ValueError(f"num_paths must be at least 0, got {num_paths}")
        if (network is None) == (training is None):
            raise ValueError(
                "one of network and training must be given, got " + ("none" if network is None else "both")
            )
        self.save_hyperparameters("num_classes", "input_shape", "num_paths")
        self.automatic_optimization = False
        self.attacks, self.training_plan, self.num_paths = attacks, training, num_paths
        self.ready = training is None
        self.curves: dict[str, Tensor] = {}  # success over iterations, once a test has ended
        if training is None:
            assert network is not None
            self.net = network
        else:
            self.net = training.module(num_classes, input_shape).net
        self.net.requires_grad_(False)
        self.acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.successes = nn.ModuleDict({name: AttackSuccess(attack.n_iter) for name, attack in attacks.items()})
        self.comparisons = nn.ModuleDict({f"{a}|{b}": AttackComparison() for a, b in combinations(attacks, 2)})
        self.sums = nn.ModuleDict({f"{what}/{name}": SumMetric() for what in SUMS for name in attacks})

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape ``(B, K)``."""
        return self.net(x)

    def configure_callbacks(self) -> list[Callback]:
        return [AttackHistory(self.num_paths)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ready = True

    def on_fit_start(self) -> None:
        self.prepare_network()

    def on_test_start(self) -> None:
        self.prepare_network()

    on_validation_start = on_predict_start = on_test_start

    def prepare_network(self) -> None:
        """Train the network, or take it from the cache, if it is not there yet."""
        if self.ready:
            return
        assert self.training_plan is not None
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise MisconfigurationException("The network's training needs a datamodule, got none")
        shape = (self.hparams["num_classes"], tuple(self.hparams["input_shape"]), self.device)
        bar = self.trainer.progress_bar_callback
        options: dict[str, Any] = {"callbacks": [type(bar)()]} if bar else {"enable_progress_bar": False}
        with torch.inference_mode(False), torch.enable_grad():
            if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                weights = self.training_plan.fit(data, *shape, fast_dev_run=True, **options)
            else:
                weights = self.training_plan.obtain(data, *shape, **options)
            self.net.load_state_dict(weights)
        self.ready = True

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.optimizers().step()  # type: ignore[union-attr]

    def configure_optimizers(self) -> Optimizer:
        """A counter: Lightning keeps checkpoints only where it counts."""
        return torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.0)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        x, y, *_ = batch
        logits = full_precision(self(x))
        self.val_acc.update(logits, y)
        self.log("val/loss", F.cross_entropy(logits, y), batch_size=len(y), sync_dist=True)
        self.log("val/acc", self.val_acc, batch_size=len(y))

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> dict[str, Any]:
        x, y, *_ = batch
        predicted = self(x).argmax(dim=1)
        self.acc.update(predicted, y)
        right = (predicted == y).nonzero()[:, 0]
        x, y = x[right], y[right]
        results = {}
        turns = list(self.attacks.items())
        for name, attack in turns if batch_idx % 2 == 0 else reversed(turns):  # the first pass of a size takes longer
            begun = seconds(self.device)
            result = results[name] = attack(self.net, x, y)
            self._add(name, result, x, y, seconds(self.device) - begun, num_wrong=len(predicted) - len(right))
        for pair, comparison in self.comparisons.items():
            comparison.update(*(results[name] for name in pair.split("|")))  # type: ignore[operator]
        traces = {name: result.trace for name, result in results.items() if result.trace is not None}
        return {"traces": traces}

    def _add(self, name: str, result: AttackResult, x: Tensor, y: Tensor, taken: float, num_wrong: int) -> None:
        self.successes[name].update(result, num_wrong)  # type: ignore[operator]
        again = is_adversarial(self(result.x_adv), y) if len(y) else result.success
        values = {
            "seconds": torch.tensor(taken, device=self.device),
            "num_contradicted": (again != result.success).sum(),
            "num_outside": outside(result.x_adv, x, self.attacks[name]).sum(),
        }
        for what, value in values.items():
            self.sums[f"{what}/{name}"].update(value)  # type: ignore[operator]

    def on_test_epoch_end(self) -> None:
        self.log("test/acc", self.acc)
        self.curves = {}
        for name, metric in self.successes.items():
            found: dict[str, Tensor] = metric.compute()  # type: ignore[operator]
            self.curves[name] = found.pop("curve")
            self.log_dict({f"test/{what}/{name}": value for what, value in found.items()})
            metric.reset()  # type: ignore[operator]
        for key, total in self.sums.items():
            self.log(f"test/{key}", total)  # type: ignore[arg-type]
        for pair, comparison in self.comparisons.items():
            self.log_dict(_in_words(pair, comparison.compute()))  # type: ignore[operator]
            comparison.reset()  # type: ignore[operator]

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> dict[str, AttackResult]:
        """The results of all attacks on all images of the batch, by name."""
        return {name: attack(self.net, batch[0], batch[1]) for name, attack in self.attacks.items()}


def outside(x_adv: Tensor, x: Tensor, attack: Attack) -> Tensor:
    """Which points lie further than the attack's ``eps`` from the image or outside of [0, 1], by more than 1e-6.

    Args:
        x_adv: Shape ``(B, *)``.
        x: Shape ``(B, *)``.
        attack: Has ``norm`` and ``eps``.

    Returns:
        Shape ``(B,)``, bool.
    """
    change = (x_adv - x).flatten(1)
    length = change.abs().amax(dim=1) if attack.norm == "Linf" else change.norm(dim=1)
    flat = x_adv.flatten(1)
    beyond = torch.maximum(-flat.amin(dim=1), flat.amax(dim=1) - 1)
    return torch.maximum(length - attack.eps, beyond) > TOLERANCE


def seconds(device: torch.device) -> float:
    """Processor time on a CPU, where other programs may compute beside; else the time, once the device has finished."""
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def _in_words(pair: str, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    first, second = pair.split("|")
    return {
        f"test/only/{first}_not_{second}": found["only_first"],
        f"test/only/{second}_not_{first}": found["only_second"],
        f"test/higher/{first}_than_{second}": found["higher_first"],
        f"test/higher/{second}_than_{first}": found["higher_second"],
    }
