"""Metrics of pictures: FID and its kin beside reference statistics, and those of small sets with held-out data."""

from modalities.image.metrics.feature_distance import AsSampled, FeatureDistance
from modalities.image.metrics.measures import Frechet, GaussianMMD, InceptionScore, Kernel, Neighbours
from modalities.image.metrics.networks import Clip, Inception, Teacher, Timm
from modalities.image.metrics.quality import Quality

__all__ = [
    "AsSampled",
    "Clip",
    "FeatureDistance",
    "Frechet",
    "GaussianMMD",
    "Inception",
    "InceptionScore",
    "Kernel",
    "Neighbours",
    "Quality",
    "Teacher",
    "Timm",
]
