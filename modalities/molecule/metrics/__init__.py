"""Measures of molecules; each is a `multigen.modality.Metric` that explains itself."""

from modalities.molecule.metrics.busters import PoseBusters
from modalities.molecule.metrics.chemnet import FCD
from modalities.molecule.metrics.distinct import Novelty, Uniqueness
from modalities.molecule.metrics.energy import Energy
from modalities.molecule.metrics.geometry import Geometry
from modalities.molecule.metrics.properties import Properties
from modalities.molecule.metrics.stability import Stability
from modalities.molecule.metrics.validity import Validity

__all__ = ["FCD", "Energy", "Geometry", "Novelty", "PoseBusters", "Properties", "Stability", "Uniqueness", "Validity"]
