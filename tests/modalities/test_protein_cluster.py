"""Sequence clusters: what counts as similar, that nothing similar is parted, and that the split follows."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from modalities.protein import alphabet, cluster, seeds
from modalities.protein.alphabet import AMINO_ACIDS
from multigen import pool
from multigen.state import MultigenError


def chain(random, length: int) -> str:
    return "".join(random.choice(list(AMINO_ACIDS), length))


def mutated(random, sequence: str, share: float) -> str:
    """A sequence of which a share is replaced, and which has lost a residue."""
    letters = [a if random.random() > share else random.choice(list(AMINO_ACIDS)) for a in sequence]
    del letters[len(letters) // 2]
    return "".join(letters)


@pytest.fixture(scope="module")
def families() -> list[list[str]]:
    """Twelve families of chains, of three members each, 30 % apart from their ancestor."""
    random = np.random.default_rng(0)
    ancestors = [chain(random, int(length)) for length in random.integers(50, 120, 12)]
    return [[mutated(random, ancestor, 0.3) for _ in range(3)] for ancestor in ancestors]


def test_families_are_found(families):
    sequences = [s for members in zip(*families, strict=True) for s in members]
    assert cluster.clusters(sequences).tolist() == list(range(12)) * 3


def test_nothing_similar_is_parted(families):
    """Against all pairs, without the words."""
    random = np.random.default_rng(1)
    sequences = [s for members in families for s in members] + [chain(random, 60) for _ in range(20)]
    sequences += [mutated(random, s, 0.5) for s in sequences[:30]]
    numbers, aligner = cluster.clusters(sequences), cluster.make_aligner()
    similar = [
        (i, j)
        for i, j in combinations(range(len(sequences)), 2)
        if cluster.similarity(sequences[i], sequences[j], aligner).reaches(cluster.IDENTITY, cluster.COVERAGE)
    ]
    assert len(similar) > 40
    assert all(numbers[i] == numbers[j] for i, j in similar)
    sides = cluster.splits(sequences, numbers, 40)
    assert {"train", "valid"} == set(sides) and all(sides[i] == sides[j] for i, j in similar)


def test_similarity_is_what_it_says():
    first = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQ"
    aligner = cluster.make_aligner()
    same = cluster.similarity(first, first, aligner)
    assert same.identity == same.coverage == 1 and same.expect < 1e-20
    half = cluster.similarity(first, first[:40] + "W" * 16, aligner)
    assert half.identity == 1 and half.coverage == pytest.approx(40 / 56)
    gapped = cluster.similarity(first, first[:30] + first[33:], aligner)  # three columns with a gap do not count
    assert gapped.identity == gapped.coverage == 1
    assert gapped == cluster.similarity(first[:30] + first[33:], first, aligner)
    assert cluster.similarity("AAAA", "WWWW", aligner)[1:] == (0, 0)


def test_a_shared_half_does_not_join(families):
    first, second = families[0][0][:50], families[1][0][:50]
    parts = [first + second, first + families[2][0][:50]]
    assert len(set(cluster.clusters(parts))) == 2
    assert len(set(cluster.clusters(parts, coverage=0.4))) == 1


def test_similar_by_chance_is_not_similar():
    """Short chains reach 30 % of identity often; without the bound they would all hang together."""
    random = np.random.default_rng(2)
    sequences = [chain(random, 24) for _ in range(150)]
    assert len(set(cluster.clusters(sequences))) == 150


def test_identical_unknown_and_short_sequences():
    whole, unknown = "ACDEFGHIKLMNPQRSTVWYAC", "XXXXXXXXXX"
    assert cluster.clusters([whole, "A", unknown, whole, unknown]).tolist() == [0, 1, 2, 0, 2]
    assert cluster.clusters([]).shape == (0,)
    with pytest.raises(MultigenError, match=r"identity is between 0 and 1, got 30"):
        cluster.clusters(["A"], identity=30)


def test_clusters_do_not_depend_on_the_order(families):
    sequences = [s for members in families for s in members]
    forth, back = cluster.clusters(sequences), cluster.clusters(sequences[::-1])[::-1]
    assert ((forth[:, None] == forth) == (back[:, None] == back)).all()
    sides = dict(zip(sequences, cluster.splits(sequences, forth, 30), strict=True))
    assert sides == dict(zip(sequences[::-1], cluster.splits(sequences[::-1], back[::-1], 30), strict=True))


def test_clusters_do_not_depend_on_the_processes(families, monkeypatch):
    sequences = [s for members in families for s in members]
    alone = cluster.clusters(sequences).tolist()
    monkeypatch.setattr(pool, "processors", lambda: 2)
    for module in (cluster, seeds):
        monkeypatch.setattr(module, "MANY", 1)
    monkeypatch.setattr(cluster, "WINDOW", 10)
    assert cluster.clusters(sequences).tolist() == alone


def test_a_large_cluster_stays_in_training():
    numbers = np.array([0] * 60 + list(range(1, 241)))  # (300,)
    sequences = ["A" * 20 + "C" * (i % 60) for i in numbers]
    for share in (10, 100):
        sides = cluster.splits(sequences, numbers, share)
        assert set(sides[:60]) == {"train"}
        assert 0.5 * share < 100 * np.mean(np.array(sides[60:]) == "valid") < max(2 * share, 101)


def test_words_skip_what_says_nothing():
    text = seeds.Text.of([alphabet.tokens("HHHHHHACDXEFGHI"), alphabet.tokens("ACDEF")])
    first = seeds.BACK + seeds.AHEAD
    keys = seeds.words(text.tokens, seeds.Seed("111"))[first : first + 15]  # (15,)
    spoken = [i for i, key in enumerate(keys) if key >= 0]
    assert spoken == [4, 5, 6, 10, 11, 12]


def test_more_sequences_than_the_budget_use_fewer_words(families, monkeypatch):
    sequences = [alphabet.tokens(s) for members in families for s in members]
    everything = {tuple(pair) for pair in seeds.candidates(sequences)}
    monkeypatch.setattr(seeds, "HITS", 1)
    fewer = {tuple(pair) for pair in seeds.candidates(sequences)}
    assert fewer and fewer < everything
