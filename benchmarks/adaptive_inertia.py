"""A step of Adai on ResNet-18's parameters beside pytorch_optimizer's Adai and torch's optimizers, in one run.

``python benchmarks/adaptive_inertia.py`` (or ``make bench BENCH=adaptive_inertia``). All sides take turns; figures are
medians, with their range. The floor is the traffic that no step can do without, at the speed of a plain ``add_``.
"""

import argparse
import statistics
from collections.abc import Callable
from importlib.util import find_spec

import torch
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch import nn

from zoo.adaptive_inertia import Adai
from zoo.backbones import build_backbone
from zoo.console import console

# Floats that a step moves for each parameter: the sum over squared gradients must be known before anything moves, so
# that v and g are read twice (g, v in and out; then v, g, and m, pi and the parameter in and out). Coupled decay reads
# the parameter in the first pass too.
FLOATS, FLOATS_COUPLED = 11, 12
FLOATS_OF_ADD = 3  # a.add_(b): a in and out, b
INSTALL = "pip install --no-deps pytorch_optimizer==4.1.0"


def parameters() -> list[nn.Parameter]:
    """Those of the CIFAR ResNet-18, as the classifier keeps them, with gradients."""
    torch.manual_seed(0)
    params = list(build_backbone("resnet18", 10, (3, 32, 32)).to(memory_format=torch.channels_last).parameters())  # type: ignore[call-overload]
    for p in params:
        p.grad = torch.randn_like(p).mul_(1e-2)
    return params


def optimizers() -> dict[str, torch.optim.Optimizer]:
    """All sides by name."""
    sides: dict[str, torch.optim.Optimizer] = {
        "Adai": Adai(parameters(), lr=1e-3),
        "Adai, weight decay": Adai(parameters(), lr=1e-3, weight_decay=5e-4),
        "Adai, foreach=False": Adai(parameters(), lr=1e-3, foreach=False),
        "torch.optim.Adam": torch.optim.Adam(parameters()),
        "torch.optim.Adam, foreach": torch.optim.Adam(parameters(), foreach=True),
        "torch.optim.SGD, momentum": torch.optim.SGD(parameters(), lr=1e-3, momentum=0.9),
    }
    if find_spec("pytorch_optimizer") is not None:
        from pytorch_optimizer import Adai as Peer

        sides["pytorch_optimizer.Adai"] = Peer(parameters(), lr=1e-3)
        sides["pytorch_optimizer.Adai, weight decay"] = Peer(parameters(), lr=1e-3, weight_decay=5e-4)
        sides["pytorch_optimizer.Adai, foreach=False"] = Peer(parameters(), lr=1e-3, foreach=False)
    return sides


def adder(size: int) -> Callable[[], object]:
    """One pass over two vectors of the parameters' size."""
    a, b = torch.rand(size), torch.rand(size)
    return lambda: a.add_(b, alpha=1e-9)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=20, help="steps of each side")
    parser.add_argument("--compile", action="store_true", help="time torch.compile(step) too; compiling takes a minute")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sides = optimizers()
    size = sum(p.numel() for p in sides["Adai"].param_groups[0]["params"])
    for optimizer in sides.values():
        optimizer.step()  # makes the states
    actions: dict[str, Callable[[], object]] = {name: side.step for name, side in sides.items()}
    if args.compile:
        compiled = torch.compile(Adai(parameters(), lr=1e-3, capturable=True).step)
        compiled()  # the first step makes the states, the second one is compiled anew
        compiled()
        actions["Adai, torch.compile(step)"] = compiled
    seconds = take_turns({**actions, "add_": adder(size)}, args.rounds)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    title = f"{size:,} parameters of ResNet-18\n{machine()}"
    table = Table("", "a step", "Adai is faster by", "share of the floor", title=title, title_justify="left")
    for name in actions:
        decays = name.endswith("weight decay")
        floor = median["add_"] * (FLOATS_COUPLED if decays else FLOATS) / FLOATS_OF_ADD
        share = f"{floor / median[name]:.0%}" if name.startswith("Adai") else ""
        faster = median[name] / median["Adai, weight decay" if decays else "Adai"]
        table.add_row(name, in_words(seconds[name]), f"{faster:.2f}x", share)
    table.add_section()
    floor = median["add_"] * FLOATS / FLOATS_OF_ADD
    table.add_row(f"floor: {FLOATS} floats a parameter, at the speed of add_", f"{1e3 * floor:.1f} ms", "", "")
    console().print(table)
    if "pytorch_optimizer.Adai" not in sides:
        console().print(f"pytorch_optimizer is not installed, so its Adai was left out: {INSTALL}")


if __name__ == "__main__":
    main()
