"""Protein sequences as a modality: one masked component, designed for a backbone or made without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modalities.protein import drawing
from modalities.protein.alphabet import CLASSES, LETTERS, MASK, UNKNOWN, letters, tokens
from modalities.protein.features import nearest
from modalities.protein.sample import Designed
from modalities.protein.targets import target_sites
from multigen import random
from multigen.files import write_text
from multigen.modality import Dataset, Encoder, Example, collate_targets, encode_text, run_encoders, unmade
from multigen.random import Noise
from multigen.report import Part
from multigen.state import Batch, MultigenError, State, at_least

_CA = 1
_NAME = "sequence"


def structure_of(batch: Batch) -> State:
    """What teachers read of the structure, whether the network sees it or not.

    Returns:
        ``backbone`` Float (B, L, 4, 3) in Angstrom, 0 where missing; ``known`` Bool (B, L), residues with all four atoms;
        ``chain`` and ``index`` Long (B, L); ``neighbours`` Long (B, L, K), nearest known residues first, then -1.
    """
    return {**batch.raw, **batch.cond}


class Protein:
    """Sequences of residues, with backbones as conditions (inverse folding) or without.

    The batch holds ``clean["sequence"]``: Long (B, L), tokens of `modalities.protein.alphabet`, and what `structure_of`
    returns: in ``cond``, or in ``raw`` for teachers alone. Residues without a whole backbone and unknown ones (X) are given.

    Args:
        structure: condition on the backbone.
        neighbours: K, residues that each residue sees.
        source: what templates are made from. With a structure, the backbones to design, one after another; without one, a data
            set whose lengths are drawn from.
        designs: sequences for each backbone, sample i is of backbone i // designs.
        length: residues of templates without a structure, in place of the source's.
        pattern: letters to keep and ``_`` to make, for templates without a structure (in-filling).
        forbid: amino acids that are never made.
        bias: amino acid -> what is added to its logit when sampling.
        joint: representations of the residues that are made together with the sequence: name -> width.
        encoders: teachers by target name.
    """

    def __init__(
        self,
        structure: bool = True,
        neighbours: int = 30,
        source: Dataset | None = None,
        designs: int = 1,
        length: int | None = None,
        pattern: str | None = None,
        forbid: str = "",
        bias: Mapping[str, float] | None = None,
        joint: Mapping[str, int] | None = None,
        encoders: Mapping[str, Encoder] | None = None,
    ) -> None:
        at_least(1, neighbours=neighbours, designs=designs)
        if length is not None:
            at_least(1, length=length)
        if structure and (length is not None or pattern is not None):
            raise MultigenError("length and pattern are of sequences without a structure; a backbone brings its own")
        if pattern is not None and (strange := sorted(set(pattern) - set(LETTERS))):
            raise MultigenError(f"pattern has {strange[0]!r}; it is written in {LETTERS}, where _ is to be made")
        if pattern is not None and "_" not in pattern:
            raise MultigenError("pattern leaves nothing to be made: write _ for the residues to fill in")
        self.structure, self.neighbours, self.source, self.designs = structure, neighbours, source, designs
        self.length, self.pattern, self.joint = length, pattern, dict(joint or {})
        self.encoders: Mapping[str, Encoder] = encoders or {}
        self.preference = preference(forbid, bias or {})  # (21,)

    # ------------------------------------------------------------------------------------------------------- batches

    def collate(self, examples: Sequence[Example], keys: Sequence[int]) -> Batch:
        longest = max(len(e["sequence"]) for e in examples)
        clean = _pad([e["sequence"] for e in examples], longest, np.int64)  # (B, L)
        mask = _pad([np.ones(len(e["sequence"]), np.bool_) for e in examples], longest, np.bool_)  # (B, L)
        found = self._structure(examples, longest) if self.structure or self.encoders else {}
        wanted = _pad([e.get("free", np.ones(len(e["sequence"]), np.bool_)) for e in examples], longest, np.bool_)  # (B, L)
        free = wanted & mask & (clean != UNKNOWN)  # (B, L)
        free = free & found["known"] if self.structure else free  # (B, L)
        return Batch(
            {_NAME: clean},
            {_NAME: mask},
            {_NAME: free},
            torch.tensor(keys),  # (B,)
            cond=found if self.structure else {},
            target=collate_targets(examples, target_sites(examples, longest, self.neighbours)),
            raw=self._raw(examples, found) if self.encoders else {},
        )

    def _raw(self, examples: Sequence[Example], found: State) -> State:
        """What teachers read and the network does not."""
        names = {"name": encode_text([str(e.get("name", "")) for e in examples])}  # (B, C)
        return names if self.structure else {**names, **found}

    def _structure(self, examples: Sequence[Example], longest: int) -> State:
        """Of each example: atoms, which residues have them all, and who is near."""
        backbone = _pad([e["backbone"] for e in examples], longest, np.float32, np.nan)  # (B, L, 4, 3)
        known = backbone.isfinite().flatten(2).all(-1)  # (B, L)
        backbone = torch.where(known[..., None, None], backbone, 0)  # (B, L, 4, 3)
        return {
            "backbone": backbone,
            "known": known,
            "chain": _pad([e["chain"] for e in examples], longest, np.int64, -1),  # (B, L)
            "index": _pad([e["index"] for e in examples], longest, np.int64),  # (B, L)
            "neighbours": nearest(backbone[:, :, _CA], known, self.neighbours),  # (B, L, K)
        }

    def encode(self, batch: Batch) -> Batch:
        return run_encoders(batch, self.encoders, self.joint)

    # ----------------------------------------------------------------------------------------------------- templates

    def template(self, index: Sequence[int], seed: int) -> Batch:
        key = random.keys(seed, index, "sample")  # (B,)
        if self.structure:
            batch = self.to_design([self._backbone(i) for i in index], key)
            return batch.replace(raw={"item": torch.tensor([self._item(i) for i in index])})  # (B,)
        return self._unfolded(self._patterns(key), key)

    def to_design(self, examples: Sequence[Example], key: Tensor) -> Batch:
        """A template for given backbones; unknown residues (X) that have one are made as well.

        Args:
            examples: items of a data set; ``free`` says which residues to make.
            key: Long (B,), see `multigen.random.keys`.
        """
        batch = self.collate(examples, key.tolist())
        wanted = [e.get("free", np.ones(len(e["sequence"]), np.bool_)) for e in examples]
        free = batch.cond["known"] & _pad(wanted, batch.mask[_NAME].shape[1], np.bool_)  # (B, L)
        return self._preferring(batch.replace(free={_NAME: free}, target={}))

    def _item(self, index: int) -> int:
        """Which of the source's backbones sample `index` is for."""
        if self.source is None:
            raise MultigenError("modality.source: which backbones are to be designed?")
        return index // self.designs % len(self.source)

    def _backbone(self, index: int) -> Example:
        item = self._item(index)
        example = self.source[item]  # type: ignore[index]
        return {k: v for k, v in example.items() if k != "target"}

    def _patterns(self, key: Tensor) -> list[str]:
        """What is given of each sequence."""
        if self.pattern is not None:
            return [self.pattern] * len(key)
        if self.length is not None:
            return ["_" * self.length] * len(key)
        if self.source is None or getattr(self.source, "sizes", None) is None:
            raise MultigenError(
                "modality.length: how long are sequences to be? give a number, or a source whose lengths are drawn"
            )
        sizes = torch.as_tensor(np.asarray(self.source.sizes))  # type: ignore[attr-defined] # (N,)
        drawn = Noise(key).fold("template").integers(len(sizes))  # (B,)
        return ["_" * int(n) for n in sizes[drawn]]

    def _unfolded(self, patterns: Sequence[str], key: Tensor) -> Batch:
        longest = max(map(len, patterns))
        shown = _pad([tokens(p) for p in patterns], longest, np.int64)  # (B, L)
        mask = _pad([np.ones(len(p), np.bool_) for p in patterns], longest, np.bool_)  # (B, L)
        free = mask & (shown == MASK)  # (B, L)
        return self._preferring(Batch({_NAME: torch.where(free, 0, shown)}, {_NAME: mask}, {_NAME: free}, key))

    def _preferring(self, batch: Batch) -> Batch:
        bias = self.preference.expand(*batch.clean[_NAME].shape, -1)  # (B, L, 21)
        sites = structure_of(batch).get("known", batch.mask[_NAME])  # (B, L)
        batch = batch.replace(cond={**batch.cond, f"{_NAME}.bias": bias})
        return unmade(batch, {name: (sites, width) for name, width in self.joint.items()})

    # ------------------------------------------------------------------------------------------------------- samples

    def decode(self, state: State, template: Batch) -> list[Designed | None]:
        """None for a sequence with a residue that was not made."""
        made, native = state[_NAME].cpu(), template.clean[_NAME].cpu()  # (B, L) each
        return [self._designed(i, made, native, state, template) for i in range(len(made))]

    def _designed(self, i: int, made: Tensor, native: Tensor, state: State, template: Batch) -> Designed | None:
        real = template.mask[_NAME][i].cpu()  # (L,)
        if (made[i][real] >= MASK).any():
            return None
        found = {k: x[i].cpu()[real].numpy() for k, x in structure_of(template).items() if k in ("backbone", "known", "chain")}
        confidence = state.get(f"{_NAME}.confidence")
        backbone = found.get("backbone")
        if backbone is not None:
            backbone = np.where(found["known"][:, None, None], backbone, np.float32(np.nan))  # (L, 4, 3)
        return Designed(
            sequence=letters(made[i][real].tolist()),
            native=letters(native[i][real].tolist()) if self.structure else "",
            free=template.free[_NAME][i].cpu()[real].numpy(),  # (L,)
            confidence=None if confidence is None else confidence[i].cpu()[real].float().numpy(),  # (L,)
            backbone=backbone,
            chain=found.get("chain", np.zeros(int(real.sum()), np.int64)),  # (L,)
            name=self._name(int(template.raw["item"][i])) if "item" in template.raw else "",
        )

    def _name(self, item: int) -> str:
        return "" if self.source is None else str(self.source[item].get("name", ""))

    def save(self, samples: Sequence[Designed | None], folder: Path) -> list[Path]:
        """``samples.fasta``, chains separated by a slash; nothing for what is None."""
        records = [_fasta(i, sample) for i, sample in enumerate(samples) if sample is not None]
        return [write_text(folder / "samples.fasta", "".join(records))]

    def draw(self, samples: Sequence[Designed | None], path: Path) -> Path:
        return drawing.draw(samples, path)

    @staticmethod
    def parts() -> list[Part]:
        """What the report of a run shows besides what all show: see `modalities.protein.backbones`."""
        from modalities.protein import backbones

        return backbones.parts()


