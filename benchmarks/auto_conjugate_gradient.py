"""Speed of our APGD and ACG beside torchattacks' and ART's APGD: same network, images, loss and iterations, in one run.

``python benchmarks/auto_conjugate_gradient.py`` (or ``make bench BENCH=auto_conjugate_gradient``). The network is that
of the recipe ``auto_conjugate_gradient``, trained at the first call (minutes) and then taken from the cache. Sides take
turns; times are processor time, which other work on the machine hardly changes, medians with their range.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch import Tensor, nn

from datamodules import VisionDataModule
from zoo.auto_conjugate_gradient import ACG, APGD, RobustTraining
from zoo.claims import Run
from zoo.console import console

INSTALL = "pip install 'torchattacks>=3.5.1' 'adversarial-robustness-toolbox>=1.20'"


class Side(NamedTuple):
    """One of the attacks.

    Attributes:
        action: Attacks the images.
        seconds: Processor time of each call.
        forwards: Images that went forward in each call.
        found: The perturbed images of the last call.
    """

    action: Callable[[], None]
    seconds: list[float]
    forwards: list[int]
    found: list[Tensor]


def network_and_images(number: int) -> tuple[nn.Module, Tensor, Tensor, str]:
    """The recipe's robust network, test images that it has right, their labels, and the data in words."""
    config = Run("auto_conjugate_gradient", seed=0).config()
    data = VisionDataModule(**config["data"]["init_args"])
    training = RobustTraining(**config["model"]["init_args"]["training"])
    net = training.module(data.num_classes, data.input_shape).net
    net.load_state_dict(training.obtain(data, data.num_classes, data.input_shape))
    net.eval()
    x, y = (torch.cat(parts) for parts in list(zip(*data.test_dataloader()))[:2])
    with torch.no_grad():
        right = (net(x).argmax(1) == y).nonzero()[:number, 0]
    return net, x[right], y[right], data.description


def ours(attack: ACG | APGD, net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """One of our attacks."""
    return lambda: attack(net, x, y).x_adv


def torchattacks_apgd(net: nn.Module, x: Tensor, y: Tensor, restarts: int) -> Callable[[], Tensor]:
    """That of torchattacks."""
    import torchattacks

    attack = torchattacks.APGD(net, eps=args.eps, steps=args.steps, n_restarts=restarts, loss=args.loss, seed=0)
    return lambda: attack(x, y).detach()


def art_apgd(net: nn.Module, x: Tensor, y: Tensor, restarts: int) -> Callable[[], Tensor]:
    """That of the Adversarial Robustness Toolbox."""
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    shape = tuple(x.shape[1:])
    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, 1.0), device_type="cpu")
    loss = {"ce": "cross_entropy", "dlr": "difference_logits_ratio"}[args.loss]
    attack = AutoProjectedGradientDescent(
        classifier,
        eps=args.eps,
        eps_step=2 * args.eps,
        max_iter=args.steps,
        nb_random_init=restarts,
        batch_size=len(x),
        loss_type=loss,
        verbose=False,
    )
    return lambda: torch.from_numpy(attack.generate(x.contiguous().numpy(), y.numpy()))


@contextmanager
def counted(net: nn.Module) -> Iterator[list[int]]:
    """Sizes of the batches that go forward."""
    sizes: list[int] = []
    hook = net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    yield sizes
    hook.remove()


def measured(action: Callable[[], Tensor], net: nn.Module) -> Side:
    """A side that notes its processor time and its forward passes."""
    seconds: list[float] = []
    forwards: list[int] = []
    found: list[Tensor] = []

    def run() -> None:
        with counted(net) as sizes:
            begun = time.process_time()
            found[:] = [action()]
            seconds.append(time.process_time() - begun)
        forwards.append(sum(sizes))

    return Side(run, seconds, forwards, found)


