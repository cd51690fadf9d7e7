"""Data sets of molecules: what is read, what is left out and why, who is on which side. Everything here is generated."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import molecule_toys as toys
import msgpack
import numpy as np
import pytest
from rdkit import Chem

from modalities.molecule import bcif, ccd, collect, geom, qm9, sdf, smiles
from modalities.molecule.chemistry import from_rdkit, molecule, to_rdkit
from modalities.molecule.graphs import PyGDataset, from_data, to_data
from modalities.molecule.metrics.distinct import plain_smiles
from modalities.molecule.stored import Stored, bits
from modalities.molecule.vocabulary import ELEMENTS
from multigen.modality import Dataset
from multigen.state import MultigenError

# ----------------------------------------------------------------------------------------------------------- BinaryCIF


TYPES = {"<i1": 1, "<u1": 4, "<i4": 3}


def packed(values, dtype, **encoding):
    data = np.array(values, dtype).tobytes()
    return bcif.decode(data, [encoding, {"kind": "ByteArray", "type": TYPES[dtype]}]).tolist()


def test_binary_cif_encodings():
    whole = {"kind": "IntegerPacking", "byteCount": 1, "srcSize": 4}
    assert packed([127, 3, -128, -128, -1, 0, 127, 0], "<i1", **whole, isUnsigned=False) == [130, -257, 0, 127]
    assert packed([255, 255, 1, 7], "<u1", **whole, isUnsigned=True) == [511, 7]
    assert packed([], "<u1", **whole, isUnsigned=True) == []
    assert packed([5, 1, 1], "<i4", kind="Delta", origin=100, srcType=3) == [105, 106, 107]
    assert packed([1234, -50], "<i4", kind="FixedPoint", factor=100, srcType=33) == [12.34, -0.5]
    assert packed([0, 1, 4], "<u1", kind="IntervalQuantization", min=-1, max=1, numSteps=5, srcType=32) == [-1.0, -0.5, 1.0]
    with pytest.raises(MultigenError, match="unknown BinaryCIF encoding 'Zip'"):
        bcif.decode(b"", [{"kind": "Zip"}])


def test_binary_cif_reads_what_biotite_writes(tmp_path):
    pdbx = pytest.importorskip("biotite.structure.io.pdbx")
    rng = np.random.default_rng(0)
    columns = {
        "text": rng.choice(["C", "CL", ""], 500),
        "small": rng.integers(0, 3, 500),
        "steps": np.cumsum(rng.integers(0, 400, 500)),
        "real": rng.normal(size=500).round(3),
    }
    masked = pdbx.BinaryCIFColumn(pdbx.BinaryCIFData(columns["real"]), pdbx.BinaryCIFData(np.arange(500) % 3))
    table = pdbx.BinaryCIFCategory({**columns, "masked": masked})
    file = pdbx.BinaryCIFFile({"block": pdbx.BinaryCIFBlock({"toy": table})})
    pdbx.compress(file).write(tmp_path / "toy.bcif")
    found = bcif.read((tmp_path / "toy.bcif").read_bytes(), {"toy": [*columns, "masked"]})["toy"]
    for name, values in columns.items():
        assert (found[name] == values).all(), name
    np.testing.assert_array_equal(found["masked"], np.where(np.arange(500) % 3 == 0, columns["real"], np.nan))


@pytest.mark.parametrize("content", [b"", b"no BinaryCIF", msgpack.packb({"dataBlocks": []}), msgpack.packb([1])])
def test_what_is_no_binary_cif_is_one_line(content):
    with pytest.raises(MultigenError, match="not a BinaryCIF file"):
        bcif.read(content, {"toy": ["x"]})


# ------------------------------------------------------------------------------------------- chemical components


def component(code, mol, status="REL"):
    """Rows of the three tables."""
    names = [f"{a.GetSymbol()}{a.GetIdx()}" for a in mol.GetAtoms()]
    kekule = Chem.Mol(mol)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    coords = mol.GetConformer().GetPositions()
    orders = {"SINGLE": "SING", "DOUBLE": "DOUB", "TRIPLE": "TRIP"}
    return (
        [(code, f"NAME OF\n{code}", status)],
        [
            (code, name, a.GetSymbol().upper(), a.GetFormalCharge(), *xyz)
            for name, a, xyz in zip(names, mol.GetAtoms(), coords, strict=True)
        ],
        [
            (code, names[b.GetBeginAtomIdx()], names[b.GetEndAtomIdx()], orders[b.GetBondType().name])
            for b in kekule.GetBonds()
        ],
    )


def dictionary(components):
    """Bytes of a BinaryCIF file with the components."""
    categories = []
    for rows, (table, columns) in zip(zip(*components, strict=True), ccd._WANTED.items(), strict=True):
        flat = [row for part in rows for row in part]
        encoded = [_column(name, [row[i] for row in flat]) for i, name in enumerate(columns)]
        categories.append({"name": f"_{table}", "rowCount": len(flat), "columns": encoded})
    return msgpack.packb({"encoder": "toy", "version": "0.3.0", "dataBlocks": [{"header": "x", "categories": categories}]})


def _column(name, values):
    if isinstance(values[0], str):
        unique = sorted(set(values))
        ends = np.cumsum([0, *map(len, unique)])
        encoding = {"kind": "StringArray", "stringData": "".join(unique), "offsets": ends.astype("<i4").tobytes()}
        encoding |= {key: [{"kind": "ByteArray", "type": 3}] for key in ("dataEncoding", "offsetEncoding")}
        return {"name": name, "data": {"data": _bytes([unique.index(v) for v in values], "<i4"), "encoding": [encoding]}}
    kind, number = ("<f8", 33) if isinstance(values[0], float) else ("<i1", 1)
    data = {"data": _bytes(np.nan_to_num(values), kind), "encoding": [{"kind": "ByteArray", "type": number}]}
    missing = {"data": _bytes(np.isnan(values), "<u1"), "encoding": [{"kind": "ByteArray", "type": 4}]}
    return {"name": name, "data": data, "mask": missing if np.isnan(values).any() else None}


def _bytes(values, kind):
    return np.asarray(values).astype(kind).tobytes()


def unplaced(text):
    mol = toys.molecule(text)
    mol.GetConformer().SetAtomPosition(0, (float("nan"),) * 3)
    return mol


def overfull():
    mol = Chem.RWMol(toys.molecule("CC(C)(C)C"))
    mol.GetAtomWithIdx(1).SetFormalCharge(0)
    mol.AddBond(0, 2, Chem.BondType.SINGLE)
    return mol


@pytest.fixture
def small_ccd(data_root, monkeypatch):
    """A dictionary of a few components stands in for the package's."""
    kept = [component(f"K{i}", toys.molecule(text)) for i, text in enumerate((*toys.SMILES[1:], "OB(O)c1ccccc1"))]
    out = [
        component("OLD", toys.molecule("CCCCO"), "OBS"),
        component("ZNC", replaced_element(toys.molecule("CCCCO"))),
        component("NAN", unplaced("CCCCO")),
        component("ETO", toys.molecule("CCO")),
        component("BIG", toys.molecule("C" * 39)),
        component("VAL", overfull()),
    ]
    path = data_root / "assets" / "toy-1.0-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(ccd.COMPONENTS, dictionary([*kept, *out]))
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(ccd, "BIOTITE", replace(ccd.BIOTITE, file=path.name, sha256=checksum))
    return data_root


