"""``multigen evaluate samples=FILE.sdf``: molecules that any program made, measured without a run."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from multigen.cli.main import run
from multigen.files import read_json


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def block(smiles: str, hydrogens: bool = True) -> str:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return Chem.MolToMolBlock(mol if hydrogens else Chem.RemoveHs(mol)) + "$$$$\n"


def crowded() -> str:
    """Ethane with a double bond and all its hydrogens: carbon with five bonds, which RDKit refuses."""
    mol = Chem.RWMol(Chem.MolFromMolBlock(block("CC").split("$$$$")[0], removeHs=False))
    mol.GetBondBetweenAtoms(0, 1).SetBondType(Chem.BondType.DOUBLE)
    return Chem.MolToMolBlock(mol, kekulize=False) + "$$$$\n"


def apart() -> str:
    return block("C.O")


@pytest.mark.parametrize("hydrogens", [True, False])
def test_what_is_valid_counts_and_what_is_not_is_kept(hydrogens):
    Path("made.sdf").write_text(block("c1ccccc1O", hydrogens) + block("c1cc[nH]c1", hydrogens))
    assert run(["evaluate", "samples=made.sdf", "metrics=[validity,stability]"]) == 0
    found = read_json("made.sdf.evaluation.json")
    assert found["metrics"]["valid_connected"] == 1 and found["metrics"]["radicals"] == 0
    assert found["metrics"]["molecule_stability_corrected"] == 1
    assert found["samples"]["count"] == 2 and found["samples"]["unread"] == 0


def test_invalid_broken_and_separate_molecules_are_samples_too():
    with gzip.open("made.sdf.gz", "wt") as file:
        file.write(block("CCO") + crowded() + apart() + "nothing\n$$$$\n")
    assert run(["evaluate", "samples=made.sdf.gz", "metrics=validity", "out=found.json"]) == 0
    found = read_json("found.json")
    measured = found["metrics"]
    assert measured["validity"] == 2 / 4 and measured["valid_connected"] == 1 / 4
    assert measured["refused_valence"] == 1 / 4 and measured["undecided"] == 1 / 4
    assert found["samples"]["unread"] == 1 and "record 4" in found["samples"]["first_unread"][0]


def test_bad_input_is_one_line(capsys):
    Path("flat.sdf").write_text("nothing\n$$$$\n")
    Path("empty").mkdir()
    for path, said in {
        "gone.sdf": "does not exist",
        "empty": "holds no file of molecules",
        "flat.sdf": "holds no molecule",
    }.items():
        assert run(["evaluate", f"samples={path}", "metrics=validity"]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error
