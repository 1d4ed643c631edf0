"""Score-Guided Intermediate Layer Optimization: Fast Langevin Mixing for Inverse Problems (Daras et al., ICML 2022).

An inverse problem is solved on an intermediate layer of a generator, where a learned score takes the place of the
hand-made constraint that earlier methods put on it; and the posterior is sampled by Langevin dynamics, which the paper
proves to mix fast where the generator is a random network. The paper reports curves and images, and, as far as known
here, no table of numbers.
"""

from zoo.sgilo.csgm import CSGM
from zoo.sgilo.decoder import VAE, ConvDecoder, Inverter
from zoo.sgilo.evaluation import InverseEvaluation
from zoo.sgilo.generator import SplitGenerator
from zoo.sgilo.generator_module import InverterModule, VAEModule
from zoo.sgilo.generator_training import GeneratorTraining
from zoo.sgilo.ilo import ILO
from zoo.sgilo.langevin import Chains, LangevinSampler, langevin_step
from zoo.sgilo.models import LatentModels
from zoo.sgilo.posterior import PosteriorLangevin
from zoo.sgilo.priors import GaussianPrior, LatentPrior, ProximityPrior, ScorePrior
from zoo.sgilo.projection import project_l1_ball
from zoo.sgilo.random_generator import RandomReLUGenerator, expected_gradient, laplace_covariance
from zoo.sgilo.random_problem import RandomProblems
from zoo.sgilo.score import LatentDenoiser, ScoreMLP
from zoo.sgilo.score_module import LatentScoreModule
from zoo.sgilo.score_training import ScoreTraining
from zoo.sgilo.sgilo import SGILO
from zoo.sgilo.solver import DataTerm, Reconstruction, Solver, solve_all
from zoo.sgilo.stylegan2 import MappingProxy, StyleGAN2, SynthesisState
from zoo.sgilo.stylegan2_checkpoint import load_stylegan2
from zoo.sgilo.theory import GradientFieldExperiment, LangevinExperiment

__all__ = [
    "CSGM",
    "ILO",
    "SGILO",
    "VAE",
    "Chains",
    "ConvDecoder",
    "DataTerm",
    "GaussianPrior",
    "GeneratorTraining",
    "GradientFieldExperiment",
    "InverseEvaluation",
    "Inverter",
    "InverterModule",
    "LangevinExperiment",
    "LangevinSampler",
    "LatentDenoiser",
    "LatentModels",
    "LatentPrior",
    "LatentScoreModule",
    "MappingProxy",
    "PosteriorLangevin",
    "ProximityPrior",
    "RandomProblems",
    "RandomReLUGenerator",
    "Reconstruction",
    "ScoreMLP",
    "ScorePrior",
    "ScoreTraining",
    "Solver",
    "SplitGenerator",
    "StyleGAN2",
    "SynthesisState",
    "VAEModule",
    "expected_gradient",
    "langevin_step",
    "laplace_covariance",
    "load_stylegan2",
    "project_l1_ball",
    "solve_all",
]
