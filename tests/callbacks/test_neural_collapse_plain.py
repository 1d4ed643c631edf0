"""The plain computation of the benchmark gives the same NC1, or the speeds could not be compared."""

import importlib.util
from pathlib import Path

import pytest
import torch

from callbacks.neural_collapse import neural_collapse

PLAIN = Path(__file__).parents[2] / "benchmarks/plain_neural_collapse.py"


@pytest.mark.parametrize(("num_classes", "num_features"), [(5, 12), (8, 4)])
def test_both_give_the_same_nc1(num_classes, num_features):
    spec = importlib.util.spec_from_file_location("plain_neural_collapse", PLAIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    generator = torch.Generator().manual_seed(0)
    target = torch.cat([torch.arange(num_classes), torch.randint(num_classes, (100,), generator=generator)])
    means = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    features = means[target] + torch.randn(len(target), num_features, generator=generator, dtype=torch.float64)
    plain = float(module.plain_nc1(features, target, num_classes))
    assert plain == pytest.approx(float(neural_collapse(features, target)["nc1"]), rel=1e-10)
