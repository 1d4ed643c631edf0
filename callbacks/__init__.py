"""Probes that look into a model while the Trainer runs it."""

from callbacks.accuracy_by_degree import AccuracyByDegree
from callbacks.inertia_monitor import InertiaMonitor
from callbacks.label_noise import (
    LastVsBest,
    Memorization,
    MemorizationRate,
    NoiseDetection,
    NoiseRate,
    NoiseSeparationLogger,
)
from callbacks.linear_interpolation import LinearInterpolation
from callbacks.mad_gap import MADGap
from callbacks.neural_collapse_callback import NeuralCollapseCallback
from callbacks.neural_collapse_layerwise import LayerwiseNeuralCollapse
from callbacks.neural_collapse_metric import NeuralCollapse
from callbacks.neural_collapse_second_pass import NearestClassCenterAgreement, WithinClassVariability

__all__ = [
    "AccuracyByDegree",
    "InertiaMonitor",
    "LastVsBest",
    "LayerwiseNeuralCollapse",
    "LinearInterpolation",
    "MADGap",
    "Memorization",
    "MemorizationRate",
    "NearestClassCenterAgreement",
    "NeuralCollapse",
    "NeuralCollapseCallback",
    "NoiseDetection",
    "NoiseRate",
    "NoiseSeparationLogger",
    "WithinClassVariability",
]
