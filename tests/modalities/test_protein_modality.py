"""Chains to batches, backbones to templates, states to sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modalities.protein.alphabet import MASK, UNKNOWN, letters, tokens
from modalities.protein.example import Helices, helix
from modalities.protein.modality import Protein, chains_of, preference, structure_of
from modalities.protein.transformer import SequenceTransformer
from multigen.nn.blocks import rotary
from multigen.process import Masked
from multigen.sampling import Grid
from multigen.state import MultigenError
from multigen.testing import check_denoiser
from multigen.unmasking import Unmasking


def batch_of(modality, n=3):
    return modality.collate([Helices()[i] for i in range(n)], list(range(n)))


def test_tokens_and_letters_are_inverse():
    assert letters(tokens("ACDEFGHIKLMNPQRSTVWYX_")) == "ACDEFGHIKLMNPQRSTVWYX_"
    assert tokens("acdB*Z").tolist() == [0, 1, 2, UNKNOWN, UNKNOWN, UNKNOWN]
    assert tokens("_")[0] == MASK


def test_only_known_residues_with_a_backbone_are_made():
    batch = batch_of(Protein(neighbours=4))
    free, known = batch.free["sequence"], batch.cond["known"]
    assert not free[:, 1].any() and batch.mask["sequence"][:, 1].all()  # X
    assert not known[:, 2].any() and not free[:, 2].any()  # no O
    assert (batch.cond["neighbours"][:, 2] == -1).all() and not (batch.cond["neighbours"] == 2).any()
    assert (batch.cond["backbone"][:, 2] == 0).all() and batch.cond["backbone"].isfinite().all()
    assert free.sum(1).tolist() == [len(Helices()[i]["sequence"]) - 2 for i in range(3)]
    assert torch.equal(batch.cond["neighbours"][:, 0, 0], torch.zeros(3, dtype=torch.long))  # itself first


def test_an_example_says_what_to_design():
    example = Helices()[2]
    wanted = np.zeros(len(example["sequence"]), np.bool_)
    wanted[4:8] = True
    batch = Protein(neighbours=4).collate([{**example, "free": wanted}], [0])
    assert batch.free["sequence"][0].nonzero()[:, 0].tolist() == [4, 5, 6, 7]


def test_without_a_structure_only_teachers_see_it():
    plain = batch_of(Protein(structure=False, neighbours=4))
    assert not plain.cond and not plain.raw and plain.free["sequence"][:, 2].all()
    alone = Protein(structure=False).collate([{"sequence": Helices()[0]["sequence"]}], [0])  # without a backbone
    free = alone.free["sequence"][0]  # (L,)
    assert torch.equal(free, plain.free["sequence"][0, : len(free)])
    taught = batch_of(Protein(structure=False, neighbours=4, encoders={"any": None}))
    assert not taught.cond and set(structure_of(taught)) == {"backbone", "known", "chain", "index", "neighbours", "name"}


def test_templates_are_the_source_s_backbones_in_turn():
    modality = Protein(neighbours=4, source=Helices(), designs=2)
    template = modality.template([0, 1, 2, 17], seed=0)
    assert template.raw["item"].tolist() == [0, 0, 1, 0]
    free = template.free["sequence"]
    assert free[0, 1] and not free[0, 2]  # what is unknown is made, what has no backbone is not
    state = {"sequence": torch.where(free, 3, template.clean["sequence"]), "sequence.confidence": torch.full(free.shape, 0.5)}
    samples = modality.decode(state, template)
    assert [s.name for s in samples] == ["helix0", "helix0", "helix1", "helix0"]
    native = letters(Helices()[0]["sequence"].tolist())
    assert samples[0].native == native and samples[0].sequence == "EE" + native[2] + "E" * (len(native) - 3)
    assert np.isnan(samples[0].backbone[2]).all() and samples[0].confidence.shape == (len(native),)


def test_lengths_are_drawn_given_or_of_a_pattern():
    drawn = Protein(structure=False, source=Helices()).template(range(50), seed=1)
    assert set(drawn.mask["sequence"].sum(1).tolist()) <= set(Helices.sizes.tolist())
    assert len(set(drawn.mask["sequence"].sum(1).tolist())) > 3
    assert Protein(structure=False, length=12).template([0], 0).free["sequence"].sum() == 12
    template = Protein(structure=False, pattern="MK__C").template([0, 1], 0)
    sampler, network = Unmasking(Grid(10)), SequenceTransformer(width=32, depth=1, heads=2)
    state = sampler(network.eval(), {"sequence": Masked(21)}, template)
    made = [s.sequence for s in Protein(structure=False, pattern="MK__C").decode(state, template)]
    assert all(m.startswith("MK") and m.endswith("C") and set(m) <= set("ACDEFGHIKLMNPQRSTVWY") for m in made)


def test_forbidden_amino_acids_are_never_made(tmp_path):
    modality = Protein(structure=False, length=30, forbid="cW", bias={"K": 3.0})
    template = modality.template(range(8), 0)
    state = Unmasking(Grid(20))(SequenceTransformer(width=32, depth=1, heads=2).eval(), {"sequence": Masked(21)}, template)
    made = "".join(s.sequence for s in modality.decode(state, template))
    assert not set("CWX") & set(made) and made.count("K") > 0.4 * len(made)
    [path] = modality.save(modality.decode(state, template), tmp_path)
    lines = path.read_text().splitlines()
    assert len(lines) == 16 and lines[0].startswith(">000000 length=30 confidence=") and len(lines[1]) == 30


def test_what_was_not_made_is_not_a_sample():
    modality = Protein(structure=False, length=4)
    template = modality.template([0, 1], 0)
    made = torch.tensor([[0, 1, 2, 3], [0, 1, MASK, 3]])
    assert modality.decode({"sequence": made}, template)[1] is None


def test_chains_are_told_apart_in_one_line():
    assert chains_of("ABCDE", np.array([0, 0, 1, 1, 2])) == "AB/CD/E"


def test_preference():
    added = preference("w", {"A": 2.0})
    assert added[0] == 2 and added[18] == -np.inf and added[UNKNOWN] == -np.inf and added.isfinite().sum() == 19


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Protein(length=3), "length and pattern are of sequences without a structure"),
        (lambda: Protein(structure=False, pattern="MK1_"), "pattern has '1'"),
        (lambda: Protein(structure=False, pattern="MKL"), "leaves nothing to be made"),
        (lambda: Protein(forbid="B"), "'B' is no amino acid; choices are ACDEFGHIKLMNPQRSTVWY"),
        (lambda: Protein(forbid="ACDEFGHIKLMNPQRSTVWY"), "every amino acid is forbidden"),
        (lambda: Protein().template([0], 0), "which backbones are to be designed"),
        (lambda: Protein(structure=False).template([0], 0), "how long are sequences to be"),
        (lambda: SequenceTransformer(width=30, heads=4), "must be an even multiple of the 4 heads"),
        (lambda: SequenceTransformer(window=4), "window 4 must be odd, or 0 for none"),
    ],
    ids=["length", "letter", "full", "forbid", "all", "source", "lengths", "heads", "window"],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(MultigenError, match=message):
        make()


@pytest.mark.parametrize("window", [0, 5])
def test_sequence_transformer_follows_the_contract(window):
    modality = Protein(structure=False)
    network = SequenceTransformer(width=32, depth=2, heads=2, window=window)
    for parameter in network.parameters():  # the last layer starts at zero, which would pass every test
        torch.nn.init.normal_(parameter, std=0.1)
    check_denoiser(network, batch_of(modality), network.tap_names)
    noisy, mask = {"sequence": torch.full((1, 6), MASK)}, {"sequence": torch.ones(1, 6, dtype=torch.bool)}
    first, second = (network(noisy, {"sequence": torch.tensor([t])}, {}, mask).pred["sequence"] for t in (0.1, 0.9))
    assert torch.equal(first, second)


def predicted(network: SequenceTransformer, chain: torch.Tensor) -> torch.Tensor:
    return network({"sequence": chain}, {"sequence": torch.tensor([0.5])}, {}, {"sequence": chain >= 0}).pred["sequence"]


def test_sequence_transformer_turns_queries_and_keys_by_their_place(monkeypatch):
    torch.manual_seed(0)
    network, chain = SequenceTransformer(width=32, depth=1, heads=2), torch.randint(20, (1, 12))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    turned = predicted(network, chain)
    monkeypatch.setattr("modalities.protein.transformer.rotary", lambda width, place: rotary(width, 0 * place))
    assert not torch.allclose(predicted(network, chain), turned, atol=1e-3)


def test_without_attention_a_residue_is_seen_as_far_as_the_convolution_reaches():
    torch.manual_seed(0)
    network, chain = SequenceTransformer(width=32, depth=1, heads=2, window=17), torch.randint(20, (1, 40))
    torch.nn.init.normal_(network.head.weight)  # zero at first, as the gates of the block are, which stay so
    other = chain.clone()
    other[0, 20] = (chain[0, 20] + 1) % 20
    changed = (predicted(network, chain) - predicted(network, other)).abs().amax(-1) > 0  # (1, L)
    assert changed[0].nonzero().flatten().tolist() == list(range(20 - 8, 20 + 8 + 1))


def test_helix_has_the_distances_of_a_backbone():
    ca = helix(20)[:, 1]
    assert 3 < np.linalg.norm(np.diff(ca, axis=0), axis=-1).mean() < 4.6
