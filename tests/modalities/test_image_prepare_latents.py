"""Any source of pictures to latents on the disk: lists, crops, moments, scale, what is left out and what is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from modalities.image import latent_prepare, stored
from modalities.image.autoencoder import Posterior
from modalities.image.autoencoder_training import Recipe, Training, loss
from modalities.image.data import open_image
from modalities.image.encoders import EfficientNetLite0
from modalities.image.index import divided, make_index
from modalities.image.latent_data import LatentData
from modalities.image.latents import Latents
from modalities.image.modality import Image
from modalities.image.pictures import Pictures, crop
from modalities.image.sets import resolution
from modalities.image.sources import open_source
from multigen import cache, files
from multigen.cache import Job, Storage
from multigen.modality import whole
from multigen.random import Noise, keys
from multigen.state import MultigenError

PIXELS, CHANNELS, SIDE = 16, 2, 8


def picture(seed: int, width: int = 20, height: int = 17) -> bytes:
    """A JPEG of smooth noise."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(small).resize((width, height)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    """Files that have the content stay as they are, with their time."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).is_file() or (folder / name).read_bytes() != content:
            (folder / name).write_bytes(content)
    return folder


CLASSED = {f"{'cat' if i % 3 else 'ant'}/{i:02d}.jpg": picture(i) for i in range(12)}


def autoencoder(folder: Path, seed: int = 0, decoder_alone: bool = False) -> Path:
    """A small random one. `decoder_alone`: its encoder is that of seed 0."""
    diffusers = pytest.importorskip("diffusers")
    shape = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": CHANNELS, "sample_size": PIXELS}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    torch.manual_seed(0)
    first = diffusers.AutoencoderKL(**shape, **blocks)
    torch.manual_seed(seed)
    network = diffusers.AutoencoderKL(**shape, **blocks)
    if decoder_alone:
        network.encoder.load_state_dict(first.encoder.state_dict())
        network.quant_conv.load_state_dict(first.quant_conv.state_dict())
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return str(autoencoder(tmp_path_factory.mktemp("vae")))


@pytest.fixture
def latents(data_root, tmp_path, vae):
    """Makes latents of some files, or of a source."""

    def make(source, **options):
        path = write(tmp_path / "source", source) if isinstance(source, dict) else source
        chosen = {"name": "mine", "vae": vae, "pixels": PIXELS, "share": 20.0, "device": "cpu", "shard": 5, **options}
        return latent_prepare.prepare(path, **chosen)

    return make


def listed(source):
    return [entry._asdict() for entry in open_source(source).entries()]


# -------------------------------------------------------------------------------------------------------------------- crops


