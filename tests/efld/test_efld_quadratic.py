import math

import pytest
import torch

from zoo.efld import NoisySignQuadratics


def test_the_first_step_is_drawn_at_the_right_scale():
    """At w = 1 the gradient is K and alpha 4 max K: a component moves down with probability sigmoid(K / (2 max K))."""
    torch.manual_seed(0)
    runs = NoisySignQuadratics([0.5, 2.0], horizons=[100], noise_std=[0.0], num_replicas=20_000)
    runs.run(1)
    moved = (runs.w[0] - 1) / -0.1
    assert moved.abs().allclose(torch.ones((), dtype=torch.float64))
    expected = torch.tanh(torch.tensor([0.5, 2.0], dtype=torch.float64) / 8)
    assert (moved.mean(0) - expected).abs().max() < 4 / math.sqrt(20_000)


def test_the_sides_of_the_inequality_are_those_of_the_theorem():
    runs = NoisySignQuadratics([0.5, 2.0], horizons=[4, 9], noise_std=[0.0, 10.0], num_replicas=3)
    runs.run(1)
    assert runs.mean_squared_gradient().tolist() == [4.25] * 4  # of the start
    alphas = torch.tensor([8.0, 8.0, math.sqrt(200), math.sqrt(200)], dtype=torch.float64)
    roots = torch.tensor([2.0, 3.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(runs.bound(), 4 * alphas / roots * (1.25 + 1.25))


def test_the_mean_runs_over_the_steps_of_a_horizon():
    torch.manual_seed(0)
    runs = NoisySignQuadratics([1.0], horizons=[2, 5], num_replicas=1)
    seen = []
    for _ in range(7):
        seen.append(runs.w[:, 0, 0].square().clone())
        runs.run(1)
    torch.testing.assert_close(
        runs.mean_squared_gradient(), torch.stack([torch.stack(seen[:t])[:, i].mean() for i, t in enumerate((2, 5))])
    )
    assert torch.equal(seen[2][0], seen[6][0])  # it stays where it was


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvatures": []}, r"curvatures must be one or more values that are finite and > 0, got \[\]"),
        ({"curvatures": [1.0, -1.0]}, "curvatures must be one or more values that are finite and > 0"),
        ({"curvatures": [math.nan]}, "curvatures must be one or more values that are finite and > 0"),
        ({"horizons": [0]}, r"horizons must be one or more values that are at least 1, got \[0\]"),
        ({"noise_std": [-1.0]}, "noise_std must be one or more values that are finite and >= 0"),
        ({"num_replicas": 0}, "num_replicas must be at least 1, got 0"),
    ],
)
def test_options_of_quadratics_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NoisySignQuadratics(**({"curvatures": [1.0], "horizons": [10]} | options))
