import math
from functools import partial

import pytest
import torch

from zoo.adaptive_inertia import Adai, DoubleWell, EscapeSimulation, mean_escape_time, settle

SGD = partial(torch.optim.SGD, lr=0.02)
OPTIMIZERS = {
    "SGD": SGD,
    "momentum": partial(torch.optim.SGD, lr=0.02, momentum=0.9, dampening=0.9),
    "Adam": partial(torch.optim.Adam, lr=0.05),
    "Adai": partial(Adai, lr=0.02, batched=True),
}


def run(simulation, optimizer, num_steps, seed=0):
    simulation.run(optimizer, num_steps, torch.Generator().manual_seed(seed))
    return simulation


@pytest.mark.parametrize("k", [0.5, 1.0, 2.5])
def test_a_well_has_the_derivatives_of_its_loss(k):
    well = DoubleWell(k, barrier=1.5)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(well.loss(x).sum(), x)
    torch.testing.assert_close(well.gradient(x), slope)
    bottom = torch.tensor(well.minimum, dtype=torch.float64)
    curvature = torch.autograd.functional.hessian(well.loss, bottom).item()
    assert curvature == pytest.approx(well.curvature)
    assert well.loss(bottom).item() == pytest.approx(0, abs=1e-12)
    assert well.loss(torch.tensor(0.0)).item() == 1.5


def test_the_noise_has_the_variance_of_curvature_over_batch_size():
    simulation = EscapeSimulation([DoubleWell(1.0), DoubleWell(2.0)], batch_size=0.5, num_particles=20_000)
    run(simulation, torch.optim.SGD(simulation.parameters(), lr=1e-6), 1)
    variances = simulation.position.grad.view(2, -1, 4).var(dim=1)
    expected = torch.tensor([[8.0, 1.0, 4.0, 16.0], [16.0, 2.0, 8.0, 32.0]]) / 0.5
    torch.testing.assert_close(variances, expected, rtol=0.05, atol=0)


def test_without_noise_nobody_moves():
    simulation = EscapeSimulation([DoubleWell(2.0)], batch_size=1e12, num_particles=10)
    run(simulation, SGD(simulation.parameters()), 50)
    assert simulation.exits.tolist() == [0]
    assert simulation.mean_time().isinf().all()
    torch.testing.assert_close(simulation.position, simulation.start, rtol=0, atol=1e-3)


def test_exits_are_counted_as_a_loop_over_particles_counts_them():
    k, batch_size, lr, particles, steps = 1.0, 0.05, 0.03, 7, 200
    simulation = EscapeSimulation([DoubleWell(k)], batch_size, particles, companions=())
    run(simulation, torch.optim.SGD(simulation.parameters(), lr=lr), steps, seed=3)
    generator = torch.Generator().manual_seed(3)
    x, exits = [-1.0] * particles, 0
    for _ in range(steps):
        noise = torch.empty(particles, 1).normal_(generator=generator).mul(math.sqrt(8 * k / batch_size))[:, 0].tolist()
        x = [value - lr * (4 * k * value * (k * value**2 - 1) + e) for value, e in zip(x, noise)]
        exits += sum(value > 0 for value in x)
        x = [-1.0 if value > 0 else value for value in x]
    assert exits > 5
    assert simulation.exits.item() == exits
    assert simulation.mean_time().item() == pytest.approx(steps * particles / exits)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_after_an_exit_a_particle_has_forgotten_its_past(name):
    simulation = EscapeSimulation([DoubleWell(1.0)], batch_size=0.02, num_particles=300)
    optimizer = OPTIMIZERS[name](simulation.parameters())
    at_the_bottom = torch.tensor(False)
    for seed in range(300):
        run(simulation, optimizer, 1, seed)
        at_the_bottom = simulation.position[:, 0] == simulation.start[:, 0]
        if at_the_bottom.any():
            break
    assert at_the_bottom.any()
    state = optimizer.state[simulation.position]
    for momentum in ("exp_avg", "momentum_buffer"):
        if momentum in state:
            assert (state[momentum][at_the_bottom] == 0).all()
            assert (state[momentum][~at_the_bottom] != 0).any()
    if "exp_avg_sq" in state:
        torch.testing.assert_close(state["exp_avg_sq"][at_the_bottom], simulation.variance[at_the_bottom])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_step_is_not_corrected_for_a_cold_start(name):
    simulation = EscapeSimulation([DoubleWell(1.0)], batch_size=1.0, num_particles=50)
    optimizer = OPTIMIZERS[name](simulation.parameters())
    run(simulation, optimizer, 1)
    gradient, moved = simulation.position.grad, simulation.start - simulation.position
    if name == "SGD":
        expected = 0.02 * gradient
    elif name == "momentum":
        expected = 0.02 * 0.1 * gradient
    elif name == "Adam":
        v = 0.999 * simulation.variance + 0.001 * gradient**2
        expected = 0.05 * 0.1 * gradient / (v.sqrt() + 1e-8)
    else:
        v = 0.99 * simulation.variance + 0.01 * gradient**2
        expected = 0.02 * (0.1 * v / v.mean(dim=1, keepdim=True)).clamp(1e-3, 1) * gradient
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)


