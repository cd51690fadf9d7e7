"""Molecules of one's own through the command line: what cannot be used is named and counted; what is of no use, one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from multigen.cli.main import run

EXAMPLE = Path(__file__).parents[2] / "data/examples/benzamidine.sdf"


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch, data_root):
    """Files of every kind of trouble."""
    monkeypatch.chdir(tmp_path)
    good = EXAMPLE.read_text()
    broken = "\n".join(good.splitlines()[:9]) + "\n$$$$\n"
    strange = tellurium()
    flat = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")) + "$$$$\n"
    texts = {
        "good.sdf": good, "mixed.sdf": good + broken + strange + flat, "broken.sdf": broken, "strange.sdf": strange,
        "flat.sdf": flat, "empty.sdf": "", "letter.sdf": "Dear friend,\n", "mixed.smi": "CCO ethanol\nC1CC ring\nnonsense\n",
        "bad.smi": "C(C)(C)(C)(C)C five\n", "table.csv": "name,structure\na,CCO\n", "folder/readme.txt": "nothing",
        "raw/gdb9.sdf": good,
    }  # fmt: skip
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "nothing").mkdir()


def tellurium() -> str:
    """A record with an element that no network knows."""
    mol = Chem.MolFromSmiles("F[Te]F")
    conformer = Chem.Conformer(3)
    conformer.SetPositions(np.eye(3))
    mol.AddConformer(conformer)
    mol.SetProp("_Name", "strange")
    return Chem.MolToMolBlock(mol) + "$$$$\n"


def prepare(*arguments: str) -> int:
    return run(["prepare", *arguments])


def test_a_broken_record_is_named_skipped_and_counted(capsys):
    assert prepare("data=sdf", "data.path=mixed.sdf") == 0
    out, err = capsys.readouterr()
    line = next(line for line in err.splitlines() if line.startswith("mixed.sdf: left out"))
    assert "data are in" in out and "left out 3 of 4" in line
    for words in ("1 broken (record 2", "1 element out of vocabulary (record 3 'strange'", "1 no 3-D coordinates (record 4"):
        assert words in line


def test_a_bad_smiles_is_named_skipped_and_counted(capsys):
    assert prepare("data=smiles", "data.path=mixed.smi", "data.workers=1") == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("mixed.smi: left out"))
    assert "left out 2 of 3" in line and "line 2 'ring'" in line and "line 3" in line


MISTAKES: list[tuple[list[str], list[str]]] = [
    (["data=sdf"], ["data.path is needed"]),
    (["data=sdf", "data.path=nowhere.sdf"], ["nowhere.sdf does not exist"]),
    (["data=sdf", "data.path=mixed.sdf", "data.strict=true"], ["mixed.sdf, record 2", "broken"]),
    (["data=sdf", "data.path=broken.sdf"], ["broken.sdf: left out 1 of 1: 1 broken (record 1"]),
    (["data=sdf", "data.path=strange.sdf"], ["element out of vocabulary", "'strange'"]),
    (["data=sdf", "data.path=flat.sdf"], ["no 3-D coordinates"]),
    (["data=sdf", "data.path=good.sdf", "data.train.max_heavy=5"], ["over 5 heavy atoms"]),
    (["data=sdf", "data.path=good.sdf", "data.train.max_atoms=5"], ["over 5 atoms"]),
    (["data=sdf", "data.path=empty.sdf"], ["empty.sdf holds no molecule"]),
    (["data=sdf", "data.path=letter.sdf"], ["broken", "M END"]),
    (["data=sdf", "data.path=nothing"], ["holds no file of molecules"]),
    (["data=smiles", "data.path=bad.smi", "data.workers=1"], ["refused by RDKit", "'five'"]),
    (["data=smiles", "data.path=mixed.smi", "data.workers=1", "data.strict=true"], ["mixed.smi, line 2 'ring'"]),
    (["data=smiles", "data.path=table.csv", "data.workers=1"], ["no column 'smiles'", "structure"]),
    (["data=qm9", "data.path=folder"], ["folder"]),
    (["data=qm9", "data.path=raw"], ["raw"]),
    (["data=qm9", "data.path=nowhere"], ["nowhere"]),
    (["data=geom_drugs", "data.path=folder"], ["folder"]),
    (["data=geom_drugs", "data.path=nowhere"], ["nowhere"]),
]  # fmt: skip
"""Arguments, and words that the message must have."""


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: " ".join(value))
def test_what_cannot_be_prepared_is_one_line(arguments, said, capsys):
    code = prepare(*arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
    assert all(words in err for words in said), err


def test_training_on_an_unprepared_or_empty_set_is_one_line(capsys):
    for arguments, said in (
        (["experiment=molecule/vanilla"], "multigen prepare data=ccd"),
        (["experiment=molecule/vanilla", "data=sdf", "data.path=broken.sdf"], "left out 1 of 1"),
        (["experiment=molecule/vanilla", "data=sdf", "data.path=good.sdf", "data.train.elements=[Fe]"], "Fe is not in"),
    ):
        assert run(["train", *arguments, "device=cpu", "run=run"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and said in err, err
