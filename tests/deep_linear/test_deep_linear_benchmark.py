"""All sides of the benchmark end at the same weights, or their speeds could not be compared."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("deep_linear_benchmark", BENCHMARKS / "deep_linear.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(BENCHMARKS))
    return module


def test_all_sides_end_at_the_same_weights(benchmark):
    sweep = benchmark.Sweep(settings=2, steps=50)
    ours = sweep.recipe().net.weights()
    for setting in range(2):
        for side in (sweep.by_trainer(setting), sweep.by_loop(setting)):
            for layer, weight in zip(side.layers, ours):
                torch.testing.assert_close(layer.weight, weight[setting], rtol=1e-12, atol=1e-13)


def test_the_floor_counts_every_multiplication(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "DIMS", [2, 3, 5])
    # W2 W1: 5 x 3 x 2; slope of W2: 5 x 2 x 3; of W1: 3 x 5 x 2; the step: 2 x 3 + 3 x 5
    assert benchmark.multiplications() == 30 + 30 + 30 + 21
