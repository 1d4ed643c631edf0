"""What Can Linear Interpolation of Neural Network Loss Landscapes Tell Us? (Vlaar and Frankle, ICML 2022).

The loss on the straight line from a network's initial to its final weights may fall, rise over a barrier or stay flat
until the very end. The paper's answer: its shape says little of how well the network generalises. Weight decay, the
initialisation and the data change it much and the accuracy little. Reported for ResNet-18 on CIFAR-10: a plateau at
chance along nearly all of the line with weight decay 5e-4 and 92.2 % test accuracy, early descent without and 90.0 %.
"""

from zoo.linear_interpolation.initialisation import (
    fit_random_labels,
    highest_above_line,
    interpolated,
    losses_between,
    matching,
    redrawn,
)
from zoo.linear_interpolation.initialisers import AdversarialInit, BarrierInit, PartialReset, PretrainedInit

__all__ = [
    "AdversarialInit",
    "BarrierInit",
    "PartialReset",
    "PretrainedInit",
    "fit_random_labels",
    "highest_above_line",
    "interpolated",
    "losses_between",
    "matching",
    "redrawn",
]