def preference(forbid: str = "", bias: Mapping[str, float] | None = None) -> Tensor:
    """What is added to the logits when sampling: Float (21,); unknown (X) is always forbidden.

    Raises:
        MultigenError: a letter is no amino acid, or nothing is left.
    """
    given = {**(bias or {}), **dict.fromkeys(forbid.upper(), -np.inf), LETTERS[UNKNOWN]: -np.inf}
    for letter in given:
        if len(letter) != 1 or letter.upper() not in LETTERS[:CLASSES]:
            raise MultigenError(f"{letter!r} is no amino acid; choices are {LETTERS[:UNKNOWN]}")
    added = torch.zeros(CLASSES)  # (21,)
    for letter, value in given.items():
        added[LETTERS.index(letter.upper())] = float(value)
    if not added.isfinite().any():
        raise MultigenError("every amino acid is forbidden")
    return added


def chains_of(sequence: str, chain: NDArray[np.int64]) -> str:
    """A sequence with a slash between chains: the usual way to write a complex in one line."""
    breaks = {0, *(int(i) + 1 for i in np.flatnonzero(np.diff(chain)))}
    return "".join(("/" if i and i in breaks else "") + letter for i, letter in enumerate(sequence))


def _fasta(number: int, sample: Designed) -> str:
    said: dict[str, object] = {"length": len(sample.sequence)}
    if sample.native:
        made = [a == b for a, b, free in zip(sample.sequence, sample.native, sample.free, strict=True) if free]
        said["recovery"] = f"{np.mean(made):.3f}" if made else "none"
    if sample.confidence is not None and sample.free.any():
        said["confidence"] = f"{sample.confidence[sample.free].mean():.3f}"
    head = " ".join([f">{number:06d}", *([sample.name] if sample.name else []), *(f"{k}={v}" for k, v in said.items())])
    return f"{head}\n{chains_of(sample.sequence, sample.chain)}\n"


def _pad(arrays: Sequence[NDArray[Any]], length: int, dtype: Any, fill: Any = 0) -> Tensor:
    """Arrays (L_i, ...) -> (B, length, ...)."""
    padded = np.full((len(arrays), length, *arrays[0].shape[1:]), fill, dtype)  # (B, length, ...)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)  # (B, length, ...)
