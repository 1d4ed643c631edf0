import math

import pytest

from zoo.momentum_margin import predict_regime


def test_the_times_by_hand():
    regime = predict_regime(lr=2.0, momentum=0.0)
    start, noise = 0.01 * 1.4344, 0.015 * 3.0335  # expected largest of 8, and of 8 * 3 * 20 normal numbers
    assert regime.time_signal_large == pytest.approx(2 / (3 * 2 * start * 0.9), rel=1e-2)
    assert regime.time_noise == pytest.approx(2 * 200 / (3 * 2 * noise * 1.5**2), rel=1e-2)
    assert regime.overshoot == pytest.approx(math.sqrt(2 * 2 * 0.9 * math.log(2)))
    assert regime.time_signal_small == pytest.approx(2 / (3 * 2 * (2.2 + regime.overshoot) * 0.1 * 0.001))


def test_the_blow_up_times_are_those_of_the_growth():  # c' = k c² from c0 reaches any size at 1 / (k c0)
    regime = predict_regime()
    c, step, time = 0.01 * 1.4344, 1e-3, 0.0
    while c < 1e3:
        dt = step / c
        c += dt * 1.5 * 0.9 * c**2
        time += dt
    assert time == pytest.approx(regime.time_signal_large, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "outcome"),
    [
        ({"momentum": 0.0}, "memorise"),
        ({"momentum": 0.5}, "memorise"),
        ({"momentum": 0.9}, "learn"),
        ({"momentum": 0.99}, "learn"),
        ({"lr": 0.1, "momentum": 0.9}, "memorise"),  # as little lr / (1 - momentum) as without
        ({"lr": 0.1, "momentum": 0.99}, "learn"),
        ({"beta": 0.5}, "learn"),  # no small margin
        ({"noise_norm": 1.0}, "learn"),  # too little noise to memorise
    ],
)
def test_outcomes(settings, outcome):
    assert predict_regime(**settings).outcome == outcome


def test_overshoot_depends_on_the_ratio_alone():
    a, b = predict_regime(lr=1.0, momentum=0.9), predict_regime(lr=0.1, momentum=0.99)
    assert a.overshoot == pytest.approx(b.overshoot)
    assert a.time_noise == pytest.approx(0.1 * b.time_noise)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0"),
        ({"beta": 2.0}, r"beta must be in \(0, alpha\], with alpha 1.0, got 2.0"),
        ({"small_margin_fraction": 1.0}, r"small_margin_fraction must be in \(0, 1\), got 1.0"),
        ({"noise_norm": math.nan}, "noise_norm must be > 0, got nan"),
        ({"num_train": 0}, "num_train must be at least 1, got 0"),
        ({"num_patches": 1}, "num_patches must be at least 2, got 1"),
        ({"num_filters": 1}, "num_filters must be at least 2, got 1"),
        ({"lr": -1.0}, "lr must be > 0, got -1.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        predict_regime(**settings)
