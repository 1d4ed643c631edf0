"""Deep equilibrium networks are sensitive to initialization statistics (Agarwala and Schoenholz, ICML 2022).

A deep equilibrium network applies one matrix again and again, so that it matters how this matrix is drawn beyond the
variance of its entries: orthogonal and symmetric (GOE) matrices train stably where independent Gaussian entries do not,
over a wider range of initial scales. The paper reports figures and, as far as known here, no table of numbers.
"""

from zoo.deep_equilibrium.cell import InjectionCell
from zoo.deep_equilibrium.initialisation import deq_init_, haar
from zoo.deep_equilibrium.layer import DEQ, ConvergenceError, ConvergenceWarning
from zoo.deep_equilibrium.length import LengthMapExperiment
from zoo.deep_equilibrium.mean_field import MeanField, mean_field_fixed_point
from zoo.deep_equilibrium.module import DEQClassifier
from zoo.deep_equilibrium.network import DEQNetwork
from zoo.deep_equilibrium.regularization import jacobian_penalty
from zoo.deep_equilibrium.solvers import FixedPointSolver, SolverStats, fixed_point_solve
from zoo.deep_equilibrium.theory import length_map, length_second_moment, norm_fluctuation, spectral_radius

__all__ = [
    "DEQ",
    "ConvergenceError",
    "ConvergenceWarning",
    "DEQClassifier",
    "DEQNetwork",
    "FixedPointSolver",
    "InjectionCell",
    "LengthMapExperiment",
    "MeanField",
    "SolverStats",
    "deq_init_",
    "fixed_point_solve",
    "haar",
    "jacobian_penalty",
    "length_map",
    "length_second_moment",
    "mean_field_fixed_point",
    "norm_fluctuation",
    "spectral_radius",
]