def replaced_element(mol):
    mol = Chem.RWMol(mol)
    mol.GetAtomWithIdx(0).SetAtomicNum(30)
    return mol


def test_components_are_prepared_once_and_read(small_ccd, capsys):
    with pytest.raises(MultigenError, match=r"ccd molecules are not prepared in .*; run `multigen prepare data=ccd`"):
        ccd.Ccd()
    folder = ccd.prepare()
    first = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert ccd.prepare() == folder and {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == first
    assert capsys.readouterr().err == ""  # what is left out is known; it is in the manifest
    data = ccd.Ccd("all")
    assert isinstance(data, Dataset) and len(data) == len(toys.SMILES) - 1
    for i, text in enumerate(toys.SMILES[1:]):
        item = data[i]
        assert item["name"] == f"K{i}" and item["caption"] == f"NAME OF K{i}" and item["smiles"] == Chem.CanonSmiles(text)
        expected = from_rdkit(toys.molecule(text))
        for key in ("atoms", "charges", "bonds"):
            np.testing.assert_array_equal(item[key], expected[key])
        np.testing.assert_allclose(item["coords"], expected["coords"], atol=1e-6)
        assert data.sizes[i] == len(item["atoms"])
    train, valid = ccd.Ccd("train"), ccd.Ccd("valid")
    assert len(train) + len(valid) == len(data) and not set(train.groups) & set(valid.groups)


def test_every_component_that_is_left_out_is_counted(small_ccd):
    ccd.prepare()
    manifest = ccd.Ccd("all").store.manifest
    assert manifest["left_out"] == {
        "not released": 1,
        "element out of vocabulary": 1,
        "coordinates are missing": 1,
        "under 4 heavy atoms": 1,
        "over 38 heavy atoms": 1,
        "refused by RDKit, valence of C": 1,
    }
    assert manifest["read"] == len(toys.SMILES) + 6 and manifest["licence"] == "CC0-1.0"
    assert manifest["named"]["element out of vocabulary"] == ["component 'ZNC': Zn"]


def test_a_damaged_dictionary_is_one_line(data_root):
    tables = bcif.read(dictionary([component("AAA", toys.molecule("CCCCO"))]), ccd._WANTED)
    tables["chem_comp_bond"]["atom_id_1"][0] = "C77"
    with pytest.raises(MultigenError, match=r"component AAA of biotite.* is damaged \('C77'\)"):
        list(ccd.components(tables))


# ---------------------------------------------------------------------------------------------- the stored layout


def test_views_of_one_folder(small_ccd):
    ccd.prepare()
    full, heavy, kekule = ccd.Ccd("all"), ccd.Ccd("all", hydrogens=False), ccd.Ccd("all", aromatic=False)
    assert len({full.fingerprint, heavy.fingerprint, kekule.fingerprint}) == 3
    for i in range(len(full)):
        assert heavy.sizes[i] == len(heavy[i]["atoms"]) == (full[i]["atoms"] != 0).sum()
        assert not (heavy[i]["bonds"] == 4).any() and not (kekule[i]["bonds"] == 4).any()
        for data, hydrogens in ((full, True), (heavy, False), (kekule, True)):
            assert to_rdkit(molecule(data[i]), hydrogens).reason == ""
    assert len(ccd.Ccd("all", elements=None)) == len(full) + 1  # one has boron
    assert {d["smiles"] for d in ccd.Ccd("all", max_heavy=5)} == {Chem.CanonSmiles(s) for s in ("C1CCNC1", "CC(=O)[O-]",
            "C[N+](C)(C)C", "N#CC1CC1", "O=S(C)C")}  # fmt: skip
    assert ccd.Ccd("all", hydrogens=False, max_atoms=4).sizes.tolist() == [4, 4]
    assert set(ccd.Ccd("all", limit=2).rows) < set(ccd.Ccd("all", limit=4).rows) < set(full.rows)
    assert len(pickle.dumps(full)) < 20_000 and np.array_equal(pickle.loads(pickle.dumps(full))[3]["bonds"], full[3]["bonds"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "ccd molecules have no split 'test'"),
        ({"max_heavy": 3}, "ccd molecules have nothing in split 'train' of the sizes and elements that are asked for"),
        ({"elements": ["C", "Xx"]}, "element Xx is not in the vocabulary"),
        ({"limit": 0}, "limit"),
    ],
)
def test_what_is_asked_for_and_not_there(small_ccd, options, message):
    ccd.prepare()
    with pytest.raises(MultigenError, match=message):
        ccd.Ccd(**options)


