"""Molecules to RDKit and back; nothing is repaired on the way."""

from __future__ import annotations

import molecule_toys as toys
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor

from modalities.molecule import chemistry
from modalities.molecule.chemistry import Unfit, from_rdkit, largest_fragment, molecule, smiles, to_rdkit
from modalities.molecule.sample import Molecule
from modalities.molecule.scaffold import framework, sides
from modalities.molecule.vocabulary import ATOMIC_NUMBERS, BONDS, CHARGES, ELEMENTS
from multigen.state import MultigenError


def made(symbols, bonds, charges=None):
    """A molecule in a row, from element symbols, {(i, j): class} and formal charges."""
    matrix = np.zeros((len(symbols),) * 2, np.int8)
    for (i, j), kind in bonds.items():
        matrix[i, j] = matrix[j, i] = kind
    atoms = np.array([ELEMENTS.index(s) for s in symbols], np.int8)
    formal = np.array([CHARGES.index(q) for q in charges or [0] * len(symbols)], np.int8)
    coords = np.arange(3 * len(symbols), dtype=np.float32).reshape(-1, 3)
    return Molecule(atoms, coords, matrix, formal, "made")


@pytest.mark.parametrize(
    "text", [*toys.SMILES, "c1ccncc1", "Cn1cnc2c1c(=O)[nH]c(=O)n2C", "C[C@H](N)C(=O)O", "F/C=C/F", "NC=[NH2+]"]
)
@pytest.mark.parametrize(("hydrogens", "aromatic"), [(True, None), (True, False), (False, None)])
def test_there_and_back(text, hydrogens, aromatic):
    mol = toys.molecule(text)
    example = from_rdkit(mol, hydrogens, aromatic)
    decoded = to_rdkit(molecule(example), hydrogens)
    assert decoded.reason == "" and decoded.mol.GetProp("_Name") == example["name"] == text
    assert smiles(decoded.mol) == smiles(mol) == Chem.CanonSmiles(text)
    assert not any(atom.GetNumRadicalElectrons() for atom in decoded.mol.GetAtoms())
    np.testing.assert_allclose(decoded.mol.GetConformer().GetPositions(), example["coords"], atol=1e-6)


def test_an_example_is_what_the_vocabulary_says():
    mol = toys.molecule("c1ccccc1C(=O)[O-]")
    example = from_rdkit(mol)
    assert [ATOMIC_NUMBERS[a] for a in example["atoms"]] == [a.GetAtomicNum() for a in mol.GetAtoms()]
    assert [CHARGES[q] for q in example["charges"]] == [a.GetFormalCharge() for a in mol.GetAtoms()]
    bonds = example["bonds"]
    assert bonds.dtype == np.int8 and (bonds == bonds.T).all() and not bonds.diagonal().any()
    for bond in mol.GetBonds():
        assert BONDS[bonds[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]] == bond.GetBondType().name.lower()
    assert np.count_nonzero(bonds) == 2 * mol.GetNumBonds() and example["coords"].dtype == np.float32
    kekule = from_rdkit(mol, aromatic=False)["bonds"]
    assert set(np.unique(kekule)) == {0, 1, 2} and (kekule == 2).sum() == 2 * (3 + 1)


def test_without_hydrogens_heavy_atoms_alone_are_left_in_kekule_form():
    full, heavy = (from_rdkit(toys.molecule("c1cc[nH]c1"), hydrogens) for hydrogens in (True, False))
    assert len(full["atoms"]) == 10 and len(heavy["atoms"]) == 5
    assert (full["bonds"] == 4).any() and not (heavy["bonds"] == 4).any()
    np.testing.assert_array_equal(heavy["coords"], full["coords"][full["atoms"] != 0])


@pytest.mark.parametrize(
    ("symbols", "bonds", "charges", "reason"),
    [
        ("CF", {(0, 1): 2}, None, "valence of F"),
        ("NHHHH", {(0, i): 1 for i in range(1, 5)}, None, "valence of N"),
        ("COO", {(0, 1): 2, (0, 2): 2}, None, ""),
        ("CC", {(0, 1): 4}, None, "aromatic atom outside a ring"),
        ("CCC", {(0, 1): 4, (1, 2): 4, (0, 2): 4}, None, "no Kekule structure"),
    ],
)
def test_what_rdkit_refuses_has_a_reason(symbols, bonds, charges, reason):
    decoded = to_rdkit(made(symbols, bonds, charges))
    assert decoded.reason == reason and (decoded.mol is None) == bool(reason)


def test_nothing_is_repaired():
    nitro = made("CHHHNOO", {(0, 1): 1, (0, 2): 1, (0, 3): 1, (0, 4): 1, (4, 5): 2, (4, 6): 2})
    assert to_rdkit(nitro).reason == "valence of N" and to_rdkit(nitro, cleanup=True).mol is not None
    methyl = made("CHHH", {(0, i): 1 for i in (1, 2, 3)})
    assert smiles(to_rdkit(methyl).mol) == "[CH3]" and smiles(to_rdkit(methyl, hydrogens=False).mol) == "C"


