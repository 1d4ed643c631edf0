"""Exponential Family Langevin Dynamics: Stability Based Generalization Bounds (Banerjee et al., ICML 2022).

Steps of descent are drawn from an exponential family whose natural parameter is the gradient over a scale alpha:
Gaussian noise makes SGLD, signs make noisy sign-SGD, levels of a grid noisy quantised SGD. Stability then bounds the
generalisation gap by 1 / n and the root of the sum of squared gradient discrepancies, how far the gradient of a
training sample differs from that of a fresh one, over alpha squared. The paper says that this is sharper than bounds
by gradient norms and by incoherence, by orders of magnitude in what is summed, and below 1 for CNNs.
"""

from zoo.efld.divergence import divergence_ratio, lecam_style_divergence, random_triples
from zoo.efld.module import DivergenceSearch, SignConvergence, StaircaseClassifier
from zoo.efld.network import ConvNet
from zoo.efld.noise import ExponentialFamilyNoise, GaussianNoise, QuantizedNoise, SignNoise
from zoo.efld.optimizer import EFLD, SGLD, NoisyQuantizedSGD, NoisySignSGD, SignSGD
from zoo.efld.quadratic import NoisySignQuadratics

__all__ = [
    "EFLD",
    "SGLD",
    "ConvNet",
    "DivergenceSearch",
    "ExponentialFamilyNoise",
    "GaussianNoise",
    "NoisyQuantizedSGD",
    "NoisySignQuadratics",
    "NoisySignSGD",
    "QuantizedNoise",
    "SignConvergence",
    "SignNoise",
    "SignSGD",
    "StaircaseClassifier",
    "divergence_ratio",
    "lecam_style_divergence",
    "random_triples",
]
