"""Probes that look into a model while the Trainer runs it."""

from callbacks.accuracy_by_degree import AccuracyByDegree
from callbacks.mad_gap import MADGap

__all__ = ["AccuracyByDegree", "MADGap"]
