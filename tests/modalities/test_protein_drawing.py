"""Pictures of designs: they can be drawn whatever the samples are, and show what they say."""

import numpy as np
import pytest
from protein_toys import design, helix, made, sequence

from modalities.protein import backbones, figures, palette, trace
from modalities.protein.alphabet import AMINO_ACIDS
from modalities.protein.drawing import draw, grouped, same
from multigen.report import read, viewer, write_report


def pixels(path):
    """Float (H, W, 3)."""
    from matplotlib.image import imread

    return imread(path)[..., :3]


def share(picture, colour):
    """How much of a picture has a colour."""
    return float((np.abs(picture - palette.tinted(colour, 1)).max(-1) < 0.02).mean())


def test_native_residues_have_the_full_colour_of_their_group(tmp_path):
    native = "L" * 60
    right, wrong = (pixels(draw([design(native, w)], tmp_path / f"{len(w)}.png")) for w in (range(0), range(60)))
    blue = palette.GROUPS["aliphatic"].colour
    assert share(right, blue) > share(wrong, blue) + 0.03


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [None],
        [made(sequence(30), 0.5), None, made("ACDX")],
        [design(sequence(n), range(3), 0.5, f"n{n}") for n in (5, 40, 120)],
        [design(sequence(330), range(0, 330, 2), 0.3, chain=np.arange(330) // 110, free=np.arange(330) > 9)] * 3,
        [design(sequence(8), name="<&$\\alpha$ " * 20)],
    ],
    ids=["none", "invalid", "free", "several", "chains", "odd name"],
)
def test_any_samples_can_be_drawn(tmp_path, samples):
    picture = pixels(draw(samples, tmp_path / "all.png"))
    assert picture.min() < 0.5 and 200 < picture.shape[1] < 3000


def test_long_chains_are_wrapped_and_none_is_left_out(tmp_path):
    heights = [pixels(draw([design(sequence(n), [0])], tmp_path / "x.png")).shape[0] for n in (90, 290)]
    assert heights[1] > heights[0] + 100
    two = pixels(draw([design(sequence(90), [0], name=n) for n in "ab"], tmp_path / "x.png")).shape[0]
    assert two > heights[0] + 50


def test_real_data_are_one_row_each(tmp_path):
    real, designed = (pixels(draw([design(sequence(60), wrong)], tmp_path / "x.png")) for wrong in ([], [0]))
    assert real.shape[0] < designed.shape[0] - 10


def test_pictures_are_the_same_for_the_same_samples(tmp_path):
    samples = [design(sequence(30), range(5), 0.5)]
    one, two = (draw(samples, tmp_path / f"{i}.png").read_bytes() for i in range(2))
    assert one == two


def test_designs_of_one_backbone_are_grouped():
    native = sequence(20)
    samples = [
        design(native, name="a"),
        made(native),
        design(native, range(2), name="b"),
        design(native, name="a"),
        made(native),
    ]
    assert [len(group) for group in grouped(samples)] == [2, 1, 1, 1]
    assert same(samples[2]).sum() == 18 and same(samples[1]).all()


def test_logo_is_as_high_as_the_share_of_the_designs(tmp_path):
    native = "L" * 10
    agreed = pixels(figures.logo([design(native)] * 4, tmp_path / "a.png"))
    split = pixels(figures.logo([design(native)] * 2 + [design(native, range(10))] * 2, tmp_path / "b.png"))
    blue = palette.GROUPS["aliphatic"].colour
    assert share(agreed, blue) > 1.5 * share(split, blue)


def test_every_amino_acid_has_a_group_and_a_letter():
    assert sorted(palette.ORDER) == sorted(AMINO_ACIDS)
    assert all(len(palette.outline(a).vertices) for a in AMINO_ACIDS)
    assert palette.colour("X") == palette.SOFT and palette.colours("AX_").shape == (3, 3)


def test_substitutions_and_composition_and_calibration_are_drawn(tmp_path):
    counts = np.eye(20, dtype=int) * 5
    figures.substitutions(counts, tmp_path / "s.png")
    figures.substitutions(0 * counts, tmp_path / "none.png")
    figures.composition(np.full(20, 0.05), np.full(20, 0.05), tmp_path / "c.png")
    figures.calibration(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), tmp_path / "k.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in ("s", "none", "c", "k"))


def test_backbone_is_a_tube_in_the_colours_of_its_values(tmp_path):
    for value, colour in ((0.0, palette.SCALE[0]), (1.0, palette.SCALE[-1])):
        drawn = pixels(trace.trace(helix(30), np.zeros(30), np.full(30, value), tmp_path / "t.png", "confidence"))
        other = palette.SCALE[-1] if colour == palette.SCALE[0] else palette.SCALE[0]
        assert share(drawn[:500], colour) > share(drawn[:500], other)


def test_a_broken_or_missing_backbone_is_drawn_as_far_as_it_is_there(tmp_path):
    broken = helix(30)
    broken[10:12] = np.nan
    pieces, _, at = trace._tube(trace._turned(broken[:, 1]), np.arange(30) // 20)
    assert set(at) == {*range(0, 10), *range(12, 20), *range(20, 30)} and np.isfinite(pieces).all()
    nothing = np.full((5, 4, 3), np.nan, np.float32)
    assert trace.trace(nothing, np.zeros(5), None, tmp_path / "t.png").stat().st_size > 1000


def test_a_backbone_is_turned_not_mirrored():
    points = helix(12)[:, 1].astype(float)
    turned = trace._turned(points)
    volume = [np.linalg.det(x[1:4] - x[0]) for x in (points, turned)]
    assert volume[0] == pytest.approx(volume[1])


def test_backbones_reach_the_report(tmp_path, data_root):
    from multigen.files import write_json

    folder = tmp_path / "run"
    assert backbones.section(read_empty(folder)) is None
    chain = np.repeat([0, 1], [12, 8])
    samples = [design(sequence(20), range(5), 0.25, "<one>", chain=chain), design(sequence(9), name="two"), made("ACD")]
    backbones.write(samples, folder / "evaluation")
    write_json(folder / "evaluation.json", {"metrics": {}})
    found = backbones.section(read(folder))
    shown = found.blocks[-1].pictures
    assert [v.caption for v in shown] == [
        "<one>, 20 residues, recovery 75%, confidence 0.25",
        "two, 9 residues, recovery 100%",
    ]
    assert shown[0].text.count(" CA ") == 20 and " 25.00" in shown[0].text and shown[0].style == backbones.STYLE
    assert "CA  " in shown[0].text and shown[1].style != backbones.STYLE
    assert {line[21] for line in shown[0].text.splitlines() if line.startswith("ATOM")} == {"A", "B"}
    page = write_report(folder, more={"run": backbones.parts()}).read_text()
    assert "&lt;one&gt;, 20 residues" in page and page.count("data-structure=") == 2
    assert "fetch=true" in page and viewer.script() is None
    (folder / "evaluation" / "backbone_2.pdb").unlink()
    assert len(backbones.section(read(folder)).blocks[-1].pictures) == 1


def read_empty(folder):
    folder.mkdir()
    return read(folder)
