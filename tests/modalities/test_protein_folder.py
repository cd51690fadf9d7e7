"""A folder of structures as a data set: what is found, sides, what cannot be read, interruption."""

from __future__ import annotations

import gzip
import json
import os
import pickle

import numpy as np
import pytest

from modalities.protein import gather
from modalities.protein.alphabet import letters, tokens
from modalities.protein.folder import Folder
from modalities.protein.geometry import extend, place_oxygen
from modalities.protein.sides import Added, alike, sides
from modalities.protein.structure import Structure, pdb_text
from multigen.random import hash64
from multigen.state import MultigenError

ALPHABET = "ACDEFGHIKLMNPQRSTVWY"


def sequence(seed: int, length: int = 40) -> str:
    return "".join(ALPHABET[hash64("sequence", seed, i) % 20] for i in range(length))


def structure(name: str, *chains: str) -> Structure:
    """Extended chains, 50 A apart."""
    parts = []
    for number, chain in enumerate(chains):
        atoms = [np.array([0.0, 1.4, 0.0]), np.array([0.0, 0.0, 0.0]), np.array([1.5, 0.0, 0.0])]
        while len(atoms) < 3 * len(chain):
            atoms.append(extend(*atoms[-3:], 1.4, 1.95, np.pi * 0.9))
        backbone = np.full((len(chain), 4, 3), np.nan)
        backbone[:, :3] = np.array(atoms).reshape(-1, 3, 3) + np.array([0, 0, 50 * number])
        parts.append(place_oxygen(backbone))
    return Structure.of(
        {
            "name": name,
            "sequence": tokens("".join(chains)),
            "backbone": np.concatenate(parts),
            "chain": np.repeat(np.arange(len(chains)), [len(chain) for chain in chains]),
            "index": np.concatenate([np.arange(len(chain)) for chain in chains]),
        }
    )


@pytest.fixture
def source(tmp_path):
    """A folder of six proteins: two complexes, two relatives, one in a folder inside."""
    path = tmp_path / "mine"
    (path / "inside").mkdir(parents=True)
    relative = sequence(1)
    texts = {
        "one.pdb": pdb_text(structure("one", relative)),
        "two.ent": pdb_text(structure("two", "GG" + relative[:36] + "GG")),
        "pair.pdb": pdb_text(structure("pair", sequence(2), sequence(3, 25))),
        "other.PDB": pdb_text(structure("other", sequence(4), sequence(3, 25))),
        "inside/five.pdb": pdb_text(structure("five", sequence(5, 60))),
        "short.pdb": pdb_text(structure("short", sequence(6, 12))),
    }
    for name, text in texts.items():
        (path / name).write_text(text)
    (path / "inside" / "six.pdb.gz").write_bytes(gzip.compress(pdb_text(structure("six", sequence(7))).encode()))
    (path / "notes.txt").write_text("no structure")
    (path / ".hidden.pdb").write_text("no structure")
    return path


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def names(data: Folder) -> list[str]:
    return [data[i]["name"] for i in range(len(data))]


def test_what_is_found(source, root):
    data = Folder(source, "all", root=root)
    assert sorted(names(data)) == ["five", "one", "other", "pair", "six", "two"]  # the short one is below min_length
    item = data[names(data).index("pair")]
    assert letters(item["sequence"]) == sequence(2) + sequence(3, 25) and item["free"].all()
    assert item["chain"].tolist() == [0] * 40 + [1] * 25 and item["index"].tolist() == [*range(40), *range(25)]
    original = structure("pair", sequence(2), sequence(3, 25))
    assert np.allclose(item["backbone"], original.backbone, atol=6e-4)
    assert data.sizes.tolist() == [len(data[i]["sequence"]) for i in range(len(data))]
    again = Folder(source, "all", root=root)
    assert again.fingerprint == data.fingerprint and not list((root / "proteins").glob("*.parts"))
    assert len(Folder(source, "all", min_length=1, root=root)) == 7
    copy = pickle.loads(pickle.dumps(data))
    assert letters(copy[0]["sequence"]) == letters(data[0]["sequence"])


def test_it_is_read_once(source, root, monkeypatch):
    before = Folder(source, "all", root=root)
    monkeypatch.setattr(gather, "read_structure", None)
    assert len(Folder(source, "train", root=root)) + len(Folder(source, "valid", root=root)) == len(before)


def test_a_change_is_seen(source, root):
    before = Folder(source, "all", root=root)
    (source / "one.pdb").write_text(pdb_text(structure("one", sequence(8))))
    os.utime(source / "one.pdb", ns=(1, 1))
    after = Folder(source, "all", root=root)
    assert after.fingerprint != before.fingerprint
    assert sequence(8) in [letters(after[i]["sequence"]) for i in range(len(after))]


def test_chains_as_examples(source, root):
    each = Folder(source, "all", chains="each", root=root)
    assert {"pair_A", "pair_B", "other_A", "other_B", "one_A"} <= set(names(each)) and len(each) == 8
    first = Folder(source, "all", chains="first", root=root)
    item = first[names(first).index("pair_A")]
    assert letters(item["sequence"]) == sequence(2) and (item["chain"] == 0).all()


def test_equal_names_become_paths(source, root):
    (source / "inside" / "one.pdb").write_text(pdb_text(structure("one", sequence(9))))
    assert {"one.pdb", "inside/one.pdb", "two"} <= set(names(Folder(source, "all", root=root)))


