"""NC1 as one writes it first: a covariance for every class, and the pseudo-inverse of a d x d matrix."""

import torch
from torch import Tensor


def plain_nc1(features: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """NC1 of features ``(N, d)`` that are all in memory, of classes ``(N,)``."""
    num_features = features.shape[1]
    global_mean = features.mean(dim=0)
    within = features.new_zeros(num_features, num_features)
    between = features.new_zeros(num_features, num_features)
    for k in range(num_classes):
        of_class = features[target == k]
        mean = of_class.mean(dim=0)
        within.addmm_((of_class - mean).T, of_class - mean)
        between.addr_(mean - global_mean, mean - global_mean)
    inverse = torch.linalg.pinv(between / num_classes, rtol=1e-10, hermitian=True)
    return torch.trace(within @ inverse) / len(features) / num_classes