def test_stereochemistry_comes_from_the_coordinates():
    mol = toys.molecule("C[C@H](N)C(=O)O")
    mirrored = molecule(from_rdkit(mol))
    mirrored = mirrored._replace(coords=mirrored.coords * np.float32(-1))
    assert smiles(to_rdkit(mirrored).mol) == Chem.CanonSmiles("C[C@@H](N)C(=O)O")
    assert smiles(to_rdkit(mirrored).mol, stereo=False) == Chem.CanonSmiles("CC(N)C(=O)O")


def test_the_largest_fragment():
    bonds = np.zeros((5, 5), np.int8)
    bonds[0, 1] = bonds[1, 0] = bonds[1, 2] = bonds[2, 1] = 1
    assert largest_fragment(bonds) == 0.6 and largest_fragment(np.zeros((0, 0))) == 0
    assert largest_fragment(from_rdkit(toys.molecule("CCO"))["bonds"]) == 1


def without_conformer():
    return Chem.AddHs(Chem.MolFromSmiles("CCO"))


def flat():
    mol = without_conformer()
    rdDepictor.Compute2DCoords(mol)
    return mol


def two_at_one_place():
    mol = toys.molecule("CCO")
    mol.GetConformer().SetAtomPosition(1, mol.GetConformer().GetAtomPosition(0))
    return mol


def undefined():
    mol = toys.molecule("CCO")
    mol.GetConformer().SetAtomPosition(2, (float("nan"), 0.0, 0.0))
    return mol


def placed(text):
    """Atoms in a row, for what no force field knows."""
    mol = Chem.AddHs(Chem.MolFromSmiles(text))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.Set3D(True)
    conformer.SetPositions(np.arange(3.0 * mol.GetNumAtoms()).reshape(-1, 3))
    mol.AddConformer(conformer)
    return mol


@pytest.mark.parametrize(
    ("mol", "reason"),
    [
        (without_conformer, "no 3-D coordinates"),
        (flat, "no 3-D coordinates"),
        (two_at_one_place, r"atoms at one place: atoms 1 and 2 are 0\.00 Angstrom apart"),
        (undefined, "coordinates are missing: of 1 atoms"),
        (lambda: Chem.RemoveHs(toys.molecule("CCO")), "hydrogens without coordinates: 6 of them are implicit"),
        (lambda: placed("C[Zn]C"), "element out of vocabulary: atomic number 30 is not in the vocabulary; choices are 1, 6, "),
        (
            lambda: placed("[Bi+5]"),
            "formal charge out of vocabulary: formal charge 5 is not in the vocabulary; choices are 0, 1",
        ),
        (lambda: placed("CC.O"), "more than one fragment: 8 atoms and 3 atoms"),
        (
            lambda: placed("[NH3]->[Cu+2]"),
            "bond out of vocabulary: dative; choices are none, single, double, triple, aromatic",
        ),
        (Chem.Mol, "no atoms"),
    ],
)
def test_what_does_not_fit_is_one_line(mol, reason):
    with pytest.raises(Unfit, match=f"^{reason}") as caught:
        from_rdkit(mol())
    assert "\n" not in str(caught.value) and isinstance(caught.value, MultigenError)
    assert str(caught.value).startswith(caught.value.reason)


def core(text):
    example = from_rdkit(toys.molecule(text))
    return framework(example["atoms"], np.argwhere(np.triu(example["bonds"])))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Cc1ccccc1", "C1CCCCC1"),
        ("CC1CCCCC1O", "C1CCCCC1"),
        ("c1ccccc1CCc1ccncc1", "C1CCC(CCC2CCNCC2)CC1"),
        ("O=c1cc[nH]cc1", "C1CCNCC1"),
        ("CCCC[O-]", "tree CCCCC"),
        ("CC(C)CN", "tree CCC(C)C"),
        ("NCC(C)=O", "tree CCC(C)C"),
    ],
)
def test_frameworks(text, expected):
    head = "tree " if expected.startswith("tree ") else ""
    assert core(text) == head + Chem.CanonSmiles(expected.removeprefix("tree "))


def test_sides_are_a_function_of_the_framework():
    frameworks = [f"f{i % 400}" for i in range(1000)] + ["common"] * 100
    first = sides(frameworks, 10)
    assert dict(zip(frameworks, first, strict=True))["common"] == "train"
    by_framework = {}
    for f, side in zip(frameworks, first, strict=True):
        assert by_framework.setdefault(f, side) == side
    assert sides(frameworks[::-1], 10) == first[::-1]
    held = [f for f, side in by_framework.items() if side == "valid"]
    assert 20 < len(held) < 60
    assert {f for f, side in zip(frameworks, sides(frameworks, 30), strict=True) if side == "valid"} > set(held)
    assert set(sides(frameworks, 0)) == {"train"} and sides([], 10) == []
    assert sorted(sides(["a", "a", "b", "b"], 10)) == ["train", "train", "valid", "valid"]


def test_a_record_keeps_both_forms():
    full = chemistry.record(toys.molecule("c1ccccc1O"))
    assert sorted(set(full["order"].tolist())) == [1, 5, 6] and (full["pair"][:, 0] < full["pair"][:, 1]).all()
