"""Whether descent memorises the samples of small margin or learns their feature, by the times of a reduced theory."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

LAUNCH = 2.2  # alpha times the coefficient at which samples of large margin are fit: the loss has fallen to exp(-2.2³)


@dataclass(frozen=True)
class Regime:
    """What the theory predicts; times are numbers of steps.

    Attributes:
        time_signal_large: Until the feature fits the samples of large margin.
        time_noise: Until the first samples of small margin are fit by their noise.
        time_signal_small: Until the feature fits the samples of small margin, from where the large ones have left it.
        overshoot: How far momentum carries the feature's coefficient beyond the samples of large margin.
        outcome: ``"memorise"`` if noise comes first, else ``"learn"``.
    """

    time_signal_large: float
    time_noise: float
    time_signal_small: float
    overshoot: float
    outcome: Literal["memorise", "learn"]


def predict_regime(
    alpha: float = 1.0,
    beta: float = 0.1,
    small_margin_fraction: float = 0.1,
    noise_norm: float = 1.5,
    num_train: int = 200,
    num_patches: int = 4,
    init_std: float = 0.01,
    num_filters: int = 8,
    lr: float = 1.0,
    momentum: float = 0.0,
) -> Regime:
    r"""Compare the times in which a cubic growth along the feature and along noise blows up.

    With mu the fraction of small margins, s the noise's length, c the coefficient of the feature in the best filter and
    z the largest product of a filter with a sample's noise, as long as the samples concerned are not fit,

    .. math:: \dot c = \tfrac 3 2 \eta \big((1 - \mu) \alpha^3 + \mu \beta^3\big) c^2, \qquad
              \dot z = \tfrac{3 \eta}{2 N} s^2 z^2

    so that times are :math:`2 / (3 \eta c_0 (1 - \mu) \alpha^3)`, :math:`2 N / (3 \eta z_0 s^2)` and
    :math:`2 / (3 \eta c_1 \mu \beta^3)`, from the expected largest of the normal products at the start, and from
    :math:`c_1 = 2.2 / \alpha + c_{os}` after the samples of large margin have been fit. Momentum carries the
    coefficient beyond them: like a particle that falls through the loss :math:`(1 - \mu) \log 2`, with friction
    :math:`1 - \gamma` a step, it comes to rest after

    .. math:: c_{os} = \sqrt{2 \eta (1 - \mu) \log 2 / (1 - \gamma)}

    The formula is for momenta near 1. Where the two last times differ by less than a third or so, some samples are
    memorised and others learnt.

    Args:
        alpha: The large margin, > 0.
        beta: The small margin, in (0, alpha].
        small_margin_fraction: Fraction mu of the training samples with the small margin, in (0, 1).
        noise_norm: Root mean square length s of a patch of noise, > 0.
        num_train: Training samples N.
        num_patches: Patches of a sample, at least 2.
        init_std: Standard deviation of the filters at the start, > 0.
        num_filters: Filters m, at least 2.
        lr: The rate eta, in the form of :class:`~zoo.momentum_margin.optimizer.EMAMomentumSGD`, > 0.
        momentum: The momentum gamma, in [0, 1).

    Raises:
        ValueError: If an argument is out of range.

    Source:
        The dynamics are those of Jelassi and Li, ICML 2022, section on GD and GD with momentum; times and overshoot are
        derived here.

    Example:
        >>> predict_regime(momentum=0.0).outcome, predict_regime(momentum=0.99).outcome
        ('memorise', 'learn')
        >>> round(predict_regime(momentum=0.99).overshoot, 1)
        11.2
    """
    positive = {"alpha": alpha, "noise_norm": noise_norm, "init_std": init_std, "lr": lr}
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be > 0, got {value}")
    if not 0 < beta <= alpha:
        raise ValueError(f"beta must be in (0, alpha], with alpha {alpha}, got {beta}")
    if not 0 < small_margin_fraction < 1:
        raise ValueError(f"small_margin_fraction must be in (0, 1), got {small_margin_fraction}")
    for name, number, lowest in (
        ("num_train", num_train, 1),
        ("num_patches", num_patches, 2),
        ("num_filters", num_filters, 2),
    ):
        if number < lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {number}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    large, small = 1 - small_margin_fraction, small_margin_fraction
    products = num_filters * (num_patches - 1) * max(1, round(small * num_train))
    start = init_std * expected_maximum(num_filters)
    noise = init_std * noise_norm * expected_maximum(products)
    overshoot = math.sqrt(2 * lr * large * math.log(2) / (1 - momentum))
    time_noise = 2 * num_train / (3 * lr * noise * noise_norm**2)
    time_signal_small = 2 / (3 * lr * (LAUNCH / alpha + overshoot) * small * beta**3)
    return Regime(
        time_signal_large=2 / (3 * lr * start * large * alpha**3),
        time_noise=time_noise,
        time_signal_small=time_signal_small,
        overshoot=overshoot,
        outcome="memorise" if time_noise < time_signal_small else "learn",
    )


def expected_maximum(number: int) -> float:
    """About the expected largest of independent standard normal numbers.

    Source:
        Blom, *Statistical Estimates and Transformed Beta-Variables*, 1958.

    Example:
        >>> [round(expected_maximum(n), 2) for n in (2, 10, 100)]  # exactly 0.56, 1.54, 2.51
        [0.59, 1.55, 2.5]
    """
    return NormalDist().inv_cdf((number - 0.375) / (number + 0.25))
