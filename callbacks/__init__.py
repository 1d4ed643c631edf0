"""Probes that look into a model while the Trainer runs it."""

from callbacks.accuracy_by_degree import AccuracyByDegree
from callbacks.inertia_monitor import InertiaMonitor
from callbacks.label_noise import LastVsBest, Memorization, NoiseSeparationLogger
from callbacks.linear_interpolation import LinearInterpolation
from callbacks.mad_gap import MADGap

__all__ = [
    "AccuracyByDegree",
    "InertiaMonitor",
    "LastVsBest",
    "LinearInterpolation",
    "MADGap",
    "Memorization",
    "NoiseSeparationLogger",
]
