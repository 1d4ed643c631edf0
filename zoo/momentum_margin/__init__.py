"""Towards Understanding How Momentum Improves Generalization in Deep Learning (Jelassi and Li, ICML 2022).

Most samples hold a feature at a large margin, a few at a small one. Gradient descent learns the feature from the
large margins, stops when these are fit, and memorises the small ones through their noise. Momentum goes on along past
gradients, carries the feature further, and so fits the small margins by it: both reach zero training error, and only
momentum is right on new samples of small margin.
"""

from zoo.momentum_margin.convnet import StridedCNN
from zoo.momentum_margin.descent import DivergenceError
from zoo.momentum_margin.diagnostics import (
    FeatureAlignment,
    NoiseMemorization,
    feature_alignment,
    noise_memorization,
)
from zoo.momentum_margin.module import MarginExperiment, TeacherExperiment
from zoo.momentum_margin.network import CubicPatchCNN
from zoo.momentum_margin.optimizer import EMAMomentumSGD, heavy_ball_lr
from zoo.momentum_margin.regime import Regime, predict_regime
from zoo.momentum_margin.settings import Setting, settings_of, sweep_table
from zoo.momentum_margin.stacks import StackedPatchCNN, StackedPerceptron

__all__ = [
    "CubicPatchCNN",
    "DivergenceError",
    "EMAMomentumSGD",
    "FeatureAlignment",
    "MarginExperiment",
    "NoiseMemorization",
    "Regime",
    "Setting",
    "StackedPatchCNN",
    "StackedPerceptron",
    "StridedCNN",
    "TeacherExperiment",
    "feature_alignment",
    "heavy_ball_lr",
    "noise_memorization",
    "predict_regime",
    "settings_of",
    "sweep_table",
]
