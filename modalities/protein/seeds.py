"""Which pairs of sequences are worth an alignment: those that share a word on a diagonal that scores well without gaps.

Words are spaced seeds (Ma, Tromp and Li 2002) on the twenty amino acids or on reduced alphabets, most specific first; as many
kinds are used as a budget of hits allows. A hit is scored along its diagonal by BLOSUM62 within a window; what counts is the
best segment (Altschul et al. 1990).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.protein.alphabet import AMINO_ACIDS, MASK, UNKNOWN
from multigen import pool

Tokens = NDArray[np.int8]
Places = NDArray[np.int64]

MURPHY = "LVIM C A G ST P FYW EDNQ KR H"
"""The ten letters of Murphy, Wallqvist and Levy 2000."""
TWELVE = "ILMV A C DE FYW G H KR N P Q ST"


class Seed(NamedTuple):
    """A kind of word: which positions count (1), and which amino acids count as equal."""

    pattern: str
    groups: str = " ".join(AMINO_ACIDS)


SEEDS = (
    Seed("11011"), Seed("1111"), Seed("11010011", TWELVE), Seed("1011101", TWELVE), Seed("1101011", MURPHY),
    Seed("11011", TWELVE), Seed("1101"), Seed("11001"), Seed("111"), Seed("110101", MURPHY),
)  # fmt: skip
HITS = 4 * 10**8
"""Hits of all kinds of words together."""
ALIGNMENTS = 10**6
"""Pairs that may pass by chance; sets the score a segment needs."""
SHARE = 0.1
"""Of all pairs, the most that may pass by chance."""
LAMBDA, K = 0.318, 0.134
"""Statistics of BLOSUM62 without gaps (Karlin and Altschul 1990)."""
BACK, AHEAD = 16, 32
"""The window: residues before a word, and from its beginning on."""
SEPARATOR = MASK
"""Stands between sequences, so that no word and no segment crosses."""
CHUNK = 1 << 16
"""Hits at a time; what they need then fits a processor's cache."""


MANY = 1000
"""Sequences from which on processes share the kinds of words."""
_NOTHING = np.zeros((0, 2), np.int64)


class Text(NamedTuple):
    """All sequences in one array, with separators between them and at both ends."""

    tokens: Tokens
    owner: NDArray[np.int32]
    sizes: Places

    @classmethod
    def of(cls, sequences: Sequence[Tokens]) -> Text:
        gap = np.full(BACK + AHEAD, SEPARATOR, np.int8)  # (window,)
        sizes = np.array([len(s) for s in sequences], np.int64)  # (N,)
        parts = [gap, *(part for s in sequences for part in (s, gap[:1])), gap]
        owner = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes + 1)  # (M,)
        return cls(np.concatenate(parts), np.pad(owner, len(gap)), sizes)


def blosum() -> NDArray[np.int8]:
    """(22, 22): scores of all tokens; what meets a separator ends a segment."""
    from Bio.Align import substitution_matrices

    matrix, letters = substitution_matrices.load("BLOSUM62"), AMINO_ACIDS + "X"
    table = np.full((MASK + 1, MASK + 1), -100, np.int8)  # (22, 22)
    table[:MASK, :MASK] = [[matrix[a][b] for b in letters] for a in letters]
    return table