def test_companions_do_not_change_an_optimizer_that_looks_at_each_element_alone():
    without, sharp = (
        mean_escape_time(SGD, DoubleWell(1.0), 0.1, num_particles=2000, max_steps=300, companions=companions)
        for companions in ((), (1.0, 16.0))
    )
    error = 4 * math.hypot(without.log_error.item(), sharp.log_error.item())
    assert without.mean_time.log().item() == pytest.approx(sharp.mean_time.log().item(), abs=error)


def test_sharp_wells_are_left_sooner_and_by_sgd_more_so_than_by_adam():
    wells = [DoubleWell(1.0), DoubleWell(2.0)]
    ratios = {}
    for name, batch_size in (("SGD", 0.1), ("Adam", 0.02)):
        found = mean_escape_time(OPTIMIZERS[name], wells, batch_size, max_steps=600, seed=1)
        ratios[name] = (found.mean_time[0] / found.mean_time[1]).item()
        torch.testing.assert_close(found.rate, found.exits / (600.0 * 1000))
    assert ratios["SGD"] > ratios["Adam"] > 1


def test_the_same_seed_gives_the_same_times():
    first, second, other = (mean_escape_time(SGD, DoubleWell(1.0), 0.1, max_steps=100, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.mean_time, second.mean_time)
    assert not torch.equal(first.mean_time, other.mean_time)


def test_too_few_exits_are_an_error_that_says_how_many_there_were():
    with pytest.raises(ValueError, match=r"max_steps must allow for 30 exits from every well, got 5 with \[0\] exits"):
        mean_escape_time(SGD, DoubleWell(1.0), batch_size=100.0, max_steps=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wells": []}, "wells must hold at least one DoubleWell"),
        ({"batch_size": 0.0}, "batch_size must be > 0, got 0.0"),
        ({"batch_size": float("nan")}, "batch_size must be > 0, got nan"),
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"companions": (1.0, -1.0)}, "companions must hold curvatures > 0"),
    ],
)
def test_a_simulation_refuses_what_is_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        EscapeSimulation(**({"wells": [DoubleWell(1.0)], "batch_size": 1.0} | arguments))


@pytest.mark.parametrize("name", ["k", "barrier"])
def test_a_well_refuses_what_is_out_of_range(name):
    with pytest.raises(ValueError, match=f"{name} must be > 0, got -1"):
        DoubleWell(**({"k": 1.0} | {name: -1.0}))


def test_settling_reaches_only_the_elements_asked_for():
    x = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([x])
    x.grad = torch.tensor([1.0, 2.0])
    optimizer.step()
    settle(optimizer, x, torch.tensor([9.0, 9.0]), where=torch.tensor([True, False]))
    state = optimizer.state[x]
    torch.testing.assert_close(state["exp_avg"], torch.tensor([0.0, 0.2]))
    torch.testing.assert_close(state["exp_avg_sq"], torch.tensor([9.0, 0.004]))
    assert state["step"] == 1
