"""The order of the data: a function of seed and position, and of nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from training_toys import PointModality, Points

from multigen.loader import Loader, Split, indices
from multigen.random import keys, permutation
from multigen.state import Batch, MultigenError


def batches(loader: Loader, start: int, stop: int) -> list[Batch]:
    return [batch for step in loader.steps(start, stop) for batch in step]


def points(some: list[Batch]) -> torch.Tensor:
    return torch.cat([b.clean["point"] for b in some])


def make(count: int = 10, seed: int = 0, workers: int = 0, **split: int) -> Loader:
    return Loader(Points(count), PointModality(), Split(**{"batch_size": 4, **split}), seed, workers)


def test_every_epoch_shows_every_example_once_although_batches_cross_its_end() -> None:
    seen = indices(3, range(70), 7)
    assert all(Counter(seen[e * 7 : e * 7 + 7]) == Counter(range(7)) for e in range(10))
    assert len({tuple(seen[e * 7 : e * 7 + 7]) for e in range(10)}) > 5
    assert len(points(batches(make(10), 0, 5))) == 20


def test_order_depends_on_the_seed_and_is_spread() -> None:
    assert not torch.equal(permutation(0, 0, 100), permutation(1, 0, 100))
    first = torch.stack([permutation(seed, 0, 10)[0] for seed in range(500)])
    assert torch.bincount(first, minlength=10).min() > 25


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_later_gives_the_same_batches(workers: int) -> None:
    whole = batches(make(), 0, 6)
    rest = batches(make(workers=workers), 4, 6)
    assert torch.equal(points(whole[4:]), points(rest))
    assert torch.equal(torch.cat([b.key for b in whole]), keys(0, range(24), "train"))
    assert torch.equal(torch.cat([b.key for b in rest]), keys(0, range(16, 24), "train"))


def test_micro_batches_and_processes_cut_the_same_order() -> None:
    whole = points(batches(make(batch_size=8), 0, 3)).reshape(3, 8, 2)
    micro = points(batches(make(batch_size=8, accumulate=2), 0, 3)).reshape(3, 8, 2)
    ranks = [points(batches(make(batch_size=8, accumulate=2, world=2, rank=r), 0, 3)).reshape(3, 2, 1, 2, 2) for r in (0, 1)]
    assert torch.equal(whole, micro)
    assert torch.equal(whole, torch.cat(ranks, 2).reshape(3, 8, 2))


def test_a_batch_that_cannot_be_cut_is_refused_with_the_multiple() -> None:
    with pytest.raises(MultigenError, match=r"batch_size 10 .* multiple of 4"):
        Split(10, accumulate=2, world=2)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(MultigenError, match="empty"):
        make(0)


class Damaged(Points):
    def __getitem__(self, index: int) -> dict[str, object]:
        raise MultigenError(f"example {index} is not a point")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_the_data_stays_one_line(workers: int) -> None:
    loader = Loader(Damaged(), PointModality(), Split(2), workers=workers)
    with pytest.raises(MultigenError, match=r"^example \d+ is not a point$"):
        next(loader.steps(0, 1))


def test_closing_ends_the_workers() -> None:
    import multiprocessing

    stream = make(workers=2).steps(0, 1000)
    next(stream)
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert not multiprocessing.active_children()
