"""Local Augmentation for Graph Neural Networks (Liu et al., ICML 2022).

A conditional VAE learns, once, what a neighbour's features look like given a node's own. In every training step fresh
generated features are fed to the network beside the node's own, and a consistency loss asks several such passes to
agree. Reported on Cora with a GCN: 84.6 % test accuracy, against 81.5 % of the plain GCN.
"""

from zoo.local_augmentation.augmentation import LocalAugmentation
from zoo.local_augmentation.backbones import LAGAT, LAGCN, LAGCNII, LAGRAND, mixed_order_propagation
from zoo.local_augmentation.consistency import SharpenedConsistencyLoss, sharpen, sharpened_consistency_loss
from zoo.local_augmentation.cvae import NeighborCVAE, NeighborDecoder, NeighborPairDataset
from zoo.local_augmentation.module import (
    LAGATClassifier,
    LAGCNClassifier,
    LAGCNIIClassifier,
    LAGRANDClassifier,
    LocalAugmentedNodeClassifier,
)
from zoo.local_augmentation.pretraining import (
    GeneratorPretraining,
    GeneratorSelection,
    NeighborCVAEModule,
    NeighborPairDataModule,
)
from zoo.local_augmentation.selection import ReceptiveFieldGCN, bald, cross_entropy_gap
from zoo.local_augmentation.sparse import Graph, SparseMatrix

__all__ = [
    "LAGAT",
    "LAGCN",
    "LAGCNII",
    "LAGRAND",
    "GeneratorPretraining",
    "GeneratorSelection",
    "Graph",
    "LAGATClassifier",
    "LAGCNClassifier",
    "LAGCNIIClassifier",
    "LAGRANDClassifier",
    "LocalAugmentation",
    "LocalAugmentedNodeClassifier",
    "NeighborCVAE",
    "NeighborCVAEModule",
    "NeighborDecoder",
    "NeighborPairDataModule",
    "NeighborPairDataset",
    "ReceptiveFieldGCN",
    "SharpenedConsistencyLoss",
    "SparseMatrix",
    "bald",
    "cross_entropy_gap",
    "mixed_order_propagation",
    "sharpen",
    "sharpened_consistency_loss",
]
