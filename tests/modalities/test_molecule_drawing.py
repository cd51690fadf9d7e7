"""Pictures and files of molecules, good and bad."""

from pathlib import Path

import numpy as np
import pytest
from molecule_toys import molecule
from rdkit import Chem

from modalities.molecule import chemistry, reporting, viewing
from modalities.molecule.drawing import draw, formula
from modalities.molecule.sample import Molecule
from modalities.molecule.space import in_space, principal
from modalities.molecule.vocabulary import BONDS
from modalities.molecule.writing import explicit, write
from multigen.files import write_json
from multigen.report import Record
from multigen.state import MultigenError


def made(text, hydrogens=True):
    return chemistry.molecule(chemistry.from_rdkit(molecule(text), hydrogens))


def changed(found, i, j, bond):
    bonds = found.bonds.copy()
    bonds[i, j] = bonds[j, i] = BONDS.index(bond)
    return found._replace(bonds=bonds)


def tangled(count=20):
    """Every pair bonded at random, as an untrained network does it."""
    rng = np.random.default_rng(0)
    bonds = np.triu(rng.integers(0, 5, (count, count)), 1)
    places = rng.normal(size=(count, 3)).astype("f4")
    return Molecule(rng.integers(0, 12, count).astype("i1"), places, (bonds + bonds.T).astype("i1"), np.zeros(count, "i1"))


ETHANOL, PYRROLE = made("CCO"), made("c1cc[nH]c1")
REFUSED, OPEN, APART = changed(ETHANOL, 0, 1, "double"), changed(ETHANOL, 0, 1, "aromatic"), changed(ETHANOL, 0, 1, "none")
ALL = [ETHANOL, PYRROLE, REFUSED, OPEN, APART, None, tangled(), made("C[N+](C)(C)C")]


def size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])


# ----------------------------------------------------------------------------------------------------------------- pictures


def test_a_grid_of_good_and_bad_molecules(tmp_path):
    width, height = size(draw(ALL, tmp_path / "grid.png"))
    assert width > 600 and height > 600


@pytest.mark.parametrize("samples", [[], [None], [ETHANOL._replace(coords=ETHANOL.coords * np.float32(np.nan))]])
def test_a_grid_of_next_to_nothing(samples, tmp_path):
    assert size(draw(samples, tmp_path / "grid.png"))


def test_a_grid_is_the_same_each_time(tmp_path):
    assert draw(ALL, tmp_path / "a.png").read_bytes() == draw(ALL, tmp_path / "b.png").read_bytes()


def test_what_is_refused_looks_different(tmp_path):
    pictures = [draw([sample], tmp_path / f"{i}.png").read_bytes() for i, sample in enumerate((ETHANOL, REFUSED, APART, None))]
    assert len(set(pictures)) == 4


def test_formula():
    assert [formula(x) for x in (ETHANOL, made("C[N+](C)(C)C"), made("ClCC(=O)Br"))] == ["C2H6O", "C4H12N", "C2H2BrClO"]


@pytest.mark.parametrize("sample", [ETHANOL, PYRROLE, made("N#CC1CC1"), tangled(), ETHANOL._replace(bonds=0 * ETHANOL.bonds)])
def test_a_molecule_in_space(sample, tmp_path):
    assert size(in_space(sample, tmp_path / "one.png"))


def test_principal_axes_keep_handedness_and_distances():
    coords = np.random.default_rng(1).normal(size=(7, 3))
    turned = principal(coords)
    assert np.allclose(turned.mean(0), 0) and (np.diff(turned.var(0)) <= 0).all()
    centred = coords - coords.mean(0)
    assert np.linalg.det(np.linalg.lstsq(centred, turned, rcond=None)[0]) == pytest.approx(1)


# -------------------------------------------------------------------------------------------------------------------- files


def test_an_sdf_file_holds_every_molecule_and_says_what_is_refused(tmp_path):
    path = write(ALL, tmp_path / "made.sdf")
    records = path.read_text().split("$$$$\n")[:-1]
    assert [r.splitlines()[0] for r in records][:3] == ["CCO", "c1cc[nH]c1", "CCO"] and len(records) == 7
    assert ["REFUSED" in r for r in records] == [False, False, True, True, False, True, False]
    assert "valence of C" in records[2]
    read = list(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False))
    assert all(m is not None for m in read)
    assert np.allclose(read[1].GetConformer().GetPositions(), PYRROLE.coords, atol=1e-4)


def test_an_sdf_file_is_read_back_as_it_was(tmp_path):
    samples = [made(text) for text in ("c1ccc2[nH]ccc2c1", "C[N+](C)(C)C", "CC(=O)[O-]", "N#CC1CC1")]
    path = write(samples, tmp_path / "made.sdf")
    for sample, mol in zip(samples, Chem.SDMolSupplier(str(path), removeHs=False), strict=True):
        again = chemistry.molecule(chemistry.from_rdkit(mol))
        assert (again.atoms == sample.atoms).all() and (again.bonds == sample.bonds).all()
        assert (again.charges == sample.charges).all() and again.name == sample.name