def test_elements_as_bits():
    assert bits(["H", "N"]) == 0b101 and bits(ELEMENTS) == 2 ** len(ELEMENTS) - 1 and bits([]) == 0


# ------------------------------------------------------------------------------------------------------------ SDF


def test_an_sdf_file_is_read_once(data_root, tmp_path, capsys):
    path = toys.sdf(tmp_path / "own.sdf")
    data = sdf.Sdf(path, "all")
    assert [item["name"] for item in data] == list(toys.SMILES) and capsys.readouterr().err == ""
    assert [item["smiles"] for item in data] == [Chem.CanonSmiles(text) for text in toys.SMILES]
    np.testing.assert_allclose(data[1]["coords"], from_rdkit(toys.molecule(toys.SMILES[1]))["coords"], atol=1e-4)
    made = [p for p in (data_root / "molecules").iterdir() if not p.name.startswith(".")]
    train, valid = sdf.Sdf(path), sdf.Sdf(path, "valid")
    assert len(train) + len(valid) == len(data) and len(valid) >= 1
    assert [p for p in (data_root / "molecules").iterdir() if not p.name.startswith(".")] == made


def test_packed_windows_and_v3000_files(data_root, tmp_path):
    text = Chem.MolToV3KMolBlock(toys.molecule("CCO")) + "$$$$\n" + toys.block("CC#N")
    (tmp_path / "a.sdf.gz").write_bytes(gzip.compress(text.replace("\n", "\r\n").encode()))
    assert [item["smiles"] for item in sdf.Sdf(tmp_path / "a.sdf.gz", "all")] == ["CCO", "CC#N"]
    (tmp_path / "one.mol").write_text(Chem.MolToMolBlock(toys.molecule("CCO")))
    assert len(sdf.Sdf(tmp_path / "one.mol", "all")) == 1


def test_files_named_like_splits_are_splits(data_root, tmp_path):
    for name, texts in {"train": toys.SMILES[:3], "val": toys.SMILES[3:5], "test": toys.SMILES[5:]}.items():
        toys.sdf(tmp_path / "set" / f"{name}.sdf", texts)
    assert [len(sdf.Sdf(tmp_path / "set", split)) for split in ("train", "valid", "test")] == [3, 2, 4]
    with pytest.raises(MultigenError, match="by=given wants files named"):
        sdf.Sdf(toys.sdf(tmp_path / "own.sdf"), by="given")
    with pytest.raises(MultigenError, match="unknown by 'size': choices are"):
        sdf.Sdf(tmp_path / "own.sdf", by="size")


def records(*bad):
    return toys.block("CCO") + "".join(bad) + toys.block("c1ccccc1")


def planar(text):
    mol = toys.molecule(text)
    conformer = mol.GetConformer()
    conformer.SetPositions(conformer.GetPositions() * [1, 1, 0])
    conformer.Set3D(False)
    return Chem.MolToMolBlock(mol) + "$$$$\n"


def apart():
    other = toys.molecule("CC#N")
    other.GetConformer().SetPositions(other.GetConformer().GetPositions() + 9)
    return Chem.MolToMolBlock(Chem.CombineMols(toys.molecule("CCO"), other)) + "$$$$\n"


