"""Speed of the path between two states beside plain code, the package loss-landscapes and the floor, in one run.

``python benchmarks/linear_interpolation.py``. The layer-wise scan of a ResNet is set beside as many full paths and
beside the plain loop (load each state, call the model); a path of an MLP beside ``loss-landscapes``, if it is installed
(``pip install loss-landscapes``), whose losses must be ours. Sides take turns, figures are medians, with their range;
ratios are of processor time, which other work on the machine hardly changes. Inputs are random, and cost what real ones
cost.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from timing import in_words, machine, positive, take_turns
from torch import Tensor, nn

from callbacks.path import interpolate_path, interpolate_paths
from callbacks.states import lerp_state, snapshot
from zoo.backbones import build_backbone
from zoo.console import console

GROUPS = {"all": None, "B1": ["layer1"], "B2": ["layer2"], "B3": ["layer3"], "B4": ["layer4"], "fc": ["head"]}
STAGES = ["layer1", "layer2", "layer3", "layer4"]
Batch = tuple[Tensor, Tensor]


def by_turns(sides: dict[str, Callable[[], object]]) -> dict[str, dict[str, list[float]]]:
    """Seconds and processor seconds of every side in every round."""
    processor: dict[str, list[float]] = {name: [] for name in sides}

    def noted(name: str) -> None:
        processor[name].append(processor_seconds(sides[name]))

    wall = take_turns({name: lambda name=name: noted(name) for name in sides}, args.rounds)
    return {"wall": wall, "processor": {name: values[1:] for name, values in processor.items()}}


def processor_seconds(action: Callable[[], object]) -> float:
    """Processor time that an action takes, of all threads together."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def two_states(make: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """A network, its state, and another one's."""
    net = make()
    return net, snapshot(net), snapshot(make())


@torch.no_grad()
def plain_path(net: nn.Module, start: dict[str, Tensor], end: dict[str, Tensor], batch: Batch, groups: Any) -> Tensor:
    """The losses of a path as one would write it down: load each state, call the model."""
    net = copy.deepcopy(net).eval()
    losses = []
    for alpha in torch.linspace(0, 1, args.alphas).tolist():
        net.load_state_dict(lerp_state(start, end, alpha, groups=groups))
        losses.append(F.cross_entropy(net(batch[0]), batch[1]))
    return torch.stack(losses)


def measure_scan() -> dict[str, Any]:
    """Seconds of the scan and of what it is set beside, and how far its losses are from the plain loop's."""
    shape = (3, args.size, args.size)
    net, start, end = two_states(lambda: channels_last(build_backbone(args.net, 10, shape)))
    x, y = channels_last(torch.randn(args.images, *shape)), torch.randint(10, (args.images,))
    options = {"num_alphas": args.alphas}
    sides: dict[str, Callable[[], object]] = {
        "scan": lambda: interpolate_paths(net, start, end, [(x, y)], GROUPS, **options),
        "full paths": lambda: [interpolate_path(net, start, end, [(x, y)], **options) for _ in GROUPS],
        "plain loop": lambda: [plain_path(net, start, end, (x, y), groups) for groups in GROUPS.values()],
    }
    seconds = by_turns(sides)
    paths = interpolate_paths(net, start, end, [(x, y)], GROUPS, **options)
    expected = {name: plain_path(net, start, end, (x, y), groups).numpy() for name, groups in GROUPS.items()}
    return {
        "seconds": seconds,
        "floor": scan_floor(net.eval(), x),
        "difference": max(float(np.abs(path.loss - expected[name]).max()) for name, path in paths.items()),
    }


def channels_last(value: Any) -> Any:
    """A tensor or network in the memory format that convolutions like."""
    return value.to(memory_format=torch.channels_last)


@torch.no_grad()
def scan_floor(net: Any, x: Tensor) -> float:
    """Seconds of the forward passes that no exact scan can do without: for each line all from its moved stage on.

    Without the first layer that moves, whose outputs are a line.
    """
    inputs = stem(net, x)
    times: list[float] = []
    firsts: list[float] = []
    after_stem = net.conv1(x)
    of_stem = median_of(lambda: torch.relu(net.bn1(after_stem)))
    for name in STAGES:
        stage = net.get_submodule(name)
        times.append(median_of(lambda stage=stage, x=inputs: stage(x)))
        fed = [stage[0].conv1, *([stage[0].downsample[0]] if stage[0].downsample is not None else [])]
        firsts.append(median_of(lambda fed=fed, x=inputs: [layer(x) for layer in fed]))
        inputs = stage(inputs)
    from_stage = [sum(times[i:]) for i in range(len(STAGES))]
    return args.alphas * (of_stem + from_stage[0] + sum(from_stage) - sum(firsts))


