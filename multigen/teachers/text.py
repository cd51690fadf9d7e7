"""Frozen networks that read: MiniLM on sentences."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from multigen.files import read_json
from multigen.nn.frozen import Frozen, load_weights
from multigen.state import Batch, Features
from multigen.teachers import weights as prepared
from multigen.teachers.captions import Captions, checksum, said


class MiniLM(Frozen):
    """Sentence embedding of captions: all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019), 22.7 M parameters.

    The mean over the real tokens, scaled to length 1: (B, 384). Or the states of the tokens, for attention. A subclass that
    reads something else says so in `lines`.

    Args:
        tokens: None for the sentence; a number for the states of so many tokens, padded or cut: (B, tokens, 384).
        root: the data root in which the weights were prepared.
        folder: another folder with ``config.json``, ``tokenizer.json`` and ``model.safetensors`` of a BERT.
        captions: a file of captions by the name that the data have for an example, see `multigen.teachers.captions`; None
            reads what the data say.
    """

    version = 2

    def __init__(
        self,
        tokens: int | None = None,
        root: str | Path | None = None,
        folder: str | Path | None = None,
        captions: str | Path | None = None,
    ) -> None:
        super().__init__(tokens=tokens)
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        path = Path(folder) if folder else prepared.minilm(Path(root) if root else None)
        self.tokens, self.captions = tokens, None if captions is None else Captions(captions)
        self.tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self.tokenizer.enable_truncation(tokens or 256)
        self.tokenizer.enable_padding(length=tokens)
        self.net = BertModel(BertConfig(**read_json(path / "config.json")), add_pooling_layer=False)
        load_weights(self.net, path / "model.safetensors")
        read = {} if self.captions is None else {"captions": checksum(self.captions)}
        self.freeze(tokenizer=hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest(), **read)

    @staticmethod
    def prepare(root: str | Path | None = None, folder: str | Path | None = None) -> None:
        """Fetch the weights, unless they are in another folder."""
        if folder is None:
            prepared.MINILM_STOCK.prepare(Path(root) if root else None)

    def lines(self, batch: Batch) -> Sequence[str]:
        """What of a batch is read: a line for each example; "" where there is none."""
        return said(batch, self, self.captions)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        lines, device = self.lines(batch), batch.key.device
        there = torch.tensor([bool(line) for line in lines], device=device)  # (B,)
        if self.tokens is not None:
            state, mask = self._states(lines, device)  # (B, T, D), (B, T)
            return Features(state, mask & there[:, None])
        value = torch.zeros(len(lines), self.net.config.hidden_size, device=device)  # (B, D)
        for rows in alike(lines):
            state, mask = self._states([lines[i] for i in rows], device)  # (R, T, D), (R, T)
            total = torch.where(mask[..., None], state, 0).sum(1)  # (R, D)
            value[rows] = F.normalize(total / mask.sum(1, keepdim=True), dim=-1)
        return Features(value, there)

    def _states(self, lines: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """The last states of the tokens (B, T, D), and which of them are real (B, T)."""
        found = self.tokenizer.encode_batch(list(lines))
        ids = torch.tensor([line.ids for line in found], device=device)  # (B, T)
        mask = torch.tensor([line.attention_mask for line in found], device=device)  # (B, T)
        return self.net(input_ids=ids, attention_mask=mask).last_hidden_state, mask.bool()


def alike(lines: Sequence[str], most: float = 1.3) -> list[list[int]]:
    """Indices of lines in groups of similar length, so that little is padded."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lines)), key=lambda i: len(lines[i])):
        if groups and len(lines[i]) <= most * len(lines[groups[-1][0]]):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups
