"""Speed of the gradients of pairs and of the optimizers' steps, beside loops and plain SGD with noise, in one run.

``python benchmarks/efld.py``; sides take turns, and figures are medians, with their range.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch import Tensor, nn

from callbacks.gradient_discrepancy_gram import gradient_gram
from callbacks.stability_bound import discrepancy, incoherence, largest_distance, squared_norms
from zoo.backbones import ResNet
from zoo.console import console
from zoo.efld import EFLD, ConvNet, GaussianNoise, NoisyQuantizedSGD, NoisySignSGD, SignSGD

SMALL = {"channels": (8, 16), "stride": 2, "pool": 1, "hidden_channels": (32,)}
NETS: dict[str, Callable[[], nn.Module]] = {
    "28,874 parameters": lambda: ConvNet(10, **SMALL),  # type: ignore[arg-type]
    "454,922 parameters": lambda: ConvNet(10),
}
CRITERION = nn.CrossEntropyLoss()
Side = dict[str, Callable[[], object]]


def by_a_loop(net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """What a measurement wants to know, from one backward pass for each sample."""
    rows = []
    for i in range(len(x)):
        net.zero_grad()
        CRITERION(net(x[i : i + 1]), y[i : i + 1]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    gradients = torch.stack(rows)
    return read_off(gradients @ gradients.T)


def discrepancy_by_a_loop(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The squared distances alone: two backward passes for each pair, and nothing kept."""
    half = len(x) // 2
    found = []
    for i in range(half):
        pair = []
        for j in (i, half + i):
            net.zero_grad()
            CRITERION(net(x[j : j + 1]), y[j : j + 1]).backward()
            pair.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        found.append(sum((one - other).square().sum() for one, other in zip(*pair)))
    return torch.stack(found)  # type: ignore[arg-type]


def read_off(gram: Tensor) -> tuple[Tensor, ...]:
    """All that the bounds are made of."""
    return discrepancy(gram), squared_norms(gram), incoherence(gram), largest_distance(gram)


def measurements(net: nn.Module, num_pairs: int) -> Side:
    """One measurement of all pairs; the sides agree, or an error says that they do not."""
    x, y = torch.rand(2 * num_pairs, 1, 28, 28), torch.randint(10, (2 * num_pairs,))
    sides: Side = {
        "Gram, by layers": lambda: read_off(gradient_gram(net, CRITERION, x, y)),
        "vmap": lambda: read_off(gradient_gram(net, CRITERION, x, y, method="vmap")),
        "loop over samples": lambda: by_a_loop(net, x, y),
        "loop, the discrepancy alone": lambda: discrepancy_by_a_loop(net, x, y),
    }
    found = [side() for side in sides.values()]
    for one in (found[1][0], found[2][0], found[3]):  # type: ignore[index]
        torch.testing.assert_close(one, found[0][0], rtol=1e-3, atol=1e-4)  # type: ignore[index]
    return sides


class PlainSGLD:
    """torch.optim.SGD, and a loop that adds noise to every parameter."""

    def __init__(self, params: list[nn.Parameter], lr: float, noise_std: float) -> None:
        self.params, self.noise_std = params, noise_std
        self.sgd = torch.optim.SGD(params, lr=lr)

    @torch.no_grad()
    def step(self) -> None:
        """Descend, then add noise."""
        self.sgd.step()
        for p in self.params:
            p.add_(torch.randn_like(p), alpha=self.noise_std)


class PlainSigns:
    """A loop that draws a sign for every element of every parameter."""

    def __init__(self, params: list[nn.Parameter], lr: float, alpha: float) -> None:
        self.params, self.lr, self.alpha = params, lr, alpha

    @torch.no_grad()
    def step(self) -> None:
        """Move by signs."""
        for p in self.params:
            up = torch.bernoulli(torch.sigmoid(2 * p.grad / self.alpha))
            p.add_(2 * up - 1, alpha=-self.lr)


def steps(make_net: Callable[[], nn.Module], repeats: int) -> Side:
    """Several steps of each optimizer, on gradients that are there already."""

    def side(make: Callable[[list[nn.Parameter]], object]) -> Callable[[], object]:
        params = list(make_net().parameters())
        for p in params:
            p.grad = 1e-3 * torch.randn_like(p)
        optimizer = make(params)
        return lambda: [optimizer.step() for _ in range(repeats)]  # type: ignore[attr-defined]

    return {
        "SGLD": side(lambda params: EFLD(params, 1e-6, 0.3, GaussianNoise())),
        "torch.optim.SGD and noise": side(lambda params: PlainSGLD(params, 1e-6, 3e-7)),
        "noisy signs": side(lambda params: NoisySignSGD(params, 1e-6, 0.01)),
        "noisy signs, loop": side(lambda params: PlainSigns(params, 1e-6, 0.01)),
        "three levels": side(lambda params: NoisyQuantizedSGD(params, 1e-6, 0.01)),
        "sign-SGD": side(lambda params: SignSGD(params, 1e-6)),
        "torch.optim.SGD": side(lambda params: torch.optim.SGD(params, 1e-6)),
    }


def measure(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Seconds of every piece, sides by turns."""
    found = {
        f"{args.pairs} pairs, {name}": take_turns(measurements(make(), args.pairs), args.rounds)
        for name, make in NETS.items()
    }
    nets: dict[str, Callable[[], nn.Module]] = NETS | {"11,173,962 parameters (ResNet-18)": resnet18}
    for name, make in nets.items():
        repeats = 1 if make is resnet18 else 20
        seconds = take_turns(steps(make, repeats), args.rounds)
        found[f"a step, {name}"] = {side: [one / repeats for one in values] for side, values in seconds.items()}
    return found


def resnet18() -> nn.Module:
    """ResNet-18 for CIFAR-10."""
    return ResNet(10, depths=(2, 2, 2, 2), widths=(64, 128, 256, 512))


def table(found: dict[str, dict[str, list[float]]]) -> Table:
    """The figures for the console; each side's time over that of the first one."""
    rows = Table("", "", "time", "over the first", title=machine(), title_justify="left")
    for title, sides in found.items():
        first = statistics.median(next(iter(sides.values())))
        for i, (name, values) in enumerate(sides.items()):
            rows.add_row("" if i else title, name, in_words(values), f"{statistics.median(values) / first:.2f}")
        rows.add_section()
    return rows


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=15, help="turns of each side")
    parser.add_argument("--pairs", type=positive, default=48, help="pairs of a measurement")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    found = measure(args)
    console().print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
