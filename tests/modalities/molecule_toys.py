"""Small molecules for tests: with conformers, in files, in the layouts of the public sets."""

from __future__ import annotations

from functools import cache

from rdkit import Chem

from modalities.molecule.smiles import embed

SMILES = (
    "CCO",
    "c1ccccc1O",
    "C1CCNC1",
    "CC(=O)[O-]",
    "c1ccc2[nH]ccc2c1",
    "C[N+](C)(C)C",
    "N#CC1CC1",
    "O=S(C)C",
    "CC(C)C(N)=O",
)


@cache
def _embedded(text):
    return embed(text)


def molecule(text, name=""):
    """With hydrogens, a conformer and a name."""
    mol = Chem.Mol(_embedded(text))
    mol.SetProp("_Name", name or text)
    return mol


def block(text, name=""):
    """One record of an SDF file."""
    return Chem.MolToMolBlock(molecule(text, name)) + "$$$$\n"


def sdf(path, texts=SMILES):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(block(text) for text in texts))
    return path
