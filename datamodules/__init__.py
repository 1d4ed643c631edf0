"""Data for the models, as LightningDataModules."""

from datamodules.planetoid import PlanetoidDataModule

__all__ = ["PlanetoidDataModule"]