def test_relatives_and_partners_stay_together(source, root):
    sides_of = {name: split for split in ("train", "valid") for name in names(Folder(source, split, share=50, root=root))}
    assert sides_of["one"] == sides_of["two"] and sides_of["pair"] == sides_of["other"]
    assert set(sides_of.values()) == {"train", "valid"}


def test_groups_of_complexes():
    a, b, c, d = (sequence(i) for i in range(10, 14))
    groups = alike([[a, b], [b, c], [d], ["XXXX"], ["XXXX"], [c]]).tolist()
    assert groups[0] == groups[1] == groups[5] and len({groups[0], groups[2], groups[3], groups[4]}) == 4


def test_sides_by_name_do_not_depend_on_the_others():
    added = [Added(f"p{i}", [sequence(i)], "") for i in range(400)]
    split, groups = sides(added, "name", 25)
    assert 70 < split.count("valid") < 130 and groups.tolist() == list(range(400))
    assert sides(added[:200], "name", 25)[0] == split[:200]
    assert sides(added[:3], "name", 1)[0].count("valid") == 1
    assert sides(added[:3], "name", 0)[0].count("valid") == 0
    assert sides(added[:1], "name", 1)[0] == ["train"]


def test_a_list_says_the_sides(source, root):
    listed = {"train": ["one", "two.ent"], "valid": ["inside/five.pdb"], "test": ["pair"]}
    (source / "splits.json").write_text(json.dumps(listed))
    found = {split: names(Folder(source, split, root=root)) for split in ("train", "valid", "test", "all")}
    assert {split: sorted(of) for split, of in found.items()} == {
        "train": ["one", "two"], "valid": ["five"], "test": ["pair"], "all": ["five", "one", "pair", "two"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[]", r"splits\.json is damaged: expected"),
        ("{", r"splits\.json is damaged: not JSON"),
        ('{"train": "one"}', r"is damaged: expected"),
        ('{"training": ["one"]}', r"has an unknown split 'training': choices are \['train', 'valid', 'test'\]"),
        ('{"train": ["one"], "valid": ["one"]}', r"has 'one' more than once"),
        ('{"train": ["none"]}', r"splits\.json names none of the 7 files"),
    ],
)
def test_a_bad_list(source, root, content, why):
    (source / "splits.json").write_text(content)
    with pytest.raises(MultigenError, match=why):
        Folder(source, root=root)


def test_what_cannot_be_read_is_named_and_left_out(source, root, capsys):
    (source / "bad.pdb").write_text("<html></html>")
    (source / "empty.cif").write_text("")
    assert len(Folder(source, "all", root=root)) == 6
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "2 of 9 files of" in said[0] and "bad.pdb (is not a structure: neither" in said[0]
    assert "empty.cif (is not a structure: the file is empty)" in said[0]
    assert len(Folder(source, "all", root=root)) == 6 and not capsys.readouterr().err
    for _ in range(2):  # whether it was read before or not
        with pytest.raises(MultigenError, match=r"^2 of 9 files of .* cannot be used"):
            Folder(source, "all", strict=True, root=root)
    with pytest.raises(MultigenError, match=r"^1 of 9 files of .* cannot be used"):
        Folder(source, "all", strict=True, root=root.with_name("fresh"))


def test_an_interrupted_run_goes_on(source, root, monkeypatch):
    monkeypatch.setattr(gather, "PART", 2)
    read, real = [], gather.read_structure

    def interrupted(path):
        if len(read) == 5:
            raise KeyboardInterrupt
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(gather, "read_structure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Folder(source, "all", root=root)
    before = list(read)
    monkeypatch.setattr(gather, "read_structure", lambda path: read.append(path.name) or real(path))
    resumed = Folder(source, "all", min_length=1, root=root)
    assert len(before) == 5 and read[5:] == sorted(read[5:], key=read.index) and len(read) == 5 + 3  # two parts were kept
    whole = Folder(source, "all", min_length=1, root=root.with_name("fresh"))
    assert names(resumed) == names(whole)
    assert all((resumed[i]["backbone"] == whole[i]["backbone"]).all() for i in range(len(whole)))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"share": 100}, r"^share is 0 to 99 per cent, got 100$"),
        ({"chains": "last"}, r"^unknown chains 'last': "),
        ({"by": "size"}, r"^unknown by 'size': "),
        ({"split": "dev"}, r"have no split 'dev'"),
        ({"min_length": 1000}, r"have none of 1000 to .* residues"),
    ],
)
def test_bad_options(source, root, options, why):
    with pytest.raises(MultigenError, match=why):
        Folder(source, root=root, **options)


def test_bad_folders(tmp_path, root):
    with pytest.raises(MultigenError, match=r"nowhere is not a folder of structures$"):
        Folder(tmp_path / "nowhere", root=root)
    (tmp_path / "text").mkdir()
    with pytest.raises(MultigenError, match=r"text holds no structure: the names end in"):
        Folder(tmp_path / "text", root=root)
    (tmp_path / "text" / "bad.pdb").write_text("nothing")
    with pytest.raises(MultigenError, match=r"^1 of 1 files of .* cannot be used and are left out: bad.pdb \(is not"):
        Folder(tmp_path / "text", root=root)
