"""Probes that look into a model while the Trainer runs it."""

from callbacks.abort_on_divergence import AbortOnDivergence, DivergenceError
from callbacks.accuracy_by_degree import AccuracyByDegree
from callbacks.adversary import L2Adversary, pgd_l2
from callbacks.balancedness import BalancednessDrift, BalancednessMonitor, balancedness
from callbacks.deq_monitor import DEQMonitor
from callbacks.diversity_index_callback import DiversityIndexMonitor
from callbacks.diversity_index_metric import DiversityIndex
from callbacks.effective_init_tracker import EffectiveInitTracker
from callbacks.expressivity import ExpressivityProbe, output_gap
from callbacks.fixed_point import FixedPointResidual, LengthMap, SolverIterations
from callbacks.forecast_curves import ForecastCurves
from callbacks.gradient_discrepancy import GradientDiscrepancy
from callbacks.group_accuracy import GroupAccuracy, GroupMean, GroupMonitor
from callbacks.inertia_monitor import InertiaMonitor
from callbacks.label_noise import (
    LastVsBest,
    Memorization,
    MemorizationRate,
    NoiseDetection,
    NoiseRate,
    NoiseSeparationLogger,
)
from callbacks.limit_check import LimitCheck, ProductDistance
from callbacks.linear_interpolation import LinearInterpolation
from callbacks.lipschitz import EmpiricalLipschitz, stretching_pairs
from callbacks.mad_gap import MADGap
from callbacks.neural_collapse_callback import NeuralCollapseCallback
from callbacks.neural_collapse_layerwise import LayerwiseNeuralCollapse
from callbacks.neural_collapse_metric import NeuralCollapse
from callbacks.neural_collapse_second_pass import NearestClassCenterAgreement, WithinClassVariability
from callbacks.orthogonality import OrthogonalityError, OrthogonalityMonitor
from callbacks.phases import Phase, PhaseRecorder, StopWhenGroupsFit
from callbacks.rank_one import RankOneMonitor, rank_one_state
from callbacks.rate_fit import RateFit, fitted_rate
from callbacks.reconstruction import (
    ImageMean,
    MeasurementResidual,
    PairedWinRate,
    PosteriorCoverage,
    ReconstructionMSE,
    ReconstructionPSNR,
)
from callbacks.reconstruction_monitor import ReconstructionMonitor
from callbacks.sparse_recovery import L1Norm, PopulationError, SupportRecovery
from callbacks.stability_bound import CMIBound, ExpectedStabilityBound, IncoherenceBound, LiBound
from callbacks.stability_bound_gap import GeneralizationGap
from callbacks.stability_monitor import StabilityMonitor
from callbacks.window_cost import WindowCostMonitor

__all__ = [
    "AbortOnDivergence",
    "AccuracyByDegree",
    "BalancednessDrift",
    "BalancednessMonitor",
    "CMIBound",
    "DEQMonitor",
    "DivergenceError",
    "DiversityIndex",
    "DiversityIndexMonitor",
    "EffectiveInitTracker",
    "EmpiricalLipschitz",
    "ExpectedStabilityBound",
    "ExpressivityProbe",
    "FixedPointResidual",
    "ForecastCurves",
    "GeneralizationGap",
    "GradientDiscrepancy",
    "GroupAccuracy",
    "GroupMean",
    "GroupMonitor",
    "ImageMean",
    "IncoherenceBound",
    "InertiaMonitor",
    "L1Norm",
    "L2Adversary",
    "LastVsBest",
    "LayerwiseNeuralCollapse",
    "LengthMap",
    "LiBound",
    "LimitCheck",
    "LinearInterpolation",
    "MADGap",
    "MeasurementResidual",
    "Memorization",
    "MemorizationRate",
    "NearestClassCenterAgreement",
    "NeuralCollapse",
    "NeuralCollapseCallback",
    "NoiseDetection",
    "NoiseRate",
    "NoiseSeparationLogger",
    "OrthogonalityError",
    "OrthogonalityMonitor",
    "PairedWinRate",
    "Phase",
    "PhaseRecorder",
    "PopulationError",
    "PosteriorCoverage",
    "ProductDistance",
    "RankOneMonitor",
    "RateFit",
    "ReconstructionMSE",
    "ReconstructionMonitor",
    "ReconstructionPSNR",
    "SolverIterations",
    "StabilityMonitor",
    "StopWhenGroupsFit",
    "SupportRecovery",
    "WindowCostMonitor",
    "WithinClassVariability",
    "balancedness",
    "fitted_rate",
    "output_gap",
    "pgd_l2",
    "rank_one_state",
    "stretching_pairs",
]
