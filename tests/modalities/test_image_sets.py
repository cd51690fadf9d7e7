"""Pictures as files: what other programs read, what others wrote, and what is no picture."""

import zipfile

import numpy as np
import pytest
from PIL import Image as Pillow

from modalities.image.modality import Image
from modalities.image.sets import Archive, Finished, Folder, open_set, write_archive
from multigen.state import MultigenError


def pictures(n=7, size=6, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), np.uint8)  # (n, size, size, C)


def drawn(images, classes=3, batch=3):
    """As samples come, with their templates."""
    modality = Image(images.shape[1], classes=classes, channels=images.shape[-1])
    for start in range(0, len(images), batch):
        index = range(start, min(start + batch, len(images)))
        yield [images[i] for i in index], modality.template(index, 0)


def test_numpy_reads_what_was_written_batch_by_batch(tmp_path):
    images = pictures()
    write_archive(drawn(images), len(images), tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as found:
        assert found.files == ["arr_0", "arr_1"]
        assert found["arr_0"].dtype == np.uint8 and (found["arr_0"] == images).all()
        assert found["arr_1"].dtype == np.int64 and found["arr_1"].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["samples.npz"]


def test_grey_pictures_get_three_channels_and_no_label_makes_no_array(tmp_path):
    images = pictures(channels=1)
    write_archive(drawn(images, classes=0), len(images), tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz") as found:
        assert found.files == ["arr_0"] and (found["arr_0"] == images).all() and found["arr_0"].shape[-1] == 3


def test_a_batch_at_a_time_is_in_memory(tmp_path):
    """The iterator is asked for the next batch only when the last one is written."""
    images, alive = pictures(), []

    def watched():
        for samples, template in drawn(images):
            alive.append(len(samples))
            yield samples, template

    write_archive(watched(), len(images), tmp_path / "samples.npz")
    assert alive == [3, 3, 1]
    assert isinstance(Archive(tmp_path / "samples.npz")._images, np.memmap)


def test_what_is_not_finite_has_no_place_in_an_array(tmp_path):
    def broken():
        for samples, template in drawn(pictures()):
            yield [None, *samples[1:]], template

    with pytest.raises(MultigenError, match="1 of the samples are not finite"):
        write_archive(broken(), 7, tmp_path / "samples.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_archives_of_others_are_read(save, order, tmp_path):
    images = pictures()
    save(tmp_path / "others.npz", np.asarray(images, order=order), np.arange(7))
    data = Archive(tmp_path / "others.npz")
    assert len(data) == 7 and data.labelled and data[4]["label"] == 4
    assert all((data[i]["image"] == images[i]).all() for i in (6, 0, 3))
    save(tmp_path / "other.npz", pictures(seed=1))
    assert Archive(tmp_path / "other.npz").fingerprint != data.fingerprint
    assert not Archive(tmp_path / "other.npz").labelled


def test_a_folder_is_read_in_the_order_of_names_and_as_it_is(tmp_path):
    images = pictures()
    for i in (2, 0, 1):
        Pillow.fromarray(images[i]).save(tmp_path / f"{i:03d}.png")
    data = open_set(tmp_path)
    assert isinstance(data, Folder) and len(data) == 3
    assert all((data[i]["image"] == images[i]).all() for i in range(3))
    (tmp_path / "001.png").write_bytes(b"no picture")
    with pytest.raises(MultigenError, match=r"001\.png is not a readable image"):
        _ = data[1]


def test_a_finished_set_is_read_in_batches_with_its_labels(tmp_path):
    images = pictures()
    write_archive(drawn(images), 7, tmp_path / "samples.npz")
    samples, template = Finished(tmp_path / "samples.npz")(range(2, 5))
    assert all((s == images[i]).all() for s, i in zip(samples, range(2, 5), strict=True))
    assert template.cond["label"].tolist() == [2, 0, 1] and len(template) == 3


def test_what_is_no_set_of_pictures_is_one_line(tmp_path):
    np.savez(tmp_path / "floats.npz", pictures().astype(np.float32))
    np.savez(tmp_path / "objects.npz", arr_0=np.array([None, {}], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "notes.txt").write_text("no set")
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        archive.writestr("arr_0.npy", b"\x93NUMPY\x01\x00 cut")
    mistakes = {
        "floats.npz": "holds no pictures",
        "objects.npz": "objects",
        "text.npz": "not a zip",
        "notes.txt": "a .npz and a folder",
        "empty": "holds no picture",
        "nowhere": "does not exist",
        "cut.npz": "cannot read arr_0",
    }
    for name, said in mistakes.items():
        with pytest.raises(MultigenError, match=said):
            open_set(tmp_path / name)
