"""Synthetic text: captions by a vision-language model, kept in a file, and hidden states of them, padding left out."""

from __future__ import annotations

import json
import subprocess
import sys

import hub_models
import numpy as np
import pytest
import torch

from modalities.image import captions
from modalities.image.captions import Captioner, answers
from modalities.image.encoders import DialogueState, MiniLM, TextState
from modalities.image.modality import Image
from multigen.cli.main import run
from multigen.modality import encode_text
from multigen.state import Batch, MultigenError
from multigen.teachers.captions import read

LINES = ["a dog", "a red apple . a green dog .", ""]


@pytest.fixture(scope="module")
def talking(tmp_path_factory):
    return hub_models.talking(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    return hub_models.reading(tmp_path_factory.mktemp("bert"))


def pictures(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def batch_of(lines, first: int = 0) -> Batch:
    raw = {"image": pictures(first + len(lines))[first:], "caption": encode_text(lines)}
    return Batch({}, {}, {}, torch.zeros(len(lines), dtype=torch.long), raw=raw)


# ------------------------------------------------------------------------------------------------------ states of text alone


def test_padding_of_a_batch_changes_no_state(reading):
    teacher = TextState(reading, layer=1)
    together = teacher(batch_of(LINES))
    assert together.value.shape == (3, 32) and together.mask.tolist() == [True, True, False]
    for i, line in enumerate(LINES[:2]):
        torch.testing.assert_close(together.value[i : i + 1], teacher(batch_of([line])).value, rtol=1e-4, atol=1e-5)


def test_the_layer_is_chosen_and_averaged_over_real_tokens(reading):
    from transformers import AutoModel

    ids = torch.tensor([[hub_models.WORDS.index(word) for word in LINES[0].split()]])
    with torch.no_grad():
        states = AutoModel.from_pretrained(reading).eval()(ids, output_hidden_states=True).hidden_states
    for layer in (0, 1, 2, -1):
        found = TextState(reading, layer=layer)(batch_of(LINES[:1])).value
        torch.testing.assert_close(found, states[layer].mean(1), rtol=1e-4, atol=1e-5)
    with pytest.raises(MultigenError, match=r"hidden states 0 \.\. 2, not 3"):
        TextState(reading, layer=3)(batch_of(LINES))


def test_tokens_of_the_prompt_are_left_out(reading):
    """A prompt changes the states of what follows it, and its own are in the mean only if they are asked for."""
    states = TextState(reading, prompt="describe a", trim=False, tokens=8)(batch_of(LINES[:1]))
    assert states.value.shape == (1, 8, 32) and states.mask[0].tolist() == [True] * 4 + [False] * 4
    trimmed = TextState(reading, prompt="describe a")(batch_of(LINES[:1])).value
    torch.testing.assert_close(trimmed[0], states.value[0, 2:4].mean(0), rtol=1e-4, atol=1e-5)
    kept = TextState(reading, prompt="describe a", trim=False)(batch_of(LINES[:1])).value
    torch.testing.assert_close(kept[0], states.value[0, :4].mean(0), rtol=1e-4, atol=1e-5)


def test_of_a_model_of_pictures_and_text_the_text_alone_is_read(talking):
    teacher = TextState(talking)
    assert type(teacher.net).__name__ == "LlamaModel"
    together = teacher(batch_of(LINES[:2])).value
    torch.testing.assert_close(together[:1], teacher(batch_of(LINES[:1])).value, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- states of dialogues


def test_padding_of_dialogues_changes_no_state(talking):
    teacher = DialogueState(talking, layer=1, prompt="describe")
    together = teacher(batch_of(LINES))
    assert together.value.shape == (3, 32) and together.mask.all()
    for i in range(3):
        alone = teacher(batch_of([LINES[i]], first=i)).value
        torch.testing.assert_close(together.value[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_mean_of_a_dialogue_is_over_picture_question_and_caption(talking):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    net, processor = AutoModelForImageTextToText.from_pretrained(talking).eval(), AutoProcessor.from_pretrained(talking)
    text = "USER: <image> describe ASSISTANT: a dog"
    given = processor(images=[pictures(1)[0]], text=[text], return_tensors="pt")
    assert given["input_ids"].shape[1] == 4 + 5  # four patches stand for the picture
    with torch.no_grad():
        states = net(**given, output_hidden_states=True).hidden_states
    found = DialogueState(talking, layer=1, prompt="describe")(batch_of(["a dog"]))
    torch.testing.assert_close(found.value, states[1].mean(1), rtol=1e-4, atol=1e-5)
    trimmed = DialogueState(talking, layer=1, prompt="describe", trim=True)(batch_of(["a dog"]))
    torch.testing.assert_close(trimmed.value, states[1][:, -2:].mean(1), rtol=1e-4, atol=1e-5)
    assert trimmed.mask.all() and not DialogueState(talking, trim=True)(batch_of([""])).mask.any()


def test_fingerprints_tell_what_is_read(talking, tmp_path):
    def written(text):
        (tmp_path / "c.jsonl").write_text(json.dumps({"id": "x", "caption": text}) + "\n")
        return tmp_path / "c.jsonl"

    made = [
        DialogueState(talking, prompt="describe"),
        DialogueState(talking, prompt="a"),
        DialogueState(talking, prompt="describe", trim=True),
        DialogueState(talking, prompt="describe", captions=written("a dog")),
        DialogueState(talking, prompt="describe", captions=written("a red dog")),
    ]
    assert len({teacher.fingerprint for teacher in made}) == 5


def test_fingerprints_tell_how_pictures_and_dialogues_are_prepared(talking):
    from transformers import AutoProcessor

    def made(change=lambda processor: None):
        change(processor := AutoProcessor.from_pretrained(talking))
        return DialogueState(talking, prompt="describe", processor=processor)

    changes = [
        lambda p: setattr(p.image_processor, "size", {"shortest_edge": 40}),
        lambda p: setattr(p.image_processor, "image_mean", [0.4, 0.5, 0.5]),
        lambda p: setattr(p.image_processor, "do_center_crop", False),
        lambda p: setattr(p, "chat_template", hub_models.TEMPLATE.replace("USER", "PERSON")),
        lambda p: p.tokenizer.add_tokens(["pear"]),
        lambda p: setattr(p, "num_additional_image_tokens", 2),
    ]
    plain, used = DialogueState(talking, prompt="describe").fingerprint, made()
    assert len({plain, *(made(change).fingerprint for change in changes)}) == 1 + len(changes)
    used(batch_of(LINES[:2]))  # which pads
    assert (
        DialogueState(talking, prompt="describe", processor=used.dialogue.processor).fingerprint == plain == made().fingerprint
    )


# ------------------------------------------------------------------------------------------------------------------ captions


def test_captions_hold_what_was_generated_and_not_the_prompt(talking):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    said = Captioner(talking, prompt="describe", tokens=6)(pictures(2))
    net, processor = AutoModelForImageTextToText.from_pretrained(talking).eval(), AutoProcessor.from_pretrained(talking)
    for picture, line in zip(pictures(2), said, strict=True):
        given = processor(images=[picture], text=["USER: <image> describe ASSISTANT: "], return_tensors="pt")
        ids = net.generate(**given, max_new_tokens=6, do_sample=False)[:, given["input_ids"].shape[1] :]
        assert line == processor.batch_decode(ids, skip_special_tokens=True)[0].strip() != ""
        assert len(line.split()) <= 6


def test_models_that_do_not_repeat_the_question_lose_nothing():
    asked, new = torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9, 10, 11]])
    assert torch.equal(answers(torch.cat([asked, new], 1), asked), new) and torch.equal(answers(new, asked), new)
    assert torch.equal(answers(new[:, :2], asked), new[:, :2])


def examples(names):
    return [{"raw": np.full((4, 4, 3), i, np.uint8), "caption": name} for i, name in enumerate(names)]


def test_captions_are_kept_by_name_and_an_interrupted_run_goes_on(tmp_path):
    path, asked = tmp_path / "sub" / "c.jsonl", []

    def caption(batch):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(batch))
        return [f"shade {int(x[0, 0, 0])}" for x in batch]

    with pytest.raises(KeyboardInterrupt):
        captions.write(caption, examples("abcde"), path, 2)
    with open(path, "a") as file:
        file.write('{"id": "e", "capt')  # torn by a kill
    assert read(path) == {name: f"shade {i}" for i, name in enumerate("abcd")}
    asked.clear()
    assert captions.write(caption, examples("abcde"), path, 2) == 1 and asked == [1]
    assert read(path) == {name: f"shade {i}" for i, name in enumerate("abcde")}
    assert captions.write(caption, examples("abcde"), path) == 0


def test_a_file_that_another_process_writes_is_left_alone(tmp_path):
    path = tmp_path / "c.jsonl"
    code = f"from multigen.store import lock; from pathlib import Path; held = lock(Path({str(path)!r})); held.acquire();"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code} print('held', flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(MultigenError, match=r"c\.jsonl is being written by another process: wait for it, or give another"):
            captions.write(lambda batch: ["x"] * len(batch), examples("ab"), path)
        assert not path.exists()
        other.communicate(b"\n")
    assert captions.write(lambda batch: ["x"] * len(batch), examples("ab"), path) == 2


def test_a_file_is_locked_while_it_is_written_and_free_after_a_failure(tmp_path):
    path = tmp_path / "c.jsonl"
    code = (
        "from filelock import FileLock, Timeout\ntry:\n    FileLock(%r).acquire(blocking=False)\nexcept Timeout:\n    exit(7)"
    )
    held = []

    def caption(batch):
        held.append(subprocess.run([sys.executable, "-c", code % str(tmp_path / ".c.jsonl.lock")]).returncode)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            captions.write(caption, examples("ab"), path)
    assert held == [7, 7]


def test_what_cannot_be_kept_is_refused(tmp_path):
    def shout(batch):
        return ["x"] * len(batch)

    with pytest.raises(MultigenError, match="two pictures are called 'a'"):
        captions.write(shout, examples("aba"), tmp_path / "c.jsonl")
    with pytest.raises(MultigenError, match=r"a name in `caption`; an example holds \['image'\]"):
        captions.write(shout, [{"image": np.zeros(3)}], tmp_path / "d.jsonl")
    (tmp_path / "bad.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(MultigenError, match=r"bad\.jsonl, line 1: expected .*found 'nonsense'"):
        read(tmp_path / "bad.jsonl")
    with pytest.raises(MultigenError, match="cannot read the captions"):
        read(tmp_path / "none.jsonl")


def test_teachers_of_text_read_captions_from_a_file(reading, sentences, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": "one", "caption": "a dog"}\n{"id": "two", "caption": "a red apple"}\n')
    for plain, filed in (
        (TextState(reading), TextState(reading, captions=path)),
        (MiniLM(folder=sentences), MiniLM(folder=sentences, captions=path)),
    ):
        given, read_there = plain(batch_of(["a red apple", "a dog"])), filed(batch_of(["two", "one"]))
        torch.testing.assert_close(read_there.value, given.value)
        assert plain.fingerprint != filed.fingerprint
        with pytest.raises(MultigenError, match=r"c\.jsonl holds 2 captions, and none of 'three'"):
            filed(batch_of(["three"]))


def test_the_command_captions_the_pictures_of_an_experiment(talking, tmp_path, monkeypatch, capsys):
    from modalities.image.example import Noise

    class Named(Noise):
        def __init__(self, split, **settings):
            self.split = split

        def __getitem__(self, index):
            return {**super().__getitem__(index), "caption": f"{self.split} {index}"}

    monkeypatch.setattr("modalities.image.data.Emoji", Named)
    out = tmp_path / "captions.jsonl"
    asked = ["caption", "image/emoji_vanilla", f"model={talking}", f"out={out}", "tokens=3", "prompt=describe", "device=cpu"]
    assert run(asked) == 0 and "16 pictures captioned" in capsys.readouterr().out
    assert set(read(out)) == {f"{split} {i}" for split in ("train", "valid") for i in range(8)}
    assert run(asked) == 0 and "0 pictures captioned" in capsys.readouterr().out
    assert run(["caption", "image/emoji_vanilla", "model=nowhere"]) == 2
    assert "multigen caption needs out=..." in capsys.readouterr().err
    assert run(["caption", f"model={talking}", f"out={out}"]) == 2
    assert "multigen caption needs one experiment, got []" in capsys.readouterr().err


def test_captions_belong_to_the_name_where_the_data_have_one(reading, tmp_path):
    path = tmp_path / "c.jsonl"
    nameless = [{"raw": np.zeros((8, 8, 3), np.uint8), "caption": "", "name": name} for name in ("a/1.jpg", "a/2.jpg")]
    assert captions.write(lambda batch: ["a dog", "a red apple"], nameless, path) == 2
    assert read(path) == {"a/1.jpg": "a dog", "a/2.jpg": "a red apple"}
    raw = Image(8, encoders={"caption": None}).teachers_view(nameless)
    told = TextState(reading, captions=path)(batch_of(["", ""]).replace(raw=raw)).value
    torch.testing.assert_close(told, TextState(reading)(batch_of(["a dog", "a red apple"])).value)