def implicit():
    return Chem.MolToMolBlock(Chem.RemoveHs(toys.molecule("CCO"))) + "$$$$\n"


BAD = {
    "cut": ("cut off\n  x\n\n  9  8  0\n$$$$\n", "broken (record 2 'cut off': it has no line 'M  END')"),
    "counts": ("\n\n\n 99 aa  0\nM  END\n$$$$\n", "broken (record 2: RDKit cannot read it; its counts line is ' 99 aa  0')"),
    "two in one": (
        toys.block("CC#N").replace("$$$$\n", "") + toys.block("CC#N"),
        "broken (record 2 'CC#N': it has 2 lines 'M  END': a line '$$$$' is missing)",
    ),
    "valence": (
        toys.block("CC=C").replace("  1  2  1", "  1  2  3"),
        "refused by RDKit, valence of C (record 2 'CC=C': Exp",
    ),
    "element": (
        toys.block("CCO").replace(" O  ", " Zn "),
        "element out of vocabulary (record 2 'CCO': atomic number 30",
    ),
    "flat": (planar("CCO"), "no 3-D coordinates (record 2 'CCO')"),
    "implicit": (implicit(), "hydrogens without coordinates (record 2 'CCO': 6 of them"),
    "fragments": (apart(), "more than one fragment (record 2 'CCO': 9 atoms and 6 atoms)"),
    "large": (toys.block("C" * 12), "over 20 atoms (record 2 'CCCCCCCCCCCC': 38)"),
    "hydrogen": (toys.block("[H][H]"), "under 1 heavy atoms (record 2 '[H][H]': 0)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_record_that_cannot_be_used_is_named_and_counted(data_root, tmp_path, capsys, kind):
    bad, reason = BAD[kind]
    (tmp_path / "own.sdf").write_text(records(bad))
    data = sdf.Sdf(tmp_path / "own.sdf", "all", max_atoms=20)
    said = capsys.readouterr().err
    assert len(data) == 2 and said.startswith(f"own.sdf: left out 1 of 3: 1 {reason}") and said.count("\n") == 1
    with pytest.raises(MultigenError, match=r"own\.sdf: .*: record 2") as caught:
        sdf.Sdf(tmp_path / "own.sdf", "all", max_atoms=20, strict=True)
    assert "\n" not in str(caught.value)


def test_several_processes_store_the_same(data_root, tmp_path, monkeypatch):
    toys.sdf(tmp_path / "own.sdf", [*toys.SMILES, "CCBr"])
    with open(tmp_path / "own.sdf", "a") as file:
        file.write("broken\n$$$$\n")
    one = sdf.Sdf(tmp_path / "own.sdf", "all", root=tmp_path / "one")
    monkeypatch.setattr(collect, "WINDOW", 4)
    monkeypatch.setattr(collect, "processors", lambda: 2)
    other = sdf.Sdf(tmp_path / "own.sdf", "all", root=tmp_path / "other")
    assert one.fingerprint == other.fingerprint and one.store.manifest == other.store.manifest


def test_strict_stops_before_anything_is_stored(data_root, tmp_path):
    (tmp_path / "own.sdf").write_text(records("broken\n$$$$\n"))
    with pytest.raises(MultigenError, match=r"own\.sdf, record 2 'broken': broken: it has no line 'M  END'"):
        sdf.Sdf(tmp_path / "own.sdf", strict=True)
    assert not list((data_root / "molecules").glob("[!.]*"))


def test_heavy_atoms_alone(data_root, tmp_path):
    (tmp_path / "own.sdf").write_text(
        Chem.MolToMolBlock(Chem.RemoveHs(toys.molecule("c1cc[nH]c1"))) + "$$$$\n" + toys.block("CCO")
    )
    data = sdf.Sdf(tmp_path / "own.sdf", "all", hydrogens=False)
    assert data.sizes.tolist() == [5, 3] and [item["smiles"] for item in data] == ["c1cc[nH]c1", "CCO"]
    with pytest.raises(MultigenError, match="prepared without hydrogens; set hydrogens=false"):
        Stored(data.store.folder, "all")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"own\.sdf does not exist"),
        ("", r"own\.sdf holds no molecule$"),
        ("broken\n$$$$\n", r"own\.sdf: left out 1 of 1: 1 broken \(record 1 'broken': it has no line 'M  END'\)"),
    ],
)
def test_an_empty_set_is_one_line(data_root, tmp_path, content, message):
    if content is not None:
        (tmp_path / "own.sdf").write_text(content)
    with pytest.raises(MultigenError, match=message):
        sdf.Sdf(tmp_path / "own.sdf")


def test_a_folder_without_molecules_is_one_line(data_root, tmp_path):
    with pytest.raises(MultigenError, match="holds no file of molecules: the names end in"):
        sdf.Sdf(tmp_path)


def test_many_reasons_are_cut_short():
    tally = collect.Tally(total=100)
    for i in range(20):
        for _ in range(20 - i):
            tally.add(f"record {i}", f"reason {i}", "why")
    line = tally.line("own.sdf")
    assert line.startswith("own.sdf: left out 210 of 100: 20 reason 0 (record 0: why, record 0: why, record 0: why, ...); 19 ")
    assert line.endswith("; 105 for other reasons") and len(line) < 600


