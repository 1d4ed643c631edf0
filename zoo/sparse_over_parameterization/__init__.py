"""Robust Training under Label Noise by Over-parameterization (Liu et al., ICML 2022).

Every training sample has a noise vector of its own, in an over-parameterised form that descent keeps sparse: where a
label is wrong it takes the label up, so that the network learns the clean ones and does not memorise. Reported on
CIFAR-10N with the labels of the worst of three people: 93.24 % test accuracy (SOP+), at about the cost of two views.
"""

from zoo.sparse_over_parameterization.linear import (
    CorruptedSystem,
    OverparamLinear,
    corrupted_system,
    sparse_recovery,
)
from zoo.sparse_over_parameterization.module import LinearRecovery, SOPClassifier
from zoo.sparse_over_parameterization.overparameterization import (
    SOPTerms,
    SparseOverParam,
    class_balance,
    consistency_kl,
    row_gradients,
    sop_loss,
    sop_terms,
)
from zoo.sparse_over_parameterization.robust_losses import (
    BootstrapCrossEntropy,
    GeneralizedCrossEntropy,
    SymmetricCrossEntropy,
)

__all__ = [
    "BootstrapCrossEntropy",
    "CorruptedSystem",
    "GeneralizedCrossEntropy",
    "LinearRecovery",
    "OverparamLinear",
    "SOPClassifier",
    "SOPTerms",
    "SparseOverParam",
    "SymmetricCrossEntropy",
    "class_balance",
    "consistency_kl",
    "corrupted_system",
    "row_gradients",
    "sop_loss",
    "sop_terms",
    "sparse_recovery",
]