def test_the_crop_is_halved_by_means_and_then_bicubic():
    """ADM's: what is four times too large is a mean of 16 pixels where nothing is left to interpolate."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    found = crop(Pillow.fromarray(noise), 16)
    middle = noise[:, 16:80].astype(float).reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert found.shape == (16, 16, 3) and np.abs(found - middle).max() < 2  # each mean of four is rounded
    ramp = np.arange(40, dtype=np.uint8)[None, :, None].repeat(20, 0).repeat(3, 2)
    assert np.array_equal(crop(Pillow.fromarray(ramp), 20), ramp[:, 10:30])
    assert crop(Pillow.fromarray(noise[:10, :12]), 16).shape == (16, 16, 3)


def adm(picture, size: int) -> np.ndarray:
    """The crop as published, which resizes the whole picture."""
    while min(picture.size) >= 2 * size:
        picture = picture.resize(tuple(x // 2 for x in picture.size), Pillow.Resampling.BOX)
    scale = size / min(picture.size)
    array = np.asarray(picture.resize(tuple(round(x * scale) for x in picture.size), Pillow.Resampling.BICUBIC))
    y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[y : y + size, x : x + size]


def noisy(width: int, height: int):
    return Pillow.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("shape", [(20, 17), (33, 50), (16, 16), (7, 100), (160, 11), (41, 600), (500, 375)])
def test_the_crop_of_ordinary_pictures_is_the_published_one_to_the_bit(shape):
    assert np.array_equal(crop(noisy(*shape), 16), adm(noisy(*shape), 16))


@pytest.mark.parametrize("shape", [(2, 801), (801, 2), (5, 400), (70, 2001), (1, 300)])
def test_the_crop_of_very_long_pictures_is_the_same_without_all_of_them(shape):
    assert np.abs(crop(noisy(*shape), 16).astype(int) - adm(noisy(*shape), 16)).max() <= 1  # rounded differently


def test_a_very_long_picture_takes_little_memory():
    code = "from PIL import Image; from modalities.image.pictures import crop; import resource;"
    code += "crop(Image.new('RGB', (1, 60000), 'red'), 256); crop(Image.new('RGB', (60000, 3), 'red'), 256);"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    started = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, code]  # whose peak is not its parent's then
    done = subprocess.run(started, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2_000_000  # kB; the whole of the first would have 11.8 GB


# ------------------------------------------------------------------------------------------------------------------ sources


def test_folders_are_classes_and_texts_are_captions(tmp_path):
    root = write(tmp_path, {**CLASSED, "ant/00.txt": b"an\nant ", "notes.md": b"", ".hidden/1.jpg": b""})
    found = listed(root)
    assert len(found) == 12 and [e["name"] for e in found] == sorted(CLASSED)
    assert {e["group"] for e in found} == {"ant", "cat"} and {e["split"] for e in found} == {""}
    assert [e["caption"] for e in found][:2] == ["an ant", ""]


def test_train_and_val_are_sides_where_there_is_nothing_else(tmp_path):
    sided = write(tmp_path / "a", {f"{side}/{name}": x for side in ("train", "val") for name, x in CLASSED.items()})
    assert {(e["split"], e["group"]) for e in listed(sided)} == {(s, g) for s in ("train", "valid") for g in ("ant", "cat")}
    vehicles = write(tmp_path / "b", {"train/1.jpg": b"", "car/1.jpg": b""})
    assert {(e["split"], e["group"]) for e in listed(vehicles)} == {("", "train"), ("", "car")}


def zipped(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i, (name, content) in enumerate(contents.items()):
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED)
    return path


def tarred(path: Path, contents: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(numbers):
    found = {}
    for i in numbers:
        found |= {f"{i:03d}.jpg": picture(i), f"{i:03d}.cls": str(i % 2).encode(), f"{i:03d}.txt": f"picture {i}".encode()}
    return found


def test_a_zip_and_shards_hold_what_a_folder_holds(tmp_path):
    folder, archive = write(tmp_path / "f", CLASSED), zipped(tmp_path / "a.zip", CLASSED)
    keys = ("name", "group", "split", "caption")
    assert [[e[k] for k in keys] for e in listed(archive)] == [[e[k] for k in keys] for e in listed(folder)]
    for entry in listed(archive):
        read = open_source(archive).picture(entry["name"], entry["place"], PIXELS)
        assert np.array_equal(read, Pillow.open(folder / entry["name"]).convert("RGB"))
    shards = tmp_path / "shards"
    tarred(shards / "train-000.tar", samples(range(4)))
    tarred(shards / "val-000.tar", {**samples([4]), "005.png": picture(5), "005.json": b'{"label": 1, "caption": "five"}'})
    found = listed(shards)
    assert [e["group"] for e in found] == [0, 1] * 3 and [e["split"] for e in found] == ["train"] * 4 + ["valid"] * 2
    assert [e["caption"] for e in found][3:] == ["picture 3", "picture 4", "five"]
    read = open_source(shards).picture(found[2]["name"], found[2]["place"], PIXELS)
    assert np.array_equal(read, Pillow.open(io.BytesIO(picture(2))).convert("RGB"))


def test_parquet_files_and_folders_of_datasets(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    told = {"info": {"features": {"label": {"names": ["ant", "cat"], "_type": "ClassLabel"}}}}
    rows = {
        "image": [{"bytes": picture(i), "path": None} for i in range(5)],
        "label": [0, 1, 1, 0, 1],
        "text": [f"picture {i}" for i in range(5)],
    }
    table = pyarrow.table(rows).replace_schema_metadata({"huggingface": json.dumps(told)})
    (tmp_path / "hub").mkdir()
    parquet.write_table(table, tmp_path / "hub" / "train-00000-of-00001.parquet", row_group_size=2)
    saved = tmp_path / "saved"
    write(saved, {"dataset_dict.json": b"{}"})
    for side in ("train", "validation"):
        (saved / side).mkdir()
        with (
            pyarrow.OSFile(str(saved / side / "data-00000-of-00001.arrow"), "wb") as file,
            pyarrow.ipc.new_stream(file, table.schema) as out,
        ):
            out.write_table(table)
    for path, sides in ((tmp_path / "hub", ["train"]), (saved, ["train", "valid"])):
        source, found = open_source(path), listed(path)
        assert source.classes() == ["ant", "cat"] and list(dict.fromkeys(e["split"] for e in found)) == sides
        assert [e["group"] for e in found][:5] == rows["label"] and found[3]["caption"] == "picture 3"
        read = source.picture(found[3]["name"], found[3]["place"], PIXELS)
        assert np.array_equal(read, Pillow.open(io.BytesIO(picture(3))).convert("RGB"))


def test_a_source_without_its_library_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MultigenError, match=r"a\.parquet needs the package 'pyarrow', which is not installed"):
        listed(tmp_path / "a.parquet")


def test_sources_that_cannot_be_used_are_named(tmp_path):
    for name, content, message in (
        ("gone", None, "gone does not exist"),
        ("a.rar", b"x", r"a\.rar holds no pictures that can be read: choices are a folder, \.zip"),
        ("a.zip", b"x", r"a\.zip is no readable zip file"),
        ("a.tar", b"x" * 600, r"a\.tar is no readable tar file"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(MultigenError, match=message):
            listed(tmp_path / name)
    archive = zipped(tmp_path / "b.zip", CLASSED)
    content = bytearray(archive.read_bytes())
    content[60] ^= 255
    archive.write_bytes(content)
    entry = next(iter(open_source(archive).entries()))
    with pytest.raises(MultigenError, match="a member's checksum does not match"):
        open_source(archive).picture(entry.name, entry.place, PIXELS)


def test_a_number_of_no_class_is_none(tmp_path):
    assert [e["group"] for e in listed(tarred(tmp_path / "a.tar", {"1.jpg": picture(1), "1.cls": b"-1"}))] == [""]


def test_whatever_a_library_says_of_a_damaged_picture_is_one_line(monkeypatch):
    def fail(picture):
        raise struct.error("required argument is not an integer")  # as of damaged EXIF data

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    with pytest.raises(MultigenError, match=r"a\.jpg is not a readable image \(required argument"):
        open_image("a.jpg", picture(1))


def forbid(monkeypatch, name):
    """Let no folder of a name be read, whoever asks."""

    def scandir(path, real=os.scandir):
        if not isinstance(path, int) and Path(path).name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)


@pytest.mark.parametrize(
    ("pictures", "hidden"),
    [
        (["ant/1.jpg", "cat/2.jpg", "dog/3.jpg"], "cat"),
        (["train/ant/1.jpg", "train/cat/2.jpg", "val/ant/3.jpg", "val/cat/4.jpg"], "train"),
        (["train/ant/1.jpg", "train/cat/2.jpg", "val/ant/3.jpg"], "train/cat"),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_a_class_or_side_that_cannot_be_read_is_refused(tmp_path, monkeypatch, pictures, hidden, gone):
    """Left out, it would give the others' labels to other classes, or hold out what is left.

    Args:
        gone: it is a link to a folder that is not there, as of a disk that is not mounted; else it may not be read.
    """
    root = write(tmp_path / "s", {name: picture(i) for i, name in enumerate(pictures)})
    if gone:
        (root / hidden).rename(tmp_path / "moved")
        (root / hidden).symlink_to(tmp_path / "disk")
    else:
        forbid(monkeypatch, hidden.rpartition("/")[2])
    with pytest.raises(MultigenError, match=rf"^folder .*s/{hidden} holds no picture that can be read"):
        make_index(open_source(root), tmp_path / "index")


def test_folders_that_lead_round_or_cannot_be_read_are_left_out(tmp_path, monkeypatch, capsys):
    root = write(tmp_path / "s", CLASSED)
    (root / "ant" / "up").symlink_to(root)
    (root / "cat" / "self.jpg").symlink_to(root / "cat" / "self.jpg")
    (root / "cat" / "more").symlink_to(tmp_path / "disk")
    os.mkfifo(root / "cat" / "pipe.jpg")
    (root / "cat" / "dog").mkdir()
    forbid(monkeypatch, "dog")
    make_index(open_source(root), tmp_path / "index")
    data, said = Pictures(tmp_path / "index", PIXELS), capsys.readouterr().out
    assert len(data) == 12 and data.store.manifest["groups"] == ["ant", "cat"]
    for reason in ("ant/up is a link to a folder above it", "pipe.jpg is no plain file", "dog: Permission denied"):
        assert f"left out: {'cannot read ' * reason.startswith('dog')}{root}" in said and reason in said
    assert f"cannot read {root}/cat/self.jpg: Too many levels" in said and f"left out 5 files and folders of {root}" in said
    assert f"cannot read {root}/cat/more: No such file" in said
    with pytest.raises(MultigenError, match="up is a link to a folder above it"):
        make_index(open_source(root), tmp_path / "index", strict=True)


def test_a_parquet_file_is_opened_once_to_be_listed(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    opened = []

    class Counted(parquet.ParquetFile):
        def __init__(self, path):
            opened.append(path)
            super().__init__(path)

    table = pyarrow.table({"image": [picture(i) for i in range(6)], "label": [0, 1] * 3})
    parquet.write_table(table, tmp_path / "train.parquet", row_group_size=1)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", Counted)
    assert [e["group"] for e in listed(tmp_path / "train.parquet")] == [0, 1] * 3
    assert len(opened) == 2  # for its columns, and for its rows


# -------------------------------------------------------------------------------------------------------------------- index


def kinds(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    """The same pictures, given by name, in each kind of source; those that hold only numbers of classes have none."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    arrays = np.stack([Pillow.open(io.BytesIO(x)).resize((PIXELS, PIXELS)) for x in contents.values()])
    rows = [{"name": name, "group": "", "split": "train"} for name in contents]
    folder.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table({"image": list(contents.values())}), folder / "train.parquet")
    return {
        "Folder": write(folder / "files", contents),
        "Zip": zipped(folder / "a.zip", contents),
        "Shards": tarred(folder / "a.tar", contents),
        "Tables": folder / "train.parquet",
        "Prepared": stored.store(folder / "prepared", {PIXELS: arrays}, rows, {"groups": [""]}),
    }


