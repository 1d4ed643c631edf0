"""On Non-local Convergence Analysis of Deep Linear Networks (Chen et al., ICML 2022).

Networks of linear layers, one of them with a single neuron, under gradient flow from any balanced start: where the
trajectory ends follows from the start alone, the global minimum or one of the saddles, and so does its rate, stage by
stage, from polynomial to exponential. Gradient descent shows the same, with a long time near the origin or a saddle.
"""

from zoo.deep_linear.flow import RankOneFlow
from zoo.deep_linear.initialisation import balanced_rank_one_, random_balanced_
from zoo.deep_linear.integrate import adaptive, euler_, rk4_
from zoo.deep_linear.module import DeepLinearModule
from zoo.deep_linear.network import DeepLinearNet
from zoo.deep_linear.predictions import FlowLimit, FlowRates, FlowState, StageTimes
from zoo.deep_linear.starts import Start, draw_starts

__all__ = [
    "DeepLinearModule",
    "DeepLinearNet",
    "FlowLimit",
    "FlowRates",
    "FlowState",
    "RankOneFlow",
    "StageTimes",
    "Start",
    "adaptive",
    "balanced_rank_one_",
    "draw_starts",
    "euler_",
    "random_balanced_",
    "rk4_",
]
