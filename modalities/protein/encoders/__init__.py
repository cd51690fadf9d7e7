"""Teachers: frozen views of the clean protein, aligned with its residues or with the pairs of residues and neighbours.

They read what `structure_of` finds in a batch (``backbone``, ``known``, ``chain``, ``index``, ``neighbours``) and
``clean["sequence"]``. See TEACHERS.md beside the modality for which of them has been trained on what.
"""

from modalities.protein.encoders.esm2 import ESM2
from modalities.protein.encoders.files import Files
from modalities.protein.encoders.mpnn import MPNNPair, MPNNSingle, MPNNStructure
from modalities.protein.encoders.threedi import ThreeDi

__all__ = ["ESM2", "Files", "MPNNPair", "MPNNSingle", "MPNNStructure", "ThreeDi"]
