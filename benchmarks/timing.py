"""What the benchmarks share: sides that take turns, medians with their range, and the machine's name."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import torch


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def take_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every side in every round; the sides take turns, so that what slows the machine slows all of them.

    Args:
        sides: Actions by name.
        rounds: How often each is timed, after one round that is not.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, action in sides.items():
            taken = timed(action)
            if number:
                seconds[name].append(taken)
    return seconds


def in_words(values: list[float]) -> str:
    """Median and range in milliseconds, or in seconds from one second on."""
    unit, scale = ("s", 1.0) if statistics.median(values) >= 1 else ("ms", 1e3)
    low, mid, high = (scale * value for value in (min(values), statistics.median(values), max(values)))
    return f"{mid:.1f} {unit}" + (f" ({low:.1f} to {high:.1f}, n={len(values)})" if len(values) > 1 else "")


def processor() -> str:
    """Name of the processor."""
    if find_spec("cpuinfo") is None:
        return platform.processor() or platform.machine()
    import cpuinfo

    return cpuinfo.get_cpu_info().get("brand_raw", platform.machine())


def machine() -> str:
    """Processor, threads and torch in one line."""
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def positive(text: str) -> int:
    """An integer from 1 up."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
