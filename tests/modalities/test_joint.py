"""A representation that is denoised together with pictures, sequences or molecules."""

from __future__ import annotations

import pytest
import torch

from modalities.image import example as image
from modalities.image.denoiser import SiT
from modalities.image.modality import Image
from modalities.molecule import example as molecule
from modalities.molecule.modality import Molecules
from modalities.molecule.semla import Semla
from modalities.molecule.steerable import Steerable
from modalities.molecule.vocabulary import ATOMS
from modalities.protein import example as protein
from modalities.protein.denoiser import MPNN
from modalities.protein.modality import Protein
from modalities.protein.transformer import SequenceTransformer
from multigen import testing
from multigen.alignment import Alignment
from multigen.diffusion import Diffusion
from multigen.objective import Denoising, Objective
from multigen.process import Gaussian, Masked
from multigen.sampling import Grid, Sampler
from multigen.state import Features, MultigenError

Z = Gaussian("clean", loss_on="velocity")


def pictures(joint):
    modality = Image(size=8, classes=3, joint={"z": [4, 3]} if joint else None, encoders={"z": image.Patches()})
    network = SiT(size=8, patch=4, width=32, depth=2, heads=2, classes=3, joint={"z": 3} if joint else None)
    return modality, image.Noise(), network, {"image": Gaussian("clean", loss_on="velocity")} | ({"z": Z} if joint else {})


def sequences(joint):
    data = protein.Helices()
    modality = Protein(neighbours=6, source=data, joint={"z": 1} if joint else None, encoders={"z": protein.Depth()})
    shape = {"width": 32, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.0, "noise": 0.0}
    network = MPNN(**shape, joint={"z": 1} if joint else None)
    return modality, data, network, {"sequence": Masked(21)} | ({"z": Z} if joint else {})


def unfolded(joint):
    """Sequences whose structures only the teacher sees."""
    data = protein.Helices()
    z = {"z": 1} if joint else None
    modality = Protein(structure=False, neighbours=6, source=data, joint=z, encoders={"z": protein.Depth()})
    network = SequenceTransformer(width=32, depth=2, heads=2, joint=z)
    return modality, data, network, {"sequence": Masked(21)} | ({"z": Z} if joint else {})


class Elements:
    """What each atom is, as a teacher of atoms."""

    fingerprint = "elements"

    def __call__(self, batch):
        value = torch.nn.functional.one_hot(batch.clean["atoms"], ATOMS).float()  # (B, N, K)
        return Features(value, batch.mask["atoms"])

    def to(self, device):
        return self


def molecules(joint, network=Semla, **shape):
    contract, z = molecule.contract(), {"z": ATOMS} if joint else None
    modality = Molecules(source=contract.dataset, rotate=False, joint=z, encoders={"z": Elements()})
    made = network(width=32, edges=16, message=16, layers=3, **shape or {"sets": 8, "heads": 4}, joint=z)
    return modality, contract.dataset, made, dict(contract.processes) | ({"z": Z} if joint else {})


def steered(joint):
    return molecules(joint, Steerable, higher="4x1o + 3x2e", radial=8)


ALL = pytest.mark.parametrize("make", [pictures, sequences, unfolded, molecules, steered])
MAIN = {pictures: "image", sequences: "sequence", unfolded: "sequence", molecules: "atoms", steered: "atoms"}


@ALL
def test_modality_and_network_keep_their_contracts(make):
    modality, data, network, _ = make(joint=True)
    testing.check_modality(modality, data)
    batch = testing.examples(modality, data, range(4))
    assert "z" in batch.clean and "z" not in batch.target and batch.free["z"].equal(batch.mask["z"])
    torch.nn.init.normal_(network.companions.heads["z"].weight)
    testing.check_denoiser(network, batch, network.tap_names)


@ALL
def test_the_rest_of_the_network_begins_as_without(make):
    torch.manual_seed(0)
    plain = make(joint=False)[2].state_dict()
    torch.manual_seed(0)
    joint = make(joint=True)[2].state_dict()
    assert all(torch.equal(plain[name], joint[name]) for name in plain)
    assert {name.split(".")[0] for name in joint.keys() - plain.keys()} == {"companions"}


@ALL
def test_both_are_learned_and_made_together(make):
    modality, data, network, processes = make(joint=True)
    objective = Objective({"denoise": Denoising()})
    testing.learns_one_batch(Diffusion(network, processes, objective), testing.examples(modality, data, range(4)))
    template = modality.template(range(3), seed=1)
    state = Sampler(Grid(3))(network.eval(), processes, template)
    assert set(state) == set(processes) and state["z"].shape == template.clean["z"].shape
    assert state["z"][template.free["z"]].std() > 0 and all(x is not None for x in modality.decode(state, template))


@ALL
def test_a_prediction_depends_on_the_representation_and_its_time(make):
    modality, data, network, _ = make(joint=True)
    batch, main = testing.examples(modality, data, range(2)), MAIN[make]
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    network.eval()

    def predicted(z, time):
        t = {name: torch.full((2,), 0.5) for name in batch.clean} | {"z": torch.full((2,), time)}
        return network({**batch.clean, "z": z}, t, batch.cond, batch.mask).pred[main]

    z = batch.clean["z"]
    first = predicted(z, 0.5)
    assert not torch.equal(first, predicted(z + 1, 0.5)) and not torch.equal(first, predicted(z, 0.9))


def test_a_network_without_its_component_says_so():
    modality, data, network, _ = pictures(joint=True)
    batch = testing.examples(modality, data, range(2))
    with pytest.raises(MultigenError, match="reads component 'z', which the batch lacks; it has \\['image'\\]"):
        network({"image": batch.clean["image"]}, {"image": torch.zeros(2)}, batch.cond, batch.mask)


def test_only_a_sequence_alone_has_no_time():
    for make in (sequences, unfolded):
        assert make(joint=False)[2].timeless and not make(joint=True)[2].timeless


def test_it_may_be_aligned_with_as_well():
    """REG: one representation is denoised, another one aligned to."""
    modality, data, network, processes = pictures(joint=True)
    modality.encoders = {"z": image.Patches(), "y": image.Patches()}
    batch = testing.examples(modality, data, range(4))
    align = Alignment("block1", "y", torch.nn.Linear(32, 3))
    losses = Diffusion(network, processes, Objective({"denoise": Denoising(), "align": align}))(batch, 0)
    assert set(losses.parts) == {"denoise", "denoise/image", "denoise/z", "align"}
