"""Clusters of similar sequences, and a split that keeps each of them on one side.

Two sequences count as similar when their best local alignment (Smith and Waterman 1981; BLOSUM62, a gap of n residues costs
11 + n) fulfils all of:

- identity: at least this share of the aligned pairs of residues are equal (columns with a gap do not count);
- coverage: the alignment spans at least this share of the shorter sequence;
- significance: of random pairs of sequences of these lengths, a share of less than `expect` would reach the score:
  K m n exp(-lambda S) (Altschul and Gish 1996). Between short chains 30 per cent of identity over 80 per cent of the length
  are often chance; without the bound such pairs would chain nearly everything together.

Clusters are the connected components: no pair that was found similar lies in two clusters. Pairs are looked for among those
that share a word (`modalities.protein.seeds`). That misses few: none of the similar pairs of a chain that cgdms holds out and
another, all of which were aligned to see; in larger sets, where fewer kinds of words are affordable, up to one in a hundred.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.protein import alphabet, seeds
from multigen import pool
from multigen.random import hash64
from multigen.state import MultigenError

if TYPE_CHECKING:
    from Bio.Align import PairwiseAligner

IDENTITY, COVERAGE = 0.3, 0.8
EXPECT = 1e-6
"""Chance pairs per pair: about 0.002 for each sequence against 2,000. What a data set may raise."""
LAMBDA, K = 0.267, 0.041
"""Statistics of BLOSUM62 with gaps 11 and 1 (Altschul and Gish 1996)."""
MANY, WINDOW = 10_000, 2048
"""Pairs from which on processes share them, and that are shared out at a time."""
LARGEST = 0.01
"""A cluster with more than this share of all sequences is not held out."""


class Similarity(NamedTuple):
    """What the best local alignment of two sequences says."""

    expect: float
    """How many random pairs would score as well."""
    identity: float
    """Of the aligned pairs of residues."""
    coverage: float
    """Of the shorter sequence."""

    def reaches(self, identity: float, coverage: float, expect: float = EXPECT) -> bool:
        return self.expect < expect and self.identity >= identity and self.coverage >= coverage


def recipe(expect: float = EXPECT) -> dict[str, Any]:
    """What the clusters depend on, for manifests."""
    bounds = {"identity": IDENTITY, "coverage": COVERAGE, "expect": expect}
    words = {"seeds": [seed.pattern for seed in seeds.SEEDS], "hits": seeds.HITS, "alignments": seeds.ALIGNMENTS}
    return {"method": "connected components of local alignments", **bounds, **words}


def clusters(
    sequences: Sequence[str], identity: float = IDENTITY, coverage: float = COVERAGE, expect: float = EXPECT
) -> NDArray[np.int64]:
    """Number the clusters of similar sequences (see this module), in the order in which they first appear.

    Args:
        sequences: letters; what is no amino acid counts as unknown.
        identity, coverage: as above, in 0..1.
        expect: as above.

    Returns:
        int64 (N,), the cluster of each.

    Raises:
        MultigenError: a threshold is out of range.
    """
    for name, value in (("identity", identity), ("coverage", coverage)):
        if not 0 <= value <= 1:
            raise MultigenError(f"{name} is between 0 and 1, got {value}")
    unique = sorted(set(sequences))
    pairs = seeds.candidates([np.minimum(alphabet.tokens(s), alphabet.UNKNOWN) for s in unique])  # (P, 2)
    forest = _joined(unique, pairs, partial(_alike, identity=identity, coverage=coverage, expect=expect))
    place = {sequence: forest.root(i) for i, sequence in enumerate(unique)}
    number: dict[int, int] = {}
    return np.array([number.setdefault(place[s], len(number)) for s in sequences], np.int64)  # (N,)


def _joined(unique: Sequence[str], pairs: NDArray[np.int64], alike: Callable[[tuple[str, str]], bool]) -> _Forest:
    """The sets that the alike ones among pairs (P, 2) make; what hangs together already is not aligned."""
    from rich.progress import track

    forest = _Forest(len(unique))
    starts = range(0, len(pairs), WINDOW)
    with pool.shared(len(pairs) >= MANY, chunk=32) as each:
        for start in track(starts, description="clustering", transient=True, disable=len(pairs) < MANY):
            apart = [(a, b) for a, b in pairs[start : start + WINDOW].tolist() if forest.root(a) != forest.root(b)]
            found = each(alike, [(unique[a], unique[b]) for a, b in apart])
            for (a, b), same in zip(apart, found, strict=True):
                if same:
                    forest.join(a, b)
    return forest


def _alike(pair: tuple[str, str], identity: float, coverage: float, expect: float) -> bool:
    return similarity(*pair, make_aligner(), expect).reaches(identity, coverage, expect)


@cache
def make_aligner() -> PairwiseAligner:
    """The aligner that `similarity` wants; made once, since that takes longer than an alignment."""
    from Bio.Align import PairwiseAligner, substitution_matrices

    aligner = PairwiseAligner(mode="local", substitution_matrix=substitution_matrices.load("BLOSUM62"))
    aligner.open_gap_score, aligner.extend_gap_score = -12, -1  # of the first residue of a gap, and of each further one
    return aligner


def similarity(a: str, b: str, aligner: PairwiseAligner, expect: float = EXPECT) -> Similarity:
    """Align two sequences; of equally good alignments, the first that is found with the sequences in alphabetical order.

    Where as many random pairs as `expect` score as well, the alignment is not traced back, and identity and coverage are 0.
    """
    a, b = sorted((a, b))
    cells = len(a) * len(b)
    chance = K * cells * math.exp(-LAMBDA * aligner.score(a, b)) if cells else math.inf
    if chance >= expect:
        return Similarity(chance, 0.0, 0.0)
    first, second = aligner.align(a, b)[0].aligned  # (blocks, 2) each
    blocks = [(a[i:j], b[k:m]) for (i, j), (k, m) in zip(first, second, strict=True)]
    aligned = sum(len(x) for x, _ in blocks)
    equal = sum(p == q for x, y in blocks for p, q in zip(x, y, strict=True))
    span = first if len(a) <= len(b) else second
    return Similarity(chance, equal / aligned, float(span[-1][1] - span[0][0]) / min(len(a), len(b)))


class _Forest:
    """Sets that are joined, each known by one of its members."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def root(self, i: int) -> int:
        while self._above[i] != i:
            self._above[i] = i = self._above[self._above[i]]
        return i

    def join(self, i: int, j: int) -> None:
        self._above[self.root(i)] = self.root(j)


def splits(sequences: Sequence[str], numbers: NDArray[np.int64], share: int = 10) -> list[str]:
    """A side for each sequence, "train" or "valid", equal within a cluster.

    About `share` per cent of the clusters are held out: by a hash of the cluster's first sequence in the order of the
    alphabet, so that neither order nor names matter. Clusters larger than `LARGEST` stay in training.

    Args:
        sequences: letters.
        numbers: (N,), the cluster of each.
        share: per cent.
    """
    first: dict[int, str] = {}
    for sequence, number in zip(sequences, numbers.tolist(), strict=True):
        first[number] = min(sequence, first.get(number, sequence))
    sizes = Counter(numbers.tolist())
    most = max(LARGEST * len(sequences), 1)
    held = {n for n, sequence in first.items() if sizes[n] <= most and hash64("split", sequence) % 100 < share}
    return ["valid" if n in held else "train" for n in numbers.tolist()]
