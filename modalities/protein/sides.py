"""Which structures are held out: by clusters of their chains, by their names, or as a list says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modalities.protein import cluster
from modalities.protein.alphabet import letters
from multigen.random import hash64


class Added(NamedTuple):
    """What the side of an example is decided by."""

    name: str
    chains: list[str]
    """Letters of each chain."""
    side: str
    """The side that a list says, "" without a list."""


def chains_of(example: Mapping[str, Any]) -> list[str]:
    """Letters of each chain of an example."""
    return [letters(example["sequence"][example["chain"] == number]) for number in np.unique(example["chain"])]


def sides(added: Sequence[Added], by: str, share: int) -> tuple[list[str], NDArray[np.int64]]:
    """The side and the cluster of each example: (N,), (N,).

    Args:
        added: examples; if a list gave them sides, they keep these.
        by: "cluster" or "name".
        share: per cent in "valid"; unless it is 0 or nothing can be apart, there is at least one.
    """
    own = np.arange(len(added), dtype=np.int64)  # (N,)
    if added[0].side:
        return [one.side for one in added], own
    if by == "name":
        place = [hash64("folder", one.name) % 10_000 for one in added]
        return _ensure(["valid" if at < 100 * share else "train" for at in place], own, share), own
    groups = alike([one.chains for one in added])  # (N,)
    whole = ["".join(one.chains) for one in added]
    return _ensure(cluster.splits(whole, groups, share), groups, share), groups


def alike(chains: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """(N,): numbers of the groups of examples that similar chains connect; a complex belongs with all of its partners."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(chains)
    owner = [i for i, parts in enumerate(chains) for part in parts if part.strip("X")]
    numbers = cluster.clusters([part for parts in chains for part in parts if part.strip("X")])  # (chains,)
    nodes = count + int(numbers.max(initial=-1)) + 1  # examples, then clusters of chains
    graph = coo_array((np.ones(len(owner)), (owner, count + numbers)), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1][:count].astype(np.int64)  # (N,)


def _ensure(split: list[str], groups: NDArray[np.int64], share: int) -> list[str]:
    """Hold out the smallest group if chance held out none."""
    sizes = Counter(groups.tolist())
    if "valid" in split or not share or len(sizes) < 2:
        return split
    held = min(sizes, key=lambda group: (sizes[group], hash64("folder", group)))
    return ["valid" if group == held else "train" for group in groups.tolist()]