def stem(net: Any, x: Tensor) -> Tensor:
    """What the first stage of a ResNet is given."""
    return net.maxpool(torch.relu(net.bn1(net.conv1(x))))


def median_of(action: Callable[[], object]) -> float:
    """Median of seven timings in processor seconds."""
    return statistics.median(processor_seconds(action) for _ in range(7))


def measure_path() -> dict[str, Any]:
    """Seconds of a path of an MLP, ours and that of loss-landscapes, and how far their losses are apart."""
    net, start, end = two_states(lambda: build_backbone("mlp", 10, (1, 28, 28)))
    x, y = torch.randn(args.inputs, 1, 28, 28), torch.randint(10, (args.inputs,))
    alphas = np.arange(args.alphas + 1) / args.alphas  # the peer takes the positions 1/n, ..., 1
    models = [copy.deepcopy(net) for _ in range(2)]
    for model, state in zip(models, (start, end)):
        model.load_state_dict(state)
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: interpolate_path(net, start, end, [(x, y)], alphas=alphas).loss[1:],
        "plain loop": lambda: plain_path(net, start, end, (x, y), None),
    }
    if find_spec("loss_landscapes"):
        import loss_landscapes
        from loss_landscapes.metrics import Loss

        metric = Loss(F.cross_entropy, x, y)

        def peer() -> Any:
            with torch.no_grad():  # it would record gradients
                return loss_landscapes.linear_interpolation(*models, metric, steps=args.alphas, deepcopy_model=True)

        sides["loss-landscapes"] = peer
    seconds = by_turns(sides)
    found: dict[str, Any] = {"seconds": seconds, "floor": path_floor(net, x)}
    if "loss-landscapes" in sides:
        found["difference"] = float(np.abs(sides["ours"]() - sides["loss-landscapes"]()).max())
    return found


@torch.no_grad()
def path_floor(net: Any, x: Tensor) -> float:
    """Seconds of the layers after the first one at every position; the first one's outputs are a line."""
    hidden = net.layers[0](x.flatten(1))
    rest = nn.Sequential(*net.layers[1:], net.head)
    return args.alphas * median_of(lambda: rest(hidden))


def table(found: dict[str, Any]) -> Table:
    """The figures for the console."""
    title = f"{found['machine']}\n{args.alphas} positions, {args.images} images, {args.inputs} inputs of the MLP"
    rows = Table("", "time", "processor time", "beside ours", title=title, title_justify="left")
    for what, ours, key in (
        (f"{args.net}, {args.size} x {args.size}: 6 lines", "scan", "scan"),
        ("MLP 784-100-100-10: whole path", "ours", "path"),
    ):
        seconds, floor = found[key]["seconds"], found[key]["floor"]
        median = statistics.median(seconds["processor"][ours])
        for side, values in seconds["processor"].items():
            ratio = "" if side == ours else f"{statistics.median(values) / median:.2f}x"
            rows.add_row(f"{what}, {side}", in_words(seconds["wall"][side]), in_words(values), ratio)
        rows.add_row(f"{what}, floor", "", in_words([floor]), f"{floor / median:.0%} reached")
        if "difference" in found[key]:
            other = "the plain loop" if key == "scan" else "loss-landscapes"
            rows.add_row(f"largest difference of a loss to {other}", f"{found[key]['difference']:.1e}", "", "")
        rows.add_section()
    return rows


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", choices=["resnet10", "resnet18", "resnet34"], default="resnet10")
    parser.add_argument("--size", type=positive, default=16, help="side of the images")
    parser.add_argument("--images", type=positive, default=250, help="inputs of the ResNet")
    parser.add_argument("--inputs", type=positive, default=2000, help="inputs of the MLP")
    parser.add_argument("--alphas", type=positive, default=50)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each side, after one that is not timed")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    found = {"machine": machine(), "scan": measure_scan(), "path": measure_path()}
    console().print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    args = arguments()
    main()
