"""Teachers of proteins: aligned with residues and neighbours, whatever else stands in the batch."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
import torch

from modalities.protein.encoders import ESM2, ThreeDi
from modalities.protein.encoders.esm2 import SIZES, chains, packed
from modalities.protein.example import Helices, helix
from modalities.protein.modality import Protein
from multigen.modality import Example
from multigen.state import Batch, MultigenError

TINY = (2, 16, 2)
"""Layers, width and heads of the language model that runs here."""


def protein(length: int = 14, seed: int = 0, **changes) -> Example:
    """One chain without anything missing."""
    generator = np.random.default_rng(seed)
    example = {
        "name": f"protein{seed}",
        "sequence": generator.integers(0, 20, length).astype(np.int8),
        "backbone": helix(length, seed),
        "chain": np.zeros(length, np.int16),
        "index": np.arange(length, dtype=np.int32),
    }
    return example | changes


def batch_of(*examples: Example, **options) -> Batch:
    return Protein(neighbours=6, **options).collate(examples, range(len(examples)))


def tiny(**options) -> ESM2:
    return ESM2(**{"pretrained": False, "shape": TINY, **options})


def two_chains(first: int = 9, second: int = 6) -> Example:
    chain = np.repeat([0, 1], [first, second]).astype(np.int16)
    return protein(first + second, chain=chain)


def cut(example: Example, start: int, stop: int) -> Example:
    return {k: v if isinstance(v, str) else v[start:stop] for k, v in example.items()}


# -------------------------------------------------------------------------------------------------- the language model


def test_esm2_gives_one_state_for_each_residue():
    found = tiny()(batch_of(protein(14), protein(5, 1)))
    assert found.value.shape == (2, 14, 16) and found.mask.sum(1).tolist() == [14, 5]
    assert not found.value[1, 5:].any() and found.value[0].std() > 0.1 and not found.value.requires_grad


@pytest.mark.parametrize("tokens", [1, 20, 8192])
def test_esm2_does_not_see_padding(tokens):
    """Not that of a batch, and not how many tokens a call may have."""
    many = [protein(14), protein(5, 1), protein(9, 2)]
    found = tiny(tokens=tokens)(batch_of(*many))
    for row, example in enumerate(many):
        length = len(example["sequence"])
        torch.testing.assert_close(found.value[row, :length], tiny()(batch_of(example)).value[0], rtol=1e-4, atol=1e-5)


def test_esm2_embeds_each_chain_by_itself():
    both, teacher = two_chains(9, 6), tiny()
    found = teacher(batch_of(both, protein(20, 3))).value[0]
    for start, stop in ((0, 9), (9, 15)):
        torch.testing.assert_close(found[start:stop], teacher(batch_of(cut(both, start, stop))).value[0], rtol=1e-4, atol=1e-5)
    mixed = {k: v if isinstance(v, str) else v[torch.arange(15).flip(0).numpy()] for k, v in both.items()}
    assert not torch.allclose(teacher(batch_of(mixed)).value[0].flip(0)[:15], found[:15], atol=1e-3)


def test_esm2_reads_the_letters_that_it_knows():
    """Tokens are fair-esm's own for the same letters, X and mask among them; the padding between them is not read."""
    teacher = tiny()
    ids = teacher.alphabet.encode("ACDEFGHIKLMNPQRSTVWYX<mask>")
    assert teacher.table.tolist() == ids and len(set(ids)) == 22
    states = teacher.embed(torch.tensor([[0, 20, 21, 5]]), torch.tensor([[True, True, True, False]]))
    with torch.no_grad():
        expected = teacher.net(torch.tensor([[0, *teacher.alphabet.encode("AX<mask>"), 2]]), repr_layers=[2])[
            "representations"
        ][2]
    torch.testing.assert_close(states[:, :3], expected[:, 1:-1])


def test_esm2_layers_and_pooling():
    batch = batch_of(protein(14), protein(5, 1))
    everything = tiny().net
    layers = [tiny(layer=k)(batch).value for k in range(3)]
    assert len(everything.layers) == 2 and not torch.allclose(layers[1], layers[2])
    torch.testing.assert_close(layers[2], tiny(layer=-1)(batch).value)
    torch.testing.assert_close(layers[1], tiny(layer=-2)(batch).value)
    ids = tiny().table[batch.clean["sequence"][0]]  # (L,)
    torch.testing.assert_close(layers[0][0], everything.embed_tokens(ids) * 0.88)  # token dropout's scale, nothing masked
    pooled = tiny(pooled=True)(batch)
    assert pooled.value.shape == (2, 16) and pooled.mask.all()
    torch.testing.assert_close(pooled.value[1], layers[2][1, :5].mean(0))


