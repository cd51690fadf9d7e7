"""Files that are either the old one or the new one, never half of one; and where data lies.

Everything the library writes goes through a temporary neighbour, is flushed to the disk and renamed over its name. A process
that is killed at any moment leaves at worst a temporary file, which `remove_temporaries` finds by its name.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from multigen.state import MultigenError

if TYPE_CHECKING:
    from filelock import FileLock

_SUFFIX = ".tmp"
_OF_NUMBERS = re.compile(r'\[\n([^][{}"]+)\]')  # strings hold no bare line break, and what is matched holds no string
_REFUSED = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR,
    errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTEMPTY,
}  # fmt: skip
"""What a disk answers when it cannot take a file, through no fault of the program."""


def refused(error: OSError) -> bool:
    """Whether the disk, not the program, is at fault."""
    return error.errno in _REFUSED


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn a full disk, a quota, missing rights, ... while `path` is written into one clear line."""
    try:
        yield
    except OSError as error:
        if not refused(error):
            raise
        raise MultigenError(f"cannot write {path}: {error.strerror}") from error


def make_folder(folder: Path | str) -> Path:
    """Make a folder, and those above it, if it is not there; `MultigenError` naming it if that cannot be done."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MultigenError(f"cannot write {folder}: {error.strerror}") from error
    return Path(folder)


def temporary(path: Path | str) -> Path:
    """A fresh name beside `path` that `remove_temporaries` recognises."""
    path = Path(path)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")


def remove_temporaries(folder: Path | str) -> None:
    """Remove what killed writers left in `folder`. Only for folders that nobody else writes to at the moment."""
    for left in Path(folder).glob(f".*{_SUFFIX}"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def lock(folder: Path) -> FileLock:
    """Held by whoever writes a folder; may be taken again by its holder."""
    from filelock import FileLock

    make_folder(folder.parent)
    return FileLock(folder.with_name(f".{folder.name}.lock"), is_singleton=True)


def sync_folder(folder: Path | str) -> None:
    """Flush a folder's list of names, so that a rename survives a power cut. Quietly skipped where it cannot be done."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_file(path: Path | str) -> None:
    """Flush one file's content to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def atomic_write(path: Path | str, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path` for writing; on success it becomes `path`, on failure it disappears.

    >>> with atomic_write("example.txt", "w") as file:
    ...     _ = file.write("whole")

    Args:
        path: the file; its folder is made if missing.
        mode: "w" (UTF-8 unless `options` say otherwise) or "wb".
        options: passed to `open`.

    Raises:
        MultigenError: the disk is full, read-only or not ours.
    """
    path = Path(path)
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    part = temporary(path)
    with writing(path):
        make_folder(path.parent)
        try:
            with open(part, mode, **options) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_text(path: Path | str, text: str) -> Path:
    with atomic_write(path, "w") as file:
        file.write(text)
    return Path(path)


def read_text(path: Path | str) -> str:
    """The text of a file; `MultigenError` when it is not there or not text."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MultigenError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MultigenError(f"cannot read {path}: {error}") from None


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: a number that is not finite becomes null, a path a string, a tensor or array lists and numbers.

    Indented, a list of numbers, true, false and null stays on one line.
    """
    text = json.dumps(_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
    return text if indent is None else _OF_NUMBERS.sub(lambda found: " ".join(found[1].split()).join("[]"), text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def write_json(path: Path | str, value: Any) -> Path:
    return write_text(path, to_json(value, indent=2) + "\n")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file; `MultigenError` naming the file when it is missing or damaged."""
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise MultigenError(f"{path} is damaged: not JSON ({error})") from None


def sha256(path: Path | str) -> str:
    """Hexadecimal checksum of a file's content."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MultigenError(f"cannot read {path}: {error.strerror}") from None


def data_root() -> Path:
    """Where prepared data lies: ``$MULTIGEN_DATA``, else ``data/`` of the checkout, else the user's cache folder."""
    if given := os.environ.get("MULTIGEN_DATA"):
        return Path(given).expanduser().absolute()
    checkout = Path(__file__).resolve().parents[1]
    return checkout / "data" if (checkout / "pyproject.toml").is_file() else _user_cache() / "multigen"


def _user_cache() -> Path:
    """The platform's folder for files that can be made again."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    variable, default = ("LOCALAPPDATA", "AppData/Local") if os.name == "nt" else ("XDG_CACHE_HOME", ".cache")
    return Path(os.environ.get(variable) or Path.home() / default)


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of an error message: the closest valid name, if one is close, and all of them.

    >>> nearest("trian", ["train", "sample"])
    "did you mean 'train'? choices are ['sample', 'train']"
    """
    known = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(str(name), known, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}choices are {known}"
