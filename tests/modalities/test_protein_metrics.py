"""Metrics of proteins on designs whose numbers can be worked out by hand."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from protein_toys import Sequences, design, differing, helix, made, sequence

from modalities.protein.alphabet import tokens
from modalities.protein.folding import ESMFold, Folded
from modalities.protein.metrics import Composition, Diversity, Judge, Novelty, Recovery, Refolding
from modalities.protein.metrics.composition import divergence, frequencies, longest_run, low_complexity, neighbours
from modalities.protein.metrics.judge import shuffled
from modalities.protein.metrics.recovery import burial, calibration_error, residues
from modalities.protein.metrics.refolding import chains, rmsd, score, tm_score
from modalities.protein.modality import Protein
from multigen.evaluate import Explained
from multigen.random import keys
from multigen.state import MultigenError

NATIVE = sequence(40)


def computed(metric, samples, template=None):
    metric.update(samples[:2], template)
    metric.update(samples[2:], template)
    return metric.compute()


def every(held_out=None, train=None):
    """One of each metric that needs no network."""
    train, held_out = train or Sequences([sequence(30, "t")] * 3), held_out or Sequences([sequence(30, "h")] * 3)
    return [Recovery(), Composition(train, held_out), Diversity(held_out), Novelty(train, held_out), Refolding(stub)]


def stub(letters):
    """Folds everything into a helix, and is sure of it where the sequence has an A."""
    plain = letters.replace(":", "")
    return Folded(helix(len(plain)), np.array([100.0 if a == "A" else 50.0 for a in plain], np.float32))


# ------------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("metric", every(), ids=lambda m: type(m).__name__)
def test_a_metric_explains_each_of_its_measures(metric, tmp_path):
    assert isinstance(metric, Explained)
    found = computed(metric, [design(NATIVE, range(8), 0.5, name=n) for n in "aab"] + [None])
    about = metric.about()
    measures = {k for k in found if not k.endswith(("_real", "_std"))}
    assert measures and measures <= set(about["meaning"])
    assert all(isinstance(v, float) for v in found.values())
    assert all(path.is_file() for path in metric.pictures(tmp_path).values())


@pytest.mark.parametrize("metric", every(), ids=lambda m: type(m).__name__)
def test_a_metric_of_no_valid_sample_has_no_number(metric, tmp_path):
    assert all(math.isnan(value) for value in computed(metric, [None, None, None]).values())
    assert metric.about() and not metric.pictures(tmp_path)


@pytest.mark.parametrize("metric", every(), ids=lambda m: type(m).__name__)
def test_a_metric_takes_sequences_without_a_backbone(metric, tmp_path):
    computed(metric, [made(sequence(n, str(n)), 0.5) for n in (12, 20, 5, 30)])
    metric.about(), metric.pictures(tmp_path)


# --------------------------------------------------------------------------------------------------------------- recovery


def test_recovery_counts_designed_residues_whose_native_one_is_known():
    native = "X" + NATIVE[1:]
    free = np.arange(40) < 20
    found = computed(Recovery(), [design(native, range(1, 6), free=free), design(sequence(10, "s"), range(5), name="two")])
    assert found["recovery"] == pytest.approx((14 + 5) / (19 + 10))
    assert found["recovery_mean"] == pytest.approx((14 / 19 + 0.5) / 2) == found["recovery_median"]
    assert found["recovery_mean_std"] == pytest.approx((14 / 19 - 0.5) / 2)
    assert "confidence" not in found


def test_designs_of_one_protein_count_together_in_the_mean_over_proteins():
    samples = [design(NATIVE, range(10)), design(NATIVE, range(30)), design(sequence(8, "s"), name="two")]
    assert computed(Recovery(), samples)["recovery_mean"] == pytest.approx((0.5 + 1) / 2)


def test_recovery_by_group_and_by_chance():
    found = computed(Recovery(), [design("LLLLKKKKGG", [0, 4, 5, 6])])
    assert found["recovery_aliphatic"] == 0.75 and found["recovery_positive"] == 0.25 and found["recovery_special"] == 1
    assert math.isnan(found["recovery_aromatic"])
    # native 4 L, 4 K, 2 G; made 3 L, 1 K, 2 G, and others
    assert found["recovery_chance"] == pytest.approx(0.4 * 0.3 + 0.4 * 0.1 + 0.2 * 0.2)


def test_burial_counts_alpha_carbons_within_ten_angstrom():
    backbone = helix(40)
    backbone[5] = np.nan
    near = burial(backbone, 40)
    assert near[5] == -1 and near[20] == 12 and near[0] == 5  # six residues are 9 A of helix; the fifth is missing
    assert (burial(None, 3) == -1).all()


def test_confidence_is_that_of_designed_residues():
    confidence = np.where(np.arange(40) < 20, 1.0, 0.25)
    one = design(NATIVE, range(20, 35), confidence, free=np.arange(40) >= 20)
    found = computed(Recovery(), [one])
    assert found["confidence"] == pytest.approx(0.25) == found["recovery"]
    assert found["design_log_likelihood"] == pytest.approx(math.log(0.25))
    assert found["calibration_error"] == pytest.approx(0, abs=1e-7)
    assert calibration_error(np.array([1.0, 1.0, 0.15]), np.array([True, False, False])) == pytest.approx((1 + 0.15) / 3)


def test_recovery_draws_logos_of_backbones_with_several_designs_and_leaves_backbones(tmp_path):
    metric = Recovery(shown=1)
    metric.update([design(NATIVE, name="a"), design(NATIVE, [1], name="a"), design(NATIVE, name="b")], None)
    assert "2 designs for a" in metric.pictures(tmp_path)
    assert (tmp_path / "backbone_1.pdb").is_file() and not (tmp_path / "backbone_2.pdb").is_file()
    assert len(residues(metric.samples).made) == 120


# ------------------------------------------------------------------------------------------------------------- composition


def test_the_reference_itself_has_no_distance():
    rows = [sequence(30, str(i)) for i in range(6)]
    found = computed(Composition(Sequences(rows[3:]), Sequences(rows)), [made(row) for row in rows])
    for name in ("composition_kl", "composition_tv", "dipeptide_tv", "length_distance"):
        assert found[name] == pytest.approx(0, abs=1e-12)
    assert found["composition_tv_real"] > 0 and found["length_distance_real"] == 0


def test_what_frequencies_alone_tell():
    found = computed(Composition(Sequences(["AAAC", "CCDD"]), Sequences(["AD", "AA"])), [made("ACDE")])
    assert found["unigram_nll"] == pytest.approx(-(3 * math.log(3 / 8) + math.log(2 / 8)) / 4)


def test_residues_that_were_given_do_not_count_in_the_composition():
    native = "A" * 10 + "W" * 10
    rows = Sequences(["A" * 10])
    found = computed(Composition(rows, rows), [design(native, free=np.arange(20) < 10)])
    assert found["composition_tv"] == 0 and "length_distance" not in found


def test_frequencies_and_neighbours_leave_unknown_residues_out():
    assert frequencies(["AX", "CA"])[:2] == pytest.approx([2 / 3, 1 / 3])
    pairs = neighbours(["AXC", "AC"])
    assert pairs.sum() == 1 and pairs[1] == 1  # no pair reaches over an unknown residue, or from one sequence to the next
    assert divergence(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == math.inf


def test_low_complexity_and_runs():
    assert low_complexity("A" * 20).all() and not low_complexity("ACDEFGHIKLMNPQRSTVWY").any()
    mixed = low_complexity("A" * 12 + "CDEFGHIKLMNPQRSTVWY")
    assert mixed[:12].all() and not mixed[-8:].any()
    assert longest_run("AACCCXXXXA") == 3 and longest_run("") == 0


# -------------------------------------------------------------------------------------------------- diversity and novelty


def test_diversity_is_the_share_of_designed_residues_that_differ():
    native, free = NATIVE, np.arange(40) < 20
    samples = [design(native, w, free=free) for w in ([], range(5), range(10))]
    found = computed(Diversity(), samples)
    assert found["diversity"] == pytest.approx((5 + 10 + 5) / 3 / 20)
    assert found["distinct"] == 1 and "cluster_share" not in found
    assert computed(Diversity(), [samples[0]] * 4)["distinct"] == 0.25


def test_sequences_are_diverse_if_they_are_no_relatives():
    strange = [sequence(60, str(i)) for i in range(4)]
    kin = [differing(strange[0], range(0, 60, 10 + i)) for i in range(4)]
    held_out = Sequences(strange)
    found = computed(Diversity(held_out), [made(s) for s in kin])
    assert found["cluster_share"] == 0.25 and found["cluster_share_real"] == 1


def test_copies_of_training_sequences_are_found():
    train = [sequence(60, f"t{i}") for i in range(30)]
    held_out = Sequences([sequence(60, f"h{i}") for i in range(5)])
    found = computed(Novelty(Sequences(train), held_out, aligned=3), [made(differing(t, [7])) for t in train[:4]])
    assert found["near_copies"] == 1 and found["novel"] == 0 and found["nearest_train"] > 0.9
    assert found["near_copies_real"] == 0 and found["novel_real"] == 1 and found["nearest_train_real"] == 0
    relative = made(differing(train[0], range(0, 60, 3)))
    found = computed(Novelty(Sequences(train), held_out, aligned=3), [relative])
    assert found["near_copies"] == 0 and found["novel"] == 0 and 0.4 < found["nearest_train"] < 0.8


# ------------------------------------------------------------------------------------------------------------------ judge


class Opinion(torch.nn.Module):
    """Likes residues that are the native ones' neighbours in the alphabet: a function of place and residue alone."""

    def log_likelihood(self, structure, sequence, key, free, orders):
        place = torch.arange(sequence.shape[1])  # (L,)
        assert {"backbone", "known", "chain", "index"} <= set(structure) and free.shape == sequence.shape
        self.keys = [*getattr(self, "keys", []), *key.tolist()]
        return -((sequence - place % 20).abs().double())  # (B, L)


