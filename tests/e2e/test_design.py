"""``multigen design`` as a person uses it: from a trained run and a structure file to sequences, tables and a picture."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from modalities.protein.alphabet import tokens
from modalities.protein.example import helix
from modalities.protein.structure import Structure, read_structure, write_pdb
from multigen.build import compose
from multigen.build.experiment import Experiment
from multigen.cli.main import run
from multigen.files import write_text
from multigen.run import Run

SMALL = [
    "modality.neighbours=8", "denoiser.width=16", "denoiser.encoder_layers=1", "denoiser.decoder_layers=1", "device=cpu",
    "trainer.steps=2", "trainer.precision='no'", "trainer.progress=false", "trainer.log_to=[]",
]  # fmt: skip
CHAINS = "MKVLAAGIVGLLRTQE"
NATIVE = f"{CHAINS}/{CHAINS}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two steps on stand-in data; then the data, the teachers and the network's first weights are out of reach."""
    folder = tmp_path_factory.mktemp("design") / "run"
    config = compose("train", ["experiment=protein/vanilla", *SMALL])
    config["data"] = {"train": {"_target_": "modalities.protein.example.Helices"}}
    config["modality"]["source"], config["trainer"]["observers"] = None, {}
    Experiment(config).trainer(Run(folder, config)).fit()
    config["data"] = config["encoders"] = config["modality"]["source"] = config["metrics"] = {"_target_": "gone.Lost"}
    config["denoiser"]["start"] = "v_48_020"
    write_text(folder / "config.yaml", yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def bad(tmp_path_factory, trained) -> Path:
    """A folder with everything that the mistakes speak of."""
    folder = tmp_path_factory.mktemp("bad")
    shutil.copytree(trained, folder / "run")
    for name in ("dimer.pdb", "good.pdb"):
        write_pdb(folder / name, dimer())
    atoms = [line for line in (folder / "dimer.pdb").read_text().splitlines() if line.startswith("ATOM")]
    dna = [f"{x[:17]} DA{x[20:]}" for x in atoms if x[12:16].strip() not in ("CA", "C")]
    flat = [x for x in atoms if x[12:16].strip() != "CA" or x[21] == "B"]
    texts = {"text.pdb": "This is a letter to a friend.", "dna.pdb": "\n".join([*dna, "END"]), "bias.csv": "A:1,Z,1"}
    for name, text in {**texts, "flat.pdb": "\n".join([*flat, "END"]), "short.fasta": ">short\nMKV"}.items():
        (folder / name).write_text(f"{text}\n")
    bad_runs(folder, yaml.safe_load((trained / "config.yaml").read_text()))
    return folder


def bad_runs(folder: Path, config: dict) -> None:
    for name, experiment in (("points", "points/vanilla"), ("sequences", "protein/sequence_vanilla")):
        write_text(folder / name / "config.yaml", yaml.safe_dump(compose("train", [f"experiment={experiment}"])))
    write_text(folder / "empty" / "config.yaml", yaml.safe_dump(config))
    for name in ("damaged", "wider"):
        shutil.copytree(folder / "run", folder / name)
    weights = next(folder.glob("damaged/checkpoints/step_*/ema_*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    write_text(folder / "wider/config.yaml", yaml.safe_dump({**config, "denoiser": {**config["denoiser"], "width": 32}}))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, trained):
    """A folder with the run, and a dimer whose second chain is numbered from 101."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    write_pdb("dimer.pdb", dimer())


def dimer() -> Structure:
    n = len(CHAINS)
    index = np.concatenate([np.arange(1, n + 1), np.arange(101, 101 + n)]).astype(np.int32)
    backbone = np.concatenate([helix(n, 0), helix(n, 1) + 12]).astype(np.float32)
    chain = np.repeat(np.arange(2, dtype=np.int16), n)
    return Structure("dimer", tokens(2 * CHAINS), backbone, chain, index, ("A", "B"), tuple(map(str, index)))


def made(capsys, *arguments: str) -> str:
    """What a call that succeeds prints."""
    assert run(["design", *arguments]) == 0
    return capsys.readouterr().out


def records(path: str) -> dict[str, str]:
    lines = Path(path).read_text().splitlines()
    return dict(zip(lines[::2], lines[1::2], strict=True))


def test_design(capsys):
    out = made(
        capsys, "dimer.pdb", "--run", "run", "--fixed", "A:10-12,B:103", "--n", "3", "--temperature", "1", "--out", "new"
    )
    assert out.startswith("3 designs of dimer, recovery 0.") and out.count("\n") == 1 and out.endswith("s: new\n")
    names = {"designs.fasta", "designs.csv", "confidence.csv", "designs.png", *(f"design_{i}.pdb" for i in (1, 2, 3))}
    assert {path.name for path in Path("new").iterdir()} == names
    native, *designs = records("new/designs.fasta").values()
    assert native == NATIVE and len(set(designs)) == 3
    for sequence in designs:
        assert (sequence[9:12], sequence[16], sequence[19]) == (NATIVE[9:12], "/", NATIVE[19])
    rows = list(csv.DictReader(Path("new/confidence.csv").read_text().splitlines()))
    assert [row["residue"] for row in rows if row["designed"] == "0"] == ["10", "11", "12", "103"]
    assert read_structure("new/design_1.pdb").letters() == designs[0].replace("/", "")


def test_a_design_does_not_depend_on_what_is_designed_beside_it(capsys):
    shutil.copy("dimer.pdb", "other.pdb")
    hot = ("--run", "run", "--temperature", "1")
    made(capsys, "dimer.pdb", *hot, "--n", "4", "--out", "one")
    out = made(capsys, "other.pdb", "dimer.pdb", *hot, "--n", "2", "--batch-size", "1", "--out", "two")
    assert out.startswith("2 designs of each of 2 structures") and {x.name for x in Path("two").iterdir()} == {
        "other",
        "dimer",
    }
    alone, beside = ([*records(f"{x}/designs.fasta").values()] for x in ("one", "two/dimer"))
    assert alone[:3] == beside


def test_options(capsys):
    Path("bias.csv").write_text("B:101,W,100\n")
    Path("given.fasta").write_text(f">given\n{'G' * 16}/{CHAINS}\n")
    common = ("dimer.pdb", "--run", "run", "--temperature", "1", "--seed", "3")
    made(capsys, *common, "--tie", "A=B", "--forbid", "CM", "--bias", "L:-50,K:1", "--order", "confidence", "--per-call", "2")
    sequence = [*records("designs/designs.fasta").values()][1]
    assert sequence[:16] == sequence[17:] and not set(sequence) & set("CML")
    made(
        capsys,
        *common,
        "--position-bias",
        "bias.csv",
        "--sequence",
        "given.fasta",
        "--design",
        "B:101-110",
        "--order",
        "random",
    )
    native, sequence = records("designs/designs.fasta").values()
    assert native[:16] == sequence[:16] == "G" * 16 and sequence[17] == "W" and sequence[27:] == CHAINS[10:]
    made(capsys, *common, "--chains", "B", "--weights", "model", "--guidance", "2")
    assert len([*records("designs/designs.fasta").values()][1]) == 16
    weights = next(Path("run/checkpoints").glob("step_*/ema_*.safetensors"))
    for given in (str(weights), str(weights.parent)):
        made(capsys, *common, "--weights", given, "--out", "by_file")
    made(capsys, *common, "--out", "by_name")
    made(capsys, *common, "--run", str(weights.parent), "--out", "by_run")
    assert records("by_file/designs.fasta") == records("by_name/designs.fasta") == records("by_run/designs.fasta")


def test_notes(capsys):
    lines = Path("dimer.pdb").read_text().splitlines()
    Path("broken.pdb").write_text(
        "\n".join(x for x in lines if not (x[12:16].strip() == "C" and x[22:26] in ("   4", "   5")))
    )
    assert run(["design", "broken.pdb", "--run", "run", "--guidance", "1.5"]) == 0
    notes = capsys.readouterr().err.splitlines()
    assert "broken: 2 residues without all of N, CA, C and O keep their amino acids" in notes[0]
    assert "run was trained without dropping the backbone" in notes[1]
    assert {sequence[3:5] for sequence in records("designs/designs.fasta").values()} == {"LA"}


def test_help_names_every_option(capsys):
    text = made(capsys, "--help")
    assert all(f"--{x}" in text for x in ("chains", "fixed", "tie", "position-bias", "guidance", "order", "weights"))


# ---------------------------------------------------------------------------------------------------------- bad input


def refused(capsys, *arguments: str) -> str:
    """The message of a call that is a mistake: one line, nothing printed, nothing designed."""
    code = run(["design", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not Path("designs/designs.fasta").exists()
    return err


MISTAKES = [
    (["nothing.pdb"], ["nothing.pdb"]),
    (["text.pdb"], ["text.pdb", "structure"]),
    (["dna.pdb"], ["dna.pdb", "no protein chain"]),
    (["flat.pdb"], ["flat.pdb", "chain A has no CA"]),
    (["dimer.pdb", "--chains", "C"], ["no protein chain 'C'", "['A', 'B']"]),
    (["dimer.pdb", "--chains", ""], ["no chain is named"]),
    (["dimer.pdb", "--model", "3"], ["dimer.pdb has no model 3"]),
    (["dimer.pdb", "--fixed", "A:10-99"], ["no residue 99", "1-16"]),
    (["dimer.pdb", "--fixed", "10-12"], ["names no chain"]),
    (["dimer.pdb", "--design", "A:9-2"], ["reversed"]),
    (["dimer.pdb", "--fixed", "A,B"], ["dimer: nothing is left to design"]),
    (["dimer.pdb", "--design", "A:3", "--fixed", "A"], ["dimer: nothing is left to design"]),
    (["dimer.pdb", "--sequence", "short.fasta"], ["short.fasta has 3 letters for dimer, which has 32 residues"]),
    (["dimer.pdb", "--sequence", "none.fasta"], ["none.fasta does not exist"]),
    (["dimer.pdb", "--sequence", "text.pdb"], ["text.pdb is no FASTA file"]),
    (["dimer.pdb", "--n", "0"], ["--n is at least 1, got 0"]),
    (["dimer.pdb", "--n", "some"], ["--n", "'some'"]),
    (["dimer.pdb", "--batch-size", "0"], ["--batch-size is at least 1, got 0"]),
    (["dimer.pdb", "--temperature", "-1"], ["temperature", "-1"]),
    (["dimer.pdb", "--temperature", "nan"], ["--temperature is nan"]),
    (["dimer.pdb", "--order", "sideways"], ["'sideways'", "grid, random, confidence"]),
    (["dimer.pdb", "--per-call", "2"], ["--per-call goes with"]),
    (["dimer.pdb", "--tie", "A:1-3=B:101"], ["A:1-3 has 3 and B:101 has 1"]),
    (["dimer.pdb", "--tie", "A"], ["one side"]),
    (["dimer.pdb", "--forbid", "B"], ["'B' is no amino acid"]),
    (["dimer.pdb", "--forbid", "ACDEFGHIKLMNPQRSTVWY"], ["every amino acid is forbidden"]),
    (["dimer.pdb", "--bias", "J:1"], ["'J' is no amino acid"]),
    (["dimer.pdb", "--bias", "A=1"], ["'A=1'"]),
    (["dimer.pdb", "--position-bias", "none.csv"], ["none.csv does not exist"]),
    (["dimer.pdb", "--position-bias", "bias.csv"], ["'Z' is no amino acid, in line 1 of bias.csv"]),
    (["dimer.pdb", "--device", "tpu"], ["'tpu'", "auto"]),
    (["dimer.pdb", "--weights", "ema_0.5"], ["no weights 'ema_0.5'", "'ema_0.999'"]),
    (["dimer.pdb", "--weights", "text.pdb"], ["text.pdb is no checkpoint"]),
    (["dimer.pdb", "--weights", "none.safetensors"], ["none.safetensors does not exist"]),
    (["dimer.pdb", "--out", "text.pdb"], ["cannot write text.pdb"]),
    (["dimer.pdb", "--frobnicate"], ["--frobnicate", "--help"]),
    (["dimer.pdb", "--run", "nowhere"], ["nowhere is not a run folder"]),
    (["dimer.pdb", "--run", "empty"], ["empty holds no checkpoint yet"]),
    (["dimer.pdb", "--run", "points"], ["points is a run of points/vanilla, which makes point", "experiment=protein/vanilla"]),
    (["dimer.pdb", "--run", "sequences"], ["sequences without a structure", "experiment=protein/vanilla"]),
    (["dimer.pdb", "--run", "damaged"], ["damaged", "checksum differs"]),
    (["dimer.pdb", "--run", "wider"], ["belongs to another network"]),
    (["dimer.pdb", "good.pdb", "text.pdb"], ["text.pdb"]),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: " ".join(value))
def test_mistakes_are_one_line(arguments, said, bad, capsys, monkeypatch):
    monkeypatch.chdir(bad)
    given = [] if "--run" in arguments else ["--run", "run"]
    message = refused(capsys, *arguments, *given)
    assert all(words in message for words in said), message


def test_a_structure_and_a_run_are_needed(capsys):
    assert "--run" in refused(capsys, "dimer.pdb")
    assert "STRUCTURE" in refused(capsys, "--run", "run")
