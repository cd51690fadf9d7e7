"""Molecules as a grid of structural formulas, in which a frame marks what is no molecule."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from modalities.molecule import chemistry
from modalities.molecule.sample import Molecule
from modalities.molecule.space import principal
from modalities.molecule.vocabulary import ELEMENTS
from modalities.molecule.writing import explicit
from multigen.files import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont
    from rdkit.Chem import Mol, RWMol

M = TypeVar("M", bound="Mol")

WIDTH, HEIGHT, CAPTION, MARGIN = 208, 168, 40, 14
"""Pixels: of a formula, of the two lines below it, and around everything."""
COLUMNS = 8
INK, SOFT, PAPER = "#1f2430", "#667085", "#ffffff"
FRAMES = {"valid": "#d5d9e2", "fragments": "#d97706", "refused": "#c2410c", "undecided": "#98a2b3"}
SAID = {
    "valid": "valid",
    "fragments": "valid, in several fragments",
    "refused": "refused by RDKit",
    "undecided": "not decided",
}
GIVEN = "given"
"""Property of RDKit's atoms that were given."""
WRONG_COLOUR, GIVEN_COLOUR = (1.0, 0.72, 0.62), (0.77, 0.87, 0.97)
RINGS = 12
"""Independent rings up to which a formula is laid out; above, atoms stand where they are in space, seen from the side."""


class Cell(NamedTuple):
    """One molecule of the grid."""

    kind: str
    """One of `FRAMES`."""
    mol: Mol | None
    """As it is drawn, with places on the paper."""
    wrong: list[int]
    """Atoms of it that RDKit complains about."""
    title: str
    note: str = ""

    @property
    def given(self) -> list[int]:
        """Atoms of it that were given."""
        return [] if self.mol is None else [atom.GetIdx() for atom in self.mol.GetAtoms() if atom.HasProp(GIVEN)]


def draw(samples: Sequence[Molecule | None], path: Path, hydrogens: bool | None = None, given: Collection[int] = ()) -> Path:
    """Write a grid of structural formulas (PNG), none left out.

    What RDKit refuses has a red frame, its reason and the atoms concerned marked; what falls apart an orange one; a sample
    that was not decided is an empty cell.

    Args:
        hydrogens: whether all hydrogens are among the atoms; by default, if any is.
        given: atoms of every sample that were given, which are coloured.
    """
    have = explicit(samples) if hydrogens is None else hydrogens
    cells = [_cell(sample, have, given) for sample in samples]
    columns = max(1, min(COLUMNS, math.ceil(math.sqrt(len(cells)))))
    rows = max(1, -(-len(cells) // columns))
    width, top = max(columns * WIDTH, 3 * WIDTH) + 2 * MARGIN, 3 * MARGIN
    canvas, pen = _paper(width, top + rows * (HEIGHT + CAPTION) + MARGIN)
    _legend(pen, Counter(cell.kind for cell in cells))
    for i, cell in enumerate(cells):
        place = MARGIN + i % columns * WIDTH, top + i // columns * (HEIGHT + CAPTION)
        _place(canvas, pen, cell, place)
    return _save(canvas, path)


def _paper(width: int, height: int) -> tuple[Image, ImageDraw]:
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width, height), PAPER)
    return canvas, ImageDraw.Draw(canvas)


def _save(canvas: Image, path: Path) -> Path:
    with atomic_write(path) as file:
        canvas.save(file, "PNG")
    return path


@cache
def _font(size: int, bold: bool = False) -> FreeTypeFont:
    from matplotlib import font_manager
    from PIL import ImageFont

    weight = "bold" if bold else "normal"
    return ImageFont.truetype(font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight)), size)


def _legend(pen: ImageDraw, count: Counter[str]) -> None:
    x = MARGIN
    for kind in FRAMES:
        if not count[kind]:
            continue
        pen.rectangle((x, MARGIN, x + 12, MARGIN + 12), outline=FRAMES[kind], width=2)
        words = f"{count[kind]} {SAID[kind]}"
        pen.text((x + 18, MARGIN - 1), words, fill=INK, font=_font(12))
        x += 18 + int(pen.textlength(words, font=_font(12))) + 22


