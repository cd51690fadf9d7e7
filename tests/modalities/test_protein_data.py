"""Protein data: the stored layout, the embedded sets out of stand-in packages, and the published layouts in small."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from modalities.protein import alphabet, biounit, cath, cgdms, promod3, stored
from modalities.protein.alphabet import AMINO_ACIDS
from modalities.protein.biounit import Biounit
from modalities.protein.cath import Cath
from modalities.protein.cgdms import Cgdms
from modalities.protein.promod3 import Promod3
from modalities.protein.stored import Stored, Writer
from multigen.assets import Asset
from multigen.state import MultigenError

ABOUT = {"name": "toy", "licence": "CC0", "recipe": {"format": 1}}


def letters(seed: int, length: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list(AMINO_ACIDS), length))


def helix(length: int) -> np.ndarray:
    """N, CA, C, O of an ideal helix, nearly: (L, 4, 3)."""
    turn = np.arange(length)[:, None] * 1.7453 + np.array([-0.49, 0.0, 0.47, 0.66])  # (L, 4)
    rise = np.arange(length)[:, None] * 1.5 + np.array([-0.87, 0.0, 1.18, 2.38])  # (L, 4)
    radius = np.array([1.55, 2.29, 1.68, 2.05])  # (4,)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), rise], -1)  # (L, 4, 3)


def example(seed: int, length: int = 30) -> dict:
    backbone = helix(length).astype(np.float32)
    backbone[seed % length, 3] = np.nan
    chain = np.repeat([0, 1], [length - 5, 5])
    index = np.concatenate([np.arange(length - 5), np.arange(10, 15)])
    sequence = alphabet.tokens(letters(seed, length))
    return {"name": f"chain {seed}é", "sequence": sequence, "backbone": backbone, "chain": chain, "index": index}


@pytest.fixture
def folder(tmp_path):
    """Ten proteins of 30 to 39 residues, every third one held out, two to a cluster."""
    with Writer(tmp_path / "toy", ABOUT) as writer:
        for i in range(10):
            writer.add(example(i, 30 + i), "valid" if i % 3 == 0 else "train", i // 2)
    return tmp_path / "toy"


# -- the stored layout --------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read(folder):
    data = Stored(folder, "all")
    assert (
        len(data) == 10
        and data.sizes.tolist() == list(range(30, 40))
        and data.clusters.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    )
    for i in range(10):
        expected, item = example(i, 30 + i), data[i]
        assert item.pop("name") == expected.pop("name") and item.pop("free").all()
        assert {k: (v.dtype.name, v.shape) for k, v in item.items()} == {
            "sequence": ("int8", (30 + i,)), "backbone": ("float32", (30 + i, 4, 3)),
            "chain": ("int16", (30 + i,)), "index": ("int32", (30 + i,)),
        }  # fmt: skip
        for key, value in item.items():
            np.testing.assert_array_equal(value, expected[key])


def test_splits_lengths_and_limits(folder):
    assert [len(Stored(folder, split)) for split in ("train", "valid", "all")] == [6, 4, 10]
    bounded = Stored(folder, "all", min_length=32, max_length=35)
    assert bounded.sizes.tolist() == [32, 33, 34, 35] and bounded[3]["name"] == "chain 5é"
    few, more = (Stored(folder, "all", limit=n).rows.tolist() for n in (3, 6))
    assert len(few) == 3 and set(few) < set(more) and few == sorted(few)
    prints = [Stored(folder, s, **k).fingerprint for s in ("train", "all") for k in ({}, {"limit": 3}, {"min_length": 31})]
    assert len(set(prints)) == 6 and prints[0] == Stored(folder).fingerprint


def test_a_data_set_travels_to_workers_without_its_arrays(folder):
    data = Stored(folder, "all")
    data[0]
    sent = pickle.dumps(data)
    assert len(sent) < 3000
    np.testing.assert_array_equal(pickle.loads(sent)[4]["backbone"], data[4]["backbone"])


def test_items_can_be_changed_without_changing_the_data(folder):
    data = Stored(folder)
    data[0]["sequence"][:] = 20
    assert (data[0]["sequence"] != 20).all()


def test_clusters_may_be_known_last(tmp_path):
    with Writer(tmp_path / "toy", ABOUT) as writer:
        for i in range(3):
            writer.add(example(i))
        assert writer.sequences() == [letters(i, 30) for i in range(3)]
        writer.label(["valid", "train", "test"], [7, 8, 7])
    data = Stored(tmp_path / "toy", "all")
    assert data.clusters.tolist() == [7, 8, 7] and data.manifest["count"] == {"train": 1, "valid": 1, "test": 1}
    assert Stored(tmp_path / "toy", "test")[0]["name"] == "chain 2é"


def test_an_interrupted_writer_leaves_what_was_there(folder):
    before = Stored(folder).fingerprint
    with pytest.raises(KeyboardInterrupt), Writer(folder, ABOUT) as writer:
        writer.add(example(0))
        raise KeyboardInterrupt
    assert stored.whole(folder) and Stored(folder).fingerprint == before
    assert [p.name for p in folder.parent.iterdir() if p.name.endswith(".tmp")] == []


def test_what_a_killed_writer_left_is_removed(tmp_path):
    for left in (".toy.tmp", ".toy.0123abcd.tmp"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "sequence.npy").write_bytes(b"half")
    stored.prepare(tmp_path / "toy", ABOUT, lambda writer: writer.add(example(0)))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".toy.lock", "toy"] and len(Stored(tmp_path / "toy")) == 1


def test_preparing_again_verifies_and_a_damaged_file_is_made_again(tmp_path):
    made = []

    def fill(writer):
        made.append(1)
        writer.add(example(0))

    for _ in range(2):
        stored.prepare(tmp_path / "toy", ABOUT, fill)
    assert len(made) == 1
    (tmp_path / "toy" / "chain.npy").write_bytes(b"damaged")
    stored.prepare(tmp_path / "toy", ABOUT, fill)
    stored.prepare(tmp_path / "toy", {**ABOUT, "recipe": {"format": 2}}, fill)
    assert len(made) == 3 and stored.whole(tmp_path / "toy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence": np.zeros(0, np.int8)}, "it has no residue"),
        ({"sequence": np.full(30, 21)}, "tokens from 21 to 21, expected 0 to 20"),
        ({"backbone": np.zeros((30, 3, 3))}, r"backbone has shape \(30, 3, 3\), expected \(30, 4, 3\)"),
        ({"backbone": np.full((30, 4, 3), np.inf)}, "a coordinate is infinite"),
        ({"index": np.zeros(30)}, "index does not increase along a chain"),
        ({"free": np.ones(29, bool)}, r"free has shape \(29,\), expected \(30,\)"),
    ],
    ids=["empty", "token", "shape", "infinite", "index", "free"],
)
def test_a_malformed_example_is_named(tmp_path, change, message):
    with (
        pytest.raises(MultigenError, match=f"protein 'chain 0é' is malformed: {message}"),
        Writer(tmp_path / "toy", ABOUT) as writer,
    ):
        writer.add({**example(0), **change})
    assert not (tmp_path / "toy").exists()


def test_missing_things_are_one_line(folder, tmp_path):
    with pytest.raises(MultigenError, match=r"chains are not prepared in .*; run `multigen prepare data=x`"):
        Stored(tmp_path / "none", what="chains", command="multigen prepare data=x")
    with pytest.raises(MultigenError, match=r"have no split 'tests': choices are \['train', 'valid', 'all'\]"):
        Stored(folder, "tests")
    with pytest.raises(MultigenError, match=r"none of 50 to None residues"):
        Stored(folder, min_length=50)
    with pytest.raises(MultigenError, match="limit is at least 1, got 0"):
        Stored(folder, limit=0)
    with pytest.raises(MultigenError, match="nothing to store"), Writer(tmp_path / "other", ABOUT):
        pass
    with pytest.raises(MultigenError, match="no split 'dev'"), Writer(tmp_path / "other", ABOUT) as writer:
        writer.add(example(0), "dev")
    (folder / "backbone.npy").write_bytes((folder / "backbone.npy").read_bytes()[:-8])
    with pytest.raises(MultigenError, match=r"backbone.npy is damaged .*; run"):
        Stored(folder)[0]


# -- cgdms and promod3 --------------------------------------------------------------------------------------------------------


def wheel(root, name: str, members: dict[str, bytes]) -> Asset:
    """A package that is already downloaded."""
    path = root / "assets" / f"{name}.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return Asset(name, "1", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), 0, "CC0")


def chain_text(sequence: str, gap: int | None = None) -> bytes:
    """A chain as cgdms writes it; after residue `gap`, ten Angstrom are missing."""
    atoms = helix(len(sequence))
    if gap is not None:
        atoms[gap + 1 :, :, 2] += 10
    rows = [" ".join(f"{x:.3f}" for x in residue.ravel()) for residue in atoms]
    return "\n".join([sequence, "H" * len(sequence), *rows, ""]).encode()


def mutated(sequence: str, seed: int) -> str:
    random = np.random.default_rng(seed)
    return "".join(a if random.random() > 0.3 else random.choice(list(AMINO_ACIDS)) for a in sequence)


SHORT = {f"1AB{i}_A": letters(i, 60) for i in range(40)}


@pytest.fixture
def short_chains(data_root, monkeypatch):
    """cgdms in small: forty chains, a relative of each of the first five, and one chain twice."""
    chains = SHORT | {f"2AB{i}_A": mutated(SHORT[f"1AB{i}_A"], i) for i in range(5)} | {"3ABC_A": SHORT["1AB0_A"]}
    members = {f"{cgdms.FOLDER}{name}.txt": chain_text(sequence) for name, sequence in chains.items()}
    members[f"{cgdms.FOLDER}1AB39_A.txt"] = chain_text(SHORT["1AB39_A"], gap=9)
    monkeypatch.setattr(cgdms, "CGDMS", wheel(data_root, "cgdms", members))
    return data_root


def test_cgdms_is_prepared(short_chains, monkeypatch):
    folder = cgdms.prepare()
    data = Cgdms("all")
    assert len(data) == 45 == len(Cgdms("train")) + len(Cgdms("valid"))
    names = [data[i]["name"] for i in range(45)]
    assert "3ABC_A" not in names and names == sorted(names)
    assert all(data.clusters[names.index(f"1AB{i}_A")] == data.clusters[names.index(f"2AB{i}_A")] for i in range(5))
    assert not set(Cgdms("train").clusters) & set(Cgdms("valid").clusters)
    assert data.manifest["licence"].startswith("CC0") and data.manifest["recipe"]["clusters"]["identity"] == 0.3
    monkeypatch.setattr(cgdms, "parse", lambda *a: pytest.fail("read again"))
    assert cgdms.prepare() == folder


def test_a_cgdms_chain_gets_its_oxygen_and_its_numbers(short_chains):
    cgdms.prepare()
    data = Cgdms("all")
    items = {item["name"]: item for item in (data[i] for i in range(len(data)))}
    whole, broken = items["1AB0_A"], items["1AB39_A"]
    assert alphabet.letters(whole["sequence"]) == SHORT["1AB0_A"]
    np.testing.assert_allclose(whole["backbone"][:, :3], helix(60)[:, :3], atol=1e-3)
    bond = np.linalg.norm(whole["backbone"][:, 3] - whole["backbone"][:, 2], axis=-1)
    np.testing.assert_allclose(bond, 1.231, atol=1e-3)
    assert whole["index"].tolist() == list(range(60))
    assert broken["index"].tolist() == [*range(10), *range(13, 63)]  # 11.5 A are bridged by four steps at least


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"ACD\nHHH\n1 2 3\n", "expected 3 lines of twelve numbers"),
        (b"ACD\nHHH\n" + b"1 2 x\n" * 12, "expected 3 lines of twelve numbers"),
        (chain_text("AC_D"), "is no protein"),
        (b"AC\nHH\n" + b"1 2 3 1 2 9 1 2 3 1 2 3\n" * 2, "is no protein: N-CA is 6.00 A"),
    ],
    ids=["short", "letters", "mask", "bond"],
)
def test_a_malformed_cgdms_chain_is_named(text, message):
    with pytest.raises(MultigenError, match=f"chain 1ABC_A of .*{message}"):
        cgdms.parse(text.decode(), "1ABC_A")


def database(sequences: dict[str, str], scale: float = 1.0) -> bytes:
    """A structure database as promod3 stores it."""
    head, at = bytearray(promod3.START), 0
    head += struct.pack("<Q", len(sequences))
    for name, sequence in sequences.items():
        code, chain = name.split("_")
        head += struct.pack("<I", len(code)) + code.encode() + struct.pack("<I", len(chain)) + chain.encode()
        head += struct.pack("<IHH3f", at, len(sequence), 7, -3.0, -3.0, -1.0)
        at += len(sequence)
    atoms = [((helix(len(s)) * scale + [3, 3, 1]) * 100).round().astype("<u2").tobytes() for s in sequences.values()]
    total = struct.pack("<Q", at)
    return bytes(head) + total + "".join(sequences.values()).encode() + total + b"".join(atoms) + total + b"more"


@pytest.fixture
def segments(short_chains, monkeypatch):
    """promod3 in small: relatives of all short chains, some of other lengths, one twice."""
    sequences = {f"9AB{i}_B": mutated(s, 100 + i) for i, s in enumerate(SHORT.values())}
    sequences |= {"8XYZ_A": letters(500, 31), "8XYZ_B": letters(501, 257), "8XYZ_C": sequences["9AB0_B"]}
    monkeypatch.setattr(promod3, "PROMOD3", wheel(short_chains, "promod3", {promod3.MEMBER: database(sequences)}))
    return sequences


def test_promod3_is_prepared(segments):
    promod3.prepare()
    data = Promod3("all")
    items = {item["name"]: item for item in (data[i] for i in range(len(data)))}
    assert sorted(items) == sorted(name for name in segments if name.startswith("9"))
    item = items["9AB3_B"]
    assert alphabet.letters(item["sequence"]) == segments["9AB3_B"] and item["index"].tolist() == list(range(7, 67))
    np.testing.assert_allclose(item["backbone"], helix(60), atol=0.006)
    assert promod3.prepare(max_length=300) != promod3.prepare() and len(Promod3("all", max_length=300)) == len(data) + 1


def test_promod3_holds_out_what_cgdms_holds_out(segments):
    promod3.prepare()
    short, long = Cgdms("valid"), Promod3("valid")
    held = {short[i]["name"][3:-2] for i in range(len(short)) if short[i]["name"].startswith("1")}
    assert held and held <= {long[i]["name"][3:-2] for i in range(len(long))}
    with pytest.raises(
        MultigenError, match=r"not prepared .* run `multigen prepare data=promod3 data.train.min_length=32 .*=99`"
    ):
        Promod3(max_length=99)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (database(SHORT)[:5000], "is cut off"),
        (database(SHORT, scale=2), "segment 1AB0_A is no protein: N-CA is 2.9"),
        (database({"1ABC_A": "AC?D"}), "segment 1ABC_A is no protein"),
        (b"\xff" * 200, "is cut off"),
        (database(SHORT).replace(struct.pack("<IHH", 60, 60, 7), struct.pack("<IHH", 61, 60, 7)), "begins at 61, expected 60"),
    ],
    ids=["cut", "scale", "letter", "noise", "order"],
)
def test_a_malformed_database_is_refused(tmp_path, content, message):
    path = tmp_path / "db"
    path.write_bytes(content)
    with pytest.raises(MultigenError, match=message), open(path, "rb") as file:
        assert list(promod3.examples(file))


# -- CATH ---------------------------------------------------------------------------------------------------------------------


def entry(name: str, sequence: str) -> dict:
    atoms = helix(len(sequence))
    atoms[:1, 3] = np.nan
    coords = {atom: atoms[:, i].tolist() for i, atom in enumerate(("N", "CA", "C", "O"))}
    return {"seq": sequence, "coords": coords, "num_chains": 1, "name": name, "CATH": ["1.10"]}


def write_cath(folder, entries: list, splits: dict | None = None):
    folder.mkdir(exist_ok=True)
    lines = [e if isinstance(e, str) else json.dumps(e) for e in entries]
    (folder / "chain_set.jsonl").write_text("\n".join(lines) + "\n")
    given = splits or {"train": ["1abc.A", "2abc.A"], "validation": ["3abc.A"], "test": ["4abc.A"], "cath_nodes": {}}
    (folder / "chain_set_splits.json").write_text(json.dumps(given))
    return folder


def test_cath_is_read(tmp_path, data_root, monkeypatch):
    folder = write_cath(tmp_path / "cath", [entry(f"{i}abc.A", letters(i, 20 + i)) for i in range(1, 6)])
    assert [len(Cath(folder, split)) for split in ("train", "valid", "test", "all")] == [2, 1, 1, 4]
    monkeypatch.setattr(cath, "parse", lambda line: pytest.fail("read again"))
    item = Cath(folder, "valid")[0]
    assert item["name"] == "3abc.A" and alphabet.letters(item["sequence"]) == letters(3, 23)
    assert np.isnan(item["backbone"][0, 3]).all()
    np.testing.assert_allclose(item["backbone"][1:], helix(23)[1:], atol=1e-4)
    assert Cath(folder, "all", max_length=22).sizes.tolist() == [21, 22]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{half", "line 2 of .*chain_set.jsonl: Expecting property name"),
        (json.dumps({"name": "2abc.A", "seq": "AC"}), "line 2 of .*: no 'coords'; expected"),
        (
            json.dumps({**entry("2abc.A", "ACD"), "seq": "ACDE"}),
            r"line 2 of .*: N of 2abc.A has shape \(3, 3\), expected \(4, 3\)",
        ),
        (
            json.dumps({"name": "2abc.A", "seq": "A", "coords": {a: [["x"] * 3] for a in cath.ATOMS}}),
            "line 2 of .*could not convert",
        ),
        (json.dumps([1, 2]), "line 2 of .*list indices"),
        (json.dumps(entry("2abc.A", "")), "line 2 of .*has"),
    ],
    ids=["json", "key", "length", "text", "list", "empty"],
)
def test_a_malformed_cath_line_is_named(tmp_path, data_root, line, message):
    folder = write_cath(tmp_path / "cath", [entry("1abc.A", "ACD"), line])
    with pytest.raises(MultigenError, match=message) as error:
        Cath(folder)
    assert "\n" not in str(error.value)


def test_a_cath_folder_that_is_none(tmp_path, data_root):
    with pytest.raises(MultigenError, match=r"chain_set_splits.json does not exist"):
        Cath(tmp_path)
    folder = write_cath(tmp_path / "cath", [entry("1abc.A", "ACD")], {"train": ["1abc.A"]})
    with pytest.raises(MultigenError, match=r"expected: lists of names under \['train', 'validation', 'test'\]"):
        Cath(folder)
    write_cath(tmp_path / "cath", [entry("9xyz.A", "ACD")])
    with pytest.raises(MultigenError, match=r"holds none of the 4 chains"):
        Cath(folder)
    (folder / "chain_set.jsonl").unlink()
    with pytest.raises(MultigenError, match=r"cannot read .*chain_set.jsonl"):
        Cath(folder)


# -- ProteinMPNN's training layout --------------------------------------------------------------------------------------------

LIST = [  # chain, resolution, cluster, sequence
    ("1abc_A", "2.0", 1, "MGHHHHHH" + letters(1, 30)),
    ("1abc_B", "2.0", 1, letters(1, 30)),
    ("2xyz_A", "3.6", 2, letters(2, 30)),
    ("3xyz_A", "3.5", 2, letters(3, 40) + "HHHHHHHH"),
    ("4pqr_A", "1.5", 3, letters(4, 25)),
    ("5pqr_A", "1.5", 4, letters(5, 25)),
    ("6pqr_A", "", 5, letters(6, 25)),
]


def chain_file(sequence: str) -> dict:
    xyz, mask = torch.zeros(len(sequence), 14, 3), torch.zeros(len(sequence), 14)
    xyz[:, :4], mask[:, :4] = torch.tensor(helix(len(sequence))), 1
    mask[-1, 3] = 0  # no O
    return {"seq": sequence, "xyz": xyz, "mask": mask, "bfac": mask.clone(), "occ": mask.clone()}


@pytest.fixture
def biounits(tmp_path):
    folder = tmp_path / "pdb_2021aug02"
    lines = ["CHAINID,DEPOSITION,RESOLUTION,HASH,CLUSTER,SEQUENCE"]
    for chain, resolution, cluster, sequence in LIST:
        lines.append(f"{chain},2020-01-01,{resolution},000123,{cluster},{sequence}")
        (folder / "pdb" / chain[1:3]).mkdir(parents=True, exist_ok=True)
        torch.save(chain_file(sequence), folder / "pdb" / chain[1:3] / f"{chain}.pt")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    (folder / "valid_clusters.txt").write_text("3\n")
    (folder / "test_clusters.txt").write_text("4\n5\n")
    return folder


def test_biounits_are_read(biounits):
    data = Biounit(biounits)
    assert [data[i]["name"] for i in range(len(data))] == ["1abc_A", "3xyz_A"]
    assert data.sizes.tolist() == [30, 40] and data.clusters.tolist() == [1, 2]
    item = data[0]
    assert alphabet.letters(item["sequence"]) == letters(1, 30) and item["index"].tolist() == list(range(8, 38))
    np.testing.assert_allclose(item["backbone"][:-1], helix(38)[8:-1], atol=1e-4)
    assert np.isnan(item["backbone"][-1, 3]).all() and not np.isnan(item["backbone"][-1, :3]).any()
    assert {k: v.dtype.name for k, v in item.items() if k != "name"} == {
        "sequence": "int8", "backbone": "float32", "chain": "int16", "index": "int32",
    }  # fmt: skip


def test_biounits_are_chosen(biounits):
    assert [len(Biounit(biounits, split)) for split in ("train", "valid", "test", "all")] == [2, 1, 1, 4]
    assert len(Biounit(biounits, member="all")) == 3
    assert Biounit(biounits, max_length=35).names.tolist() == [b"1abc_A"]
    assert Biounit(biounits, resolution=4.0).names.tolist() == [b"1abc_A", b"2xyz_A"]
    assert len(Biounit(biounits, "all", limit=2)) == 2
    assert Biounit(biounits).fingerprint != Biounit(biounits, member="all").fingerprint
    (biounits / "pdb" / "ab" / "1abc_A.pt").unlink()
    assert Biounit(biounits, partial=True).names.tolist() == [b"1abc_B", b"3xyz_A"]
    with pytest.raises(MultigenError, match=r"1abc_A.pt is not a readable chain: FileNotFoundError"):
        Biounit(biounits)[0]


def test_biounits_travel_to_workers(biounits):
    data = pickle.loads(pickle.dumps(Biounit(biounits)))
    assert data[1]["name"] == "3xyz_A"


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ("MGSSHHHHHHACDEF", (10, "ACDEF")),
        ("MGSSSHHHHHHACDEF", (0, "MGSSSHHHHHHACDEF")),
        ("ACDEFHHHHHHHHGSLE", (0, "ACDEF")),
        ("HHHHHHACDEFHHHHHH", (6, "ACDEF")),
        ("ACHHHHHDEF", (0, "ACHHHHHDEF")),
        ("HHHHHHHH", (8, "")),
    ],
    ids=["start", "too far", "end", "both", "five", "only"],
)
def test_tags_are_cut_off(sequence, expected):
    assert biounit.trimmed(sequence) == expected


def test_malformed_biounits_are_named(biounits):
    path = biounits / "pdb" / "ab" / "1abc_A.pt"
    data = Biounit(biounits)
    for content, message in [
        ({"seq": "ACD"}, "not a readable chain: KeyError: 'xyz'"),
        ({**chain_file("ACD"), "xyz": torch.zeros(3, 4, 3)}, r"has xyz \(3, 4, 3\) and mask \(3, 14\) for 3 residues"),
        (chain_file("ACD"), r"list.csv has 30 residues of 1abc_A, its file has 3"),
        ({**chain_file("ACD"), "xyz": pytest.fail}, "not a readable chain: UnpicklingError"),
    ]:
        torch.save(content, path)
        with pytest.raises(MultigenError, match=message) as error:
            data[0]
        assert "\n" not in str(error.value)
    path.write_bytes(b"no chain")
    with pytest.raises(MultigenError, match=r"1abc_A.pt is not a readable chain"):
        data[0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("list.csv", "CHAINID,CLUSTER\n", r"list.csv has no column 'RESOLUTION': its first line is 'CHAINID,CLUSTER'"),
        (
            "list.csv",
            "CHAINID,RESOLUTION,CLUSTER,SEQUENCE\n1abc_A,2.0,1,ACD\n1abc_B,2.0\n",
            "line 3 of .*list.csv is malformed",
        ),
        (
            "list.csv",
            "CHAINID,RESOLUTION,CLUSTER,SEQUENCE\n1abc_A,good,1,ACD\n",
            "line 2 of .*list.csv is malformed: could not",
        ),
        ("list.csv", "CHAINID,RESOLUTION,CLUSTER,SEQUENCE\n", "nothing is left of .*list.csv in split 'train'"),
        ("valid_clusters.txt", "one\n", "valid_clusters.txt is not a list of cluster numbers"),
    ],
    ids=["column", "short", "number", "empty", "clusters"],
)
def test_malformed_lists_are_named(biounits, file, content, message):
    (biounits / file).write_text(content)
    with pytest.raises(MultigenError, match=message):
        Biounit(biounits)


def test_biounit_options_are_checked(biounits, tmp_path):
    with pytest.raises(MultigenError, match=r"unknown member 'frist': did you mean 'first'\?"):
        Biounit(biounits, member="frist")
    with pytest.raises(MultigenError, match=r"valid_clusters.txt does not exist"):
        Biounit(tmp_path)
