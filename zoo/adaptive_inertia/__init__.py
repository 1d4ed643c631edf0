"""Adaptive Inertia: Disentangling the Effects of Adaptive Learning Rate and Momentum (Xie et al., ICML 2022).

Adam adapts the step size of each parameter. Adai adapts its momentum instead: parameters with small squared gradients
get more inertia, and all keep one step size. The theory says that this passes saddle points fast and still prefers
flat minima as SGD does. Reported on CIFAR-10 with ResNet-18: 4.74 % test error (AdaiW: 4.59 %), against 5.01 % of SGD
with momentum and 6.53 % of Adam.
"""

from zoo.adaptive_inertia.adai import Adai, AdaiW
from zoo.adaptive_inertia.escape import DoubleWell, EscapeSimulation, EscapeTime, mean_escape_time
from zoo.adaptive_inertia.module import EscapeTimeExperiment, SaddleExperiment
from zoo.adaptive_inertia.saddle import SaddleSimulation, saddle_displacement
from zoo.adaptive_inertia.stationary import settle

__all__ = [
    "Adai",
    "AdaiW",
    "DoubleWell",
    "EscapeSimulation",
    "EscapeTime",
    "EscapeTimeExperiment",
    "SaddleExperiment",
    "SaddleSimulation",
    "mean_escape_time",
    "saddle_displacement",
    "settle",
]
