"""Network parts that more than one domain needs."""

from multigen.nn.blocks import ModulatedBlock, TimeEmbedding, modulate, sincos_1d, sincos_2d
from multigen.nn.companion import Companions
from multigen.nn.projectors import ConvProjector, MLPProjector

__all__ = [
    "Companions",
    "ConvProjector",
    "MLPProjector",
    "ModulatedBlock",
    "TimeEmbedding",
    "modulate",
    "sincos_1d",
    "sincos_2d",
]
