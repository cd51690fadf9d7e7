"""Teachers: frozen views of the clean molecule, aligned with the whole of it or with its atoms.

They read the clean state and what ``Batch.raw`` holds beside it (``coords`` in Angstrom, ``hydrogens``, ``name``,
``caption``). See TEACHERS.md beside the modality for which of them has been trained on what.
"""

from modalities.molecule.encoders.chemnet import ChemNet
from modalities.molecule.encoders.minimol import MiniMol, MiniMolAtoms
from modalities.molecule.encoders.text import Name

__all__ = ["ChemNet", "MiniMol", "MiniMolAtoms", "Name"]
