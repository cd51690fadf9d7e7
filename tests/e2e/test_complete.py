"""``multigen complete`` as a person uses it: from a trained run and a fragment to molecules, a table and a picture."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from rdkit import Chem

from multigen.build import compose
from multigen.build.experiment import Experiment
from multigen.cli.main import run
from multigen.files import write_text
from multigen.run import Run

SMALL = [
    "denoiser.width=16", "denoiser.sets=4", "denoiser.edges=8", "denoiser.message=8", "denoiser.layers=2", "denoiser.heads=2",
    "sampler.grid.steps=4", "device=cpu", "trainer.steps=2", "trainer.precision='no'", "trainer.progress=false",
    "trainer.batch_tokens=64", "trainer.log_to=[]",
]  # fmt: skip
JOINT = [
    "encoders.environment._target_=modalities.molecule.encoders.AtomProperties", "cache.environment.whiten=null",
    "targets=online", "modality.joint.environment=24", "denoiser.joint.environment=24",
]  # fmt: skip
EXAMPLE = Path(__file__).parents[2] / "data/examples/benzamidine.sdf"
HEAVY = 9
"""Heavy atoms of the example, which come first in its file."""


def trained_run(folder: Path, experiment: str, *changes: str) -> Path:
    """Two steps on stand-in data, which are then out of reach, as teachers and metrics are."""
    config = compose("train", [f"experiment={experiment}", *SMALL, *changes])
    settings = config["data"]["train"]
    config["data"] = {"train": {"_target_": "modalities.molecule.example.Chains"}}
    config["modality"]["source"], config["trainer"]["observers"] = None, {}
    Experiment(config).trainer(Run(folder, config)).fit()
    config["data"] = {"train": {**settings, "_target_": "gone.Lost"}}
    config["modality"]["source"] = config["metrics"] = {"_target_": "gone.Lost"}
    config["encoders"] = {name: {"_target_": "gone.Lost"} for name in config["encoders"] or {}}
    write_text(folder / "config.yaml", yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    trained_run(folder / "run", "molecule/vanilla", "modality.fragment=0.5")
    trained_run(folder / "hydrogens", "molecule/vanilla", "modality.fragment=0.5", "data.train.hydrogens=true")
    trained_run(folder / "plain", "molecule/vanilla")
    trained_run(folder / "joint", "molecule/joint", "modality.fragment=0.5", *JOINT)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, trained):
    """A folder with runs and the example."""
    monkeypatch.chdir(tmp_path)
    for name in ("run", "hydrogens", "plain", "joint"):
        shutil.copytree(trained / name, name)
    shutil.copy(EXAMPLE, "example.sdf")


def block() -> list[str]:
    return EXAMPLE.read_text().splitlines()


def molecule(*, drop: int | None = None, dummy: int | None = None, shift: float = 0.0) -> Chem.RWMol:
    """The example, with an atom left out, one turned into a dummy, and moved."""
    mol = Chem.RWMol(Chem.MolFromMolFile(str(EXAMPLE), removeHs=False))
    Chem.Kekulize(mol, clearAromaticFlags=True)
    mol.GetConformer().SetPositions(mol.GetConformer().GetPositions() + shift)
    if dummy is not None:
        mol.ReplaceAtom(dummy, Chem.Atom(0))
    if drop is not None:
        mol.RemoveAtom(drop)
    return mol


def read(path: str) -> list[Chem.Mol]:
    """Every record, sanitised or not."""
    return list(Chem.SDMolSupplier(path, sanitize=False, removeHs=False))


def rows(path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def complete(*arguments: str) -> int:
    return run(["complete", "example.sdf", "--run", "run", "--device", "cpu", *arguments])


def test_given_atoms_stay_and_the_rest_is_made(capsys):
    assert complete("--n", "6", "--add", "2:5", "--out", "made") == 0
    out, err = capsys.readouterr()
    assert out.startswith("6 completions of benzamidine: ") and "valid and connected" in out and out.rstrip().endswith("made")
    assert "whether completions are novel is not known" in err
    original = read("example.sdf")[0]
    made, table = read("made/completions.sdf"), rows("made/completions.csv")
    assert len(made) == len(table) == 6 and {2, 3, 4, 5} >= {int(row["added"]) for row in table}
    for mol, row in zip(made, table, strict=True):
        assert mol.GetNumAtoms() == HEAVY + int(row["added"])
        places, given = mol.GetConformer().GetPositions(), original.GetConformer().GetPositions()
        assert np.abs(places[:HEAVY] - given[:HEAVY]).max() < 1e-6
        for i in range(HEAVY):
            assert mol.GetAtomWithIdx(i).GetSymbol() == original.GetAtomWithIdx(i).GetSymbol()
            for j in range(i):
                bonds = [m.GetBondBetweenAtoms(i, j) for m in (mol, original)]
                assert len({bond and bond.GetBondType() for bond in bonds}) == 1
    summary = json.loads(Path("made/summary.json").read_text())
    assert summary["completions"] == 6 and summary["valid"] == sum(row["valid"] == "1" for row in table)
    assert summary["novel"] is None and summary["add"] == "2:5"
    valid = [row["smiles"] for row in table if row["valid"] == "1"]
    assert [line.split()[0] for line in Path("made/completions.smi").read_text().splitlines()] == valid
    assert all((row["reason"] == "") == (row["valid"] == "1") for row in table)
    assert Path("made/completions.png").read_bytes().startswith(b"\x89PNG")


def test_completion_i_is_a_function_of_seed_and_i_to_rounding():
    assert complete("--n", "4", "--add", "2:5", "--out", "four", "--batch-size", "1") == 0
    assert complete("--n", "2", "--add", "2:5", "--out", "two") == 0
    assert complete("--n", "2", "--add", "2:5", "--out", "other", "--seed", "1") == 0
    four, two, other = (read(f"{name}/completions.sdf")[:2] for name in ("four", "two", "other"))
    for mine, same, different in zip(four, two, other, strict=True):
        elements, again = ([atom.GetSymbol() for atom in mol.GetAtoms()] for mol in (mine, same))
        places, near = (mol.GetConformer().GetPositions() for mol in (mine, same))
        assert elements == again and np.abs(places - near).max() < 1e-3
        assert not np.array_equal(places[HEAVY], different.GetConformer().GetPositions()[HEAVY])


def test_closed_atoms_get_no_new_bond():
    """Carbon 1 and the carbon of the amidine have no hydrogen; --grow leaves one atom alone."""
    assert complete("--n", "8", "--add", "4", "--out", "any") == 0
    assert complete("--n", "8", "--add", "4", "--out", "one", "--grow", "4") == 0
    for name, allowed in (("any", {1, 2, 3, 4, 5, 7, 8}), ("one", {3})):
        for mol in read(f"{name}/completions.sdf"):
            ends = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondTypeAsDouble()) for b in mol.GetBonds()]
            across = [(min(i, j), order) for i, j, order in ends if min(i, j) < HEAVY <= max(i, j)]
            assert {i for i, _ in across} <= allowed and all(order in (1, 1.5) for i, order in across if i != 8)


def test_dummies_say_where_and_are_no_atoms():
    Chem.MolToMolFile(molecule(dummy=11), "example.sdf")  # the hydrogen opposite of the amidine
    assert complete("--n", "4", "--add", "3", "--out", "made") == 0
    for mol in read("made/completions.sdf"):
        assert mol.GetNumAtoms() == HEAVY + 3 and all(atom.GetAtomicNum() for atom in mol.GetAtoms())
        across = {b.GetBeginAtomIdx() for b in mol.GetBonds() if b.GetBeginAtomIdx() < HEAVY <= b.GetEndAtomIdx()}
        assert across <= {3}


def test_hydrogens_are_kept_where_the_run_makes_them():
    Chem.MolToMolFile(molecule(drop=11), "example.sdf")
    arguments = ["complete", "example.sdf", "--run", "hydrogens", "--n", "3", "--add", "4", "--out", "made"]
    assert run(arguments) == 0
    original = read("example.sdf")[0].GetConformer().GetPositions()
    for mol in read("made/completions.sdf"):
        assert mol.GetNumAtoms() == 16 + 4
        assert np.abs(mol.GetConformer().GetPositions()[:16] - original).max() < 1e-6


def test_more_decimals_are_kept():
    Chem.MolToV3KMolFile(molecule(shift=123.456789), "example.sdf")
    assert complete("--n", "2", "--add", "3", "--out", "made") == 0
    given = read("example.sdf")[0].GetConformer().GetPositions()
    assert "V3000" in Path("made/completions.sdf").read_text()
    for mol in read("made/completions.sdf"):
        assert np.abs(mol.GetConformer().GetPositions()[:HEAVY] - given[:HEAVY]).max() < 1e-6


def test_a_run_without_fragments_is_warned_of(capsys):
    assert run(["complete", "example.sdf", "--run", "plain", "--n", "2", "--add", "3", "--out", "made"]) == 0
    assert "plain was trained without fragments (modality.fragment=0)" in capsys.readouterr().err
    given = read("example.sdf")[0].GetConformer().GetPositions()
    for mol in read("made/completions.sdf"):
        assert np.abs(mol.GetConformer().GetPositions()[:HEAVY] - given[:HEAVY]).max() < 1e-6


def test_a_run_that_makes_a_representation_too_completes():
    assert run(["complete", "example.sdf", "--run", "joint", "--n", "3", "--add", "3", "--out", "made"]) == 0
    given = read("example.sdf")[0].GetConformer().GetPositions()
    for mol in (made := read("made/completions.sdf")):
        assert mol.GetNumAtoms() == HEAVY + 3
        assert np.abs(mol.GetConformer().GetPositions()[:HEAVY] - given[:HEAVY]).max() < 1e-6
    assert len(made) == 3


def test_of_several_records_one_is_chosen(capsys):
    text = EXAMPLE.read_text()
    Path("example.sdf").write_text(text + text.replace("benzamidine", "second"))
    assert complete("--n", "1", "--add", "2", "--out", "made") == 0
    assert "has 2 records, of which the first is used; --record N takes another" in capsys.readouterr().err
    assert complete("--n", "1", "--add", "2", "--out", "made", "--record", "2") == 0
    out, err = capsys.readouterr()
    assert out.startswith("1 completion of second:") and "records" not in err


def bad_files() -> None:
    """What the mistakes below speak of."""
    lines = block()
    flat = [f"{line[:20]}    0.0000{line[30:]}" if len(line) > 60 else line for line in lines]
    flat[1] = "     RDKit          2D"
    flat = [f"{line[:10]}    0.0000{line[20:]}" if len(line) > 60 and line[30:32] == " C" else line for line in flat]
    strange = [line.replace(" N  ", " Xe ") if " N  " in line else line for line in lines]
    boron = [line.replace(" H  ", " B  ", 1) if " H  " in line and "-3.6400" in line else line for line in lines]
    apart = [line for line in lines if line != "  1  7  1  0"]
    apart[3] = apart[3].replace(" 17 17", " 17 16")
    texts = {"flat": flat, "xenon": strange, "boron": boron, "apart": apart, "letter": ["Dear friend,", "this is a letter."]}
    for name, text in texts.items():
        Path(f"{name}.sdf").write_text("\n".join(text) + "\n")
    Path("empty.sdf").write_text("")
    Path("half.sdf").write_text("\n".join(lines[:12]))
    Chem.MolToMolFile(Chem.AddHs(molecule()), "closed.sdf")
    big, conformer = Chem.MolFromSmiles("C" * 21), Chem.Conformer(21)
    conformer.SetPositions(np.outer(np.arange(21), [1.2, 0.8, 0.4]))
    big.AddConformer(conformer)
    Chem.MolToMolFile(big, "big.sdf")
    write_text("points/config.yaml", yaml.safe_dump(compose("train", ["experiment=points/vanilla"])))


MISTAKES: list[tuple[list[str], list[str]]] = [
    (["nowhere.sdf"], ["nowhere.sdf does not exist"]),
    (["run"], ["run is a folder", "SDF or MOL"]),
    (["empty.sdf"], ["empty.sdf holds no molecule"]),
    (["letter.sdf"], ["letter.sdf, record 1 is no molecule", "M END"]),
    (["half.sdf"], ["half.sdf, record 1 is no molecule"]),
    (["flat.sdf"], ["flat.sdf, record 1: no 3-D coordinates"]),
    (["xenon.sdf"], ["element out of vocabulary", "54"]),
    (["boron.sdf"], ["boron.sdf, record 1 has B, which the network never saw"]),
    (["apart.sdf"], ["more than one fragment"]),
    (["closed.sdf", "--run", "hydrogens"], ["nothing can be attached"]),
    (["example.sdf", "--record", "3"], ["example.sdf has 1 records, of which 3 is none"]),
    (["example.sdf", "--record", "0"], ["--record is at least 1, got 0"]),
    (["example.sdf", "--add", "6:2"], ["--add is '6:2'", "smaller number first"]),
    (["example.sdf", "--add", "few"], ["--add is 'few'", "like 6:14"]),
    (["example.sdf", "--add", "0:3"], ["--add is at least 1, got 0"]),
    (["example.sdf", "--add", "6:14"], ["has 9 atoms, with --add 6:14 up to 23", "over the 20"]),
    (["big.sdf", "--run", "hydrogens"], ["big.sdf has 21 heavy atoms", "trained with up to 20"]),
    (["example.sdf", "--grow", "a"], ["--grow is 'a'", "like 3,5"]),
    (["example.sdf", "--grow", "1"], ["atom 1 cannot grow", "no hydrogen"]),
    (["example.sdf", "--grow", "40"], ["atom 40 cannot grow", "there are 17 atoms"]),
    (["example.sdf", "--n", "0"], ["--n is at least 1, got 0"]),
    (["example.sdf", "--steps", "0"], ["--steps is at least 1, got 0"]),
    (["example.sdf", "--n", "many"], ["invalid int value: 'many'"]),
    (["example.sdf", "--run", "nowhere"], ["nowhere", "not a run folder"]),
    (["example.sdf", "--run", "points"], ["points is a run of points/vanilla, which makes point"]),
    (["example.sdf", "--weights", "ema_0.5"], ["ema_0.5"]),
    (["example.sdf", "--weights", "gone.safetensors"], ["gone.safetensors does not exist"]),
    (["example.sdf", "--out", "/proc/here"], ["cannot write /proc/here"]),
]  # fmt: skip
"""Arguments, and words that the message must have."""


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: " ".join(value))
def test_mistakes_are_one_line(arguments, said, capsys):
    bad_files()
    given = {a for a in arguments if a.startswith("--")}
    rest = {"--run": "run", "--add": "2:3", "--n": "2"}
    code = run(["complete", *arguments, *(x for name, value in rest.items() if name not in given for x in (name, value))])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (code, out) == (2, "") and len(lines) == 1 and lines[0].startswith("error: "), err
    assert all(words in lines[0] for words in said), err


def test_missing_arguments_are_named(capsys):
    assert run(["complete", "example.sdf", "--run", "run"]) == 2
    assert "--add" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["sdf", "xyz"])
def test_samples_go_to_one_file_in_the_format_of_its_name(ending, capsys):
    given = ["run=run", "n=5", "device=cpu", "modality.source=null", "modality.size=4:6", f"out=made/molecules.{ending}"]
    assert run(["sample", *given]) == 0
    assert {path.name for path in Path("made").iterdir()} == {f"molecules.{ending}", f"molecules.{ending}.json"}
    assert Path(f"made/molecules.{ending}").read_text().count("$$$$" if ending == "sdf" else "charge=") == 5
    assert "of the sites in" in capsys.readouterr().out
