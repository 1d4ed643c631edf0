"""Adaptive Inertia: Disentangling the Effects of Adaptive Learning Rate and Momentum (Xie et al., ICML 2022)."""

from zoo.adaptive_inertia.adai import Adai, AdaiW

__all__ = ["Adai", "AdaiW"]