def test_esm2_without_a_structure():
    """The model of sequences: no backbone is needed, and every residue has a state."""
    example = {"name": "s", "sequence": protein()["sequence"]}
    mask = torch.ones(1, 14, dtype=torch.bool)
    clean = torch.from_numpy(example["sequence"].astype(np.int64))[None]
    found = tiny()(Batch({"sequence": clean}, {"sequence": mask}, {"sequence": mask}, torch.zeros(1, dtype=torch.long)))
    torch.testing.assert_close(found.value, tiny()(batch_of(protein())).value)
    assert found.mask.all()


def test_esm2_fingerprints():
    options = [{}, {"layer": 1}, {"layer": 0}, {"pooled": True}, {"seed": 1}, {"shape": (2, 16, 4)}]
    assert len({tiny(**o).fingerprint for o in options}) == len(options)
    assert tiny(layer=-1).fingerprint != tiny(layer=-2).fingerprint


def checkpoint(path, seed: int = 3, shape=TINY, prefix="encoder.sentence_encoder.", **changes):
    """A file as fair-esm publishes them."""
    from esm.model.esm2 import ESM2 as Network

    torch.manual_seed(seed)
    net = Network(*shape)
    options = Namespace(**{"encoder_layers": shape[0], "encoder_embed_dim": shape[1], "encoder_attention_heads": shape[2]})
    state = {f"{prefix if '_head' not in k else 'encoder.'}{k}": v for k, v in net.state_dict().items() if "contact" not in k}
    torch.save({"cfg": {"model": options}, "model": {**state, **changes}, "args": Namespace(arch="x")}, path)
    return net.eval()


def test_esm2_reads_a_checkpoint(tmp_path):
    """The states are those that fair-esm's own network gives for the same sequence."""
    net = checkpoint(tmp_path / "w.pt")
    teacher, batch = ESM2(path=tmp_path / "w.pt"), batch_of(protein())
    ids = torch.tensor([[0, *teacher.table[batch.clean["sequence"][0]].tolist(), 2]])
    with torch.no_grad():
        expected = net(ids, repr_layers=[2])["representations"][2][:, 1:-1]  # (1, L, D)
    torch.testing.assert_close(teacher(batch).value, expected, rtol=1e-4, atol=1e-5)
    assert teacher.fingerprint == ESM2(path=tmp_path / "w.pt").fingerprint != tiny().fingerprint


class Harmful:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_esm2_refuses_what_is_no_checkpoint(tmp_path, capsys):
    torch.save({"model": Harmful()}, tmp_path / "code.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("weights")
    name = "encoder.sentence_encoder.layers.1.fc1.weight"
    checkpoint(tmp_path / "shape.pt", **{name: torch.zeros(2, 2)})
    reasons = {
        "code": "cannot read the ESM-2 weights .*code.pt",
        "other": "other.pt is no checkpoint of ESM-2: it lacks 'cfg'",
        "text": "cannot read the ESM-2 weights",
        "absent": "cannot read the ESM-2 weights .*absent.pt",
        "shape": r"shape.pt does not fit an ESM-2 of its size: it lacks \['layers.1.fc1.weight'\]",
    }
    for file, reason in reasons.items():
        with pytest.raises(MultigenError, match=reason) as caught:
            ESM2(path=tmp_path / f"{file}.pt")
        assert "\n" not in str(caught.value)
    assert "must not run" not in capsys.readouterr().out


def test_esm2_comes_from_the_hub_once(tmp_path, monkeypatch):
    urls = []

    def fetch(url, path, progress):
        urls.append(url)
        checkpoint(path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert ESM2("esm2_t12_35M_UR50D").fingerprint == ESM2("esm2_t12_35M_UR50D").fingerprint
    assert urls == ["https://dl.fbaipublicfiles.com/fair-esm/models/esm2_t12_35M_UR50D.pt"]


def test_esm2_hub_out_of_reach(tmp_path, monkeypatch):
    from urllib.error import URLError

    def fail(*args, **options):
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(MultigenError, match=r"cannot download https.*8M_UR50D.pt \(.*no route.*\); a local file .* `path`"):
        ESM2()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "esm2_t6_8M"}, "there is no ESM-2 'esm2_t6_8M': did you mean 'esm2_t6_8M_UR50D'"),
        ({"pretrained": False, "shape": TINY, "layer": 3}, r"of 2 layers has features 0 \.\. 2 .*, not 3"),
        ({"pretrained": False, "shape": TINY, "layer": -4}, "not -4"),
        ({"pretrained": False, "shape": (2, 16, 3)}, "width 16 cannot have 3 heads"),
        ({"shape": TINY}, "give pretrained=false"),
        ({"pretrained": False, "shape": TINY, "tokens": 0}, "tokens is at least 1"),
    ],
    ids=lambda x: "" if isinstance(x, str) else None,
)
def test_esm2_options_are_checked(options, message):
    with pytest.raises(MultigenError, match=message):
        ESM2(**options)


