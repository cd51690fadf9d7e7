"""Structures: what is read from PDB and mmCIF, what is refused, residues by the author's numbers, designs written."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest

from modalities.protein.choice import spans
from modalities.protein.geometry import bonded, extend, place_oxygen
from modalities.protein.polymer import NAMES
from modalities.protein.structure import Structure, pdb_text, read_structure, residues, write_pdb
from multigen.state import MultigenError

ATOMS = ("N", "CA", "C", "O")


def helix(n: int, origin: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """(n, 4, 3): an ideal alpha helix."""
    chain = [np.array([0.0, 1.4, 0.0]), np.array([0.0, 0.0, 0.0]), np.array([1.5, 0.0, 0.0])]
    turn = {"N": (1.329, 116.6, -47), "CA": (1.458, 121.9, 180), "C": (1.525, 111.0, -57)}
    while len(chain) < 3 * n:
        length, angle, torsion = turn[ATOMS[len(chain) % 3]]
        chain.append(extend(*chain[-3:], length, np.radians(angle), np.radians(torsion)))
    backbone = np.full((n, 4, 3), np.nan)
    backbone[:, :3] = np.array(chain).reshape(n, 3, 3) + origin
    return place_oxygen(backbone)


@dataclass(frozen=True)
class Line:
    """One residue of a file to be written."""

    name: str
    number: int
    xyz: np.ndarray
    code: str = ""
    chain: str = "A"
    hetero: bool = False
    alternate: str = ""
    occupancy: float = 1.0
    atoms: tuple[str, ...] = ATOMS
    model: int = 1


def peptide(sequence: str, first: int = 1, origin=(0, 0, 0), **fields) -> list[Line]:
    xyz = helix(len(sequence), origin)
    return [Line(NAMES[letter], first + i, xyz[i], **fields) for i, letter in enumerate(sequence)]


def atoms(lines: list[Line]):
    for line in lines:
        for name in line.atoms:
            yield line, name, line.xyz[ATOMS.index(name)] if name in ATOMS else line.xyz[0] + 1


def pdb(lines: list[Line]) -> str:
    models = list(dict.fromkeys(line.model for line in lines))
    text = ""
    for model in models:
        text += f"MODEL     {model:4d}\n" if len(models) > 1 else ""
        for serial, (r, name, (x, y, z)) in enumerate(atoms([line for line in lines if line.model == model]), 1):
            record = "HETATM" if r.hetero else "ATOM"
            text += (
                f"{record:<6}{serial:5d}  {name:<3}{r.alternate:1}{r.name:>3} {r.chain:1}{r.number:4d}{r.code:1}   "
                f"{x:8.3f}{y:8.3f}{z:8.3f}{r.occupancy:6.2f}{20:6.2f}          {name[0]:>2}\n"
            )
        text += "ENDMDL\n" if len(models) > 1 else ""
    return text + "END\n"


COLUMNS = """group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_seq_id pdbx_PDB_ins_code
Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_asym_id pdbx_PDB_model_num""".split()  # noqa: SIM905


def cif(lines: list[Line], columns=COLUMNS, end: str = "#\n") -> str:
    rows = []
    for serial, (r, name, (x, y, z)) in enumerate(atoms(lines), 1):
        group = "HETATM" if r.hetero else "ATOM"
        values = [group, serial, name[0], name, r.alternate or ".", r.name, "Z", 1, r.code or "?", f"{x:.3f}", f"{y:.3f}"]
        values += [f"{z:.3f}", r.occupancy, 20.0, r.number, r.chain, r.model]
        rows.append(" ".join(str(v) for c, v in zip(COLUMNS, values, strict=True) if c in columns))
    return "\n".join(["data_test", "#", "loop_", *(f"_atom_site.{c}" for c in columns), *rows]) + "\n" + end


@dataclass
class Folder:
    path: object
    count: int = field(default=0)

    def write(self, text: str | bytes, name: str = "some.pdb"):
        data = text.encode() if isinstance(text, str) else text
        (self.path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return self.path / name


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.fixture(params=["some.pdb", "some.cif", "some.ent.gz", "some.mmcif.gz"])
def read(request, folder):
    """Write residues in one of the formats and read them."""

    def through(lines: list[Line], **options) -> Structure:
        text = cif(lines) if "cif" in request.param else pdb(lines)
        return read_structure(folder.write(text, request.param), **options)

    return through


def refused(match: str, function, *args, **options):
    with pytest.raises(MultigenError, match=match) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)


# what is read


def test_chains_sequence_and_backbone(read):
    lines = peptide("MKVLAT", 5) + peptide("GGSW", -2, (30, 0, 0), chain="B")
    found = read(lines)
    assert (found.name, found.chains, found.letters()) == ("some", ("A", "B"), "MKVLATGGSW")
    assert found.letters("B") == "GGSW" and len(found) == 10
    assert found.chain.tolist() == [0] * 6 + [1] * 4
    assert found.index.tolist() == [5, 6, 7, 8, 9, 10, -2, -1, 0, 1]
    assert found.labels[-4:] == ("-2", "-1", "0", "1")
    assert np.allclose(found.backbone, [line.xyz for line in lines], atol=6e-4)
    types = (found.sequence.dtype, found.backbone.dtype, found.chain.dtype, found.index.dtype)
    assert types == (np.int8, np.float32, np.int16, np.int32)


def test_gaps_and_insertion_codes(read):
    """52, 52A, 52B, 53: each advances by one; three missing residues are a jump of four; numbers that go back count one."""
    xyz = helix(8)
    numbers = [(52, ""), (52, "A"), (52, "B"), (53, ""), (57, ""), (58, ""), (10, ""), (11, "")]
    found = read([Line("ALA", n, x, code=c) for (n, c), x in zip(numbers, xyz, strict=True)])
    assert found.labels == ("52", "52A", "52B", "53", "57", "58", "10", "11")
    assert found.index.tolist() == [52, 53, 54, 55, 59, 60, 61, 62]


def test_chains_that_are_interrupted_in_the_file(read):
    whole, other = peptide("ACDEFG"), peptide("KLM", chain="B", origin=(30, 0, 0))
    assert read(whole[:3] + other + whole[3:]).letters() == "ACDEFGKLM"


def test_alternate_locations(read):
    """The conformer of highest occupancy, of equal ones the first; all atoms from one conformer."""
    a, b, c = peptide("GSA")
    shifted = replace(b, alternate="B", occupancy=0.6, xyz=b.xyz + 1)
    found = read([a, replace(b, alternate="A", occupancy=0.4), shifted, c])
    assert np.allclose(found.backbone[1], shifted.xyz, atol=1e-3)
    tied = read([a, replace(shifted, occupancy=0.5), replace(b, alternate="A", occupancy=0.5), c])
    assert np.allclose(tied.backbone[1], b.xyz, atol=1e-3) and len(tied) == 3


def test_an_atom_that_the_conformer_lacks_is_the_common_one(read):
    a, b, c = peptide("GSA")
    common = replace(b, atoms=("N", "O"))
    rare = replace(b, atoms=("CA", "C"), alternate="A", occupancy=0.3, xyz=b.xyz + 1)
    often = replace(rare, alternate="B", occupancy=0.7, xyz=b.xyz + 2)
    expected = np.stack([b.xyz[0], *(b.xyz[1:3] + 2), b.xyz[3]])
    assert np.allclose(read([a, common, rare, often, c]).backbone[1], expected, atol=1e-3)


def test_two_amino_acids_at_one_place(read):
    a, b, c = peptide("GPA")
    other = replace(b, name="SER", alternate="B", occupancy=0.7, xyz=b.xyz + 0.1)
    assert read([a, replace(b, alternate="A", occupancy=0.3), other, c]).letters() == "GSA"
    assert read([a, replace(b, alternate="A", occupancy=0.8), other, c]).letters() == "GPA"


def test_missing_atoms(read):
    lines = peptide("MKVLA")
    cut = [
        replace(lines[0], atoms=("N", "CA", "C")),
        replace(lines[1], atoms=("N", "CA")),
        replace(lines[2], atoms=("CA", "C", "O")),
    ]
    found = read(cut + lines[3:])
    known = np.isfinite(found.backbone).all(-1)
    assert known.tolist() == [[True] * 4, [True, True, False, False], [False, True, True, True], [True] * 4, [True] * 4]
    assert found.letters() == "MKVLA"


@pytest.mark.parametrize(
    ("name", "letter"),
    list(
        zip(
            "MSE SEP TPO PTR HYP CSO MLY PCA SEC PYL HIE CYX GLH UNK DAL ZZZ".split(),  # noqa: SIM905
            "MSTYPCKQCKHCEXXX",
            strict=True,
        )
    ),
)
def test_modified_residues(folder, name, letter):
    a, b, c = peptide("GAG")
    for text in (pdb, cif):
        found = read_structure(folder.write(text([a, replace(b, name=name, hetero=True), c])))
        assert found.letters() == f"G{letter}G"


def test_what_lies_beside_the_chain(read):
    """Waters, ions, ligands, nucleic acids, caps, hydrogens, and amino acids that nothing holds."""
    chain = [replace(line, atoms=(*ATOMS, "CB", "H", "HA", "OXT")) for line in peptide("MKVLAT", 5)]
    far = helix(1, (50, 0, 0))[0]
    beside = [
        Line("HOH", 201, far, hetero=True, atoms=("O",)),
        Line("CA", 202, far, hetero=True, atoms=("CA",)),
        Line("ATP", 203, far, hetero=True, atoms=("C1", "N", "O")),
        Line("GLU", 204, far, hetero=True),
        Line("LIG", 205, far + 9, hetero=True),
        Line("ACE", 4, chain[0].xyz, hetero=True, atoms=("C", "O")),
        Line("DA", 1, far, chain="D", atoms=("P", "C1", "N1")),
        Line("G", 2, far, chain="D", atoms=("P", "C1", "N1")),
    ]
    found = read(chain + beside)
    assert (found.chains, found.letters()) == (("A",), "MKVLAT")


def test_a_modified_end_beyond_a_gap_stays(read):
    lines = peptide("MKVLATMKVLAT")
    assert read([replace(lines[0], name="MSE", hetero=True), *lines[5:]]).letters() == "MTMKVLAT"


def test_models(read):
    lines = peptide("MKV") + peptide("MKV", origin=(1, 2, 3), model=2)
    first, second = read(lines), read(lines, model=1)
    assert np.allclose(second.backbone - first.backbone, [1, 2, 3], atol=2e-3) and len(second) == 3
    refused(r"has no model 2: models are 0 to 1$", read, lines, model=2)
    refused(r"has no model -1", read, lines, model=-1)
    refused(r"has no model 1: it has one alone, 0$", read, lines[:3], model=1)


def test_chosen_chains(read):
    lines = (
        peptide("MKV", chain="A") + peptide("GG", chain="B", origin=(30, 0, 0)) + peptide("WW", chain="C", origin=(60, 0, 0))
    )
    assert read(lines, chains="C, A").letters() == "WWMKV"
    some = read(lines).select(["B"])
    assert (some.chains, some.letters(), some.chain.tolist(), some.labels) == (("B",), "GG", [0, 0], ("1", "2"))
    refused(r"has no protein chain 'X': choices are \['A', 'B', 'C'\]", read, lines, chains="A,X")
    refused(r"no chain is named in 'A,'", read, lines, chains="A,")


def test_the_content_tells_the_format(folder):
    assert read_structure(folder.write(cif(peptide("MKV")), "misnamed.pdb")).letters() == "MKV"
    assert read_structure(folder.write(gzip.compress(pdb(peptide("MKV")).encode()), "no_suffix")).name == "no_suffix"


@pytest.mark.parametrize("left_out", ["occupancy", "B_iso_or_equiv", "pdbx_PDB_ins_code", "pdbx_PDB_model_num", "auth_seq_id"])
def test_mmcif_without_a_column_that_is_not_needed(folder, left_out):
    lines = peptide("MKV")[: 1 if left_out == "auth_seq_id" else None]
    text = cif(lines, [c for c in COLUMNS if c != left_out])
    assert read_structure(folder.write(text)).letters() == "MKV"[: len(lines)]


def test_mmcif_in_an_unusual_layout(folder):
    after = "\nloop_\n_entity.id\n_entity.details\n1 'two words'\n"
    assert read_structure(folder.write(cif(peptide("MKV"), end=after).replace(" CA ", " 'CA' "))).letters() == "MKV"


def test_a_chain_of_long_name_in_mmcif_and_one_without_in_pdb(folder):
    assert read_structure(folder.write(cif(peptide("MKV", chain="A-2")))).chains == ("A-2",)
    assert read_structure(folder.write(pdb(peptide("MKV", chain=" "))), chains="_").chains == ("_",)


def test_an_example_is_a_copy(read):
    found = read(peptide("MKV"))
    example = found.example()
    example["backbone"][:] = 0
    assert set(example) == {"name", "sequence", "backbone", "chain", "index"} and np.isfinite(found.backbone).all()
    again = Structure.of(found.example())
    assert (again.chains, again.labels, again.letters()) == (("A",), ("1", "2", "3"), "MKV")


# what is refused


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"\x89PNG\r\n\x00\x00", "the file is binary"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "neither atom records"),
        (b"data_1ABC\n_cell.length_a 10\n", "neither atom records"),
        (b">seq\nMKVLAT\n", "neither atom records"),
        (gzip.compress(pdb(peptide("MKVLATMKVLAT")).encode())[:200], "damaged or cut off"),
        (b"\x1f\x8bnonsense and more nonsense", "damaged or cut off"),
    ],
    ids=["empty", "blank", "binary", "page", "other mmCIF", "FASTA", "half a gz", "no gz"],
)
def test_what_is_no_structure(folder, content, why):
    refused(rf"some\.pdb is not a structure: .*{why}", read_structure, folder.write(content))


def test_a_damaged_structure(folder):
    refused(
        r"is a damaged structure: .*coordinate", read_structure, folder.write(pdb(peptide("MKV")).replace("0.000", "0.0x0"))
    )
    refused(r"is a damaged structure", read_structure, folder.write(cif(peptide("MKV"))[:-9]))
    refused(
        r"is a damaged structure: ValueError no column Cartn_z", read_structure, folder.write(cif(peptide("M"), COLUMNS[:11]))
    )


def test_no_file(folder):
    refused(r"nowhere\.pdb does not exist$", read_structure, folder.path / "nowhere.pdb")
    refused(r"^cannot read .*: Is a directory$", read_structure, folder.path)


def test_no_protein_and_no_ca(read):
    refused(r"has no protein chain$", read, [Line("HOH", 1, helix(1)[0], hetero=True, atoms=("O",))])
    bare = [replace(line, atoms=("N", "C")) for line in peptide("MKV", chain="B", origin=(40, 0, 0))]
    refused(r": chain B has no CA atom$", read, peptide("MKV") + bare)
    assert read(peptide("MKV") + bare, chains="A").letters() == "MKV"
    alone = [replace(line, atoms=("CA",)) for line in bare]
    refused(r": chain B has no residue with all of N, CA and C$", read, alone)


def test_chains_that_cannot_be_told_apart(read):
    refused(
        r"several residues MET 1 in one chain; give each chain a name",
        read,
        peptide("MKV") + peptide("MKV", origin=(30, 0, 0)),
    )
    refused(r"several residues MET 1 in one chain", read, peptide("MKV") + peptide("GGG", origin=(30, 0, 0)))


# residues by the author's numbers


@pytest.fixture
def numbered(folder):
    """Chain A: -2 to 2, 5, 6, 6A, 7; chain B: 1 to 3."""
    xyz = helix(9)
    numbers = [(-2, ""), (-1, ""), (0, ""), (1, ""), (2, ""), (5, ""), (6, ""), (6, "A"), (7, "")]
    lines = [Line("ALA", n, x, code=c) for (n, c), x in zip(numbers, xyz, strict=True)]
    return read_structure(folder.write(pdb(lines + peptide("GGG", chain="B", origin=(30, 0, 0)))))


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("A:1-5", [3, 4, 5]),
        ("A:6A", [7]),
        ("A:6-7", [6, 7, 8]),
        ("A:-2--1", [0, 1]),
        ("A:-1-1", [1, 2, 3]),
        ("B", [9, 10, 11]),
        (" A:0, B:2-3 ,A:0", [2, 10, 11]),
    ],
)
def test_residues(numbered, text, chosen):
    assert np.flatnonzero(residues(text, numbered)).tolist() == chosen


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("X", r"^some has no protein chain 'X': choices are \['A', 'B'\]$"),
        ("X:1-2", r"^some has no protein chain 'X'"),
        ("10-25", r"^'10-25' names no chain: write chain:first-last, like A:10-25$"),
        (":3", r"^':3' names no chain"),
        ("A,", r"^'' names no chain"),
        ("A:3", r"^no residue 3 for 'A:3' in some: its chain has -2-2, 5-7$"),
        ("A:1-99", r"^no residue 99 for 'A:1-99' in some"),
        ("A:5-1", r"^range 'A:5-1' is reversed: residue 1 comes before 5$"),
        ("A:6A-6", r"^range 'A:6A-6' is reversed"),
        ("A:", r"^'A:' is no range of residues"),
        ("A:x-y", r"^'A:x-y' is no range of residues: write chain:first-last, like A:10-25 or A:52A$"),
    ],
)
def test_residues_that_are_not_there(numbered, text, why):
    refused(why, residues, text, numbered)


def test_many_spans_are_cut_short(numbered):
    assert spans(np.arange(9), numbered) == "-2-2, 5-7" and spans(np.arange(9), numbered, 1) == "-2-2, ..."


# written


def test_round_trip(numbered, tmp_path):
    design = "WWWWWWWWWCXC"
    confidence = np.linspace(0, 100, 12)
    again = read_structure(write_pdb(tmp_path / "design.pdb", numbered, design, confidence))
    assert again.letters() == design
    assert (again.chains, again.labels, again.index.tolist()) == (numbered.chains, numbered.labels, numbered.index.tolist())
    assert np.allclose(again.backbone, numbered.backbone, atol=6e-4)
    column = [float(line[60:66]) for line in (tmp_path / "design.pdb").read_text().splitlines() if line[12:16] == " CA "]
    assert np.allclose(column, confidence, atol=5e-3)


def test_atoms_that_are_not_known_are_left_out(numbered):
    backbone = numbered.backbone.copy()
    backbone[0, 3] = np.nan
    lines = pdb_text(replace(numbered, backbone=backbone)).splitlines()
    assert len(lines) == 12 * 4 - 1 + 2 + 1 and lines[-1] == "END" and {len(line) for line in lines[:3]} == {78}


def test_names_and_numbers_that_the_format_cannot_hold(numbered, tmp_path):
    """Long names of chains and long numbers become others; nothing is lost."""
    strange = replace(numbered, chains=("A", "A-2"), labels=tuple(f"{i + 9995}" for i in range(12)))
    text = pdb_text(strange)
    assert "REMARK 999 CHAIN B IS CHAIN A-2 OF THE ORIGINAL" in text
    (tmp_path / "strange.pdb").write_text(text)
    again = read_structure(tmp_path / "strange.pdb")
    assert again.chains == ("A", "B") and again.labels == (*map(str, range(1, 10)), "1", "2", "3")


def test_what_cannot_be_written(numbered):
    refused(r"^3 letters for 12 residues of some$", pdb_text, numbered, "AAA")
    refused(r"^2 confidences for 12 residues of some$", pdb_text, numbered, None, [1, 2])
    refused(r"^confidences from -1 to 1, expected 0 to 100$", pdb_text, numbered, None, [-1] + [1] * 11)
    refused(r"^70 chains are too many", pdb_text, replace(numbered, chains=tuple(f"A{i}" for i in range(70))))


# geometry


def test_oxygen_is_placed_as_measured():
    """Against the ideal helix by the textbook angles: CA-C-O 120.5 degrees, O opposite to the next N."""
    whole = helix(10)
    stripped = whole.copy()
    stripped[[2, 9], 3] = np.nan
    placed = place_oxygen(stripped)
    exact = extend(*whole[2, :3], 1.231, np.radians(120.5), np.radians(180 - 47))
    assert np.linalg.norm(placed[2, 3] - exact) < 0.06
    assert np.allclose(np.linalg.norm(placed[:, 3] - placed[:, 2], axis=-1), 1.231)
    kept = np.isfinite(stripped).all(-1)
    assert (placed[kept] == stripped[kept]).all() and np.isnan(stripped[2, 3]).all()


def test_oxygen_before_a_break_does_not_look_across(folder):
    broken = np.concatenate([helix(4), helix(4, (30, 0, 0))])
    assert bonded(broken).tolist() == [True, True, True, False, True, True, True, False]
    broken[:, 3] = np.nan
    placed = place_oxygen(broken)
    assert np.allclose(placed[3, 3] + [30, 0, 0], placed[7, 3]) and np.isfinite(placed).all()


def test_a_missing_atom_leaves_oxygen_missing():
    backbone = helix(3)
    backbone[1, [2, 3]] = np.nan
    placed = place_oxygen(backbone)
    assert np.isnan(placed[1, 3]).all() and np.isfinite(placed[[0, 2]]).all()
    assert bonded(backbone).tolist() == [True, False, False]


def test_the_helix_of_these_tests_is_one():
    """CA-CA 3.8 A along the chain and 5.5 A rise over a turn."""
    ca = helix(12)[:, 1]
    steps = [np.linalg.norm(b - a) for a, b in pairwise(ca)]
    assert np.allclose(steps, 3.8, atol=0.05)