def template(samples):
    rows = [s or design(NATIVE) for s in samples]
    examples = [
        {
            "sequence": tokens(s.native),
            "backbone": s.backbone,
            "chain": s.chain,
            "index": np.arange(len(s.native)),
            "free": s.free,
        }
        for s in rows
    ]
    return Protein().to_design(examples, keys(0, range(len(rows))))


def test_judge_scores_designs_natives_and_shuffled_sequences():
    liked = "".join("ACDEFGHIKLMNPQRSTVWY"[i % 20] for i in range(40))
    free = np.arange(40) != 3
    samples = [design(liked, [3], name="a", free=free), None, design(liked, range(20, 40), name="a", free=free)]
    metric = Judge(variant="toy", model=(opinion := Opinion()), device="cpu", sites=1)
    metric.update(samples, template(samples))
    found = metric.compute()
    assert found["judge_toy_real"] == 0 and found["judge_toy_shuffled"] < -3
    assert found["judge_toy"] == pytest.approx(-sum(7 if i < 13 else 13 for i in range(20)) / 39 / 2)
    assert len(set(opinion.keys)) == 1 and len(opinion.keys) == 4  # two designs, their native sequence, shuffled: one order
    assert found["judge_toy_std"] == pytest.approx(-found["judge_toy"])
    assert metric.about()["reference"][""] == "the native sequences of 1 backbones"
    assert "note" not in metric.about() and "own teacher" in Judge("toy", teacher=True).about()["note"]
    assert set(found) - {"judge_toy_std", "judge_toy_real"} == set(metric.about()["meaning"])


