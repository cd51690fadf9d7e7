"""What the core expects of a modality."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from multigen.modality import Dataset, Modality
from multigen.process import Process
from multigen.random import keys
from multigen.sampling import Sampler
from multigen.state import Batch, Features, State
from multigen.testing.comparing import close, equal
from multigen.testing.denoiser import predict
from multigen.testing.oracle import Oracle


class Contract(NamedTuple):
    """What the tests of a modality start from: tiny, random, and made without prepared data."""

    dataset: Dataset
    """A few examples; of different sizes, where the modality has any."""
    modality: Modality[Any]
    denoiser: nn.Module
    processes: Mapping[str, Process]
    taps: Sequence[str] = ()
    """Names of hidden features that the denoiser has."""

    def batch(self, n: int = 4) -> Batch:
        """The first examples, encoded."""
        return examples(self.modality, self.dataset, range(n))


def examples(modality: Modality[Any], dataset: Dataset, index: Sequence[int]) -> Batch:
    """Some examples as an encoded batch. Example i has the same key whichever others there are."""
    with torch.no_grad():
        return modality.encode(modality.collate([dataset[i] for i in index], keys(0, index, "testing").tolist()))


def check_modality(modality: Modality[Any], dataset: Dataset, n: int = 4) -> None:
    """Batches are well formed and examples in them independent; templates are functions of (seed, index); samples can be kept.

    Args:
        modality: encodes on the CPU.
        dataset: at least `n` examples.
        n: how many to take.
    """
    assert len(dataset) >= n, f"check_modality needs {n} examples, the data set has {len(dataset)}"
    assert isinstance(dataset.fingerprint, str) and dataset.fingerprint, "the data set has no fingerprint"
    assert equal(dataset[0], dataset[0]), "the data set gives another example for the same index"
    batch = examples(modality, dataset, range(n))
    check_batch(batch)
    assert not batch.raw, f"encode leaves {sorted(batch.raw)} in raw"
    assert torch.equal(batch.key, keys(0, range(n), "testing")), "collate does not pass the keys on as Batch.key"
    for i in range(n):
        problem = _difference(batch, i, examples(modality, dataset, [i]))
        assert problem is None, f"example {i} in a batch is not what it is alone: {problem}"
    _check_template(modality, n)
    _check_kept(modality, modality.decode(batch.clean, batch), n)


def check_batch(batch: Batch) -> None:
    """Shapes, types and names of one encoded batch."""
    b = len(batch)
    assert batch.clean, "the batch has no component"
    for field in ("mask", "free"):
        masks: State = getattr(batch, field)
        assert set(masks) == set(batch.clean), f"{field} has {sorted(masks)}, components are {sorted(batch.clean)}"
        for k, m in masks.items():
            assert m.dtype == torch.bool, f"{field} of {k!r} is {m.dtype}, not bool"
            assert m.shape == batch.clean[k].shape[: m.ndim], (
                f"{field} of {k!r} has shape {tuple(m.shape)}, which is no prefix of {tuple(batch.clean[k].shape)}"
            )
    for k in batch.clean:
        assert not (batch.free[k] & ~batch.mask[k]).any(), f"sites of {k!r} are free that are not real"
    for name, (value, mask) in batch.target.items():
        assert mask.dtype == torch.bool and mask.shape == value.shape[:-1], (
            f"target {name!r}: value {value.shape}, mask {mask.shape}"
        )
    for name, x in _tensors(batch):
        assert len(x) == b, f"{name} has {len(x)} rows for {b} examples"


def _check_template(modality: Modality[Any], n: int) -> None:
    index = [3 * i + 2 for i in range(n)]
    batch = modality.template(index, 5)
    check_batch(batch)
    assert torch.equal(batch.key, keys(5, index, "sample")), 'the key of a template is keys(seed, index, "sample")'
    assert any(m.any() for m in batch.free.values()), "the template leaves nothing to be made"
    for i, number in enumerate(index):
        problem = _difference(batch, i, modality.template([number], 5))
        assert problem is None, f"row {i} of a template depends on the other rows: {problem}"


def _difference(batch: Batch, i: int, alone: Batch) -> str | None:
    """Where example i of a batch is not what it is alone; padding apart."""
    if batch.key[i] != alone.key[0]:
        return "key"
    for k, x in batch.clean.items():
        if not close(x[i][batch.mask[k][i]], alone.clean[k][0][alone.mask[k][0]]):
            return f"component {k!r}"
        if batch.free[k][i].sum() != alone.free[k][0].sum():
            return f"free sites of {k!r}"
    for k, f in batch.target.items():
        if not close(f.value[i][f.mask[i]], alone.target[k].value[0][alone.target[k].mask[0]], tolerance=1e-3):
            return f"target {k!r}"
    for k, x in batch.cond.items():  # a condition has no mask: if padding made it larger, it is not compared
        if x[i].shape == alone.cond[k][0].shape and not close(x[i], alone.cond[k][0]):
            return f"condition {k!r}"
    return None


def _check_kept(modality: Modality[Any], samples: Sequence[Any], n: int) -> None:
    assert len(samples) == n, f"decode returns {len(samples)} samples for {n} rows"
    assert all(s is not None for s in samples), "decode finds real examples invalid"
    with tempfile.TemporaryDirectory() as folder:
        saved = modality.save([*samples, None], Path(folder))
        assert saved and all(p.stat().st_size for p in saved), f"save wrote {saved}"
        drawn = modality.draw([*samples, None], Path(folder) / "samples.png")
        assert drawn.stat().st_size, "draw wrote an empty picture"


def check_round_trip(modality: Modality[Any], dataset: Dataset, processes: Mapping[str, Process], n: int = 4) -> None:
    """Sampling with exact predictions returns the examples, and they decode."""
    batch = examples(modality, dataset, range(n))
    assert set(processes) == set(batch.clean), f"processes are of {sorted(processes)}, components are {sorted(batch.clean)}"
    state = Sampler()(Oracle(batch.clean, processes), processes, batch)
    for k, x in batch.clean.items():
        assert close(state[k].to(x.dtype), x, batch.mask[k], 0.02 * max(1.0, float(x.abs().max()))), f"{k!r} is not returned"
    assert all(s is not None for s in modality.decode(state, batch)), "decode finds returned examples invalid"


def check_companions(contract: Contract, n: int = 4, time: float = 0.5) -> None:
    """The network says the same of an example alone and among larger ones, to which it is padded."""
    dataset, modality, denoiser, *_ = contract
    batch = contract.batch(n)
    denoiser.eval()
    with torch.no_grad():
        together = predict(denoiser, batch, time).pred
        for i in range(n):
            alone = examples(modality, dataset, [i])
            for k, x in predict(denoiser, alone, time).pred.items():
                one, other = x[0][alone.mask[k][0]], together[k][i][batch.mask[k][i]]
                assert close(one, other, tolerance=1e-4), f"the prediction of {k!r} for example {i} depends on its companions"


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for field in ("clean", "mask", "free", "cond", "raw"):
        yield from ((f"{field}[{k!r}]", x) for k, x in getattr(batch, field).items())
    for name, features in batch.target.items():
        assert isinstance(features, Features), f"target {name!r} is a {type(features).__name__}, not Features(value, mask)"
        yield f"target[{name!r}]", features.value
