"""Implicit Bias of the Step Size in Linear Diagonal Neural Networks (Nacson et al., ICML 2022).

Where many predictors fit the data, the step size of gradient descent chooses among them: it can converge only to
interpolators whose sharpness is at most 2 / lr, and where inputs are not centred this bounds a weighted l1 norm of the
predictor. A large step so finds sparse predictors from a start from which gradient flow does not.
"""

from zoo.diagonal_step_size.descent import Descent
from zoo.diagonal_step_size.flow import flow_potential, gradient_flow_limit
from zoo.diagonal_step_size.module import StepSizeBiasModule
from zoo.diagonal_step_size.network import DiagonalLinear, HadamardParametrization
from zoo.diagonal_step_size.population import population_error
from zoo.diagonal_step_size.stability import (
    critical_step_size,
    initial_stability_threshold,
    minimum_l1,
    sharpness,
    tangent_kernel,
    weighted_l1,
)
from zoo.diagonal_step_size.sweep import DivergenceError, Status, StepSizeSweep

__all__ = [
    "Descent",
    "DiagonalLinear",
    "DivergenceError",
    "HadamardParametrization",
    "Status",
    "StepSizeBiasModule",
    "StepSizeSweep",
    "critical_step_size",
    "flow_potential",
    "gradient_flow_limit",
    "initial_stability_threshold",
    "minimum_l1",
    "population_error",
    "sharpness",
    "tangent_kernel",
    "weighted_l1",
]
