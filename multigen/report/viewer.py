"""Structures that a reader can turn: a viewer inside the page, which works without a network.

The page holds the viewer's script once, however many structures it shows. Where the script has not been fetched, or the
reader's browser runs none, each structure is the picture that stands for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from multigen import assets
from multigen.files import sha256
from multigen.report.blocks import Block, Gallery, Section, Text, Viewer
from multigen.state import MultigenError

__all__ = ["SCRIPT", "Viewer", "fetch", "offer", "script", "shown", "with_note"]

SCRIPT = assets.NpmAsset(
    name="3dmol",
    version="2.5.5",
    file="3dmol-2.5.5.tgz",
    sha256="26d91c5036d4efe78fc032c22cb692fea92bbb3cb1e65d20bf3869673fb3d8f5",
    size=4_231_158,
    licence="BSD-3-Clause",
)
CREDIT = "Structures are shown by 3Dmol.js (Rego and Koes 2015, BSD-3-Clause), whose licence is in the source of this page."
_CODE, _LICENCE = "package/build/3Dmol-min.js", "package/LICENSE"


def fetch(root: Path | None = None) -> Path:
    """Bring the viewer's script, if it is not there yet: what ``multigen report fetch=true`` does.

    Raises:
        MultigenError: npm is not installed, or no registry can be reached.
    """
    return assets.fetch(SCRIPT, root)


def offer(root: Path | None = None) -> bool:
    """Bring the script if that is possible, for the preparation of data that can do without: says so in one line if not."""
    try:
        fetch(root)
    except MultigenError as error:
        print(f"structures in reports will be pictures that cannot be turned: {error}", file=sys.stderr)
        return False
    return True


def script(root: Path | None = None) -> str | None:
    """The viewer as JavaScript for a page, its licence as a comment in front; None if it has not been fetched."""
    path = assets.folder(root) / SCRIPT.file
    if not path.is_file() or sha256(path) != SCRIPT.sha256:
        return None
    with SCRIPT.archive(path) as archive:
        licence, code = (archive.read(name).decode() for name in (_LICENCE, _CODE))
    return _inside(f"/*\n{licence.replace('*/', '* /')}\n*/\n{code}")


def _inside(code: str) -> str:
    """JavaScript that a page can hold: nothing in it ends the script or begins a comment of the page."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def shown(sections: Iterable[Section]) -> bool:
    """Whether any section has a viewer."""
    return any(_viewers(section.blocks) for section in sections)


def with_note(section: Section, folder: Path) -> Section:
    """A section whose viewers have no script, with the command that fetches it."""
    if not _viewers(section.blocks):
        return section
    note = f"These are pictures. To turn the structures, fetch the viewer: `multigen report run={folder} fetch=true`."
    return Section(section.title, [*section.blocks, Text(note)])


def _viewers(blocks: Sequence[Block]) -> list[Viewer]:
    found = [x for block in blocks for x in (block.pictures if isinstance(block, Gallery) else [block])]
    return [x for x in found if isinstance(x, Viewer)]
