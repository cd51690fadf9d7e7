"""Teachers: frozen views of the clean molecule, aligned with the whole of it or with its atoms.

They read the clean state and what ``Batch.raw`` holds beside it (``coords`` in Angstrom, ``hydrogens``, ``name``,
``caption``). See TEACHERS.md beside the modality for which of them has been trained on what.
"""

from modalities.molecule.encoders.ani import ANI
from modalities.molecule.encoders.chemnet import ChemNet
from modalities.molecule.encoders.controls import AtomProperties, Descriptors, Morgan, MorganAtoms
from modalities.molecule.encoders.depiction import Depiction, TimmDepiction
from modalities.molecule.encoders.files import Files
from modalities.molecule.encoders.function import Function
from modalities.molecule.encoders.minimol import MiniMol, MiniMolAtoms
from modalities.molecule.encoders.text import Description, Name
from modalities.molecule.encoders.unimol import UniMol

__all__ = [
    "ANI", "AtomProperties", "ChemNet", "Depiction", "Description", "Descriptors", "Files", "Function", "MiniMol",
    "MiniMolAtoms", "Morgan", "MorganAtoms", "Name", "TimmDepiction", "UniMol",
]  # fmt: skip
