"""Diversified Adversarial Attacks based on Conjugate Gradient Method (Yamamura et al., ICML 2022).

Auto-PGD climbs a loss along the signs of its gradients, with step sizes that halve by themselves. ACG replaces the
gradient by a conjugate direction and drops the momentum. Its search points spread wider, by an index that the paper
defines for it, and with the same number of gradients it breaks images that Auto-PGD does not. Reported on 64 robust
networks: more images broken on most of them.
"""

from zoo.auto_conjugate_gradient.attack import ACG, APGD, Attack
from zoo.auto_conjugate_gradient.direction import conjugate_coefficient
from zoo.auto_conjugate_gradient.evaluation import AttackEvaluation
from zoo.auto_conjugate_gradient.losses import cw_loss, dlr_loss, targeted_cw_loss, targeted_dlr_loss
from zoo.auto_conjugate_gradient.module import AdversarialClassifier
from zoo.auto_conjugate_gradient.network import NormalizedNetwork, RobustBenchNetwork
from zoo.auto_conjugate_gradient.result import AttackResult, Trace
from zoo.auto_conjugate_gradient.success import AttackComparison, AttackSuccess
from zoo.auto_conjugate_gradient.training import RobustTraining

__all__ = [
    "ACG",
    "APGD",
    "AdversarialClassifier",
    "Attack",
    "AttackComparison",
    "AttackEvaluation",
    "AttackResult",
    "AttackSuccess",
    "NormalizedNetwork",
    "RobustBenchNetwork",
    "RobustTraining",
    "Trace",
    "conjugate_coefficient",
    "cw_loss",
    "dlr_loss",
    "targeted_cw_loss",
    "targeted_dlr_loss",
]