# --------------------------------------------------------------------------------------------------------- SMILES


def test_conformers_are_made_from_smiles(data_root, tmp_path, capsys):
    path = tmp_path / "own.smi"
    bad = ["xyz", "C(C)(C)(C)(C)C", "CC.O", "[Zn]", "C" * 30]
    path.write_text("\n".join(["# a comment", "CCO ethanol", "", "c1ccccc1C\tmethyl benzene", *bad]))
    data = smiles.Smiles(path, "all", max_heavy=25, workers=2)
    assert [item["name"] for item in data] == ["ethanol", "methyl benzene"]
    for item in data:
        length = np.linalg.norm(item["coords"][0] - item["coords"][1])
        assert 1.3 < length < 1.6 and to_rdkit(molecule(item)).reason == ""
    said = capsys.readouterr().err
    assert said.startswith("own.smi: left out 5 of 7: ") and said.count("\n") == 1
    for part in (
        "1 no SMILES (line 5 'xyz': xyz)",
        "1 refused by RDKit, valence of C (line 6",
        "1 more than one fragment (line 7 'CC.O': CC.O)",
        "1 over 25 heavy atoms",
    ):
        assert part in said, said
    with pytest.raises(MultigenError, match=r"own\.smi: .*: line 5 'xyz'"):
        smiles.Smiles(path, strict=True, max_heavy=25, workers=1)


def test_a_conformer_depends_on_its_molecule_and_the_seed_alone(data_root, tmp_path):
    (tmp_path / "a.smi").write_text("CCO\nCC(C)CN\n")
    (tmp_path / "b.csv").write_text("id,SMILES\nx,CCCCC\ny,NCC(C)C\n")
    one, other = smiles.Smiles(tmp_path / "a.smi", "all", workers=1), smiles.Smiles(tmp_path / "b.csv", "all", workers=2)
    assert other[1]["name"] == "y" and one[1]["smiles"] == other[1]["smiles"]

    def distances(item):
        heavy = item["coords"][item["atoms"] != 0]
        return np.sort(np.linalg.norm(heavy[:, None] - heavy, axis=-1).ravel())

    np.testing.assert_array_equal(distances(one[0]), distances(smiles.Smiles(tmp_path / "a.smi", "all", workers=2)[0]))
    assert not np.array_equal(one[1]["coords"], smiles.Smiles(tmp_path / "a.smi", "all", seed=1, workers=1)[1]["coords"])


def test_making_conformers_goes_on_where_it_was(data_root, tmp_path, monkeypatch):
    monkeypatch.setattr(smiles, "PART", 2)
    (tmp_path / "a.smi").write_text("CCO\nCCC\nCCN\nCCF\nCCCl\n")
    parts = tmp_path / "parts"
    walk = smiles.conformers([tmp_path / "a.smi"], 0, 1, parts)
    for _ in range(5):
        next(walk)
    walk.close()
    assert sorted(p.name for p in parts.iterdir()) == ["000000000.bin", "000000002.bin"]
    made = {p.name: p.stat().st_mtime_ns for p in parts.iterdir()}
    assert len(list(smiles.conformers([tmp_path / "a.smi"], 0, 1, parts))) == 5
    assert made.items() <= {p.name: p.stat().st_mtime_ns for p in parts.iterdir()}.items()
    assert len(smiles.Smiles(tmp_path / "a.smi", "all", workers=1)) == 5
    assert not list((data_root / "molecules").glob("*.parts"))


def test_a_table_without_smiles_is_one_line(data_root, tmp_path):
    (tmp_path / "a.csv").write_text("name,structure\nx,CCO\n")
    with pytest.raises(MultigenError, match=r"a\.csv has no column 'smiles'; its columns are \['name', 'structure'\]"):
        smiles.Smiles(tmp_path / "a.csv")


# ------------------------------------------------------------------------------------------------------------ QM9


def raw_qm9(folder, count=12, rows=None, left_out=(3, 5)):
    toys.sdf(folder / "gdb9.sdf", [toys.SMILES[i % len(toys.SMILES)] for i in range(count)])
    (folder / "gdb9.sdf.csv").write_text("mol_id,A\n" + "".join(f"gdb_{i + 1},1.0\n" for i in range(rows or count)))
    (folder / "uncharacterized.txt").write_text("# a head\n---\n" + "".join(f"  {i}  x\n" for i in left_out) + "end\n")
    return folder


def test_qm9_is_read_from_its_raw_files(data_root, tmp_path):
    with pytest.raises(MultigenError, match=r"qm9 molecules are not prepared in .*; run `multigen prepare data=qm9`"):
        qm9.Qm9()
    qm9.prepare(raw_qm9(tmp_path / "QM9" / "raw").parent)
    data = {split: qm9.Qm9(split) for split in ("train", "valid", "test")}
    assert {split: len(d) for split, d in data.items()} == {"train": 7, "valid": 2, "test": 1}
    names = [item["name"] for d in data.values() for item in d]
    expected = [toys.SMILES[i % len(toys.SMILES)] for i in range(12) if i + 1 not in (3, 5)]
    assert sorted(names) == sorted(expected)
    charged = next(item for d in data.values() for item in d if item["name"] == "C[N+](C)(C)C")
    assert sorted(charged["charges"])[-1] == 1 and to_rdkit(molecule(charged)).reason == ""


