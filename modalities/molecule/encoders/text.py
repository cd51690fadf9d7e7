"""What is said about a molecule, through a language model: a second modality beside its graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modalities.molecule.encoders.common import heavy, mols
from multigen.state import Batch
from multigen.teachers.text import MiniLM

if TYPE_CHECKING:
    from rdkit.Chem import Mol


class Name(MiniLM):
    """MiniLM's embedding of the chemical name (``caption``), such as "propan-2-ol": (B, 384).

    A molecule without a name has none. For the arguments see `multigen.teachers.text.MiniLM`.
    """


class Description(MiniLM):
    """MiniLM's embedding of `describe`, for data without names: (B, 384). Arguments: see `multigen.teachers.text.MiniLM`.

    A molecule that RDKit refuses has none.
    """

    version = 3

    def __init__(self, tokens: int | None = None, root: str | Path | None = None, folder: str | Path | None = None) -> None:
        from rdkit import rdBase

        super().__init__(tokens, root, folder)
        self.freeze(rdkit=rdBase.rdkitVersion)

    def lines(self, batch: Batch) -> Sequence[str]:
        return ["" if mol is None else describe(mol) for mol in mols(batch, self)]


def describe(mol: Mol) -> str:
    """Formula, size, charge, rings, stereocentres, donors and acceptors, and functional groups, commonest first.

    >>> from rdkit import Chem
    >>> describe(Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O"))[:79]
    'C9H8O4: 13 heavy atoms, 1 ring, 1 aromatic ring, 1 hydrogen donor, 3 hydrogen '
    """
    from rdkit.Chem import rdMolDescriptors as known

    plain, _ = heavy(mol)
    count = {
        "heavy atom": plain.GetNumAtoms(),
        "ring": known.CalcNumRings(plain),
        "aromatic ring": known.CalcNumAromaticRings(plain),
        "stereocentre": known.CalcNumAtomStereoCenters(plain),
        "rotatable bond": known.CalcNumRotatableBonds(plain),
        "hydrogen donor": known.CalcNumHBD(plain),
        "hydrogen acceptor": known.CalcNumHBA(plain),
    }
    order = ("heavy atom", "ring", "aromatic ring", "hydrogen donor", "hydrogen acceptor", "rotatable bond", "stereocentre")
    told = [f"{count[what]} {what}{'s' if count[what] > 1 else ''}" for what in order if count[what]]
    charge = sum(atom.GetFormalCharge() for atom in plain.GetAtoms())
    told += [f"charge {charge:+d}"] if charge else []
    return f"{known.CalcMolFormula(plain)}: {', '.join(told)}; {', '.join(_groups(plain)) or 'no functional group'}."


def _groups(mol: Mol) -> list[str]:
    """Functional groups by RDKit's patterns, each with its number if it is not 1."""
    from rdkit.Chem import Fragments

    found = {
        _said(function.__doc__ or ""): int(function(mol))
        for name, function in sorted(vars(Fragments).items())
        if name.startswith("fr_")
    }
    ordered = sorted((text for text in found if found[text]), key=lambda text: -found[text])
    return [text if found[text] == 1 else f"{found[text]} {text}" for text in ordered]


def _said(doc: str) -> str:
    """Of RDKit's sentence about a pattern, the group.

    >>> _said("Number of carboxylic acids")
    'carboxylic acids'
    """
    return " ".join(doc.replace("Number of ", "").partition("(")[0].split()).rstrip(".")
