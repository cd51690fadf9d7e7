"""Teachers: frozen networks that see the clean picture, or read its caption.

They read ``Batch.raw``: ``image``, uint8 (B, 3, R, R), and ``caption``, uint8 (B, L), UTF-8 padded with zeros; with captions
out of a file ``name``, where the data have one. Features of pictures come as tokens on the student's grid, row by row as the
student's own tokens, so that each is aligned with its patch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalities.image.dialogue import PROMPT, Dialogue
from multigen.nn.frozen import Frozen
from multigen.state import Batch, Features, at_least, pool
from multigen.teachers import hub, hub_vision, vision
from multigen.teachers.captions import Captions, checksum, said
from multigen.teachers.common import raw
from multigen.teachers.hub_text import TextState, begins, chosen
from multigen.teachers.text import MiniLM

__all__ = ["DialogueState", "EfficientNetLite0", "MiniLM", "Pixels", "TextState", "Timm", "Transformers"]


class _Looking(vision.Pictures):
    """At the picture itself."""

    def pictures(self, batch: Batch) -> Tensor:
        return raw(batch, "image", self)  # (B, 3, R, R)


class EfficientNetLite0(_Looking, vision.EfficientNetLite0):
    __doc__ = vision.EfficientNetLite0.__doc__


class Timm(_Looking, vision.Timm):
    __doc__ = vision.Timm.__doc__


class Transformers(_Looking, hub_vision.Transformers):
    __doc__ = hub_vision.Transformers.__doc__


class Pixels(Frozen):
    """The picture itself, made smaller, in one row: (B, 3 size size), in 0 .. 1.

    No network: a judge that shares nothing with any teacher, and as a teacher a control without knowledge.
    """

    def __init__(self, size: int = 16) -> None:
        super().__init__(size=size)
        at_least(1, size=size)
        self.size = size
        self.freeze()

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        small = vision.resize(raw(batch, "image", self).float(), self.size)  # (B, 3, size, size)
        return Features(small.flatten(1) / 255, small.new_ones(len(small), dtype=torch.bool))


class DialogueState(Frozen):
    """A layer's hidden state of a vision-language model that is shown the picture, a question and the caption as its answer
    (REED's text representation): the mean over the tokens of picture and text alike, padding left out, (B, D).

    Args:
        model: name in the hub of the transformers library, such as ``Qwen/Qwen2-VL-7B-Instruct``, or a folder.
        layer: of the hidden states: 0 is the embedding, i what block i leaves (from 1), -1 the last.
        prompt: the question.
        trim: take the mean over the caption alone, without picture and question.
        captions: a file of captions, as ``multigen caption`` writes it; None takes what the data say.
        pretrained: False leaves the weights random; configuration and processor are read.
        seed: of random weights.
        processor: in place of the model's own, see `Dialogue`.

    Raises:
        MultigenError: the model or the captions cannot be read.
    """

    def __init__(
        self,
        model: str | Path,
        layer: int = -1,
        prompt: str = PROMPT,
        trim: bool = False,
        captions: str | Path | None = None,
        pretrained: bool = True,
        seed: int = 0,
        processor: Any = None,
    ) -> None:
        super().__init__(layer=layer, prompt=prompt, trim=trim)
        from transformers import AutoModel

        self.layer, self.trim, self.dialogue = layer, trim, Dialogue(model, prompt, processor)
        self.captions = None if captions is None else Captions(captions)
        self.net = hub.network(AutoModel, model, hub.settings(model), pretrained, seed)
        self.freeze(model=Path(model).name, captions=checksum(self.captions), processor=self.dialogue.digest)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        pictures, lines = raw(batch, "image", self), said(batch, self, self.captions)
        given = self.dialogue.tensors(pictures, lines, "right")
        states = self.net(**given, output_hidden_states=True).hidden_states
        mask = given["attention_mask"].bool()  # (B, T)
        if self.trim:
            asked = self.dialogue.tensors(pictures, [""] * len(lines), "right")["input_ids"]  # (B, Q)
            mask &= ~begins(given["input_ids"], asked)
        return pool(Features(chosen(states, self.layer, self.options["model"]).float(), mask))
