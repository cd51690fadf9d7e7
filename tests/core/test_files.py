"""Atomic files, strict JSON, the data folder, and the clause that names the choices."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from multigen import files
from multigen.state import MultigenError


def test_atomic_write_makes_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    with files.atomic_write(path, "w") as file:
        file.write("grüezi")
    assert path.read_text(encoding="utf-8") == "grüezi"
    assert os.listdir(path.parent) == ["b.txt"]


def test_atomic_write_keeps_the_old_file_when_the_writer_fails(tmp_path: Path) -> None:
    path = files.write_text(tmp_path / "kept.txt", "old")
    with pytest.raises(KeyError), files.atomic_write(path, "w") as file:
        file.write("half of the n")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["kept.txt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EISDIR])
def test_a_disk_that_refuses_is_one_line_that_names_the_file(tmp_path: Path, code: int) -> None:
    path = files.write_text(tmp_path / "kept.txt", "old")
    with pytest.raises(MultigenError, match=r"kept\.txt") as raised, files.atomic_write(path, "w"):
        raise OSError(code, os.strerror(code))
    assert "\n" not in str(raised.value) and os.strerror(code) in str(raised.value)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["kept.txt"]


def test_other_errors_of_the_writer_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_write(tmp_path / "x"):
        open(tmp_path / "missing").close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    assert files.make_folder(tmp_path / "a" / "b").is_dir() and files.make_folder(tmp_path / "a" / "b")
    files.write_text(tmp_path / "file", "in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "c"):
        with pytest.raises(MultigenError, match=f"cannot write {folder}: "):
            files.make_folder(folder)


def test_temporaries_are_found_and_removed(tmp_path: Path) -> None:
    files.temporary(tmp_path / "file.txt").write_text("torn")
    folder = files.temporary(tmp_path / "folder")
    folder.mkdir()
    (folder / "part").write_text("torn")
    (tmp_path / ".hidden").write_text("mine")
    files.remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == [".hidden"]


def test_json_is_strict_and_takes_what_metrics_hold(tmp_path: Path) -> None:
    value = {"nan": float("nan"), "loss": torch.tensor(0.5), "path": Path("a/b"), "rows": (torch.arange(2), True, None)}
    path = files.write_json(tmp_path / "x.json", value)
    expected = {"nan": None, "loss": 0.5, "path": "a/b", "rows": [[0, 1], True, None]}
    assert files.read_json(path) == expected == json.loads(path.read_text(), parse_constant=pytest.fail)


def test_indented_json_keeps_a_list_of_numbers_on_one_line() -> None:
    value = {"curve": [[0, 1.5], [None, -2e-7]], "words": ["[\n  1\n]", "two"], "none": []}
    text = files.to_json(value, indent=2)
    assert "    [0, 1.5],\n    [null, -2e-07]\n" in text and '"none": []' in text
    assert json.loads(text) == value


@pytest.mark.parametrize("indent", [0, 2])
@pytest.mark.parametrize(
    "value",
    [
        [1, -2.5e300],
        [1, "a", 2],
        [[], [1], [[2], []]],
        [True, None, 3],
        ["\\", '[\n "1', "]"],
        {"a[": [1], "]": ['"[1,\n2]"', {"b": [0]}]},
    ],
)
def test_indented_json_reads_back_equal(value: Any, indent: int) -> None:
    assert json.loads(files.to_json(value, indent=indent)) == value


@pytest.mark.parametrize("content", [None, b'{"torn": ', b"\xff\xfe"])
def test_reading_a_missing_or_damaged_file_names_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "state.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MultigenError, match=r"state\.json"):
        files.read_json(path)


def test_sha256(tmp_path: Path) -> None:
    path = files.write_text(tmp_path / "abc", "abc")
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(MultigenError, match="nothing"):
        files.sha256(tmp_path / "nothing")


def test_data_root_follows_the_variable_then_the_checkout_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTIGEN_DATA", str(tmp_path / "mine"))
    assert files.data_root() == tmp_path / "mine"
    monkeypatch.delenv("MULTIGEN_DATA")
    monkeypatch.setattr(files, "__file__", str(tmp_path / "multigen" / "files.py"))
    monkeypatch.setattr(files, "_user_cache", lambda: tmp_path / "cache")
    assert files.data_root() == tmp_path / "cache" / "multigen"
    (tmp_path / "pyproject.toml").touch()
    assert files.data_root() == tmp_path / "data"


def test_nearest_guesses_only_what_is_near() -> None:
    assert files.nearest("trian", ["train", "sample"]) == "did you mean 'train'? choices are ['sample', 'train']"
    assert files.nearest("xyz", ["train"]) == "choices are ['train']"
