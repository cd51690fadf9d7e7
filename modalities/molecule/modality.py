"""Molecules as a modality: coordinates, elements, bonds and charges, made together or around a given fragment.

With given atoms, space has an origin and an orientation: theirs. A molecule is therefore centred on its given atoms if it has
any, and on all of its atoms if not; noise has no centre of its own then, and networks, which remove the centre of what they
read, move their prediction so that the given atoms come to lie where they are (`modalities.molecule.denoiser.placed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalities.molecule import drawing, fragments, reporting, sizes, transport, viewing, writing
from modalities.molecule.denoiser import FIXED
from modalities.molecule.sample import Molecule
from modalities.molecule.sizes import Sizes
from modalities.molecule.vocabulary import ATOMS, BONDS, CHARGES
from multigen import random
from multigen.modality import (
    Alternative,
    Dataset,
    Drawn,
    Encoder,
    Example,
    collate_targets,
    encode_text,
    run_encoders,
    unmade,
)
from multigen.random import Noise
from multigen.report import Part
from multigen.state import Batch, MultigenError, State

TEXTS = ("smiles", "name", "caption")
"""Of an example, where it has them."""


class Molecules:
    """Graphs of atoms in space.

    The batch holds in ``clean``: ``coords`` Float (B, N, 3), Angstrom / scale; ``atoms``, ``charges`` Long (B, N); ``bonds``
    Long (B, N, N), of both members of each pair; masks are Bool (B, N), and (B, N, N) without the diagonal. ``cond["fixed"]``
    says which atoms are given, if the modality gives any in training.

    Args:
        scale: Angstrom that become 1: the standard deviation of the data's coordinates.
        source: a data set whose sizes templates are drawn from.
        size: atoms of templates, in place of the source's: a number, a range "6:14", or a list to draw from.
        couple: pair noise with data by equivariant optimal transport, here in the loader's workers.
        rotate: turn each training molecule at random.
        fragment: chance that a training molecule has a connected part of it given.
        joint: representations of the atoms that are made together with the molecule: name -> width.
        encoders: teachers by target name.
    """

    formats = tuple(writing.RECORDS)

    def __init__(
        self,
        scale: float = 2.0,
        source: Dataset | None = None,
        size: Sizes | None = None,
        couple: bool = True,
        rotate: bool = True,
        fragment: float = 0.0,
        joint: Mapping[str, int] | None = None,
        encoders: Mapping[str, Encoder] | None = None,
    ) -> None:
        if scale <= 0:
            raise MultigenError(f"scale is a length in Angstrom, above 0; got {scale}")
        if not 0 <= fragment <= 1:
            raise MultigenError(f"fragment is a probability, got {fragment}")
        self.scale, self.source = scale, source
        self.size = None if size is None else sizes.choices(size, "size")
        self.couple, self.rotate, self.fragment, self.joint = couple, rotate, fragment, dict(joint or {})
        self.encoders: Mapping[str, Encoder] = encoders or {}

    # ------------------------------------------------------------------------------------------------------- batches

    def collate(self, examples: Sequence[Example], keys: Sequence[int]) -> Batch:
        key = torch.tensor(keys)  # (B,)
        fixed = [self._fixed(example, k) for example, k in zip(examples, keys, strict=True)]
        places = [self._placed(e, f, k) for e, f, k in zip(examples, fixed, keys, strict=True)]  # (N_i, 3) each
        batch = _graphs(examples, places, fixed, key)
        prior = {"coords": self._prior(places, fixed, keys, batch.clean["coords"].shape[1])} if self.couple else {}
        cond = {FIXED: ~batch.free["atoms"] & batch.mask["atoms"]} if self.fragment else {}  # (B, N)
        raw = _raw(examples) if self.encoders else {}
        return batch.replace(cond=cond, target=collate_targets(examples), raw=raw, prior=prior)

    def _fixed(self, example: Example, key: int) -> np.ndarray:
        """Atoms that are given: those that the example says, else by chance a connected part: Bool (N,)."""
        if "fixed" in example:
            return np.asarray(example["fixed"], np.bool_)
        noise = Noise(torch.tensor([key])).fold("fragment")
        if not self.fragment or float(noise.uniform()) >= self.fragment:
            return np.zeros(len(example["atoms"]), np.bool_)
        return fragments.drawn(example["bonds"], noise)

    def _placed(self, example: Example, fixed: np.ndarray, key: int) -> np.ndarray:
        """Coordinates in the units and the frame of the network: (N, 3)."""
        coords = np.asarray(example["coords"], np.float64) / self.scale  # (N, 3)
        coords = coords - coords[fixed if fixed.any() else slice(None)].mean(0)  # (N, 3)
        if not self.rotate:
            return coords
        return coords @ _rotation(Noise(torch.tensor([key])).fold("rotation")).T  # (N, 3)

    def _prior(self, places: Sequence[np.ndarray], fixed: Sequence[np.ndarray], keys: Sequence[int], size: int) -> Tensor:
        """Noise in the order and orientation of each molecule: (B, N, 3)."""
        drawn = Noise(torch.tensor(keys)).fold("prior").normal([size, 3], torch.float64).numpy()  # (B, N, 3)
        for noise, at, given in zip(drawn, places, fixed, strict=True):
            free = np.flatnonzero(~given)
            if not len(free):
                continue
            if not given.any():
                noise[free] -= noise[free].mean(0)
            noise[free] = transport.paired(noise[free], at[free], turn=not given.any())
        return torch.from_numpy(drawn).float()  # (B, N, 3)

    def encode(self, batch: Batch) -> Batch:
        return run_encoders(batch, self.encoders, self.joint)

    # ----------------------------------------------------------------------------------------------------- templates

    def template(self, index: Sequence[int], seed: int) -> Batch:
        key = random.keys(seed, index, "sample")  # (B,)
        return self.to_complete([_empty(n) for n in self.sizes(index, seed)], key)

    def to_complete(self, examples: Sequence[Example], key: Tensor) -> Batch:
        """A template around given atoms.

        Args:
            examples: with room for what is to be made, and ``fixed`` Bool (N,).
            key: Long (B,), see `multigen.random.keys`.
        """
        fixed = [np.asarray(e["fixed"], np.bool_) for e in examples]
        places = [
            (np.asarray(e["coords"], np.float64) - _centre(e["coords"], f)) / self.scale * f[:, None]
            for e, f in zip(examples, fixed, strict=True)
        ]  # (N_i, 3) each
        batch = _graphs(examples, places, fixed, key)
        given = self.fragment or any(f.any() for f in fixed)  # a network that never saw any needs them to be in place
        batch = batch.replace(cond={FIXED: ~batch.free["atoms"] & batch.mask["atoms"]} if given else {})
        return unmade(batch, {name: (batch.mask["atoms"], width) for name, width in self.joint.items()})

    def sizes(self, index: Sequence[int], seed: int) -> list[int]:
        """How many atoms each template has, without making it (`multigen.buckets.Sized`)."""
        found = getattr(self.source, "sizes", None) if self.size is None else self.size
        if found is None:
            raise MultigenError("modality.size: how many atoms? give a number, or a source whose sizes are drawn")
        return sizes.drawn(np.asarray(found), Noise(random.keys(seed, index, "sample")).fold("template"))

    # ------------------------------------------------------------------------------------------------------- samples

    def decode(self, state: State, template: Batch) -> list[Molecule | None]:
        """None for what is not finite or not decided; whether it is a molecule, metrics say."""
        found = {k: x.detach().cpu() for k, x in state.items()}
        return [self._decoded(found, template.mask["atoms"][i].cpu(), i) for i in range(len(template))]

    def _decoded(self, state: State, real: Tensor, i: int) -> Molecule | None:
        coords = state["coords"][i][real] * self.scale  # (N, 3)
        atoms, charges = (state[k][i][real] for k in ("atoms", "charges"))  # (N,) each
        bonds = state["bonds"][i][real][:, real].clone()  # (N, N)
        bonds.fill_diagonal_(0)
        undecided = (atoms >= ATOMS).any() or (charges >= len(CHARGES)).any() or (bonds >= len(BONDS)).any()
        if undecided or not coords.isfinite().all():
            return None
        return Molecule(
            atoms=atoms.numpy().astype(np.int8),
            coords=coords.numpy().astype(np.float32),
            bonds=bonds.numpy().astype(np.int8),
            charges=charges.numpy().astype(np.int8),
        )

    def save(self, samples: Sequence[Molecule | None], folder: Path) -> list[Path]:
        """``molecules.sdf``; what cannot be written as a record is left out."""
        return [writing.write(samples, folder / "molecules.sdf")]

    def write(self, drawn: Drawn, count: int, path: Path) -> Path:
        """One file of all, in the format that its name ends with: .sdf, .smi or .xyz."""
        return writing.write([sample for some, _ in drawn for sample in some], path)

    def draw(self, samples: Sequence[Molecule | None], path: Path) -> Path:
        return drawing.draw(samples, path)

    @staticmethod
    def alternatives(config: dict[str, Any]) -> dict[str, Alternative]:
        """Without optimal transport; with a dense EGNN as wide and deep, where the network has a width."""
        uncoupled = {**config, "modality": {**config["modality"], "couple": False}}
        found = {"coupling": Alternative("with optimal transport / without", uncoupled)}
        same = {k: config["denoiser"][k] for k in ("width", "edges", "message", "layers", "joint") if k in config["denoiser"]}
        if "width" not in same:
            return found
        plain = {**config, "denoiser": {"_target_": "modalities.molecule.egnn.EGNN", **same}}
        return {**found, "egnn": Alternative("the network / a dense EGNN as wide and deep", plain)}

    @staticmethod
    def parts() -> list[Part]:
        """What the report of a run shows besides what all show: valences, molecules that can be turned, completions."""
        return [*viewing.parts(), *reporting.parts()]


def _graphs(examples: Sequence[Example], places: Sequence[Any], fixed: Sequence[Any], key: Tensor) -> Batch:
    """Padded components, with masks of what is real and of what is to be made."""
    size = max(len(e["atoms"]) for e in examples)
    atoms, charges, coords, bonds, real, free = (
        torch.zeros(len(examples), *shape, dtype=dtype)
        for shape, dtype in (
            ((size,), torch.long),
            ((size,), torch.long),
            ((size, 3), torch.float),
            ((size, size), torch.long),
            ((size,), torch.bool),
            ((size,), torch.bool),
        )
    )
    for i, (example, at, given) in enumerate(zip(examples, places, fixed, strict=True)):
        n = len(example["atoms"])
        atoms[i, :n], charges[i, :n] = (torch.as_tensor(np.asarray(example[k], np.int64)) for k in ("atoms", "charges"))
        coords[i, :n] = torch.as_tensor(at)
        bonds[i, :n, :n] = torch.as_tensor(np.asarray(example["bonds"], np.int64))
        real[i, :n], free[i, :n] = True, torch.as_tensor(~given)
    off = ~torch.eye(size, dtype=torch.bool)  # (N, N)
    pairs = real[:, :, None] & real[:, None] & off  # (B, N, N)
    made = pairs & (free[:, :, None] | free[:, None])  # (B, N, N): a bond is given where both of its atoms are
    clean = {"coords": coords, "atoms": atoms, "bonds": bonds, "charges": charges}
    mask = {"coords": real, "atoms": real, "bonds": pairs, "charges": real}
    return Batch(clean, mask, {"coords": free, "atoms": free, "bonds": made, "charges": free}, key)


def _raw(examples: Sequence[Example]) -> State:
    """What teachers read beside the state: texts as bytes; atoms where they are in the data, in Angstrom, and the hydrogens
    that are not among the atoms (absent where all are)."""
    found: State = {
        name: encode_text([str(e[name]) for e in examples]) for name in TEXTS if name in examples[0]
    }  # (B, C) each
    return found | {name: _padded([e[name] for e in examples]) for name in ("coords", "hydrogens") if name in examples[0]}


def _padded(places: Sequence[Any]) -> Tensor:
    """(N_i, 3) each -> (B, N, 3), NaN where padded."""
    found = torch.full((len(places), max(map(len, places)), 3), torch.nan)  # (B, N, 3)
    for row, at in zip(found, places, strict=True):
        row[: len(at)] = torch.as_tensor(np.asarray(at))
    return found


def _empty(n: int) -> Example:
    """Room for n atoms."""
    return {
        "coords": np.zeros((n, 3)),
        "atoms": np.zeros(n, np.int8),
        "charges": np.zeros(n, np.int8),
        "bonds": np.zeros((n, n), np.int8),
        "fixed": np.zeros(n, np.bool_),
    }


def _centre(coords: Any, fixed: np.ndarray) -> np.ndarray:
    """Of the given atoms, or the origin: (3,)."""
    return np.asarray(coords, np.float64)[fixed].mean(0) if fixed.any() else np.zeros(3)


def _rotation(noise: Noise) -> np.ndarray:
    """A rotation from the uniform distribution, as the matrix of a unit quaternion: (3, 3)."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(noise.normal([4], torch.float64)[0].numpy()).as_matrix()