@pytest.mark.parametrize("kind", ["Folder", "Zip", "Shards", "Tables", "Prepared"])
def test_a_picture_that_is_replaced_under_its_name_is_noticed(tmp_path, kind, capsys):
    """Of the same size in pixels, and where that can be in bytes, too."""
    contents = {f"{i}.jpg": picture(i, PIXELS, PIXELS) for i in range(3)}
    source, index = kinds(tmp_path / "s", contents)[kind], tmp_path / "index"
    make_index(open_source(source), index)
    before = Pictures(index, PIXELS)
    kinds(tmp_path / "s", {**contents, "1.jpg": picture(7, PIXELS, PIXELS)})
    assert "changed" not in capsys.readouterr().out
    make_index(open_source(source), index)
    after, said = Pictures(index, PIXELS), capsys.readouterr().out
    assert after.fingerprint != before.fingerprint and len(after) == len(before) == 3
    assert f"{source} has changed" in said and "0 are new, 0 gone" in said
    if kind == "Folder":
        assert "changed: 1 pictures or the files that hold them were replaced, such as 1.jpg" in said
    read = after[1]["image"].astype(float)
    assert np.abs(read - np.asarray(Pillow.open(io.BytesIO(picture(7, PIXELS, PIXELS))), float)).mean() < 1