def _place(canvas: Image, pen: ImageDraw, cell: Cell, place: tuple[int, int]) -> None:
    x, y = place
    if cell.mol is not None:
        canvas.paste(_formula(cell), (x + 4, y + 4))
    pen.rectangle(
        (x + 2, y + 2, x + WIDTH - 3, y + HEIGHT + CAPTION - 5),
        outline=FRAMES[cell.kind],
        width=1 if cell.kind == "valid" else 2,
    )
    for line, (words, colour) in enumerate(
        ((cell.title, INK), (cell.note, SOFT if cell.kind == "valid" else FRAMES[cell.kind]))
    ):
        font = _font(11, bold=not line and cell.kind != "valid")
        pen.text((x + WIDTH / 2, y + HEIGHT + 4 + 15 * line), _cut(words, font), fill=colour, font=font, anchor="mt")


def _cut(words: str, font: FreeTypeFont) -> str:
    """As much as fits below a formula."""
    while len(words) > 4 and font.getlength(words) > WIDTH - 12:
        words = words.removesuffix("...")[:-1].rstrip() + "..."
    return words


# -------------------------------------------------------------------------------------------------------- structural formulas


def _cell(sample: Molecule | None, hydrogens: bool, given: Collection[int] = ()) -> Cell:
    if sample is None or not len(sample.atoms):
        return Cell("undecided", None, [], "no molecule", "not finite or not decided")
    mol, reason = chemistry.to_rdkit(sample, hydrogens)
    title = " · ".join(filter(None, (sample.name, formula(sample))))
    if mol is None:
        shown, wrong = _refused(_marked(chemistry.assemble(sample, hydrogens), given))
        return Cell("refused", shown, wrong, title, reason)
    mol = _marked(mol, given)
    parts = int(chemistry.fragments(sample.bonds).max()) + 1
    if parts > 1:
        return Cell("fragments", _laid_out(mol), [], title, f"{parts} fragments")
    return Cell("valid", _laid_out(mol), [], title, _radical(mol))


def _marked(mol: M, given: Collection[int]) -> M:
    """The same molecule, whose given atoms know that they are."""
    for i in given:
        mol.GetAtomWithIdx(i).SetBoolProp(GIVEN, True)
    return mol


def formula(sample: Molecule) -> str:
    """In the order of Hill: carbon, hydrogen, the others by the alphabet.

    >>> from types import SimpleNamespace
    >>> formula(SimpleNamespace(atoms=np.array([1, 0, 0, 0, 3, 0])))
    'CH4O'
    """
    count = Counter(ELEMENTS[element] for element in sample.atoms.tolist())
    first = ["C", "H"] if "C" in count else []
    order = [*first, *sorted(set(count) - set(first))]
    return "".join(f"{symbol}{count[symbol] if count[symbol] > 1 else ''}" for symbol in order if count[symbol])


def _radical(mol: Mol) -> str:
    count = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    return f"{count} unpaired electron{'s' if count > 1 else ''}" if count else ""


def _laid_out(mol: Mol) -> Mol:
    """A sanitised molecule as it is drawn: without hydrogens, with the stereochemistry of its coordinates."""
    from rdkit import Chem, rdBase
    from rdkit.Chem.Draw import rdMolDraw2D

    plain = Chem.Mol(mol)
    with rdBase.BlockLogs():
        Chem.AssignStereochemistryFrom3D(plain)
        plain = Chem.RemoveHs(plain, sanitize=False)
        plain.RemoveAllConformers()
        _lay_out(plain)
        try:
            return rdMolDraw2D.PrepareMolForDrawing(plain, kekulize=True, addChiralHs=False)
        except ValueError:
            return plain


