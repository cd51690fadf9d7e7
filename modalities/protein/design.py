"""Sequences for a backbone, and how likely a sequence is on it.

>>> design(denoiser, processes, read_structure("1abc.cif"), n=8)  # doctest: +SKIP
[Designed(sequence='MKV...', ...), ...]

The backbone is encoded once, whatever the number of designs and scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modalities.protein.alphabet import CLASSES, MASK, UNKNOWN, letters, tokens
from modalities.protein.modality import Protein, preference
from modalities.protein.sample import Designed
from modalities.protein.structure import Structure
from modalities.protein.task import Task
from multigen.buckets import ranges
from multigen.denoiser import Denoiser, Output, is_timeless, prepared
from multigen.evaluate import evaluating
from multigen.process import Masked, Process
from multigen.random import Noise, keys
from multigen.state import Batch, MultigenError, State, at_least
from multigen.unmasking import Unmasking

SITES = 2048
"""Residues of all designs that are made at once, if no batch size is given: more does not pay on a processor."""
MASKS = 16
"""Partly masked sequences that a score is averaged over."""

Progress = Callable[[int], None]
"""Told how many residues were made, or partly masked sequences scored, since it was told last."""

_NAME = "sequence"


def design(
    denoiser: Denoiser,
    processes: Mapping[str, Process],
    task: Task | Structure,
    n: int = 1,
    seed: int = 0,
    sampler: Unmasking | None = None,
    neighbours: int = 30,
    batch_size: int | None = None,
) -> list[Designed]:
    """Design a backbone n times; see `Designer` for the arguments."""
    return Designer(denoiser, processes, task, sampler, neighbours, batch_size).design(n, seed)


class Designer:
    """A backbone and a network that has encoded it.

    Args:
        denoiser: of inverse folding, trained; design and score run it in evaluation mode, on the device that it is on.
        processes: as trained: one `Masked` component "sequence".
        task: what to design, or a structure of which to design all.
        sampler: order, temperature, guidance; by default ancestral sampling at temperature 0.1.
        neighbours: K of the network's graph, as trained.
        batch_size: designs at a time; it changes rounding only.

    Raises:
        MultigenError: the network is not one of inverse folding.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        processes: Mapping[str, Process],
        task: Task | Structure,
        sampler: Unmasking | None = None,
        neighbours: int = 30,
        batch_size: int | None = None,
    ) -> None:
        self.task = task if isinstance(task, Task) else Task(task)
        self.process, self.processes, self.denoiser = _masked(processes), processes, denoiser
        sampler = sampler or Unmasking(temperature=0.1)
        network = denoiser if sampler.guide is None else sampler.guide(denoiser)
        self.sampler, self.network = replace(sampler, guide=None), _Prepared(network)
        self.batch_size = max(1, SITES // len(self.task.structure)) if batch_size is None else batch_size
        at_least(1, batch_size=self.batch_size)
        with evaluating(denoiser):
            template = self._template(neighbours).to(_device(denoiser))
            self.template = template.replace(cond=prepared(network, template.cond, template.mask))

    def _template(self, neighbours: int) -> Batch:
        """The task as a batch of one row."""
        bound = self.task.bound
        example = {**self.task.structure.example(), "sequence": bound.sequence, "free": bound.made}
        batch = Protein(neighbours=neighbours).to_design([example], torch.zeros(1, dtype=torch.long))
        bias = batch.cond[f"{_NAME}.bias"] + (0 if self.task.bias is None else self.task.bias)  # (1, L, 21)
        tie = {f"{_NAME}.tie": torch.from_numpy(bound.tie)[None]} if (bound.tie >= 0).any() else {}  # (1, L)
        return batch.replace(cond={**batch.cond, f"{_NAME}.bias": bias, **tie})

    # ------------------------------------------------------------------------------------------------------------ designs

    def design(self, n: int, seed: int = 0, progress: Progress | None = None) -> list[Designed]:
        """Designs 0 to n - 1; the i-th is a function of (seed, i) alone.

        What is tied to a given residue counts as given; of tied residues, one without atoms shows what the others got.
        """
        at_least(1, n=n)
        designs = []
        with evaluating(self.denoiser):
            for part in ranges(n, self.batch_size):
                batch = self._rows(keys(seed, part, "sample"))
                state = self.sampler(self.network, self.processes, batch, _watch(batch, progress))
                made, confidence = (state[name].cpu().numpy() for name in (_NAME, f"{_NAME}.confidence"))  # (B, L) each
                designs += [self._designed(*row) for row in zip(made, confidence, strict=True)]
        return designs

    def _rows(self, key: Tensor) -> Batch:
        """A row of the one backbone for each key, without a copy."""
        batch = self.template.map(lambda x: x.expand(len(key), *x.shape[1:]))
        return batch.replace(key=key.to(self.template.key.device))

    def _designed(self, made: NDArray[np.int64], confidence: NDArray[np.float32]) -> Designed:
        """A result from what the sampler returned for one row: (L,) each."""
        structure, bound = self.task.structure, self.task.bound
        return Designed(
            sequence=letters(made[bound.leader]),
            native=structure.letters(),
            free=bound.made[bound.leader],  # (L,)
            confidence=confidence[bound.leader],  # (L,)
            backbone=structure.backbone,
            chain=structure.chain.astype(np.int64),  # (L,)
            name=structure.name,
        )

    # ------------------------------------------------------------------------------------------------------------- scores

    def score(
        self, sequences: Sequence[str], seed: int = 0, masks: int = MASKS, progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Mean log-likelihood of the designed residues of each sequence, in nats: (len(sequences),).

        A mean over all orders in which the residues could be revealed, each given what is fixed and what was revealed before.
        It is the mean over the number m of residues that are hidden, and over which ones they are (Uria et al. 2014; Hoogeboom
        et al. 2022, eq. 4-5), estimated from `masks` draws with m spread evenly, the same for all sequences. Each residue is
        averaged on its own, a draw that hides it having the weight 1 / m, so that it does not matter how often it was drawn.
        The plain network is asked: no bias, temperature, guidance or tie. Residues that are unknown in the structure are not
        scored; where there are no others, the result is NaN.

        Args:
            sequences: L letters each, chains one after another.
            masks: R; more are more exact.
        """
        at_least(1, masks=masks)
        scored = torch.from_numpy(self.task.bound.made & (self.task.structure.sequence != UNKNOWN))  # (L,)
        if not scored.any() or not sequences:
            return np.full(len(sequences), np.nan)
        shown = torch.stack([torch.from_numpy(self._checked(x)) for x in sequences])  # (S, L)
        hidden = _hidden(scored, masks, seed)  # (R, L)
        weight = hidden / hidden.sum(1, keepdim=True, dtype=torch.float64)  # (R, L)
        total = torch.zeros(shown.shape, dtype=torch.float64)  # (S, L)
        with evaluating(self.denoiser):
            for part in ranges(len(sequences) * masks, self.batch_size):
                which, mask = torch.tensor(part) // masks, torch.tensor(part) % masks  # (B,), (B,)
                total.index_add_(0, which, weight[mask] * self._log_p(shown[which], hidden[mask]))
                if progress is not None:
                    progress(len(part))
        drawn = weight.sum(0)  # (L,)
        return (total / drawn)[:, drawn > 0].mean(1).numpy()

    def _checked(self, sequence: str) -> NDArray[np.int64]:
        """Tokens (L,)."""
        if len(sequence) != len(self.task.structure):
            raise MultigenError(
                f"{self.task.structure.name} has {len(self.task.structure)} residues, a sequence to score has {len(sequence)}"
            )
        return tokens(sequence).astype(np.int64)  # (L,)

    def _log_p(self, shown: Tensor, hidden: Tensor) -> Tensor:
        """Log-probability of each residue of Long (B, L) while some are hidden, Bool (B, L): (B, L), 0 where shown."""
        batch = self._rows(torch.zeros(len(shown), dtype=torch.long))
        device = batch.key.device
        noisy = torch.where(hidden, MASK, shown).to(device)  # (B, L)
        t = 1 - hidden.sum(1).to(device) / batch.free[_NAME].sum(1)  # (B,)
        pred = self.denoiser({_NAME: noisy}, {_NAME: t}, batch.cond, batch.mask).pred[_NAME]  # (B, L, 22)
        logits = self.process.logits(pred) + preference().to(device)  # (B, L, 21)
        log_p = logits.double().log_softmax(-1).gather(-1, shown.to(device)[..., None])[..., 0].cpu()  # (B, L)
        return torch.where(hidden, log_p, 0)


def _hidden(scored: Tensor, masks: int, seed: int) -> Tensor:
    """Which residues each draw hides, the r-th a random number of them from the r-th of `masks` equal shares: Bool (R, L)."""
    noise = Noise(keys(seed, range(masks), "score"))
    share = (torch.arange(masks) + noise.fold("count").uniform()) / masks  # (R,)
    count = (share * scored.sum()).floor().long() + 1  # (R,) in 1 .. number of scored ones
    rank = torch.where(scored, noise.fold("order").uniform(scored.shape), 2.0)  # (R, L)
    return (rank.argsort(1).argsort(1) < count.clamp(max=int(scored.sum()))[:, None]) & scored  # (R, L)


class _Prepared:
    """A network whose conditions were prepared before; samplers would ask it again for every batch."""

    def __init__(self, network: Denoiser) -> None:
        self.network, self.timeless = network, is_timeless(network)

    def __call__(self, *args: Any, **settings: Any) -> Output:
        return self.network(*args, **settings)

    def null(self, cond: State) -> State:
        return self.network.null(cond)

    def prepare(self, cond: State, mask: State) -> State:
        return cond


def _masked(processes: Mapping[str, Process]) -> Masked:
    process = processes.get(_NAME)
    if len(processes) != 1 or not isinstance(process, Masked) or process.classes != CLASSES:
        kinds = {name: type(x).__name__ for name, x in processes.items()}
        raise MultigenError(f"designing needs one component {_NAME!r}, Masked of {CLASSES} classes; these are {kinds}")
    return process


def _device(denoiser: Any) -> torch.device:
    parameter = next(denoiser.parameters(), None) if isinstance(denoiser, torch.nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _watch(batch: Batch, progress: Progress | None) -> Callable[[int, State, State], None] | None:
    """Tell how many residues were made since the last call of the network."""
    if progress is None:
        return None
    free, made = batch.free[_NAME], 0

    def watch(step: int, noisy: State, pred: State) -> None:
        nonlocal made
        now = int((free & (noisy[_NAME] != MASK)).sum())
        progress(now - made)
        made = now

    return watch
