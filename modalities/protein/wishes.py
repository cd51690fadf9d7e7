"""What a user writes about a design, read: residues, amino acids and their preferences, a sequence to begin from."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modalities.protein.alphabet import AMINO_ACIDS, CLASSES, LETTERS, UNKNOWN, tokens
from modalities.protein.choice import residues
from modalities.protein.structure import Structure
from multigen.files import read_text
from multigen.state import MultigenError


def wanted(structure: Structure, design: str | None = None, fixed: str | None = None) -> NDArray[np.bool_]:
    """(L,): the residues of `design` (all by default) without those of `fixed`; see `modalities.protein.choice.residues`."""
    chosen = np.ones(len(structure), np.bool_) if design is None else residues(design, structure)  # (L,)
    return chosen if fixed is None else chosen & ~residues(fixed, structure)  # (L,)


def amino_acid_bias(text: str) -> dict[str, float]:
    """``A:0.5,G:-1`` -> what is added to the logit of each amino acid."""
    bias = {}
    for part in text.split(","):
        letter, _, value = (piece.strip() for piece in part.partition(":"))
        bias[_amino_acid(letter, repr(part.strip()))] = _number(value, f"{part.strip()!r}, which is written like A:0.5")
    return bias


def position_bias(path: Path, structure: Structure) -> Tensor:
    """A table of ``residue,amino acid,value``: what is added to the logits of single residues, Float (L, 21).

    A residue is written as in `modalities.protein.choice.residues`, so that it may be a range or a chain; several amino acids
    may stand together; the value -inf forbids them. A first line that begins with ``residue``, empty lines and lines that
    begin with # are passed over. Where lines speak of the same residue and amino acid, their values are added.
    """
    bias = torch.zeros(len(structure), CLASSES)  # (L, 21)
    for where, (place, acids, value) in _rows(path):
        rows = torch.from_numpy(residues(place, structure))  # (L,)
        classes = [LETTERS.index(_amino_acid(letter, where)) for letter in acids]
        for token in dict.fromkeys(classes):
            bias[rows, token] += _number(value, where)
    return bias


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where each line stands, and its three fields."""
    for number, fields in enumerate(csv.reader(read_text(path).splitlines()), 1):
        fields = [field.strip() for field in fields]
        if not any(fields) or fields[0].startswith("#") or (number == 1 and fields[0].lower() == "residue"):
            continue
        if len(fields) != 3 or not fields[1]:
            raise MultigenError(f"line {number} of {path} is {','.join(fields)!r}, expected three fields like A:10,W,2")
        yield f"line {number} of {path}", fields


def _amino_acid(letter: str, where: str) -> str:
    if len(letter) != 1 or letter.upper() not in AMINO_ACIDS:
        raise MultigenError(f"{letter!r} is no amino acid, in {where}; choices are {AMINO_ACIDS}")
    return letter.upper()


def _number(text: str, where: str) -> float:
    """A number, or minus infinity."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or value == math.inf:
        raise MultigenError(f"{text!r} is no number, in {where}")
    return value


def given_sequence(path: Path, structure: Structure) -> NDArray[np.int8]:
    """A sequence for the structure, tokens (L,), from a FASTA file.

    The file has one record for the whole, in which a slash may stand between chains, or one for each chain. X is unknown.

    Raises:
        MultigenError: it is no FASTA file, has a letter that is no amino acid, or is of another length.
    """
    parts = "/".join(_records(path)).split("/")
    if strange := sorted(set("".join(parts)) - set(LETTERS[: UNKNOWN + 1])):
        raise MultigenError(f"{strange[0]!r} is no amino acid, in {path}; choices are {LETTERS[: UNKNOWN + 1]}")
    counts = np.bincount(structure.chain, minlength=len(structure.chains)).tolist()
    if len(parts) not in (1, len(counts)):
        raise MultigenError(f"{path} has {len(parts)} sequences; {structure.name} has {_counted(len(counts), 'chain')}")
    names = [f"chain {name} of {structure.name}" for name in structure.chains]
    expected = dict(zip(names, counts, strict=True)) if len(parts) > 1 else {structure.name: sum(counts)}
    for part, (name, count) in zip(parts, expected.items(), strict=True):
        if len(part) != count:
            told = f"{_counted(len(part), 'letter')} for {name}, which has {_counted(count, 'residue')}"
            raise MultigenError(f"{path} has {told}")
    return tokens("".join(parts))  # (L,)


def _records(path: Path) -> list[str]:
    """The sequences of a FASTA file, in capitals and without what marks an end."""
    header, *records = ("\n" + read_text(path)).split("\n>")
    if header.strip() or not records:
        raise MultigenError(f"{path} is no FASTA file: it does not begin with >")
    sequences = ["".join(record.splitlines()[1:]) for record in records]
    return ["".join(sequence.split()).upper().rstrip("*") for sequence in sequences]


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
