"""Designing a backbone: what is kept, what is tied, what is wished, and what a sequence's score means."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from modalities.protein import wishes
from modalities.protein.alphabet import AMINO_ACIDS, CLASSES, MASK, tokens
from modalities.protein.denoiser import MPNN
from modalities.protein.design import Designer, _hidden, design
from modalities.protein.example import helix
from modalities.protein.modality import Protein, preference
from modalities.protein.results import Results, log_likelihood, recovery, summary, write
from modalities.protein.structure import Structure, read_structure
from modalities.protein.task import Task, ties
from multigen.guidance import Guidance
from multigen.process import Gaussian, Masked
from multigen.random import keys
from multigen.state import MultigenError
from multigen.unmasking import Unmasking

PROCESSES = {"sequence": Masked(CLASSES)}
HOT = Unmasking(temperature=1.0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = MPNN(width=16, encoder_layers=1, decoder_layers=1)
    with torch.no_grad():
        made.W_out.weight.mul_(3)  # predictions that differ from place to place
    return made


def structure_of(*chains: str, lost: tuple[int, ...] = ()) -> Structure:
    """Helices with these sequences, numbered from 1; `lost` rows have no O."""
    sizes = [len(chain) for chain in chains]
    backbone = np.concatenate([helix(n, i) + 12 * i for i, n in enumerate(sizes)]).astype(np.float32)
    backbone[list(lost), 3] = np.nan
    number = np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in sizes])
    return Structure(
        name="made",
        sequence=tokens("".join(chains)),
        backbone=backbone,
        chain=np.repeat(np.arange(len(sizes), dtype=np.int16), sizes),
        index=number,
        chains=tuple("ABC"[: len(sizes)]),
        labels=tuple(map(str, number)),
    )


DIMER = structure_of("MKVLAAGIVG", "MKVLAAGIVG")


def sequences(designs) -> list[str]:
    return [made.sequence for made in designs]


# ------------------------------------------------------------------------------------------------------------- designs


@pytest.mark.parametrize("order", ["grid", "random", "confidence"])
def test_a_design_is_a_function_of_seed_and_number(network, order):
    how = replace(HOT, order=order)
    made = design(network, PROCESSES, DIMER, 5, sampler=how, batch_size=5)
    assert len(set(sequences(made))) == 5
    for part in (
        design(network, PROCESSES, DIMER, 5, sampler=how, batch_size=2),
        design(network, PROCESSES, DIMER, 2, 0, how),
    ):
        assert sequences(part) == sequences(made)[: len(part)]
        assert np.allclose(part[1].confidence, made[1].confidence, atol=1e-5)
    assert sequences(design(network, PROCESSES, DIMER, 5, seed=1, sampler=how)) != sequences(made)


def test_the_encoder_runs_once_for_all(network, monkeypatch):
    calls = []
    encode = MPNN.encode
    monkeypatch.setattr(MPNN, "encode", lambda self, cond: calls.append(len(cond["backbone"])) or encode(self, cond))
    designer = Designer(network, PROCESSES, DIMER, batch_size=2)
    designer.score(sequences(designer.design(5)))
    assert calls == [1]
    Designer(network, PROCESSES, DIMER, Unmasking(guide=Guidance(2.0)), batch_size=2).design(3)
    assert calls == [1, 1, 1]  # with the backbone, and without


def test_sharing_the_encoder_changes_nothing(network):
    batch = Protein(neighbours=30).to_design([DIMER.example()] * 3, keys(4, range(3), "sample"))
    network.eval()
    state = HOT(network, PROCESSES, batch)
    made = design(network, PROCESSES, DIMER, 3, 4, HOT)
    assert [tokens(one).tolist() for one in sequences(made)] == state["sequence"].tolist()
    assert np.allclose([one.confidence for one in made], state["sequence.confidence"], atol=1e-5)


def test_the_mode_of_the_network_is_restored(network):
    network.train()
    assert sequences(design(network, PROCESSES, DIMER, 1)) == sequences(design(network, PROCESSES, DIMER, 1))
    assert network.training
    network.eval()


@pytest.mark.parametrize("order", ["grid", "random", "confidence"])
def test_what_is_not_asked_for_never_changes(network, order):
    structure = structure_of("MKVLXAGIVG", "XWWWWWWWWY", lost=(3, 12))
    asked = wishes.wanted(structure, design="A,B:1-4", fixed="A:1-2,A:10")
    task = Task(structure, asked)
    kept = ~asked | ~task.known
    assert task.lost.nonzero()[0].tolist() == [3, 12]
    for one in design(network, PROCESSES, task, 4, sampler=replace(HOT, order=order, per_call=2)):
        letters, native = np.array(list(one.sequence)), np.array(list(structure.letters()))
        assert (letters[kept] == native[kept]).all() and (one.free == ~kept).all()
        assert (one.confidence[kept] == 1).all() and (one.confidence[~kept] < 1).all()
        assert set(letters[~kept]) <= set(AMINO_ACIDS)  # unknown residues that have a backbone are made
        assert one.native == structure.letters() and one.name == "made"


def test_guidance_and_temperature_reach_the_sampler(network):
    plain = sequences(design(network, PROCESSES, DIMER, 2, sampler=HOT))
    assert sequences(design(network, PROCESSES, DIMER, 2, sampler=replace(HOT, guide=Guidance(4.0)))) != plain
    sure = sequences(design(network, PROCESSES, DIMER, 2, sampler=replace(HOT, temperature=0.0, order="confidence")))
    assert sure[0] == sure[1]


def test_progress_counts_every_residue_and_score(network):
    told = []
    designer = Designer(network, PROCESSES, Task(DIMER, wishes.wanted(DIMER, fixed="B")), HOT, batch_size=2)
    made = designer.design(3, progress=told.append)
    assert sum(told) == 3 * 10
    designer.score(sequences(made), masks=4, progress=told.append)
    assert sum(told) == 3 * 10 + 3 * 4


@pytest.mark.parametrize(
    ("processes", "words"),
    [({"point": Gaussian("velocity")}, "point"), ({"sequence": Masked(5)}, "21 classes")],
    ids=["points", "classes"],
)
def test_another_kind_of_network_is_refused(network, processes, words):
    with pytest.raises(MultigenError, match=words):
        design(network, processes, DIMER)


@pytest.mark.parametrize("numbers", [{"n": 0}, {"n": -1}, {"batch_size": 0}])
def test_numbers_are_at_least_one(network, numbers):
    with pytest.raises(MultigenError, match="at least 1"):
        design(network, PROCESSES, DIMER, **numbers)


# ---------------------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("order", ["grid", "random", "confidence"])
def test_tied_residues_are_the_same(network, order):
    task = Task(DIMER, tie=ties(["A:1-6=B:1-6", "A:5=A:9"], DIMER))
    for one in design(network, PROCESSES, task, 4, sampler=replace(HOT, order=order)):
        first, second = one.sequence[:10], one.sequence[10:]
        assert first[:6] == second[:6] and first[6:] != second[6:] and first[4] == first[8]


def test_a_tie_to_what_is_given(network):
    task = Task(DIMER, wishes.wanted(DIMER, fixed="A:1-3"), tie=ties(["A=B"], DIMER))
    one = design(network, PROCESSES, task, sampler=HOT)[0]
    assert one.sequence[10:13] == "MKV" and not one.free[10:13].any() and one.sequence[:10] == one.sequence[10:]


def test_a_tied_residue_without_atoms_follows(network):
    structure = structure_of("MKVLAAGIVG", "MKVLAAGIVG", lost=(12,))
    task = Task(structure, tie=ties(["A=B"], structure))
    one = design(network, PROCESSES, task, sampler=HOT)[0]
    assert one.sequence[:10] == one.sequence[10:] and one.free[12] and not task.lost.any()
    assert one.confidence[12] == one.confidence[2]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["A=B:1-9"], "A has 10 and B:1-9 has 9"),
        (["A"], "one side"),
        (["A=C"], "'C'"),
        (["A:1-2=B:10-11"], "no residue 11"),
        (["A="], "names no chain"),
    ],
)
def test_ties_that_cannot_be(texts, words):
    with pytest.raises(MultigenError, match=words):
        ties(texts, DIMER)


def test_ties_between_different_given_residues():
    structure = structure_of("MKVL", "MWVL")
    with pytest.raises(MultigenError, match="A:2 and B:2 are tied, and are given as K and W"):
        Task(structure, wishes.wanted(structure, design="A:1"), tie=ties(["A=B"], structure))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fixed": "A,B"}, "nothing is left to design: all its residues are fixed"),
        ({"design": "A:4", "fixed": None}, "none of the chosen residues has all of N, CA, C and O"),
    ],
)
def test_nothing_left(options, words):
    structure = structure_of("MKVL", "MWVL", lost=(3,))
    with pytest.raises(MultigenError, match=words):
        Task(structure, wishes.wanted(structure, **options))


def test_nothing_left_but_what_is_tied():
    with pytest.raises(MultigenError, match="tied to fixed ones"):
        Task(DIMER, wishes.wanted(DIMER, design="A"), tie=ties(["A=B"], DIMER))


def test_arrays_of_another_length():
    with pytest.raises(MultigenError, match=r"wanted has shape \(3,\), expected \(20,\)"):
        Task(DIMER, np.ones(3, bool))
    with pytest.raises(MultigenError, match="bias has shape"):
        Task(DIMER, bias=torch.zeros(3, 21))


# --------------------------------------------------------------------------------------------------------------- wishes


def test_forbidden_and_preferred_amino_acids(network, tmp_path):
    table = tmp_path / "bias.csv"
    table.write_text("residue,amino acid,value\n\n# a comment\nA:1-3,w,50\nB,P,50\nB:10,P,-inf\n")
    bias = preference("CM", {"G": -50}) + wishes.position_bias(table, DIMER)
    for one in design(network, PROCESSES, Task(DIMER, bias=bias), 4, sampler=HOT):
        assert one.sequence[:3] == "WWW" and one.sequence[10:19] == "P" * 9 and one.sequence[19] != "P"
        assert not set(one.sequence) & set("CMG")


def test_every_amino_acid_forbidden():
    bias = torch.zeros(20, CLASSES)
    bias[13] = -torch.inf
    with pytest.raises(MultigenError, match="forbidden for residue B:4"):
        Task(DIMER, bias=bias)
    Task(DIMER, wishes.wanted(DIMER, fixed="B"), bias)  # nobody asks there


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A:x", "'x' is no number"),
        ("J:1", "'J' is no amino acid"),
        ("A", "'' is no number"),
        ("A:nan", "'nan' is no"),
        ("", "''"),
    ],
)
def test_biases_that_cannot_be_read(text, words):
    with pytest.raises(MultigenError, match=words):
        wishes.amino_acid_bias(text)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("A:1,W", "line 2 of .*'A:1,W', expected three fields"),
        ("A:1,B,2", "'B' is no amino acid, in line 2"),
        ("A:1,W,much", "'much' is no number, in line 2"),
        ("A:99,W,1", "no residue 99"),
        ("A:1,,1", "expected three fields"),
    ],
)
def test_tables_that_cannot_be_read(line, words, tmp_path):
    (tmp_path / "bias.csv").write_text(f"A:1,A,1\n{line}\n")
    with pytest.raises(MultigenError, match=words):
        wishes.position_bias(tmp_path / "bias.csv", DIMER)


@pytest.mark.parametrize(
    "text", [">x\nMKVLA\nAGIVG/mkvlaagivg*\n", ">a\nMKVLAAGIVG\n>b\nMKVLAAGIVG", ">x\r\nMKVLAAGIVGMKVLA AGIVG\r\n"]
)
def test_a_sequence_in_each_form(text, tmp_path):
    (tmp_path / "x.fasta").write_text(text)
    assert (wishes.given_sequence(tmp_path / "x.fasta", DIMER) == DIMER.sequence).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MKV", "no FASTA file"),
        ("", "no FASTA file"),
        (">x\nMKV\n", "3 letters for made, which has 20 residues"),
        (">x\nMKVLAAGIVG/MKV\n", "3 letters for chain B of made, which has 10 residues"),
        (">x\nM/K/V\n", "3 sequences; made has 2 chains"),
        (">x\nMKVLAAGIVG/MKVLAAGIV1\n", "'1' is no amino acid"),
    ],
)
def test_sequences_that_do_not_fit(text, words, tmp_path):
    (tmp_path / "x.fasta").write_text(text)
    with pytest.raises(MultigenError, match=words):
        wishes.given_sequence(tmp_path / "x.fasta", DIMER)


# --------------------------------------------------------------------------------------------------------------- scores


def test_a_score_is_the_mean_over_all_orders(network):
    """Against every order in which three residues can be revealed, one network call for each step of each."""
    structure = structure_of("MKVLAA")
    designer = Designer(network, PROCESSES, Task(structure, wishes.wanted(structure, design="A:2,A:4-5")))
    batch = Protein().to_design([structure.example()], torch.zeros(1, dtype=torch.long))
    native, places, total = batch.clean["sequence"], [1, 3, 4], 0.0
    for order in itertools.permutations(places):
        for step, place in enumerate(order):
            noisy = native.clone()
            noisy[0, list(order[step:])] = MASK
            with torch.no_grad():
                logits = network({"sequence": noisy}, {}, batch.cond, batch.mask).pred["sequence"][0, place, :20]
            total += float(logits.log_softmax(-1)[native[0, place]]) / (6 * 3)
    assert abs(designer.score([structure.letters()], masks=1000)[0] - total) < 0.02
    assert designer.score(["MKVLAA", "MRVLAA"])[0] == designer.score(["MKVLAA"])[0]  # whatever else is asked


def test_as_many_draws_as_residues_hide_each_number_once():
    scored = torch.arange(12) % 3 > 0  # (12,)
    hidden = _hidden(scored, 8, 0)
    assert hidden.sum(1).tolist() == list(range(1, 9)) and not (hidden & ~scored).any()
    assert not torch.equal(hidden, _hidden(scored, 8, 1))


def test_scores_of_what_cannot_be_scored(network):
    structure = structure_of("XKVL")
    designer = Designer(network, PROCESSES, Task(structure, wishes.wanted(structure, design="A:1")))
    assert np.isnan(designer.score(["AKVL"])[0])
    with pytest.raises(MultigenError, match="has 4 residues, a sequence to score has 3"):
        Designer(network, PROCESSES, structure).score(["AKV"])


def test_a_score_ignores_wishes(network):
    bias = preference("MK") + torch.zeros(20, 1)
    plain = Designer(network, PROCESSES, DIMER).score([DIMER.letters()])
    wished = Designer(network, PROCESSES, Task(DIMER, bias=bias), Unmasking(guide=Guidance(3.0))).score([DIMER.letters()])
    assert np.isfinite(plain).all() and np.allclose(plain, wished, atol=1e-6)


def test_measures_of_a_design(network):
    structure = structure_of("MKVX")
    task = Task(structure, wishes.wanted(structure, fixed="A:1"))
    one = design(network, PROCESSES, task)[0]._replace(sequence="MKLA", confidence=np.array([1, 0.5, 0.25, 1], np.float32))
    assert recovery(one) == 0.5  # the unknown native residue does not count
    assert log_likelihood(one) == pytest.approx(np.log([0.5, 0.25, 1]).mean())


# -------------------------------------------------------------------------------------------------------------- results


def test_files(network, tmp_path):
    structure = structure_of("MKVLAAGIVG", "XKVLAAGIVG", lost=(3,))
    designer = Designer(network, PROCESSES, Task(structure, wishes.wanted(structure, fixed="A:1-2")), HOT)
    made = designer.design(3)
    native, *scores = designer.score([structure.letters(), *sequences(made)]).tolist()
    results = Results(designer.task, made, scores, native, {"seed": 0, "temperature": "1"})
    write(results, tmp_path)
    names = {"designs.fasta", "designs.csv", "confidence.csv", "designs.png", *(f"design_{i}.pdb" for i in (1, 2, 3))}
    assert {path.name for path in tmp_path.iterdir()} == names
    fasta = (tmp_path / "designs.fasta").read_text().splitlines()
    assert fasta[0] == f">made native length=20 designed=17 score={native:.4f}" and fasta[1] == "MKVLAAGIVG/XKVLAAGIVG"
    assert fasta[2].startswith(">made_1 number=1 seed=0 temperature=1 recovery=") and f"score={scores[0]:.4f}" in fasta[2]
    assert fasta[3].replace("/", "") == made[0].sequence and len(fasta) == 8
    table = (tmp_path / "designs.csv").read_text().splitlines()
    assert table[0] == "name,number,seed,temperature,recovery,log_likelihood,score,confidence,sequence" and len(table) == 4
    rows = [line.split(",") for line in (tmp_path / "confidence.csv").read_text().splitlines()]
    assert rows[0][:6] == ["chain", "residue", "native", "designed", "design_1", "confidence_1"] and len(rows) == 21
    assert (
        rows[1][:4] == ["A", "1", "M", "0"] and rows[11][:4] == ["B", "1", "X", "1"] and rows[4][3:6] == ["0", "L", "1.0000"]
    )
    back = read_structure(tmp_path / "design_2.pdb")
    assert back.letters() == made[1].sequence and np.allclose(back.backbone[0], structure.backbone[0], atol=1e-3)
    assert "3 designs of made, recovery" in summary([results]) and "native score" in summary([results])


def test_designs_of_a_larger_call_are_removed(network, tmp_path):
    (tmp_path / "design_7.pdb").write_text("not ours: no table lies here")
    designer = Designer(network, PROCESSES, DIMER)
    for n in (3, 1):
        made = designer.design(n)
        write(Results(designer.task, made, [float("nan")] * n, float("nan"), {}), tmp_path)
        if n == 3:
            assert (tmp_path / "design_7.pdb").is_file()
    assert sorted(path.name for path in tmp_path.glob("*.pdb")) == ["design_1.pdb"]
    assert "score" not in (tmp_path / "designs.fasta").read_text()
