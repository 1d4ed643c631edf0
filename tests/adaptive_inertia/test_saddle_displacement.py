from functools import partial

import pytest
import torch

from zoo.adaptive_inertia import Adai, SaddleSimulation, saddle_displacement

SGD = partial(torch.optim.SGD, lr=0.02)
ADAI = partial(Adai, lr=0.02, batched=True)
FLAT = (1.0, -0.1, -0.01, -0.001)


def test_sgd_follows_the_exact_variance_of_its_linear_recursion():
    steps, lr = 100, 0.02
    found = saddle_displacement(SGD, FLAT, num_particles=20_000, num_steps=steps)
    for h, square in zip(FLAT, found.tolist()):
        expected = sum(abs(h) * lr**2 * (1 - lr * h) ** (2 * t) for t in range(steps))
        assert square == pytest.approx(expected, rel=0.05)


def test_sgd_moves_as_the_curvature_and_adam_alike_in_all_flat_directions():
    sgd = saddle_displacement(SGD, FLAT)
    adam = saddle_displacement(partial(torch.optim.Adam, lr=1e-3), FLAT, start="at_rest")
    assert 8 < sgd[2] / sgd[3] < 12
    assert adam[1:].max() / adam[1:].min() < 1.3


def test_momentum_moves_as_the_exact_recursion_says_from_each_start():
    lr, mu, h, steps = 0.02, 0.9, 0.01, 50
    momentum = partial(torch.optim.SGD, lr=lr, momentum=mu, dampening=mu)
    found = {
        start: saddle_displacement(momentum, [h], num_particles=10_000, num_steps=steps, start=start).item()
        for start in ("at_rest", "moving")
    }
    weights = torch.tensor([1 - mu ** (steps - t) for t in range(steps)])  # of each step's noise in the position
    diffusion = h * lr**2 * (weights**2).sum().item()
    inherited = h * (1 - mu) / (1 + mu) * (lr * mu * (1 - mu**steps) / (1 - mu)) ** 2
    assert found["at_rest"] == pytest.approx(diffusion, rel=0.06)  # curvature adds a percent
    assert found["moving"] == pytest.approx(diffusion + inherited, rel=0.06)


def test_adai_at_rest_moves_less_than_sgd_in_flat_directions_and_more_when_fresh():
    sgd = saddle_displacement(SGD, FLAT)
    assert (saddle_displacement(ADAI, FLAT, start="at_rest")[1:] < sgd[1:]).all()
    assert (saddle_displacement(ADAI, FLAT, start="fresh")[1:] > sgd[1:]).all()


def test_going_on_is_the_same_as_going_at_once():
    together, parts = (SaddleSimulation(num_particles=5) for _ in range(2))
    for simulation, pieces in ((together, (10,)), (parts, (4, 6))):
        optimizer = ADAI(simulation.parameters())
        generator = torch.Generator().manual_seed(0)
        for steps in pieces:
            simulation.run(optimizer, steps, generator)
    assert torch.equal(together.position, parts.position)
    assert parts.steps == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"curvatures": []}, "curvatures must hold numbers other than 0"),
        ({"curvatures": [1.0, 0.0]}, "curvatures must hold numbers other than 0"),
        ({"batch_size": -1.0}, "batch_size must be > 0, got -1.0"),
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"start": "cold"}, "start must be one of 'fresh', 'at_rest', 'moving', got 'cold'"),
    ],
)
def test_what_is_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SaddleSimulation(**arguments)
