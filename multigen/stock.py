"""Files that are made once from pinned packages and verified whenever they are read: pretrained weights, vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multigen import files
from multigen.state import MultigenError

if TYPE_CHECKING:
    from torch import Tensor

_RECORD = "checksums.json"

Content = Callable[[Path | None], bytes]
"""Data root -> the bytes of a file, read from an asset and converted."""


@dataclass(frozen=True)
class Stock:
    """A folder of such files. Size and checksum of each are recorded beside them when it is made.

    Args:
        folder: below the data root.
        contents: file below the folder -> what makes its content.
        command: what the user runs to have them made.
    """

    folder: str
    contents: Mapping[str, Content]
    command: str

    def prepare(self, root: Path | None = None) -> None:
        """Make what is not there yet, or not whole."""
        folder = self.place(root)
        if self._missing(folder):
            with files.lock(folder):  # several stocks share a record, and several processes a folder
                for name in self._missing(folder):
                    self._make(folder, name, root)

    def _missing(self, folder: Path) -> list[str]:
        known = _record(folder)
        return [name for name in self.contents if not _whole(folder / name, known.get(name))]

    def _make(self, folder: Path, name: str, root: Path | None) -> None:
        with files.atomic_write(folder / name) as file:
            file.write(self.contents[name](root))
        made = {"bytes": (folder / name).stat().st_size, "sha256": files.sha256(folder / name)}
        files.write_json(folder / _RECORD, {**_record(folder), name: made})

    def path(self, name: str, what: str, root: Path | None = None) -> Path:
        """A verified file; `what` it belongs to is for the message.

        Raises:
            MultigenError: it is not prepared, or damaged.
        """
        folder = self.place(root)
        path, known = folder / name, _record(folder)
        if not path.is_file() or name not in known:
            missing = f"({path} is missing or not recorded)"
            raise MultigenError(f"the weights of {what} are not prepared {missing}; run `{self.command}`")
        if not _whole(path, known[name]):
            raise MultigenError(f"the weights of {what} are damaged: {path} is not what was prepared; run `{self.command}`")
        return path

    def place(self, root: Path | None = None) -> Path:
        """The folder itself."""
        return (root or files.data_root()) / self.folder


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; `MultigenError` naming the file when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MultigenError(f"cannot read the weights {path}: {error}") from None


def _record(folder: Path) -> dict[str, Any]:
    """File -> size and checksum; a record that cannot be read vouches for nothing."""
    try:
        found = files.read_json(folder / _RECORD)
    except MultigenError:
        return {}
    return found if isinstance(found, dict) else {}


def _whole(path: Path, known: dict[str, Any] | None) -> bool:
    """Whether a file is the recorded one; a wrong size is seen without reading it."""
    if known is None or not path.is_file() or path.stat().st_size != known["bytes"]:
        return False
    return files.sha256(path) == known["sha256"]
