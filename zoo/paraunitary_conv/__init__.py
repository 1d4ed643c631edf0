"""Scaling-up Diverse Orthogonal Convolutional Networks by a Paraunitary Framework (Su et al., ICML 2022).

A convolution keeps the norm of its input exactly when its transfer matrix is paraunitary, and separable paraunitary
systems are products of elementary factors: convolutions that are orthogonal to the last digit at every step of the
training, strided, dilated, grouped and transposed ones too. Networks of them are 1-Lipschitz, so that the margin of a
prediction certifies it against every perturbation up to a radius.
"""

from zoo.paraunitary_conv.activation import GroupSort, MaxMin
from zoo.paraunitary_conv.certificate import CertifiedAccuracy, CertifiedRadius, certified_radius
from zoo.paraunitary_conv.circular import CircularConv2d
from zoo.paraunitary_conv.experiment import LayerExperiment
from zoo.paraunitary_conv.factor import paraunitary_kernel, paraunitary_kernel_1d, polyphase_to_strided
from zoo.paraunitary_conv.layer import (
    OrthogonalConv1d,
    OrthogonalConv2d,
    OrthogonalConvTranspose1d,
    OrthogonalConvTranspose2d,
)
from zoo.paraunitary_conv.linear import OrthogonalLinear
from zoo.paraunitary_conv.loss import LipschitzMarginLoss
from zoo.paraunitary_conv.module import LipschitzClassifier
from zoo.paraunitary_conv.network import LipConvNet
from zoo.paraunitary_conv.parametrization import SeparableParaunitary
from zoo.paraunitary_conv.schedule import rise_and_fall
from zoo.paraunitary_conv.singular_values import conv_singular_values

__all__ = [
    "CertifiedAccuracy",
    "CertifiedRadius",
    "CircularConv2d",
    "GroupSort",
    "LayerExperiment",
    "LipConvNet",
    "LipschitzClassifier",
    "LipschitzMarginLoss",
    "MaxMin",
    "OrthogonalConv1d",
    "OrthogonalConv2d",
    "OrthogonalConvTranspose1d",
    "OrthogonalConvTranspose2d",
    "OrthogonalLinear",
    "SeparableParaunitary",
    "certified_radius",
    "conv_singular_values",
    "paraunitary_kernel",
    "paraunitary_kernel_1d",
    "polyphase_to_strided",
    "rise_and_fall",
]
