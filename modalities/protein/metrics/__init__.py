"""Measures of designs and of made sequences; each is a `multigen.modality.Metric` that explains itself."""

from modalities.protein.metrics.composition import Composition
from modalities.protein.metrics.diversity import Diversity
from modalities.protein.metrics.judge import Judge
from modalities.protein.metrics.novelty import Novelty
from modalities.protein.metrics.recovery import Recovery
from modalities.protein.metrics.refolding import Refolding

__all__ = ["Composition", "Diversity", "Judge", "Novelty", "Recovery", "Refolding"]
