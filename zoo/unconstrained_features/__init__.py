"""Unconstrained-features models: the last layers of a network, with features that are free parameters."""

from zoo.unconstrained_features.experiment import UFMExperiment
from zoo.unconstrained_features.hessian import hessian_eigenvalues
from zoo.unconstrained_features.measures import (
    etf_distance,
    frame_distance,
    measures,
    of_distance,
    self_duality,
    variability,
)
from zoo.unconstrained_features.model import UnconstrainedFeatures
from zoo.unconstrained_features.solution import UFMSolution

__all__ = [
    "UFMExperiment",
    "UFMSolution",
    "UnconstrainedFeatures",
    "etf_distance",
    "frame_distance",
    "hessian_eigenvalues",
    "measures",
    "of_distance",
    "self_duality",
    "variability",
]