def test_the_usual_split_is_the_published_one():
    split = np.array(qm9.usual_split(qm9.ALL))
    assert [int((split == s).sum()) for s in ("train", "valid", "test")] == [100_000, 17_748, 13_083]
    order = np.random.RandomState(0).permutation(qm9.ALL)
    assert (split[order[:100_000]] == "train").all() and (split[order[-13_083:]] == "test").all()


def test_a_folder_that_is_not_qm9_is_one_line(data_root, tmp_path):
    with pytest.raises(MultigenError, match=r"nowhere is not a folder"):
        qm9.prepare(tmp_path / "nowhere")
    folder = raw_qm9(tmp_path / "cut", rows=20)
    with pytest.raises(MultigenError, match=r"gdb9\.sdf has 12 molecules, gdb9\.sdf\.csv 20 rows: not QM9"):
        qm9.prepare(folder)
    with pytest.raises(MultigenError, match=r"gdb9\.sdf has 6\+ molecules, gdb9\.sdf\.csv 5 rows: not QM9"):
        qm9.prepare(raw_qm9(tmp_path / "more", rows=5))
    (folder / "uncharacterized.txt").write_text("nothing\n")
    with pytest.raises(MultigenError, match="not QM9's list of uncharacterized molecules"):
        qm9.prepare(folder)
    (folder / "gdb9.sdf").unlink()
    with pytest.raises(MultigenError, match=r"cut is no QM9 folder: it has no gdb9\.sdf; expected gdb9\.sdf, gdb9\.sdf\.csv,"):
        qm9.prepare(folder)


def test_what_cannot_be_downloaded_says_what_to_do(data_root, monkeypatch):
    import torch_geometric.data

    def unreachable(*args):
        raise OSError("no route to host")

    monkeypatch.setattr(torch_geometric.data, "download_url", unreachable)
    quick = SimpleNamespace(QM9=SimpleNamespace(raw_url="", raw_url2=""))  # importing all its data sets takes seconds
    monkeypatch.setitem(sys.modules, "torch_geometric.datasets", quick)
    with pytest.raises(MultigenError, match=r"cannot download QM9 \(no route to host\): put gdb9\.sdf, .* by hand"):
        qm9.prepare()


# ----------------------------------------------------------------------------------------------------- GEOM-Drugs


def entry(text, count=3):
    """One raw pickle's content: conformers in no order of energy."""
    energies = np.random.default_rng(0).permutation(count).tolist()
    conformers = [{"relativeenergy": float(e), "boltzmannweight": np.float64(0.1)} for e in energies]
    for conformer in conformers:
        conformer["rd_mol"] = toys.molecule(text, str(conformer["relativeenergy"]))
    return {"conformers": conformers, "smiles": text, "charge": 0, "weights": np.ones(3)}


def raw_geom(folder, texts=toys.SMILES):
    folder.mkdir(parents=True)
    for i, text in enumerate(texts):
        (folder / f"mol{i}.pickle").write_bytes(pickle.dumps(entry(text), protocol=2 + 2 * (i % 2)))
    return folder


def test_raw_pickles_are_converted(data_root, tmp_path):
    with pytest.raises(MultigenError, match=r"geom_drugs molecules are not prepared .* data=geom_drugs data\.path=FOLDER"):
        geom.GeomDrugs()
    raw_geom(tmp_path / "geom" / "rdkit_folder" / "drugs")
    geom.prepare(tmp_path / "geom", conformers=2)
    data = geom.GeomDrugs("all")
    assert len(data) == 2 * len(toys.SMILES) and data[0]["name"] == data[1]["name"] == "mol0"
    sides = {}
    for split in ("train", "valid", "test"):
        for item in geom.GeomDrugs(split):
            assert sides.setdefault(item["name"], split) == split
    assert set(sides.values()) == {"train", "valid", "test"}


def test_listed_splits_are_kept(data_root, tmp_path):
    raw_geom(tmp_path / "drugs")
    listed = {"train": ["mol0", "mol1"], "valid": ["mol2"], "test": ["mol3"]}
    (tmp_path / "splits.json").write_text(json.dumps(listed))
    geom.prepare(tmp_path, conformers=1)
    assert {split: [item["name"] for item in geom.GeomDrugs(split)] for split in listed} == listed
    (tmp_path / "splits.json").write_text("[1]")
    with pytest.raises(MultigenError, match=r"splits\.json is damaged"):
        geom.prepare(tmp_path)