def test_judge_has_no_opinion_without_backbones():
    metric = Judge(variant="toy", model=Opinion(), device="cpu")
    metric.update([made("ACD"), None], None)
    assert all(math.isnan(x) for x in metric.compute().values())


def test_shuffling_moves_marked_residues_only_and_depends_on_the_name_alone():
    row = torch.arange(20)[None].repeat(3, 1)  # (3, 20)
    some = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) < 0.7  # (3, 20)
    found = shuffled(row, some, ["a", "b", "a"])
    assert (found[~some] == row[~some]).all() and not (found == row).all()
    assert (found.sort(1).values == row).all()
    alone = shuffled(row[:1], some[:1], ["a"])
    assert (alone == found[:1]).all() and not (shuffled(row[:1], some[:1], ["a"], seed=1) == alone).all()


# -------------------------------------------------------------------------------------------------------------- refolding


def moved(points, seed=0):
    """Turned and shifted."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return points @ (q * np.sign(np.linalg.det(q))) + np.array([3.0, -20.0, 7.0])


def test_rmsd_is_what_is_left_after_superposition():
    points = helix(25).reshape(-1, 3).astype(float)
    assert rmsd(points, moved(points)) == pytest.approx(0, abs=1e-6)
    assert rmsd(points, points * [1, 1, -1]) > 1  # the mirror image is another molecule
    stretched = rmsd(points, moved(points * 1.1))
    centred = points - points.mean(0)
    assert stretched == pytest.approx(0.1 * math.sqrt((centred**2).sum(1).mean()), rel=1e-6)
    assert math.isnan(rmsd(points[:0], points[:0]))


def test_rmsd_agrees_with_scipy():
    from scipy.spatial.transform import Rotation

    noise = np.random.default_rng(1).normal(size=(2, 30, 3))
    a, b = noise - noise.mean(1, keepdims=True)
    assert rmsd(*noise) == pytest.approx(Rotation.align_vectors(a, b)[1] / math.sqrt(30))


def test_tm_score_is_one_for_equal_structures_and_keeps_residues_in_their_places():
    pytest.importorskip("tmtools")
    ca = helix(40)[:, 1].astype(float)
    ca[20:] = ca[20:] @ np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])  # a kink, so that no shift fits
    assert tm_score(ca, moved(ca)) == pytest.approx(1, abs=1e-3)
    assert tm_score(np.roll(ca, 4, 0), ca) < 0.7
    assert math.isnan(tm_score(ca[:2], ca[:2]))


def test_refolding_counts_successes_and_folds_each_sequence_once():
    pytest.importorskip("tmtools")
    calls = []

    def fold(letters):
        calls.append(letters)
        folded = stub(letters)
        return folded._replace(backbone=moved(folded.backbone) if letters[0] == "A" else folded.backbone * 1.5)

    good, bad = design("A" * 24, name="a"), design("C" * 24, name="b")
    found = computed(Refolding(fold), [good, bad, good, None])
    assert sorted(calls) == ["A" * 24, "C" * 24]
    assert found["refolding_success"] == pytest.approx(2 / 3) == found["plddt_success"]
    assert found["refolding_rmsd_median"] < 0.01 and found["refolding_rmsd"] == pytest.approx(
        found["refolding_rmsd_std"] / 2**0.5
    )
    assert found["plddt"] == pytest.approx(250 / 3) and found["plddt_real"] == 75
    assert found["refolding_tm"] < 1
    assert "plddt_real" not in computed(Refolding(fold, native=False), [good])
    assert computed(Refolding(fold, limit=1), [bad, good])["plddt"] == 50


def test_refolding_compares_what_is_known_of_the_backbone():
    pytest.importorskip("tmtools")
    backbone = helix(30)
    backbone[:10] += 50
    backbone[:10, 2] = np.nan
    assert score(stub("A" * 30), backbone).rmsd == pytest.approx(0, abs=1e-4)
    assert score(stub("A" * 30), None)[2] == 100 and math.isnan(score(stub("A" * 30), None).rmsd)


def test_chains_are_folded_together_and_unknown_residues_as_alanine():
    assert chains("ACXDE", np.array([0, 0, 1, 1, 2])) == "AC:AD:E"


def test_a_folding_program_that_loses_residues_is_refused():
    with pytest.raises(MultigenError, match=r"made \(23, 4, 3\) and \(23,\) of 24 residues"):
        Refolding(lambda s: stub(s[1:])).update([design("A" * 24)], None)


def test_esmfold_reads_the_backbone_of_residues_that_are_no_linkers(monkeypatch):
    fake = types.SimpleNamespace(infer=lambda sequence, num_recycles: output, set_chunk_size=lambda n: None)
    fake.eval = fake.to = lambda *_: fake
    there = torch.zeros(1, 7, 37)
    there[0, [0, 1, 5, 6]] = 1
    output = {
        "positions": torch.arange(2 * 7 * 14 * 3).view(2, 1, 7, 14, 3).float(),
        "plddt": torch.arange(7.0)[None, :, None].expand(1, 7, 37),
        "atom37_atom_exists": there,
    }
    pretrained = types.SimpleNamespace(esmfold_v1=lambda: fake)
    monkeypatch.setitem(sys.modules, "esm", types.SimpleNamespace(pretrained=pretrained))
    folded = ESMFold(device="cpu")("AC:DE")
    assert folded.plddt.tolist() == [0, 1, 5, 6] and folded.backbone.shape == (4, 4, 3)
    assert folded.backbone[1, 2].tolist() == output["positions"][1, 0, 1, 2].tolist()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ModuleNotFoundError("No module named 'openfold'", name="openfold"), "ESMFold needs the package 'openfold'"),
        (OSError("no route"), "ESMFold's weights cannot be fetched: no route"),
    ],
    ids=["package", "weights"],
)
def test_esmfold_that_cannot_be_had_is_one_line(monkeypatch, error, line):
    def refuse():
        raise error

    pretrained = types.SimpleNamespace(esmfold_v1=refuse)
    monkeypatch.setitem(sys.modules, "esm", types.SimpleNamespace(pretrained=pretrained))
    with pytest.raises(MultigenError, match=line):
        ESMFold()("ACD")
