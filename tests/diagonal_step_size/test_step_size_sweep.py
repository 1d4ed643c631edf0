import math

import pytest
import torch

from zoo.diagonal_step_size import (
    DivergenceError,
    Status,
    StepSizeSweep,
    critical_step_size,
    gradient_flow_limit,
    initial_stability_threshold,
)
from zoo.diagonal_step_size.descent import Descent


def problems(num=2, num_samples=6, dim=10, mean=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = mean + torch.randn(num, num_samples, dim, dtype=torch.float64, generator=generator)
    beta = torch.zeros(num, dim, dtype=torch.float64)
    beta[:, 0] = 1.0
    return x, (x @ beta.unsqueeze(-1)).squeeze(-1)


def plain(x, y, lr, scale, steps):
    """The same by autograd and torch's SGD, one replica; losses from before the first step on."""
    u = torch.full_like(x[0], 2 * scale).requires_grad_()
    v = torch.zeros_like(x[0]).requires_grad_()
    optimizer = torch.optim.SGD([u, v], lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (x @ (u * v) - y).square().mean() / 2
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return u.detach(), v.detach(), losses


def scalar(lr, scale=0.5, **options):
    """One sample, one coordinate, both 1."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    return StepSizeSweep(1, 1, [lr], [scale], **options), one, one[0]


def test_every_replica_takes_the_steps_of_plain_gradient_descent():
    x, y = problems()
    lrs, scales = [0.01, 0.05], [0.2, 0.5]
    sweep = StepSizeSweep(2, 10, lrs, scales)
    sweep.run(x, y, 230)  # more than one chunk, and no whole number of them
    assert sweep.steps == 230
    for problem in range(2):
        for setting, (scale, lr) in enumerate((scale, lr) for scale in scales for lr in lrs):
            u, v, losses = plain(x[problem], y[problem], lr, scale, 231)
            torch.testing.assert_close(sweep.loss[problem, setting].item(), losses[230])
            assert sweep.peak_loss[problem, setting].item() == pytest.approx(max(losses))
            u, v, _ = plain(x[problem], y[problem], lr, scale, 230)
            torch.testing.assert_close(sweep.u[problem, setting], u)
            torch.testing.assert_close(sweep.v[problem, setting], v)


def test_one_step_by_hand_in_the_sweep():
    sweep, x, y = scalar(lr=0.5)
    sweep.run(x, y, 1)
    assert (sweep.u.item(), sweep.v.item(), sweep.beta.item()) == pytest.approx((1.0, 0.5, 0.5))
    assert sweep.log_shrinkage.exp().item() == pytest.approx(0.75)
    found = {name: value.item() for name, value in sweep.measures(x).items()}
    assert found["sharpness_ratio"] == pytest.approx(0.5 * 1.25 / 2)
    assert found["bound_ratio"] == pytest.approx(0.5 * 0.5)
    assert found["loss"] == pytest.approx(0.125)
    assert found["effective_init_scale"] == pytest.approx(0.5 * math.sqrt(0.75))


def test_a_scalar_catapult_rises_then_settles_at_a_flatter_minimum():
    sweep, x, y = scalar(lr=0.9, scale=0.9)  # the start's sharpness is 3.24: unstable from 0.62 on, lost from 1.23 on
    sweep.run(x, y, 2000)
    assert sweep.status.item() == Status.CONVERGED
    assert sweep.peak_loss.item() > 0.5  # that of the start
    assert 0 < sweep.measures(x)["sharpness_ratio"].item() <= 1
    assert sweep.beta.item() == pytest.approx(1, abs=1e-4)


def test_the_squares_difference_shrinks_exactly_by_the_product_of_the_factors():
    x, y = problems(num=3, num_samples=20, dim=30, mean=3.0)
    sweep = StepSizeSweep(3, 30, [0.25, 0.9, 1.3], [0.3], "init_sharpness", tol=0)
    sweep.run(x, y, 10_000)
    expected = (2 * sweep.effective_init_scale()).square()
    found = ((sweep.u - sweep.v) * (sweep.u + sweep.v)).abs()
    assert sweep.log_shrinkage.min() < -0.5
    assert ((found - expected).abs() / expected).max() < 1e-9
    assert sweep.balance_error().max() < 1e-9


def test_small_steps_end_where_gradient_flow_ends():
    x, y = problems()
    sweep = StepSizeSweep(2, 10, [0.02], [0.3], "init_sharpness", tol=1e-16)
    sweep.run(x, y, 200_000)
    expected = gradient_flow_limit(x, y, 0.3)
    torch.testing.assert_close(sweep.beta[:, 0], expected, atol=2e-3, rtol=0)


def test_step_sizes_are_multiples_of_each_problems_thresholds():
    x, y = problems()
    sweep = StepSizeSweep(2, 10, [0.5, 1.0], [0.1, 0.2], "init_sharpness")
    sweep.prepare(x, y)
    for setting, (scale, factor) in enumerate([(0.1, 0.5), (0.1, 1.0), (0.2, 0.5), (0.2, 1.0)]):
        torch.testing.assert_close(sweep.lr[:, setting], factor * initial_stability_threshold(x, scale))
    sweep = StepSizeSweep(2, 10, [0.5, 1.0], [0.1], "critical")
    sweep.prepare(x, y)
    torch.testing.assert_close(sweep.lr[:, 1], critical_step_size(x, y))


def test_an_ended_replica_rests_while_the_others_go_on_as_if_alone():
    x, y = problems(mean=0.0)
    sweep = StepSizeSweep(2, 10, [0.01, 0.2, 50.0], [0.5], on_divergence="record")
    sweep.run(x, y, 1500)
    assert (sweep.status[:, 2] == Status.DIVERGED).all()
    assert (sweep.status[:, 1] == Status.CONVERGED).all()
    assert (sweep.loss[:, 1] < 1e-10).all()
    rested, ended = sweep.beta[:, 1].clone(), sweep.last_step[:, 1].clone()
    assert (ended < 1500).all()
    sweep.run(x, y, 500)
    assert torch.equal(sweep.beta[:, 1], rested)
    assert torch.equal(sweep.last_step[:, 1], ended)
    for problem in range(2):
        u, v, _ = plain(x[problem], y[problem], 0.01, 0.5, 2000)
        torch.testing.assert_close(sweep.beta[problem, 0], u * v)
    assert all(value.isfinite().all() for value in sweep.measures(x).values())
    assert not sweep.finished


@pytest.mark.parametrize("factor", [2.2, 3.0, 1000.0])
def test_beyond_twice_the_threshold_it_diverges_and_the_step_is_told(factor):
    x, y = problems(num_samples=20, dim=40, mean=5.0)
    sweep = StepSizeSweep(2, 40, [0.5, factor], [0.3], "init_sharpness", on_divergence="record")
    sweep.run(x, y, 200)
    assert sweep.status.tolist() == [[Status.NOT_CONVERGED, Status.DIVERGED]] * 2
    lr, step = sweep.lr[1, 1].item(), sweep.last_step[1, 1].item()
    losses = plain(x[1], y[1], lr, 0.3, step + 1)[2]
    assert losses[step - 1] <= 1e8 < losses[step]


def test_divergence_is_an_error_that_names_step_and_step_size():
    x, y = problems(mean=5.0)
    sweep = StepSizeSweep(2, 10, [0.5, 3.0], [0.3], "init_sharpness")
    message = r"at step \d+ the loss is above 1e\+08, lr 0\.\d+ \(3 of init_sharpness\), init_scale 0.3, problem \d "
    with pytest.raises(DivergenceError, match=message):
        sweep.run(x, y, 200)


def test_a_loss_that_rises_a_hundredfold_is_no_divergence():
    x, y = problems(num_samples=20, dim=40, mean=5.0)
    sweep = StepSizeSweep(2, 40, [1.5], [0.3], "init_sharpness")
    start = y.square().mean(1) / 2
    sweep.run(x, y, 3000)
    assert (sweep.peak_loss[:, 0] > 5 * start).all()
    assert (sweep.loss[:, 0] < 1e-2 * start).all()


def test_the_last_step_of_a_run_is_looked_at():
    sweep, x, y = scalar(lr=4.0, scale=5.0, on_divergence="record", divergence_threshold=100.0)
    sweep.run(x, y, 1)  # v = lr * u: the loss is 0.5 * (4 * 100 - 1) ** 2
    assert sweep.status.item() == Status.DIVERGED
    assert sweep.last_step.item() == 1
    assert sweep.measures(x)["loss"].item() == 0.5


def test_targets_of_zero_are_fitted_at_once_and_have_no_critical_step_size():
    x, y = problems()
    sweep = StepSizeSweep(2, 10, [0.1], [0.3])
    sweep.run(x, 0 * y, 10)
    assert sweep.finished
    assert (sweep.status == Status.CONVERGED).all()
    relative = StepSizeSweep(2, 10, [0.1], [0.3], "critical")
    with pytest.raises(ValueError, match="lr_relative_to must be None where every step size is stable"):
        relative.run(x, 0 * y, 10)


def test_a_sweep_goes_on_from_its_state():
    x, y = problems()
    whole, first, second = (StepSizeSweep(2, 10, [0.5, 1.4], [0.3], "init_sharpness") for _ in range(3))
    for sweep, parts in ((whole, (130, 170)), (first, (130,))):
        for part in parts:
            sweep.run(x, y, part)
    second.load_state_dict(first.state_dict())
    second.run(x, y, 170)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_half_the_digits_end_in_the_same_place():
    x, y = problems()
    single = StepSizeSweep(2, 10, [0.5], [0.3], "init_sharpness", dtype=torch.float32)
    double = StepSizeSweep(2, 10, [0.5], [0.3], "init_sharpness")
    for sweep in (single, double):
        sweep.run(x, y, 3000)
    assert single.u.dtype == torch.float32
    torch.testing.assert_close(single.beta.double(), double.beta, atol=1e-4, rtol=0)


def test_a_table_has_a_row_for_each_replica():
    x, y = problems()
    sweep = StepSizeSweep(2, 10, [0.5, 40.0], [0.3], "init_sharpness", on_divergence="record")
    sweep.run(x, y, 50)
    rows = sweep.table(sweep.measures(x))
    assert [(row["problem"], row["relative_lr"], row["status"]) for row in rows] == [
        (0, 0.5, "not_converged"),
        (0, 40.0, "diverged"),
        (1, 0.5, "not_converged"),
        (1, 40.0, "diverged"),
    ]
    assert rows[2]["lr"] == sweep.lr[1, 0].item()
    assert rows[2]["l1"] == pytest.approx(sweep.beta[1, 0].abs().sum().item())
    assert (rows[0]["last_step"], rows[1]["last_step"] > 0) == (-1, True)


def test_a_large_sweep_looks_more_often_than_its_memory_fills(monkeypatch):
    x, y = problems()
    monkeypatch.setattr("zoo.diagonal_step_size.descent.BUFFER", 7 * 2 * 10 * 8)
    short = StepSizeSweep(2, 10, [0.05], [0.3], tol=0)
    assert Descent(x, y, short.u, short.v, short.lr + 0.05).chunk == 7
    short.run(x, y, 50)
    monkeypatch.undo()
    long = StepSizeSweep(2, 10, [0.05], [0.3], tol=0)
    long.run(x, y, 50)
    torch.testing.assert_close(short.beta, long.beta)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_problems": 0}, "num_problems must be at least 1, got 0"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"lr": []}, "lr must hold at least one number, got none"),
        ({"lr": [0.1, 0.0]}, "lr must be > 0, got 0.0"),
        ({"lr": [math.nan]}, "lr must be > 0, got nan"),
        ({"lr": [math.inf]}, "lr must be > 0, got inf"),
        ({"init_scale": [0.0]}, "init_scale must be > 0, got 0.0"),
        ({"lr_relative_to": "sharpness"}, "lr_relative_to must be 'init_sharpness', 'critical' or None, got 'sharpn"),
        ({"tol": -1.0}, "tol must be >= 0, got -1.0"),
        ({"divergence_threshold": math.nan}, "divergence_threshold must be > 0, got nan"),
        ({"on_divergence": "warn"}, "on_divergence must be one of 'raise', 'record', got 'warn'"),
    ],
)
def test_wrong_arguments_of_a_sweep_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        StepSizeSweep(**({"num_problems": 1, "dim": 2, "lr": [0.1], "init_scale": [0.1]} | options))


def test_data_of_another_shape_is_refused():
    x, y = problems()
    sweep = StepSizeSweep(3, 10, [0.1])
    with pytest.raises(ValueError, match=r"P = 3 and d = 10, got \(2, 6, 10\) and \(2, 6\)"):
        sweep.run(x, y, 1)