def test_the_three_lists_are_the_usual_splits(data_root, tmp_path, capsys):
    for name, texts in zip(geom.LISTS, (toys.SMILES[:4], toys.SMILES[4:6], toys.SMILES[6:]), strict=True):
        content = [(text, [toys.molecule(text)] * 7) for text in texts]
        (tmp_path / name).write_bytes(pickle.dumps([*content, "no pair"] if name.startswith("test") else content))
    geom.prepare(tmp_path)
    assert [len(geom.GeomDrugs(split)) for split in ("train", "valid", "test")] == [20, 10, 15]
    assert "1 broken (test_data.pickle entry 4: it is not a pair" in capsys.readouterr().err
    (tmp_path / "val_data.pickle").unlink()
    with pytest.raises(MultigenError, match=r"it has train_data\.pickle, but no val_data\.pickle"):
        geom.prepare(tmp_path)


def test_sdf_files_of_conformers(data_root, tmp_path):
    for name, text in (("train", "CCO"), ("valid", "CCN"), ("test", "CCF")):
        toys.sdf(tmp_path / f"{name}.sdf", [text] * 4)
    geom.prepare(tmp_path, conformers=3)
    assert [len(geom.GeomDrugs(split)) for split in ("train", "valid", "test")] == [3, 3, 3]


class Harmful:
    def __reduce__(self):
        return (open, ("harm", "w"))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Harmful()),
        pickle.dumps({"conformers": [{"rd_mol": Harmful()}]}),
        b"cos\nsystem\n(S'touch harm'\ntR.",
        b'cbuiltins\neval\n(S\'open("harm", "w")\'\ntR.',
        b"crdkit.Chem.rdchem\nos.system\n.",
        b"cnumpy\nload\n(S'harm'\ntR0cos\nsystem\n.",
        b"c_codecs\nencode\n(S'x'\nS'zlib_codec'\ntR.",
        pickle.dumps(entry("CCO"))[:-30],
        b"",
        b"\x80\x04garbage",
    ],
    ids=["reduce", "nested", "system", "eval", "dotted", "numpy", "codec", "cut", "empty", "garbage"],
)
def test_a_harmful_or_damaged_pickle_runs_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pickle").write_bytes(content)
    with pytest.raises(MultigenError, match=r"bad\.pickle cannot be unpickled \(") as caught:
        geom.load(tmp_path / "bad.pickle")
    assert not (tmp_path / "harm").exists() and "\n" not in str(caught.value)


def test_the_unpickler_reads_numbers_and_drops_arrays(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        value = {"a": np.float32(0.5), "b": np.int64(3), "c": [1, {2}, (True, None)], "d": np.arange(4.0), "e": b"bytes"}
        (tmp_path / "fine.pickle").write_bytes(pickle.dumps(value, protocol=protocol))
        found = geom.load(tmp_path / "fine.pickle")
        assert (found["a"], found["b"], found["c"], found["e"]) == (0.5, 3, [1, {2}, (True, None)], b"bytes")
        assert not isinstance(found["d"], np.ndarray)


def test_a_folder_that_is_not_geom_is_one_line(data_root, tmp_path, capsys):
    with pytest.raises(MultigenError, match=r"is no GEOM-Drugs folder: expected train_data\.pickle, .*; or \*\.pickle, there"):
        geom.prepare(tmp_path)
    raw_geom(tmp_path / "drugs", toys.SMILES[:2])
    (tmp_path / "drugs" / "other.pickle").write_bytes(pickle.dumps([1, 2]))
    (tmp_path / "drugs" / "text.pickle").write_bytes(pickle.dumps({"conformers": [{"rd_mol": "CCO"}]}))
    geom.prepare(tmp_path)
    said = capsys.readouterr().err
    assert "2 broken (other.pickle: no conformers in it (TypeError" in said and "a str where a molecule should be" in said
    (tmp_path / "drugs" / "zz.pickle").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(MultigenError, match=r"zz\.pickle cannot be unpickled \(UnpicklingError: os\.system is refused\)"):
        geom.prepare(tmp_path)


# --------------------------------------------------------------------------------------------------------- graphs


@pytest.mark.parametrize("text", toys.SMILES)
def test_an_example_is_a_graph_and_back(text):
    example = from_rdkit(toys.molecule(text))
    data = to_data(example)
    assert data.num_nodes == len(example["atoms"]) and data.edge_index.shape == (2, np.count_nonzero(example["bonds"]))
    assert (
        data.validate()
        and not data.is_directed()
        and data.z.tolist() == [a.GetAtomicNum() for a in toys.molecule(text).GetAtoms()]
    )
    again = from_data(data)
    assert again.pop("name") == text
    for key, value in again.items():
        np.testing.assert_array_equal(value, example[key])


def graph(text="CC(=O)[O-]"):
    return to_data(from_rdkit(toys.molecule(text)))


def test_other_ways_to_write_bonds():
    import torch

    expected = from_data(graph())["bonds"]
    for change in (
        lambda d: d.update({"edge_attr": torch.nn.functional.one_hot(d.edge_attr - 1, 4).float()}),
        lambda d: d.update({"edge_attr": torch.nn.functional.one_hot(d.edge_attr, 5)}),
        lambda d: d.update({"edge_attr": d.edge_attr[:, None]}),
        lambda d: d.update({"edge_index": d.edge_index[:, d.edge_index[0] < d.edge_index[1]],
                            "edge_attr": d.edge_attr[d.edge_index[0] < d.edge_index[1]]}),
    ):  # fmt: skip
        data = graph()
        change(data)
        np.testing.assert_array_equal(from_data(data)["bonds"], expected)
    neutral = graph("CCO")
    del neutral.charges
    assert not from_data(neutral)["charges"].any()


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("edge_attr", lambda x: None, "it has no 'edge_attr'"),
        ("z", lambda x: x + 33, "atomic number 39 is not in the vocabulary"),
        ("pos", lambda x: x[:, :2], r"pos has shape \(7, 2\), expected \(7, 3\): no 3-D coordinates"),
        ("pos", lambda x: x * 0, "atoms at one place"),
        ("charges", lambda x: x + 9, "formal charge 9 is not in the vocabulary"),
        ("charges", lambda x: x[:2], "there are 2 formal charges for 7 atoms"),
        ("edge_attr", lambda x: x + 3, r"edge_attr of shape \(12,\) is neither classes 0 to 4 nor one-hot"),
        ("edge_attr", lambda x: x[:4], "does not fit 7 atoms and 4 edge_attr"),
        ("edge_index", lambda x: x + 5, "does not fit 7 atoms and 12 edge_attr"),
        ("edge_index", lambda x: x * 0, "more than one fragment: 1 atoms and 1 atoms"),
    ],
)
def test_a_graph_that_does_not_fit_is_one_line(key, change, message):
    data = graph()
    data[key] = change(data[key])
    with pytest.raises(MultigenError, match=rf"graph 'CC\(=O\)\[O-\]': .*{message}") as caught:
        from_data(data)
    assert "\n" not in str(caught.value)