def test_what_is_new_and_what_is_gone_is_told(tmp_path, capsys):
    root = write(tmp_path / "s", CLASSED)
    make_index(open_source(root), tmp_path / "index")
    (root / "cat" / "01.jpg").unlink()
    write(root, {"cat/98.jpg": picture(98), "cat/99.jpg": picture(99)})
    make_index(open_source(root), tmp_path / "index")
    assert "0 pictures or the files that hold them were replaced; 2 are new, 1 gone" in capsys.readouterr().out


def hub(folder: Path, **labels: list[int | None]) -> Path:
    """Parquet files as on the hub, with names of two classes."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    told = {"info": {"features": {"label": {"names": ["cat", "ant"], "_type": "ClassLabel"}}}}
    folder.mkdir()
    for side, column in labels.items():
        rows = {"image": [picture(i) for i in range(len(column))], "label": pyarrow.array(column, pyarrow.int64())}
        table = pyarrow.table(rows).replace_schema_metadata({"huggingface": json.dumps(told)})
        parquet.write_table(table, folder / f"{side}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("secret", [-1, None])
def test_a_side_whose_classes_are_kept_secret_is_left_out(tmp_path, secret, capsys):
    root = hub(tmp_path / "hub", train=[0, 1, 1], validation=[1], test=[secret] * 5)
    make_index(open_source(root), tmp_path / "index")
    manifest = Pictures(tmp_path / "index", PIXELS).store.manifest
    assert manifest["count"] == {"train": 3, "valid": 1} and manifest["groups"] == ["cat", "ant"]
    said = capsys.readouterr().out
    assert f"left out the side test of {root}: none of its 5 pictures has a class, unlike those of others" in said
    make_index(open_source(root), tmp_path / "all", classed=False)
    assert Pictures(tmp_path / "all", PIXELS).store.manifest["count"] == {"train": 3, "valid": 1, "test": 5}
    with pytest.raises(MultigenError, match="has no class, unlike others"):
        make_index(open_source(hub(tmp_path / "torn", train=[0, 1], test=[secret, 1])), tmp_path / "torn_index")


def test_a_source_without_any_class_keeps_all_its_sides(tmp_path):
    make_index(open_source(hub(tmp_path / "hub", train=[-1] * 3, test=[-1] * 2)), tmp_path / "index")
    manifest = Pictures(tmp_path / "index", PIXELS).store.manifest
    assert manifest["count"] == {"train": 3, "test": 2} and manifest["groups"] == []


def test_a_class_beyond_those_that_are_named_is_refused(tmp_path):
    root = hub(tmp_path / "hub", train=[0, 1, 2])
    with pytest.raises(MultigenError, match=r"train.*:0:2 is of class 2, which is none of its 2 classes, from 'cat' to 'ant'"):
        make_index(open_source(root), tmp_path / "index")
    pictures = np.zeros((2, PIXELS, PIXELS, 3), np.uint8)
    rows = [{"name": group, "group": group, "split": "train"} for group in ("bee", "dog")]
    made = stored.store(tmp_path / "made", {PIXELS: pictures}, rows, {"groups": ["bee", "ant"]})
    with pytest.raises(MultigenError, match=r"dog is of class 'dog', which is none of its 2 classes, from 'bee' to 'ant'"):
        make_index(open_source(made), tmp_path / "index")
    with pytest.raises(MultigenError, match=r"1\.jpg is of class -3, which is none"):
        make_index(open_source(tarred(tmp_path / "a.tar", {"1.jpg": picture(1), "1.cls": b"-3"})), tmp_path / "index")


def test_classes_of_prepared_pictures_keep_their_order(tmp_path):
    pictures = np.zeros((3, PIXELS, PIXELS, 3), np.uint8)
    rows = [{"name": group, "group": group, "split": "train"} for group in ("smileys", "flags", "smileys")]
    made = stored.store(tmp_path / "s", {PIXELS: pictures}, rows, {"groups": ["smileys", "animals", "flags"]})
    make_index(open_source(made), tmp_path / "index")
    data = Pictures(tmp_path / "index", PIXELS)
    assert data.store.manifest["groups"] == ["smileys", "animals", "flags"]
    own = stored.Stored(made, PIXELS, "all", None, "pictures", "")
    assert data.store.column("label").tolist() == own.labels.tolist() == [0, 2, 0]


def test_an_index_is_made_once_and_knows_classes_and_sides(tmp_path):
    root, folder = write(tmp_path / "s", CLASSED), tmp_path / "index"
    make_index(open_source(root), folder, share=20.0)
    data = Pictures(folder, PIXELS)
    assert data.store.manifest["groups"] == ["ant", "cat"] and data.store.column("label").tolist() == [0] * 4 + [1] * 8
    assert data[5]["image"].shape == (PIXELS, PIXELS, 3) and data[5]["readable"] and data[5]["name"] == "cat/02.jpg"
    before = (folder / "manifest.json").stat().st_mtime_ns
    make_index(open_source(root), folder, share=20.0)
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    write(root, {"cat/99.jpg": picture(99)})
    make_index(open_source(root), folder, share=20.0)
    assert len(Pictures(folder, PIXELS)) == 13 and Pictures(folder, PIXELS).fingerprint != data.fingerprint


def test_the_held_out_share_is_a_hash_of_the_name():
    names = [f"{i}.jpg" for i in range(4000)]
    sides = dict(zip(names, divided(names, 10.0), strict=True))
    assert list(sides.values()).count("valid") == pytest.approx(400, abs=60)
    assert all(side == sides[name] for name, side in zip(names[::7], divided(names[::7], 10.0), strict=True))
    assert divided(["a", "b"], 0.0).count("valid") == 1


def test_a_source_that_holds_out_nothing_is_divided(tmp_path):
    for name, held_out in (("train-000.tar", 1), ("val-000.tar", 4)):
        tarred(tmp_path / "s" / name, samples(range(4)))
        make_index(open_source(tmp_path / "s"), tmp_path / "index", share=0.0)
        assert Pictures(tmp_path / "index", PIXELS).store.manifest["count"]["valid"] == held_out


def test_pictures_in_and_out_of_classes_are_refused(tmp_path):
    root = write(tmp_path / "s", {**CLASSED, "stray.jpg": picture(1)})
    with pytest.raises(MultigenError, match=r"stray\.jpg has no class, unlike others.*classed=false"):
        make_index(open_source(root), tmp_path / "index")
    make_index(open_source(root), tmp_path / "index", classed=False)
    assert Pictures(tmp_path / "index", PIXELS).store.manifest["groups"] == []


# ------------------------------------------------------------------------------------------------------------------ latents


def test_latents_are_the_autoencoders_moments(latents, vae, tmp_path):
    folder = latents(CLASSED)
    manifest = files.read_json(folder / "manifest.json")
    assert manifest["latent"] == [CHANNELS, SIDE, SIDE] and manifest["groups"] == ["ant", "cat"]
    data = LatentData("mine", SIDE, "all")
    assert len(data) == 12 == sum(manifest["count"].values()) and data.classes == ("ant", "cat")
    assert data.labels.tolist() == [0] * 4 + [1] * 8
    item = data[7]
    seen = crop(Pillow.open(tmp_path / "source" / item["name"]).convert("RGB"), PIXELS)
    with torch.no_grad():
        posterior = Posterior(vae).network.encode(torch.from_numpy(seen.copy()).permute(2, 0, 1)[None] / 127.5 - 1).latent_dist
    np.testing.assert_allclose(item["latent_mean"], posterior.mean[0], atol=2e-3, rtol=2e-3)
    np.testing.assert_allclose(item["latent_std"], posterior.std[0], atol=2e-3, rtol=2e-3)
    sides = [LatentData("mine", SIDE, side) for side in ("train", "valid")]
    assert sum(map(len, sides)) == 12 and len({d.fingerprint for d in (data, *sides)}) == 3
    with pytest.raises(MultigenError, match=r"holds no pictures, but .*'latent_mean'.*give reference="):
        resolution(data)
    with pytest.raises(MultigenError, match=r"of shape \[2, 8, 8\], not of side 32"):
        LatentData("mine")
    with pytest.raises(MultigenError, match="no split 'test'"):
        LatentData("mine", SIDE, "test")
    with pytest.raises(MultigenError, match=r"latents other are not prepared in .*other; run `multigen prepare"):
        LatentData("other", SIDE)


def test_scale_and_shift_are_measured(latents, vae):
    latents(CLASSED)
    modality = Latents(SIDE, 2, channels=CHANNELS, scale=None, shift=None, latents="mine", decoder=vae)
    data = LatentData("mine", SIDE)
    draws = [modality.collate([data[i] for i in range(len(data))], [k * 100 + i for i in range(len(data))]) for k in range(40)]
    clean = torch.cat([batch.clean["image"] for batch in draws])  # (N, C, h, w)
    torch.testing.assert_close(clean.mean((0, 2, 3)), torch.zeros(CHANNELS), atol=0.05, rtol=0)
    torch.testing.assert_close(clean.std((0, 2, 3)), torch.ones(CHANNELS), atol=0.05, rtol=0)
    with pytest.raises(MultigenError, match="scale and shift are measured"):
        Latents(SIDE, 2, scale=None, shift=None)
    with pytest.raises(MultigenError, match="latents nowhere are not prepared"):
        Latents(SIDE, 2, scale=None, latents="nowhere")


def test_a_decoder_of_other_latents_is_refused(latents, vae, tmp_path):
    latents(CLASSED)
    tuned, other = autoencoder(tmp_path / "tuned", 1, decoder_alone=True), autoencoder(tmp_path / "other", 1)

    def decoded(decoder):
        modality = Latents(SIDE, 2, channels=CHANNELS, latents="mine", decoder=str(decoder))
        return modality.decode({"image": torch.zeros(1, CHANNELS, SIDE, SIDE)}, modality.template([0], 0))

    assert decoded(vae)[0].shape == decoded(tuned)[0].shape == (PIXELS, PIXELS, 3)
    with pytest.raises(MultigenError, match=r"the latents were made by .*vae.*, and the encoder of .*other .* makes others"):
        decoded(other)
    with pytest.raises(MultigenError, match=r"holds other latents \(its autoencoder is .*; give another data\.name"):
        latents(CLASSED, vae=str(other))
    with pytest.raises(MultigenError, match="needs pictures of a multiple of 2 pixels, not 15"):
        latents(CLASSED, pixels=15)
    with pytest.raises(MultigenError, match="of 3 levels needs pictures of a multiple of 4 pixels, not 18"):
        latents(CLASSED, name="new", vae=None, pixels=18, autoencoder=Recipe())


def test_what_cannot_be_read_is_named_counted_and_left_out(latents, capsys):
    broken = {**CLASSED, "cat/cut.jpg": picture(1)[:300], "ant/text.png": b"no picture"}
    folder = latents(broken)
    said = capsys.readouterr().out
    assert "cut.jpg is not a readable image" in said and "left out 2 of 14 pictures" in said
    data = LatentData("mine", SIDE, "all")
    assert len(data) == 12 and not {"cat/cut.jpg", "ant/text.png"} & {data[i]["name"] for i in range(12)}
    assert [left["name"] for left in files.read_json(folder / "manifest.json")["skipped"]] == ["ant/text.png", "cat/cut.jpg"]
    for workers in (0, 1):
        with pytest.raises(MultigenError, match=r"^target.*|.*(cut\.jpg|text\.png) is not a readable image") as caught:
            latents(broken, name=f"strict{workers}", strict=True, workers=workers)
        assert "\n" not in str(caught.value)


def test_sources_without_use_are_refused(latents, tmp_path, monkeypatch):
    with pytest.raises(MultigenError, match="holds no picture"):
        latents({"readme.txt": b"hello"})
    with pytest.raises(MultigenError, match=r"none of the 2 pictures of .* can be read"):
        latents(write(tmp_path / "broken", {"1.jpg": b"x", "2.jpg": b"y"}))
    root = write(tmp_path / "classes", CLASSED)
    (root / "dog").mkdir()
    with pytest.raises(MultigenError, match=r"^folder .*classes/dog holds no picture"):
        latents(root)
    (root / "dog").rmdir()
    with pytest.raises(MultigenError, match=r"which pictures\? give data\.path="):
        latents(None, name="new")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(MultigenError, match=r"target 'moments' needs .* kB in .*, where 1 kB are left"):
        latents(root)


def test_preparing_again_verifies_and_mends(latents):
    folder = latents(CLASSED)
    first = content(folder)
    shard = next(folder.glob("cache/*/shard_00001.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(MultigenError, match=r"corrupt.*run `multigen prepare"):
        LatentData("mine", SIDE)[0]
    latents(None)  # the pictures are where they were
    assert content(folder) == first


def test_latents_of_a_picture_that_was_replaced_are_made_again(latents, tmp_path, capsys):
    latents(CLASSED)
    before = LatentData("mine", SIDE, "all")
    old = [before[i]["latent_mean"] for i in range(12)]
    latents({**CLASSED, "cat/01.jpg": picture(77)})
    assert "has changed: 1 pictures" in capsys.readouterr().out
    after = LatentData("mine", SIDE, "all")
    same = [np.array_equal(after[i]["latent_mean"], old[i]) for i in range(12)]
    assert after[4]["name"] == "cat/01.jpg" and same == [i != 4 for i in range(12)]
    assert after.fingerprint != before.fingerprint


def test_an_index_of_other_pictures_is_not_read_with_older_latents(latents, tmp_path):
    """As after a preparation of more pictures that was interrupted between its index and its manifest."""
    folder = latents(CLASSED)
    make_index(open_source(write(tmp_path / "source", {"ant/000.jpg": picture(99)})), folder / "pictures", share=20.0)
    with pytest.raises(
        MultigenError, match=r"latents mine are of other pictures than .*pictures lists; run `multigen prepare"
    ):
        LatentData("mine", SIDE, "all")[0]
    latents(None)
    assert LatentData("mine", SIDE, "all")[0]["name"] == "ant/00.jpg"


def content(folder: Path) -> dict[str, bytes]:
    """What lies below a folder, without locks."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}


