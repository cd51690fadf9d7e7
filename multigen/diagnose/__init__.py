"""What hidden features know of each representation, block by block: the tap is chosen by measurement."""

from multigen.diagnose.figure import draw
from multigen.diagnose.measures import cka, cknna, gram
from multigen.diagnose.study import MEASURES, Settings, study

__all__ = ["MEASURES", "Settings", "cka", "cknna", "draw", "gram", "study"]
