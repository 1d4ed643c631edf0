"""Score-Guided Intermediate Layer Optimization: Fast Langevin Mixing for Inverse Problems (Daras et al., ICML 2022).

An inverse problem is solved on an intermediate layer of a generator, where a learned score takes the place of the
hand-made constraint that earlier methods put on it; and the posterior is sampled by Langevin dynamics, which the paper
proves to mix fast where the generator is a random network. The paper reports curves and images, and, as far as known
here, no table of numbers.
"""

from zoo.sgilo.generator import SplitGenerator
from zoo.sgilo.langevin import Chains, LangevinSampler, langevin_step
from zoo.sgilo.projection import project_l1_ball
from zoo.sgilo.random_generator import RandomReLUGenerator, expected_gradient, laplace_covariance
from zoo.sgilo.random_problem import RandomProblems
from zoo.sgilo.theory import GradientFieldExperiment, LangevinExperiment

__all__ = [
    "Chains",
    "GradientFieldExperiment",
    "LangevinExperiment",
    "LangevinSampler",
    "RandomProblems",
    "RandomReLUGenerator",
    "SplitGenerator",
    "expected_gradient",
    "langevin_step",
    "laplace_covariance",
    "project_l1_ball",
]