# ----------------------------------------------------------------------------------------------------------------- teachers


def test_teachers_see_the_pictures_and_training_needs_neither(latents, tmp_path, data_root):
    latents({**CLASSED, "ant/00.txt": b"an ant"})
    teacher = EfficientNetLite0(size=32, grid=2, pretrained=False)
    data = {side: LatentData("mine", SIDE, side) for side in ("train", "valid")}
    seen = whole(data["train"])
    assert seen.fingerprint == data["train"].fingerprint and {"raw", "caption", "latent_mean"} <= seen[0].keys()
    modality = Latents(SIDE, 2, channels=CHANNELS, encoders={"tokens": teacher})
    job = Job(seen, modality, teacher, "tokens", batch_size=4)
    cache.prepare(job, Storage(dtype="float32"), [whole(data["valid"])])
    (tmp_path / "source").rename(tmp_path / "gone")
    reading = LatentData("mine", SIDE, "train", targets=["tokens"])
    pixels = crop(Pillow.open(tmp_path / "gone" / reading[2]["name"]).convert("RGB"), PIXELS)
    batch = Image(PIXELS, 0, encoders={"tokens": teacher}).collate([{"image": pixels, "raw": pixels}], [0])
    np.testing.assert_allclose(reading[2]["target"]["tokens"], teacher(batch).value[0], atol=1e-4, rtol=1e-3)
    assert reading.fingerprint != data["train"].fingerprint
    with pytest.raises(MultigenError, match=r"no target 'token': did you mean 'tokens'"):
        LatentData("mine", SIDE, "train", targets=["token"])[0]
    with pytest.raises(MultigenError, match=r"the pictures are no more in .*source: give data\.path"):
        seen[0]
    assert LatentData("mine", SIDE, "train", path=tmp_path / "gone").whole()[0]["raw"].shape == (PIXELS, PIXELS, 3)


