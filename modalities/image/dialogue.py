"""What a vision-language model is shown: a picture, a question about it, and an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from multigen import describe
from multigen.teachers import hub

PROMPT = "Describe this picture in one sentence."


class Dialogue:
    """Writes dialogues as a model was trained to read them, by its own template, tokenizer and preprocessing.

    Args:
        model: name in the hub of the transformers library, or a folder.
        prompt: the question.
        processor: makes tensors of ``text`` and ``images``, as a ``transformers`` processor does; the model's own if None.
    """

    def __init__(self, model: str | Path, prompt: str, processor: Any = None) -> None:
        from transformers import AutoProcessor

        self.prompt = prompt
        self.processor = hub.asked(AutoProcessor.from_pretrained, model) if processor is None else processor

    @property
    def digest(self) -> str:
        """Of everything beside the prompt that decides what the model is shown: sizes, normalisation, template, tokens."""
        own = self.processor
        inner = ("image_processor", "video_processor")  # not every processor's settings include these
        parts = [own, *(getattr(own, name, None) for name in inner)]
        told = [part.to_dict() if hasattr(part, "to_dict") else part for part in parts]
        return describe.digest(told, getattr(own, "chat_template", None), _tokens(getattr(own, "tokenizer", None)))

    def question(self) -> str:
        """As text, up to where the answer begins."""
        said = [{"type": "image"}, {"type": "text", "text": self.prompt}]
        if getattr(self.processor, "chat_template", None):
            turn = {"role": "user", "content": said}
            return self.processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        return f"{getattr(self.processor, 'image_token', '')}{self.prompt} "

    def tensors(self, pictures: Tensor, answers: Sequence[str], side: str) -> Mapping[str, Tensor]:
        """What the model reads of pictures, uint8 (B, 3, H, W), each with an answer, "" to have it given one.

        Args:
            side: "left" or "right", where shorter dialogues are padded.
        """
        from PIL import Image

        arrays = pictures.permute(0, 2, 3, 1).to("cpu").numpy().astype(np.uint8)  # (B, H, W, 3)
        texts = [self.question() + answer for answer in answers]
        self.processor.tokenizer.padding_side = side
        shown = [Image.fromarray(array) for array in arrays]
        return self.processor(images=shown, text=texts, padding=True, return_tensors="pt").to(pictures.device)


def _tokens(tokenizer: Any) -> Any:
    """How text is cut into tokens, without how it was padded and cut off the last time."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None if tokenizer is None else tokenizer.get_vocab()
    return {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