def candidates(sequences: Sequence[Tokens]) -> NDArray[np.int64]:
    """Pairs that may be similar: (P, 2) with first < second, the best segments first.

    Args:
        sequences: tokens (L,) each, 0..20.
    """
    text = Text.of(sequences)
    count = len(sequences)
    with pool.shared(count >= MANY) as each:
        best = _best([_NOTHING, *each(partial(_found, text, blosum().ravel()), _affordable(text))])  # (P, 2)
    pairs = best[np.argsort(-best[:, 1], kind="stable"), 0]  # (P,)
    return np.stack([pairs // count, pairs % count], 1)


def _found(text: Text, table: NDArray[np.int8], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """(P, 2): by the words of one kind, pairs as one number and their scores."""
    found = [_NOTHING]  # (P, 2) each
    for a, b in _hits(keys):
        found.append(_passing(text, table, a, b))
        if sum(map(len, found)) > 2 * len(found[0]) + CHUNK:
            found = [_best(found)]
    return _best(found)  # (P, 2)


def _best(found: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Each pair once, with its highest score."""
    rows = np.concatenate(found)  # (all, 2)
    ordered = rows[np.lexsort((-rows[:, 1], rows[:, 0]))]  # (all, 2)
    return ordered[np.append(True, np.diff(ordered[:, 0]) > 0)[: len(ordered)]]


def _affordable(text: Text) -> Iterator[NDArray[np.int64]]:
    """The words of one kind of seed after another: (M,), -1 where there is none. The first kind comes whatever it costs."""
    left = HITS
    for i, seed in enumerate(SEEDS):
        keys = words(text.tokens, seed)  # (M,)
        times = np.unique(keys[keys >= 0], return_counts=True)[1].astype(np.int64)
        left -= int((times * (times - 1) // 2).sum())
        if i and left < 0:
            return
        yield keys


def words(tokens: Tokens, seed: Seed) -> NDArray[np.int64]:
    """(M,): the word that begins at each residue as a number; -1 if it meets an unknown residue or the end, or repeats one
    letter (tags and the like say nothing of kinship)."""
    groups = seed.groups.split()
    letter = np.full(MASK + 1, -1, np.int64)  # (22,)
    for number, group in enumerate(groups):
        letter[[AMINO_ACIDS.index(a) for a in group]] = number
    offsets = [i for i, counts in enumerate(seed.pattern) if counts == "1"]
    padded = np.append(tokens, np.full(len(seed.pattern), SEPARATOR, np.int8))  # (M + pattern,)
    at = [padded[o : o + len(tokens)] for o in offsets]  # (M,) each
    key = np.zeros(len(tokens), np.int64)  # (M,)
    for a in at:
        key = key * len(groups) + letter[a]
    spoilt = np.any([padded[o : o + len(tokens)] >= UNKNOWN for o in range(len(seed.pattern))], 0)  # (M,)
    return np.where(spoilt | np.all([a == at[0] for a in at], 0), -1, key)


def _hits(keys: NDArray[np.int64]) -> Iterator[tuple[Places, Places]]:
    """All pairs of places with the same word, some at a time."""
    place = np.flatnonzero(keys >= 0)  # (W,)
    place = place[np.argsort(keys[place], kind="stable")]  # (W,): equal words side by side
    word = keys[place]  # (W,)
    alive, shift = np.arange(len(word)), 1  # (W,)
    while len(alive := alive[alive + shift < len(word)]):
        alive = alive[word[alive] == word[alive + shift]]  # words equal at this shift were so at the last
        for start in range(0, len(alive), CHUNK):
            some = alive[start : start + CHUNK]
            yield place[some], place[some + shift]
        shift += 1


def _passing(text: Text, table: NDArray[np.int8], a: Places, b: Places) -> NDArray[np.int64]:
    """(P, 2): the pairs of different sequences whose segment scores enough, and its score."""
    x, y = text.owner[a].astype(np.int64), text.owner[b].astype(np.int64)  # (H,) each, x <= y
    score = segment(text.tokens, table, a, b)  # (H,)
    keep = (x != y) & (score >= enough(text.sizes[x] * text.sizes[y], len(text.sizes)))  # (H,)
    return np.stack([x * len(text.sizes) + y, score], 1)[keep]


def enough(cells: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """The score that a random pair's best segment reaches with the chance that is allowed, by the product of the lengths."""
    share = min(SHARE, ALIGNMENTS / (count * max(count - 1, 1) / 2))
    return np.log(K * cells / share) / LAMBDA


def segment(tokens: Tokens, table: NDArray[np.int8], a: Places, b: Places) -> NDArray[np.int16]:
    """(H,): best score of a stretch of the diagonal through the places a and b, within the window (Kadane's algorithm)."""
    windows = np.lib.stride_tricks.sliding_window_view(tokens, BACK + AHEAD)  # (M, window)
    pair = windows[a - BACK] * np.int16(MASK + 1) + windows[b - BACK]  # (H, window)
    best = np.zeros(len(a), np.int16)  # (H,)
    run = np.zeros(len(a), np.int16)  # (H,)
    for score in np.ascontiguousarray(table[pair].T):  # (H,) each
        run = np.maximum(run + score, 0)  # (H,)
        np.maximum(best, run, out=best)
    return best