def test_prepared_pictures_are_a_source(tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    rows = [{"name": f"picture {i}", "group": "ab"[i % 2], "split": ("train", "valid")[i // 2]} for i in range(3)]
    stored.store(tmp_path / "emoji", {16: large[:, ::2, ::2], 32: large}, rows, {"groups": ["a", "b"]})
    make_index(open_source(tmp_path / "emoji"), tmp_path / "index")
    for size, wanted in ((16, large[:, ::2, ::2]), (32, large)):
        data = Pictures(tmp_path / "index", size)
        assert np.array_equal(data[1]["image"], wanted[1]) and data[1]["caption"] == "picture 1"
    assert data.store.manifest["groups"] == ["a", "b"] and data.store.column("split").tolist() == [0, 0, 1]


def test_an_autoencoder_of_ones_own_is_trained_once_and_measured(latents, data_root, capsys):
    recipe = Recipe(channels=(8, 8), latent=CHANNELS, steps=3, batch_size=2)
    folder = latents(CLASSED, vae=None, autoencoder=recipe)
    about = files.read_json(folder / "vae" / "training.json")
    assert about["recipe"]["steps"] == 3 and about["held_out"]["pictures"] == 2 and about["held_out"]["psnr"] > 0
    assert "PSNR" in capsys.readouterr().out and not list(folder.glob(".vae*"))
    before = (folder / "vae" / "training.json").stat().st_mtime_ns
    latents(CLASSED, vae=None, autoencoder=recipe)
    assert (folder / "vae" / "training.json").stat().st_mtime_ns == before
    modality = Latents(SIDE, 2, channels=CHANNELS, scale=None, shift=None, latents="mine", decoder="mine/vae")
    assert modality.decode({"image": torch.zeros(1, CHANNELS, SIDE, SIDE)}, modality.template([0], 0))[0].shape == (
        PIXELS,
        PIXELS,
        3,
    )
    with pytest.raises(MultigenError, match="holds latents, and its autoencoder is damaged, or of other pictures or settings"):
        latents(CLASSED, vae=None, autoencoder=Recipe(channels=(8, 8), latent=CHANNELS, steps=4, batch_size=2))


@pytest.mark.parametrize("steps", [1, 2, 300])
def test_every_step_of_an_autoencoder_moves_it(steps):
    rates = [Recipe(steps=steps).rate_at(step) for step in range(steps)]
    assert (
        min(rates) > 0 and max(rates) <= Recipe().rate and (steps < 3 or rates[-1] < 1e-6 < 0.9 * Recipe().rate < max(rates))
    )
    network = (recipe := Recipe(channels=(8, 8), latent=CHANNELS, steps=1, batch_size=2)).network()
    before = [p.clone() for p in network.parameters()]
    data = [{"image": np.full((PIXELS, PIXELS, 3), 60 * i, np.uint8)} for i in range(3)]
    Training(recipe, data, data, Path("unused"), torch.device("cpu"))._step(
        network, torch.optim.AdamW(network.parameters()), 0
    )
    assert all(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


def test_an_autoencoder_never_sees_what_cannot_be_read(latents, tmp_path, monkeypatch):
    """Not as black pictures either: each is replaced by the next one, and held-out ones are not measured."""
    seen = []

    def watched(network, pixels, *rest):
        seen.append(pixels)
        return loss(network, pixels, *rest)

    monkeypatch.setattr("modalities.image.autoencoder_training.loss", watched)
    broken = {f"{side}/x/{i}.jpg": b"cut" if i % 2 else picture(i) for side in ("train", "val") for i in range(6)}
    folder = latents(broken, vae=None, autoencoder=Recipe(channels=(8, 8), latent=CHANNELS, steps=3, batch_size=4))
    assert files.read_json(folder / "vae" / "training.json")["held_out"]["pictures"] == 3
    known = [crop(Pillow.open(io.BytesIO(picture(i))), PIXELS) for i in (0, 2, 4)]
    shown = ((torch.cat(seen) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert shown.shape == (12, PIXELS, PIXELS, 3) and all(any(np.array_equal(x, y) for y in known) for x in shown)
    with pytest.raises(MultigenError, match="none of the 2 pictures to train the autoencoder on can be read"):
        latents(write(tmp_path / "none", {"a/1.jpg": b"x", "a/2.jpg": b"y", "b/3.jpg": b"z"}), name="none", vae=None)


def test_groups_of_an_autoencoders_norms_divide_its_channels():
    Recipe(channels=(12, 20), latent=CHANNELS).network()
    with pytest.raises(MultigenError, match="channels is at least 1, got 0"):
        Recipe(channels=())


def test_the_loss_of_an_autoencoder_is_error_and_divergence():
    network = Recipe(channels=(8, 8), latent=CHANNELS).network()
    pixels, noise = torch.rand(2, 3, PIXELS, PIXELS), Noise(keys(0, range(2)))
    bare, both = loss(network, pixels, noise, 0.0), loss(network, pixels, noise, 0.5)
    posterior = network.encode(pixels).latent_dist
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    torch.testing.assert_close(both - bare, 0.5 * divergence)
    made = network.decode(posterior.mean + posterior.std * noise.normal(posterior.mean.shape[1:])).sample
    torch.testing.assert_close(bare, (made - pixels).abs().mean())