def _refused(mol: RWMol) -> tuple[Mol, list[int]]:
    """An unsanitised molecule as it is drawn, and the atoms in it that RDKit complains about, whose hydrogens are kept."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol.UpdatePropertyCache(strict=False)
        problems = Chem.DetectChemistryProblems(mol)
    wrong = {i for problem in problems for i in _concerned(problem)}
    mol = _without_plain_hydrogens(mol, wrong)
    mol.UpdatePropertyCache(strict=False)
    if mol.GetNumBonds() - mol.GetNumAtoms() < RINGS:
        _lay_out(mol)
    else:
        mol.GetConformer().SetPositions(_seen_flat(mol.GetConformer().GetPositions()))
        mol.GetConformer().Set3D(False)
    return mol.GetMol(), [atom.GetIdx() for atom in mol.GetAtoms() if atom.HasProp("wrong")]


def _concerned(problem: Any) -> list[int]:
    return list(problem.GetAtomIndices()) if hasattr(problem, "GetAtomIndices") else [problem.GetAtomIdx()]


def _without_plain_hydrogens(mol: RWMol, wrong: set[int]) -> RWMol:
    """Leave out hydrogens with one bond to a heavy atom that nothing is wrong with; mark the atoms that something is."""
    for i in wrong:
        mol.GetAtomWithIdx(i).SetBoolProp("wrong", True)
    mol.BeginBatchEdit()
    for atom in mol.GetAtoms():
        near = [other.GetIdx() for other in atom.GetNeighbors()]
        plain = atom.GetAtomicNum() == 1 and not atom.GetFormalCharge() and len(near) == 1 and atom.GetIdx() not in wrong
        if plain and near[0] not in wrong and mol.GetAtomWithIdx(near[0]).GetAtomicNum() > 1:
            mol.RemoveAtom(atom.GetIdx())
    mol.CommitBatchEdit()
    return mol


def _lay_out(mol: Mol) -> None:
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    Chem.FastFindRings(mol)
    rdDepictor.Compute2DCoords(mol)


def _seen_flat(coords: NDArray[Any]) -> NDArray[np.float64]:
    """(N, 3) -> (N, 3): from the side that shows most, with depth 0; neighbours about 1.5 apart."""
    turned = principal(coords)  # (N, 3)
    return np.nan_to_num(turned) * [1.0, 1.0, 0.0]


def _between(mol: Any, given: Collection[int]) -> dict[str, Any]:
    """The bonds between given atoms, as RDKit's drawer takes them."""
    bonds = [b.GetIdx() for b in mol.GetBonds() if b.GetBeginAtomIdx() in given and b.GetEndAtomIdx() in given]
    return {"highlightBonds": bonds, "highlightBondColors": dict.fromkeys(bonds, GIVEN_COLOUR)}


def _formula(cell: Cell) -> Image:
    """A formula as a picture, drawn at twice the size for smooth lines."""
    from PIL import Image
    from rdkit import rdBase
    from rdkit.Chem.Draw import rdMolDraw2D

    size = WIDTH - 8, HEIGHT - 6
    drawer = rdMolDraw2D.MolDraw2DCairo(2 * size[0], 2 * size[1])
    options = drawer.drawOptions()
    options.prepareMolsBeforeDrawing = False  # type: ignore[assignment]
    options.fixedBondLength, options.padding, options.bondLineWidth = 46, 0.06, 3  # type: ignore[assignment]
    options.minFontSize, options.maxFontSize = 15, 26  # type: ignore[assignment]
    colours = dict.fromkeys(cell.given, GIVEN_COLOUR) | dict.fromkeys(cell.wrong, WRONG_COLOUR)
    with rdBase.BlockLogs():
        try:
            drawer.DrawMolecule(
                cell.mol, highlightAtoms=list(colours), highlightAtomColors=colours, **_between(cell.mol, cell.given)
            )
        except (ValueError, RuntimeError):
            return Image.new("RGB", size, PAPER)
    drawer.FinishDrawing()
    drawn = Image.open(io.BytesIO(drawer.GetDrawingText())).convert("RGB")
    return drawn.resize(size, Image.Resampling.LANCZOS)
