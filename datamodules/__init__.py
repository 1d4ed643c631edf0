"""Data for the models, as LightningDataModules."""

from datamodules.batches import ImageBatch
from datamodules.label_noise import (
    AsymmetricNoise,
    HumanNoise,
    LabelNoise,
    RandomLabels,
    SymmetricNoise,
    TransitionMatrixNoise,
)
from datamodules.planetoid import PlanetoidDataModule
from datamodules.spirals import SpiralDataModule
from datamodules.vision import VisionDataModule

__all__ = [
    "AsymmetricNoise",
    "HumanNoise",
    "ImageBatch",
    "LabelNoise",
    "PlanetoidDataModule",
    "RandomLabels",
    "SpiralDataModule",
    "SymmetricNoise",
    "TransitionMatrixNoise",
    "VisionDataModule",
]
