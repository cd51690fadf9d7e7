"""Counter-based random numbers: every number is a pure function of (key of the example, stream, site).

A training example's key is made from (seed, position in the run's data order), a sample's from (seed, index). Neither the
number of processes, the batch size, the loader workers nor an interruption can therefore change a single draw, nothing has
to be saved to resume, and two runs that differ only in their objective see the same noise. The generator is SplitMix64
(Steele, Lea and Flood 2014), evaluated in parallel at the counters it would otherwise visit one by one; the idea of
stateless streams is that of Salmon et al. 2011. It runs on the tensor's own device and never waits for it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from multigen.state import MultigenError


def _signed(x: int) -> int:
    """An unsigned 64-bit constant as the int64 of the same bits (torch has no arithmetic on uint64)."""
    return x - (1 << 64) if x >= 1 << 63 else x


_MASK = (1 << 64) - 1
_GAMMA = _signed(0x9E3779B97F4A7C15)
_MUL1 = _signed(0xBF58476D1CE4E5B9)
_MUL2 = _signed(0x94D049BB133111EB)

_CELLS = {torch.float32: 23, torch.float64: 52}


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own copies the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 whose outputs on consecutive inputs pass as random."""
    x = (x ^ _shift(x, 30)) * _MUL1
    x = (x ^ _shift(x, 27)) * _MUL2
    return x ^ _shift(x, 31)


def hash64(*parts: int | str) -> int:
    """One signed 64-bit number from integers and names; the same on every machine and Python."""
    # int() so that numpy's integers count as integers
    text = "/".join(f"str:{p}" if isinstance(p, str) else f"int:{int(p)}" for p in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def keys(seed: int, indices: Sequence[int] | Tensor, stream: str = "") -> Tensor:
    """One key per index: Long (B,), to be put into `Batch.key`.

    >>> bool((keys(0, range(8))[3:5] == keys(0, [3, 4])).all())
    True
    """
    index = torch.as_tensor(list(indices) if not isinstance(indices, Tensor) else indices, dtype=torch.long)  # (B,)
    return mix(mix(index * _GAMMA) + hash64(seed, stream))  # (B,)


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, count: int) -> Tensor:
    """The order in which an epoch of training shows its examples: Long (count,)."""
    return keys(seed, torch.arange(count), f"order {epoch}").argsort(stable=True)


class Noise:
    """Random numbers for the rows of a batch.

    Args:
        key: Long (B,), one key per example.

    Each `fold` opens an independent stream: `noise.fold("coords").fold(3)` is the third step's noise of component `coords`.
    Asking twice for the same shape from the same stream gives the same numbers, on purpose.
    """

    def __init__(self, key: Tensor) -> None:
        self.key = key

    def fold(self, name: int | str) -> Noise:
        return Noise(mix(self.key + hash64(name)))  # (B,)

    def _bits(self, shape: Sequence[int]) -> Tensor:
        """Long (B, *shape): 64 random bits for each entry.

        The counter is built from the entry's indices, not from its place in memory: padding a batch to a larger shape changes
        no number that was there before.
        """
        counter = self.key.view(-1, *[1] * len(shape))  # (B, 1, ...)
        for dim, size in enumerate(shape):
            stride = _signed(hash64("dimension", dim) & _MASK) | 1
            index = torch.arange(1, size + 1, device=self.key.device) * stride  # (size,)
            counter = counter + index.view([-1] + [1] * (len(shape) - dim - 1))  # (B, ..., size, ...)
        return mix(counter)  # (B, *shape)

    def uniform(self, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *shape) in the open interval (0, 1): the middles of 2^23 equal cells, or of 2^52 in float64."""
        if dtype not in _CELLS:
            raise MultigenError(f"uniform numbers in {dtype}; choices are float32 and float64 (less would round to 0 and 1)")
        # one bit fewer than the significand holds, so that adding a half is exact and 1 is never reached by rounding
        cells = _CELLS[dtype]
        return (_shift(self._bits(shape), 64 - cells).to(dtype) + 0.5) * 2.0**-cells  # (B, *shape)

    def normal(self, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, *shape) from N(0, 1): Box-Muller, both outputs used."""
        *outer, last = shape if shape else [1]
        bits = self._bits([*outer, (last + 1) // 2])  # (B, ..., ceil(last / 2))
        u = ((bits & 0xFFFFFFFF).to(torch.float32) + 0.5) * 2.0**-32  # (B, ..., ceil(last / 2)) in (0, 1]
        angle = _shift(bits, 32).to(torch.float32) * (2 * math.pi * 2.0**-32)  # (B, ..., ceil(last / 2))
        radius = torch.sqrt(-2 * torch.log(u.clamp(max=1 - 2.0**-24)))  # (B, ..., ceil(last / 2))
        pair = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1)  # (B, ..., ceil(last / 2), 2)
        return pair.flatten(-2)[..., :last].reshape(len(self.key), *shape).to(dtype)  # (B, *shape)

    def integers(self, high: int, shape: Sequence[int] = ()) -> Tensor:
        """Long (B, *shape) in 0 .. high - 1. The modulo bias is below high / 2^63."""
        return _shift(self._bits(shape), 1) % high  # (B, *shape)

    def categorical(self, probs: Tensor) -> Tensor:
        """One draw per row of `probs` (B, *sites, K), which need not be normalised: Long (B, *sites)."""
        cdf = probs.double().cumsum(-1)  # (B, *sites, K)
        u = self.uniform(probs.shape[1:-1], torch.float64) * cdf[..., -1]  # (B, *sites)
        return (cdf < u[..., None]).sum(-1).clamp(max=probs.shape[-1] - 1)  # (B, *sites)

    def rows(self, index: Tensor) -> Noise:
        """The streams of a subset of the rows."""
        return Noise(self.key[index])