def test_places_too_far_for_the_old_format(tmp_path):
    far = ETHANOL._replace(coords=ETHANOL.coords + np.float32(123456))
    (read,) = Chem.SDMolSupplier(str(write([far], tmp_path / "far.sdf")), removeHs=False)
    assert np.allclose(read.GetConformer().GetPositions(), far.coords, rtol=1e-6)


def test_a_smiles_file_holds_what_rdkit_accepts(tmp_path):
    names = [sample and sample._replace(name="") for sample in ALL]
    lines = write(names, tmp_path / "made.smi").read_text().splitlines()
    assert lines == ["CCO molecule_1", "c1cc[nH]c1 molecule_2", "[CH2]O.[CH3] molecule_5", "C[N+](C)(C)C molecule_8"]


def test_molecules_without_hydrogens_are_filled_up(tmp_path):
    bare = [made("CCO", hydrogens=False), made("c1ccccc1O", hydrogens=False)]
    assert not explicit(bare) and explicit([None, ETHANOL])
    assert write(bare, tmp_path / "made.smi").read_text().split() == ["CCO", "CCO", "Oc1ccccc1", "c1ccccc1O"]


def test_an_xyz_file(tmp_path):
    lines = write([made("C[N+](C)(C)C"), None, ETHANOL], tmp_path / "made.xyz").read_text().splitlines()
    assert lines[0] == "17" and lines[1] == "C[N+](C)(C)C charge=1" and lines[19] == "9" and len(lines) == 19 + 11
    assert [float(x) for x in lines[21].split()[1:]] == pytest.approx(ETHANOL.coords[0].tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ["made.pdb", "made"])
def test_other_endings_are_refused(name, tmp_path):
    with pytest.raises(MultigenError, match=r"cannot be written as .*choices are \['.sdf', '.smi', '.xyz'\]"):
        write([ETHANOL], tmp_path / name)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------ in the report


def test_a_page_shows_molecules_that_can_be_turned(tmp_path):
    folder = tmp_path / "evaluation"
    viewing.write([None, REFUSED, ETHANOL, APART, PYRROLE], folder, 2)
    record = Record(tmp_path, evaluation={"metrics": {}})
    section = viewing.section(record)
    viewers = section.blocks[-1].pictures
    assert [v.format for v in viewers] == ["sdf", "sdf"] and "C2H6O" in viewers[0].caption
    assert "V2000" in viewers[0].text and viewers[0].picture.uri.startswith("data:image/png")


def test_a_page_without_molecules_has_no_such_section(tmp_path):
    assert viewing.section(Record(tmp_path, evaluation={"metrics": {}})) is None
    viewing.write([None, REFUSED], tmp_path / "evaluation", 2)
    assert viewing.section(Record(tmp_path, evaluation={"metrics": {}})) is None


# ------------------------------------------------------------------------------------------------------------------- report


def test_both_stability_tables_stand_side_by_side():
    values = {f"{kind}_stability_{table}": 0.5 for kind in ("atom", "molecule") for table in ("legacy", "corrected")}
    values |= {"atom_stability_legacy_std": 0.01, "atom_stability_corrected_real": 0.9}
    about = {"validity": {"reasons": {"valence of N": 3, "no Kekule structure": 1}}}
    record = Record(Path("."), evaluation={"metrics": values, "about_metrics": about, "samples": {"count": 8}})
    table, reasons = reporting.chemistry(record).blocks
    assert len(table.header) == 5 and len(table.rows) == 2 and [len(row) for row in table.rows] == [5, 5]
    assert table.rows[0][1].note == "± 0.01000" and table.rows[0][4].text == "0.9000"
    assert [cell.text for cell in reasons.rows[0]] == ["valence of N", "3", "37.5%"]
    assert reporting.chemistry(Record(Path("."), evaluation={"metrics": {}})) is None


def test_given_atoms_are_coloured(tmp_path):
    plain, marked = (draw(ALL, tmp_path / f"{name}.png", given=given) for name, given in (("plain", ()), ("marked", (0, 1))))
    assert size(plain) == size(marked) and plain.read_bytes() != marked.read_bytes()


def test_completions_in_the_runs_folder_are_shown(tmp_path):
    draw(ALL, tmp_path / "grown" / "completions.png")
    write_json(
        tmp_path / "grown" / "summary.json", {"fragment": "a/b.sdf", "add": "2:4", "completions": 8, "valid_connected": 3}
    )
    section = reporting.completions(Record(tmp_path))
    assert "b.sdf with 2:4 atoms more: 8 completions, 3 of them valid" in section.blocks[0].pictures[0].caption
    assert reporting.completions(Record(tmp_path / "grown")) is None
