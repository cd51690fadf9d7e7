"""Synthetic captions: said by a vision-language model, and kept in a file that teachers of text read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from torch import Tensor

from modalities.image.dialogue import PROMPT, Dialogue
from multigen.files import to_json, write_text, writing
from multigen.modality import Example
from multigen.state import MultigenError, at_least
from multigen.store import lock
from multigen.teachers import hub
from multigen.teachers.captions import read


class Captioner:
    """Any vision-language model of the transformers library, asked for a caption of each picture. Greedy: the same picture
    has the same caption.

    Args:
        model: name in the hub, such as ``Qwen/Qwen2-VL-2B-Instruct``, or a folder.
        prompt: what it is asked.
        tokens: length of a caption at most.
        processor: in place of the model's own, see `Dialogue`.
    """

    def __init__(self, model: str | Path, prompt: str = PROMPT, tokens: int = 200, processor: Any = None) -> None:
        from transformers import AutoModelForImageTextToText

        at_least(1, tokens=tokens)
        self.dialogue, self.tokens = Dialogue(model, prompt, processor), tokens
        self.net = hub.network(AutoModelForImageTextToText, model, hub.settings(model)).eval()

    def to(self, device: Any) -> Captioner:
        self.net.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> list[str]:
        """Uint8 (B, 3, H, W) -> one line each, without the prompt."""
        given = self.dialogue.tensors(pictures.to(self.net.device), [""] * len(pictures), "left")
        said = self.net.generate(**given, max_new_tokens=self.tokens, do_sample=False)  # (B, T)
        lines = self.dialogue.processor.batch_decode(answers(said, given["input_ids"]), skip_special_tokens=True)
        return [" ".join(line.split()) for line in lines]


def answers(said: Tensor, asked: Tensor) -> Tensor:
    """Generated tokens (B, T) without the question (B, Q), which models repeat unless they have a decoder of their own."""
    count = asked.shape[1]
    repeated = said.shape[1] >= count and torch.equal(said[:, :count], asked)
    return said[:, count:] if repeated else said


# ------------------------------------------------------------------------------------------------------------------- file


def name_of(example: Example) -> str:
    """What the data call a picture.

    Raises:
        MultigenError: they have no names.
    """
    if "caption" not in example or "raw" not in example:
        needs = "captions need pictures with a view for teachers in `raw` and a name in `caption`"
        raise MultigenError(f"{needs}; an example holds {sorted(example)}")
    return str(example.get("name", example["caption"]))


def write(
    caption: Callable[[Tensor], list[str]],
    dataset: Iterable[Example],
    path: str | Path,
    batch_size: int = 16,
    show: Callable[[int], None] = lambda count: None,
) -> int:
    """Caption the pictures that the file does not have yet, appending after each batch: interrupted, it goes on. The file is
    locked while it is written.

    Args:
        caption: uint8 (B, 3, H, W) -> lines.
        dataset: examples with ``raw`` and ``name``, or where that is missing ``caption``, which then is their name.
        show: called with the number of pictures that were looked at.

    Returns:
        How many were captioned.

    Raises:
        MultigenError: two pictures have one name, the file cannot be written, or another process writes it.
    """
    at_least(1, batch_size=batch_size)
    path, count = Path(path).expanduser(), 0
    with _locked(path):
        left = _left(dataset, _whole(path), show)
        while some := list(islice(left, batch_size)):
            names, pictures = zip(*some, strict=True)
            said = zip(names, caption(torch.stack(pictures)), strict=True)
            with writing(path), open(path, "a", encoding="utf-8") as file:
                file.write("".join(_line(*pair) for pair in said))
            count += len(names)
    return count


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock. Not waited for: captions take hours, and who comes second most likely meant another file."""
    with writing(path):
        held = lock(path)
        try:
            held.acquire(blocking=False)
        except Timeout:
            raise MultigenError(f"{path} is being written by another process: wait for it, or give another file") from None
    try:
        yield
    finally:
        held.release()


def _line(name: str, caption: str) -> str:
    return to_json({"id": name, "caption": caption}) + "\n"


def _whole(path: Path) -> Mapping[str, str]:
    """What a file holds, whose torn last line is taken away; nothing if there is none."""
    if not path.is_file():
        return {}
    found = read(path)
    write_text(path, "".join(_line(*pair) for pair in found.items()))
    return found


def _left(dataset: Iterable[Example], done: Mapping[str, str], show: Callable[[int], None]) -> Iterator[tuple[str, Tensor]]:
    """Names, and pictures uint8 (3, R, R), of those that are not done."""
    seen: set[str] = set()
    for example in dataset:
        if (name := name_of(example)) in seen:
            raise MultigenError(f"two pictures are called {name!r}: captions are kept by name")
        seen.add(name)
        show(len(seen))
        if name not in done:
            yield name, torch.from_numpy(example["raw"].copy()).permute(2, 0, 1)  # (3, R, R)