def test_published_sizes():
    """The smallest of them, and what the names promise: 7.4 M parameters without the heads that features do not need."""
    teacher = ESM2(pretrained=False)
    assert sum(p.numel() for p in teacher.parameters()) == 7_408_960
    for name, size in SIZES.items():
        assert name.startswith(f"esm2_t{size.layers}_") and size.width % size.heads == 0


def test_chains_are_found_and_packed():
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    chain = torch.tensor([[0, 1, 1, 1], [0, 0, -1, -1]])
    assert [x.tolist() for x in chains(mask, chain)] == [[1, 2, 3], [4, 5], [0]]
    pieces = [torch.zeros(n) for n in (8, 8, 3, 1)]
    assert [[len(p) for p in group] for group in packed(pieces, 20)] == [[8, 8], [3, 1]]
    assert [[len(p) for p in group] for group in packed(pieces, 1)] == [[8], [8], [3], [1]]
    assert chains(mask & False, chain) == [] and list(packed([], 9)) == []


# ----------------------------------------------------------------------------------------------------------------- 3Di


def test_threedi_is_the_published_alphabet():
    from mini3di import Encoder

    example = protein(30)
    n, ca, c, _ = example["backbone"].astype(np.float64).swapaxes(0, 1)
    expected = Encoder().encode_atoms(ca=ca, cb=np.full_like(ca, np.nan), n=n, c=c)
    found = ThreeDi()(batch_of(example, protein(40, 1)))
    assert found.value.shape == (2, 40, 20) and found.mask[0].tolist() == [*~expected.mask, *[False] * 10]
    assert found.value[0].argmax(-1)[found.mask[0]].tolist() == expected[~expected.mask].tolist()
    assert torch.equal(found.value.sum(-1), found.mask.float())


@pytest.mark.parametrize(("what", "width"), [("states", 20), ("latent", 2), ("descriptors", 10)])
def test_threedi_ignores_motion_padding_and_other_chains(what, width):
    both, teacher = two_chains(16, 12), ThreeDi(what)
    found = teacher(batch_of(both, protein(35, 2)))
    assert found.value.shape == (2, 35, width) and found.value.isfinite().all()
    alone = teacher(batch_of(cut(both, 16, 28)))
    torch.testing.assert_close(found.value[0, 16:28], alone.value[0])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    moved = {**both, "backbone": (both["backbone"] @ turn + 7).astype(np.float32)}
    torch.testing.assert_close(teacher(batch_of(moved)).value[0], found.value[0, :28], rtol=1e-3, atol=1e-3)


def test_threedi_without_all_atoms():
    broken = protein(20)
    broken["backbone"][7, 2] = np.nan
    found = ThreeDi("latent")(batch_of(broken, protein(3, 1), protein(1, 2)))
    assert found.value.isfinite().all() and not found.mask[0, [0, 6, 7, 8, 19]].any() and found.mask[0].sum() >= 10
    assert not found.mask[1:].any() and not found.value[~found.mask].any()
    nothing = protein(9, backbone=np.full((9, 4, 3), np.nan, np.float32))
    assert not ThreeDi()(batch_of(nothing)).mask.any()


def test_threedi_options():
    assert len({ThreeDi(what).fingerprint for what in ("states", "latent", "descriptors")}) == 3
    assert ThreeDi().fingerprint == ThreeDi().fingerprint and ThreeDi().to("cpu").what == "states"
    with pytest.raises(MultigenError, match="ThreeDi offers no 'state': did you mean 'states'"):
        ThreeDi("state")
    empty = batch_of(protein()).replace(cond={})
    with pytest.raises(MultigenError, match=r"ThreeDi needs a backbone, the batch has \[\]: is the encoder one of"):
        ThreeDi()(empty)


def test_teachers_see_what_the_network_does_not():
    """The model of sequences keeps the structure for its teachers alone."""
    examples = [Helices()[i] for i in range(3)]
    teacher = ThreeDi()
    given, hidden = batch_of(*examples), batch_of(*examples, structure=False, encoders={"x": teacher})
    assert not hidden.cond
    torch.testing.assert_close(teacher(given).value, teacher(hidden).value)
    assert torch.equal(teacher(given).mask, teacher(hidden).mask)
