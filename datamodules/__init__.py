"""Data for the models, as LightningDataModules."""

from datamodules.batches import ImageBatch
from datamodules.inverse import InverseBatch, InverseProblemDataModule, measured
from datamodules.inverse_operators import (
    AveragePooling,
    BicubicDownsampling,
    BoxInpainting,
    ForwardOperator,
    GaussianSensing,
    Grayscale,
    Identity,
    MaskInpainting,
    PartialCirculant,
    RandomInpainting,
)
from datamodules.label_noise import (
    AsymmetricNoise,
    HumanNoise,
    LabelNoise,
    RandomLabels,
    SymmetricNoise,
    TransitionMatrixNoise,
)
from datamodules.margin import MarginBatch, MarginPatchDataModule
from datamodules.planetoid import PlanetoidDataModule
from datamodules.small_margin import SmallMarginVisionDataModule
from datamodules.sparse_regression import SparseRegressionBatch, SparseRegressionDataModule
from datamodules.spirals import SpiralDataModule
from datamodules.teacher import TeacherBatch, TeacherDataModule
from datamodules.temporal_dyncsl import DynCSLDataModule
from datamodules.temporal_england import EnglandCovidDataModule
from datamodules.temporal_pems import PeMSDataModule
from datamodules.temporal_windows import TemporalGraphWindow, temporal_window
from datamodules.vision import VisionDataModule
from datamodules.whitened_regression import RegressionBatch, WhitenedRegressionDataModule, whitened

__all__ = [
    "AsymmetricNoise",
    "AveragePooling",
    "BicubicDownsampling",
    "BoxInpainting",
    "DynCSLDataModule",
    "EnglandCovidDataModule",
    "ForwardOperator",
    "GaussianSensing",
    "Grayscale",
    "HumanNoise",
    "Identity",
    "ImageBatch",
    "InverseBatch",
    "InverseProblemDataModule",
    "LabelNoise",
    "MarginBatch",
    "MarginPatchDataModule",
    "MaskInpainting",
    "PartialCirculant",
    "PeMSDataModule",
    "PlanetoidDataModule",
    "RandomInpainting",
    "RandomLabels",
    "RegressionBatch",
    "SmallMarginVisionDataModule",
    "SparseRegressionBatch",
    "SparseRegressionDataModule",
    "SpiralDataModule",
    "SymmetricNoise",
    "TeacherBatch",
    "TeacherDataModule",
    "TemporalGraphWindow",
    "TransitionMatrixNoise",
    "VisionDataModule",
    "WhitenedRegressionDataModule",
    "measured",
    "temporal_window",
    "whitened",
]
