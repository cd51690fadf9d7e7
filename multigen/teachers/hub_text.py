"""Frozen networks of the transformers library that read: the hidden state of a layer, averaged over what is real."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multigen.nn.frozen import Frozen
from multigen.state import Batch, Features, MultigenError, pool
from multigen.teachers import hub
from multigen.teachers.captions import Captions, checksum, said


class TextState(Frozen):
    """A layer's hidden state of captions by any text encoder or language model of the transformers library: BERT, T5, CLIP's
    text side, Qwen, ...; of a model of pictures and text, its language model alone.

    The mean over the tokens of the caption, (B, D), padding left out; or the states of the tokens, for attention. A subclass
    that reads something else says so in `lines`.

    Args:
        model: name in the hub, or a folder with configuration, tokenizer and safetensors.
        layer: of the hidden states: 0 is the embedding, i what block i leaves (from 1), -1 the last.
        prompt: written before each caption.
        trim: leave the prompt's tokens out.
        tokens: None for the mean; a number for the states of so many tokens, padded or cut: (B, tokens, D).
        longest: captions are cut to so many tokens, the prompt's included.
        captions: a file of captions by the name that the data have for an example, see `multigen.teachers.captions`; None
            reads what the data say.
        pretrained: False leaves the weights random; configuration and tokenizer are read.
        seed: of random weights.

    Raises:
        MultigenError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path,
        layer: int = -1,
        prompt: str = "",
        trim: bool = True,
        tokens: int | None = None,
        longest: int = 256,
        captions: str | Path | None = None,
        pretrained: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(layer=layer, prompt=prompt, trim=trim, tokens=tokens, longest=longest)
        from transformers import AutoModel, AutoTokenizer

        self.layer, self.prompt, self.trim, self.tokens, self.longest = layer, prompt, trim, tokens, longest
        self.tokenizer = hub.asked(AutoTokenizer.from_pretrained, model)
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.captions = None if captions is None else Captions(captions)
        self.net = _reader(hub.network(AutoModel, model, hub.settings(model), pretrained, seed, ("pooler.",)))
        self.freeze(model=Path(model).name, tokenizer=_digest(self.tokenizer), captions=checksum(self.captions))

    def lines(self, batch: Batch) -> Sequence[str]:
        """What of a batch is read: a line for each example; "" where there is none."""
        return said(batch, self, self.captions)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        lines, device = self.lines(batch), batch.key.device
        fixed = {"padding": True} if self.tokens is None else {"padding": "max_length"}
        longest = self.longest if self.tokens is None else self.tokens
        texts = [f"{self.prompt} {line}" if self.prompt else line for line in lines]
        found = self.tokenizer(texts, truncation=True, max_length=longest, return_tensors="pt", **fixed).to(device)
        states = self.net(**{k: found[k] for k in ("input_ids", "attention_mask")}, output_hidden_states=True)
        there = torch.tensor([bool(line) for line in lines], device=device)  # (B,)
        mask = found["attention_mask"].bool() & there[:, None]  # (B, T)
        if self.prompt and self.trim:
            asked = self.tokenizer(self.prompt, return_tensors="pt")["input_ids"][0].to(device)  # (P,)
            mask &= ~begins(found["input_ids"], asked)  # (B, T)
        features = Features(chosen(states.hidden_states, self.layer, self.options["model"]).float(), mask)
        return pool(features) if self.tokens is None else features


def _reader(net: Any) -> Any:
    """The part of a network that reads text: its encoder, its language model, or all of it."""
    if net.config.is_encoder_decoder:
        return net.get_encoder()
    return next((part for name in ("language_model", "text_model") if (part := getattr(net, name, None)) is not None), net)


def begins(ids: Tensor, prompt: Tensor) -> Tensor:
    """Bool (B, T): which tokens of rows that are padded on the right belong to a beginning that they share with the prompt.

    Args:
        ids: Long (B, T).
        prompt: Long (P,), or (B, P) for each row its own.
    """
    given = prompt[..., : ids.shape[1]]  # (P,) or (B, P)
    same = ids[:, : given.shape[-1]] == given  # (B, P)
    beyond = same.new_zeros(len(ids), ids.shape[1] - given.shape[-1])  # (B, T - P)
    return torch.cat([same.cumprod(1).bool(), beyond], 1)


def chosen(states: Sequence[Tensor], layer: int, model: str) -> Tensor:
    """The hidden state (B, T, D) of a layer."""
    if not -len(states) <= layer < len(states):
        raise MultigenError(f"{model} has hidden states 0 .. {len(states) - 1}, not {layer}")
    return states[layer]


def _digest(tokenizer: Any) -> str:
    """Of everything that decides how text is cut into tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else f"{sorted(tokenizer.get_vocab().items())}"
    return hashlib.sha256(text.encode()).hexdigest()