def test_contradicting_directions_are_refused():
    data = graph()
    data.edge_attr[0] = 3
    with pytest.raises(MultigenError, match="a bond has another edge_attr in the other direction"):
        from_data(data)


def test_any_graph_data_set_trains():
    graphs = [graph(text) for text in toys.SMILES]
    train, valid, whole = (PyGDataset(graphs, split) for split in ("train", "valid", "all"))
    assert isinstance(whole, Dataset) and len(whole) == len(graphs) == len(train) + len(valid) and len(valid) >= 1
    assert whole.sizes.tolist() == [len(item["atoms"]) for item in whole]
    assert len({train.fingerprint, valid.fingerprint, PyGDataset(graphs[::-1], "all").fingerprint}) == 3
    assert PyGDataset(graphs, "all").fingerprint == whole.fingerprint
    assert PyGDataset(graphs, "all", max_atoms=9).sizes.max() <= 9
    for options, message in (({"split": "test"}, "no split 'test'"), ({"max_atoms": 1}, "has nothing in split 'train'")):
        with pytest.raises(MultigenError, match=message):
            PyGDataset(graphs, **options)


def test_graphs_of_heavy_atoms_have_implicit_hydrogens():
    heavy = [to_data(from_rdkit(toys.molecule(text), hydrogens=False)) for text in ("CCO", "CCN")]
    data = PyGDataset(heavy, "all")
    assert not data.hydrogens and [len(item["hydrogens"]) for item in data] == [0, 0]
    assert plain_smiles(data) == {"CCO", "CCN"}
    full = PyGDataset([graph("CCO"), *heavy], "all")
    assert full.hydrogens and "hydrogens" not in full[1]
    assert not PyGDataset(heavy, "all", hydrogens=False).hydrogens
    with pytest.raises(MultigenError, match="hydrogens=false says that it has none"):
        PyGDataset([graph("CCO"), *heavy], "all", hydrogens=False)


def test_a_data_set_of_torch_geometric_itself(tmp_path):
    from torch_geometric.data import InMemoryDataset

    class Own(InMemoryDataset):
        def __init__(self):
            super().__init__()
            self.data, self.slices = self.collate([graph(text) for text in toys.SMILES])

    data = PyGDataset(Own(), "all")
    assert [item["name"] for item in data] == list(toys.SMILES)
    np.testing.assert_array_equal(data[2]["bonds"], from_rdkit(toys.molecule(toys.SMILES[2]))["bonds"])


def test_the_qm9_of_torch_geometric_trains(tmp_path):
    from torch_geometric.datasets import QM9

    folder = raw_qm9(tmp_path / "raw", count=4)
    numbers = ",1.0" * 19
    (folder / "gdb9.sdf.csv").write_text("mol_id" + numbers + "\n" + "".join(f"gdb_{i}{numbers}\n" for i in range(4)))
    (folder / "uncharacterized.txt").write_text("a head of nine lines\n" * 9 + "   2  x\n" + "a foot\n")
    data = PyGDataset(QM9(str(tmp_path)), "all")
    assert [item["name"] for item in data] == [toys.SMILES[i] for i in (0, 2, 3)]
    np.testing.assert_array_equal(data[1]["bonds"], from_rdkit(toys.molecule(toys.SMILES[2]))["bonds"])
    assert not data[2]["charges"].any()  # acetate: the data set does not say so