def compare(title: str, actions: dict[str, Callable[[], Tensor]], net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Let the sides take turns, and print what they took and broke."""
    sides = {name: measured(action, net) for name, action in actions.items()}
    take_turns({name: side.action for name, side in sides.items()}, args.rounds)
    with torch.no_grad():
        broken = {name: int((net(side.found[0]).argmax(1) != y).sum()) for name, side in sides.items()}
    first = next(iter(sides))
    base = statistics.median(sides[first].seconds[1:])
    columns = ("", "a call", "of the first", "forward passes an image", "us a forward pass", "broken")
    table = Table(*columns, title=f"{title}\n{machine()}", title_justify="left")
    for name, side in sides.items():
        median, passes = statistics.median(side.seconds[1:]), side.forwards[-1]
        table.add_row(
            name,
            in_words(side.seconds[1:]),
            f"{median / base:.2f}x",
            f"{passes / len(x):.1f}",
            f"{1e6 * median / passes:.0f}",
            f"{broken[name]} of {len(x)}",
        )
    console().print(table)


def agreement(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Images that one run of APGD breaks from random starts, ours and that of torchattacks, by seed."""
    import torchattacks

    options: dict[str, Any] = {"eps": args.eps, "loss": args.loss}
    table = Table("", "broken, by seed", title=f"one run from {args.seeds} random starts", title_justify="left")
    ours_broken, theirs_broken = [], []
    for seed in range(args.seeds):
        attack = APGD(n_iter=args.steps, start="random", seed=seed, **options)
        ours_broken.append(int(attack(net, x, y).success.sum()))
        theirs = torchattacks.APGD(net, steps=args.steps, n_restarts=1, seed=seed, **options)
        with torch.no_grad():
            theirs_broken.append(int((net(theirs(x, y)).argmax(1) != y).sum()))
    for name, broken in (("APGD", ours_broken), ("torchattacks, APGD", theirs_broken)):
        table.add_row(name, f"{', '.join(map(str, broken))} of {len(x)}")
    console().print(table)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(args.threads)
    net, x, y, data = network_and_images(args.images)
    console().print(f"{data}; {len(x)} images, eps {args.eps:.4f}, {args.steps} iterations, loss {args.loss}")
    options: dict[str, Any] = {"eps": args.eps, "n_iter": args.steps, "loss": args.loss, "start": "random"}
    single = {
        "APGD, all images to the end": ours(APGD(early_stop=False, **options), net, x, y),
        "APGD, leaving out broken ones": ours(APGD(**options), net, x, y),
        "ACG, all images to the end": ours(ACG(early_stop=False, **options), net, x, y),
    }
    several = {
        "APGD, runs side by side": ours(APGD(n_restarts=args.restarts, **options), net, x, y),
        "APGD, one after another": ours(APGD(n_restarts=args.restarts, stack_restarts=False, **options), net, x, y),
    }
    missing = [package for package in ("torchattacks", "art") if find_spec(package) is None]
    for package, side in (("torchattacks", torchattacks_apgd), ("art", art_apgd)):
        if package not in missing:
            single[f"{package}, APGD"] = side(net, x, y, 1)
            several[f"{package}, APGD"] = side(net, x, y, args.restarts)
    compare("one run", single, net, x, y)
    compare(f"{args.restarts} restarts", several, net, x, y)
    if "torchattacks" not in missing and args.seeds:
        agreement(net, x, y)
    if missing:
        console().print(f"{' and '.join(missing)} not installed, so left out: {INSTALL}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=3, help="calls of each side")
    parser.add_argument("--images", type=positive, default=100)
    parser.add_argument("--steps", type=positive, default=50)
    parser.add_argument("--restarts", type=positive, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="of the comparison of successes; 0 leaves it out")
    parser.add_argument("--eps", type=float, default=8 / 255)
    parser.add_argument("--loss", choices=("ce", "dlr"), default="ce")
    args = parser.parse_args()
    main()
