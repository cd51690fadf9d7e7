"""Finished pictures as files: the ``.npz`` that the evaluation suite of ADM (Dhariwal and Nichol 2021) reads, and folders.

Such an archive holds ``arr_0``, uint8 (N, H, W, 3), and perhaps ``arr_1``, the labels (N,). It is written batch by batch, and
read by memory map: 50,000 pictures of 256 pixels are 9.8 GB.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from modalities.image.data import find_images, open_image
from multigen import describe
from multigen.files import atomic_write
from multigen.modality import Dataset
from multigen.random import keys
from multigen.state import Batch, MultigenError

PICTURES, LABELS = "arr_0", "arr_1"


class Archive:
    """The pictures of a ``.npz``, as a data set.

    Raises:
        MultigenError: the file cannot be read, or holds no pictures.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        found = members(self.path)
        self._images = self._opened(found)  # (N, H, W, 3)
        labels = read_array(self.path, LABELS) if LABELS in found else np.zeros(len(self._images), np.int64)  # (N,)
        self.labels, self.labelled = labels.astype(np.int64), LABELS in found  # (N,)
        self.fingerprint = f"archive-{describe.digest(sorted(found.items()))[:16]}"
        self.manifest = {"name": str(self.path)}

    def _opened(self, found: dict[str, int]) -> NDArray[np.uint8]:
        images: NDArray[Any] = read_array(self.path, PICTURES) if PICTURES in found else np.zeros(0)
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise MultigenError(f"{self.path} holds no pictures: {PICTURES} should be uint8 (N, H, W, 3)")
        return images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": np.asarray(self._images[index]), "label": int(self.labels[index])}


class Folder:
    """The pictures of a folder and those below it, in the order of their names and as they are.

    Raises:
        MultigenError: the folder holds no picture.
    """

    labelled = False

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files = find_images(self.path)
        stats = [(file.relative_to(self.path).as_posix(), file.stat()) for file in self.files]
        self.fingerprint = f"folder-{describe.digest([(name, s.st_size, s.st_mtime_ns) for name, s in stats])[:16]}"
        self.manifest = {"name": str(self.path)}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": np.asarray(open_image(self.files[index])), "label": 0}


def open_set(path: str | Path) -> Archive | Folder:
    """The pictures of a ``.npz`` or of a folder."""
    path = Path(path).expanduser()
    if not path.exists():
        raise MultigenError(f"{path} does not exist")
    if path.is_dir():
        return Folder(path)
    if path.suffix == ".npz":
        return Archive(path)
    raise MultigenError(f"{path} holds no set of pictures: choices are a .npz and a folder")


class Finished:
    """A set of pictures that was made elsewhere, as `multigen.evaluate` reads samples.

    Args:
        path: a ``.npz`` or a folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.data = open_set(path)

    def __len__(self) -> int:
        return len(self.data)

    def __call__(self, index: Sequence[int]) -> tuple[list[NDArray[np.uint8]], Batch]:
        """The pictures with these indices, and what they were made for."""
        items = [self.data[i] for i in index]
        cond = {"label": torch.tensor([item["label"] for item in items])} if self.data.labelled else {}  # (B,)
        return [item["image"] for item in items], Batch({}, {}, {}, keys(0, index, "finished"), cond)

    def about(self) -> dict[str, Any]:
        return describe.dataset(self.data)


def members(path: Path) -> dict[str, int]:
    """Name -> checksum of the arrays of a ``.npz``."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): info.CRC for info in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise MultigenError(f"cannot read {path}: {error}") from None


def read_array(path: Path, name: str) -> NDArray:
    """One array of a ``.npz``: on the disk until it is read, unless it is compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            with np.load(path, allow_pickle=False) as opened:
                return opened[name]
        with open(path, "rb") as file:
            return _mapped(file, info)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise MultigenError(f"cannot read {name} of {path}: {error}") from None


def _mapped(file: IO[bytes], info: zipfile.ZipInfo) -> NDArray:
    """A memory map of a member that is stored as it is."""
    file.seek(info.header_offset + 26)  # lengths of the name and of the extra field, which end the member's own header
    skip = sum(np.frombuffer(file.read(4), "<u2").tolist())
    file.seek(info.header_offset + 30 + skip)
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds objects, not numbers")
    if not all(shape):
        return np.zeros(shape, dtype)
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def write_archive(drawn: Iterable[tuple[Sequence[NDArray[np.uint8] | None], Batch]], count: int, path: Path) -> Path:
    """Write `count` pictures, batch by batch as they come, and their labels if they were made for any.

    Raises:
        MultigenError: a picture is None, which an array has no place for.
    """
    labels: list[NDArray[np.int64]] = []
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open(f"{PICTURES}.npy", "w", force_zip64=True) as member:
            for number, (samples, template) in enumerate(drawn):
                pictures = _stacked(samples, path)  # (B, H, W, 3)
                if number == 0:
                    shape = (count, *pictures.shape[1:])
                    npy.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
                member.write(pictures.tobytes())
                labels += [template.cond["label"].cpu().numpy()] if "label" in template.cond else []
        if labels:
            with archive.open(f"{LABELS}.npy", "w") as member:
                npy.write_array(member, np.concatenate(labels), allow_pickle=False)
    return path


def _stacked(samples: Sequence[NDArray[np.uint8] | None], path: Path) -> NDArray[np.uint8]:
    """(B, H, W, 3)."""
    if missing := sum(sample is None for sample in samples):
        raise MultigenError(f"cannot write {path}: {missing} of the samples are not finite; a folder can be written instead")
    pictures = np.stack([sample for sample in samples if sample is not None])  # (B, H, W, C)
    if pictures.dtype != np.uint8:
        raise MultigenError(f"cannot write {path}: it is for pictures, uint8, and the samples are {pictures.dtype}")
    return pictures if pictures.shape[-1] == 3 else pictures.repeat(3, -1)  # (B, H, W, 3)


def resolution(data: Dataset) -> list[int]:
    """Height and width of a set's pictures.

    Raises:
        MultigenError: it has none, as prepared latents have not.
    """
    if "image" not in (item := data[0]):
        raise MultigenError(f"{data.fingerprint} holds no pictures, but {sorted(item)}: give reference=FILE or FOLDER")
    return list(item["image"].shape[:2])
