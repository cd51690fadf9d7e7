"""Pictures as a modality: the round trip, labels of templates, teachers' view, mirroring, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from modalities.image.modality import Image, grid
from multigen.modality import encode_text
from multigen.random import keys
from multigen.state import Features, MultigenError

SIZE = 8


class Teacher:
    """Sees the raw picture's mean colour and the caption's first letter."""

    fingerprint = "teacher"

    def __call__(self, batch):
        value = torch.cat([batch.raw["image"].float().mean((2, 3)), batch.raw["caption"][:, :1]], 1)  # (B, 4)
        return Features(value, torch.ones(len(value), dtype=torch.bool))

    def to(self, device):
        return self


def examples(n: int = 6, target: bool = False):
    generator = np.random.default_rng(0)
    for i in range(n):
        one = {"image": generator.integers(0, 256, (SIZE, SIZE, 3), np.uint8), "label": i % 3, "caption": f"{i} thé"}
        one["raw"] = one["image"].repeat(2, 0).repeat(2, 1)
        yield {**one, "target": {"z": np.full((4, 2), i, np.float16)}} if target else one


def batch_of(modality: Image, n: int = 6, seed: int = 0, **options):
    return modality.collate(list(examples(n, **options)), keys(seed, range(n)).tolist())


def image(**options) -> Image:
    return Image(**{"size": SIZE, "classes": 3, **options})


def test_collate_and_decode_are_inverse():
    modality = image()
    batch = batch_of(modality)
    clean = batch.clean["image"]
    assert clean.shape == (6, 3, SIZE, SIZE) and clean.dtype == torch.float32
    assert -1 <= clean.min() < -0.9 and 0.9 < clean.max() <= 1
    assert batch.mask["image"].tolist() == batch.free["image"].tolist() == [True] * 6
    assert batch.cond["label"].tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(batch.key, keys(0, range(6)))
    for one, back in zip(examples(), modality.decode(batch.clean, batch), strict=True):
        assert np.array_equal(one["image"], back)


@pytest.mark.parametrize("scale", [{"mean": 0.0, "std": 1.0}, {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}])
def test_normalisation_is_an_option(scale):
    modality = image(component="picture", **scale)
    batch = batch_of(modality)
    first = torch.from_numpy(next(examples())["image"]).permute(2, 0, 1) / 255  # (3, H, W)
    mean, std = (torch.tensor(scale[k]).view(-1, 1, 1) for k in ("mean", "std"))
    torch.testing.assert_close(batch.clean["picture"][0], (first - mean) / std)
    assert np.array_equal(modality.decode(batch.clean, batch)[5], list(examples())[5]["image"])


def test_values_out_of_range_are_clipped_and_broken_ones_are_none():
    state = {"image": torch.stack([torch.full((3, SIZE, SIZE), v) for v in (-7.0, 7.0, 0.0, float("nan"), float("inf"))])}
    found = image().decode(state, image().template(range(5), 0))
    assert [None if p is None else int(p.max()) for p in found] == [0, 255, 128, None, None]


def test_only_teachers_make_batches_carry_raw_pictures():
    assert batch_of(image()).raw == {}
    batch = batch_of(image(encoders={"z": Teacher()}))
    assert batch.raw["image"].shape == (6, 3, 16, 16) and batch.raw["image"].dtype == torch.uint8
    assert bytes(batch.raw["caption"][4].numpy()).rstrip(b"\0").decode() == "4 thé"


def test_encode_fills_targets_and_drops_raw():
    modality = image(encoders={"z": Teacher()})
    encoded = modality.encode(batch_of(modality))
    assert encoded.raw == {} and encoded.target["z"].value.shape == (6, 4)
    assert encoded.target["z"].value[:, 3].tolist() == [ord(str(i)) for i in range(6)]


def test_cached_targets_are_stacked():
    batch = image().encode(batch_of(image(), target=True))
    assert batch.target["z"].value.shape == (6, 4, 2) and batch.target["z"].value.dtype == torch.float32
    assert batch.target["z"].value[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5] and batch.target["z"].mask.all()


@pytest.mark.parametrize(("rule", "expected"), [("balanced", [0, 1, 2, 0, 1, 2]), (1, [1] * 6), ([0, 0, 1], [2] * 6)])
def test_labels_of_templates(rule, expected):
    assert image(labels=rule).template(range(6), 0).cond["label"].tolist() == expected


def test_labels_with_the_datas_frequencies():
    class Data:
        labels = np.array([0] * 70 + [2] * 30)

    drawn = image(labels=Data()).template(range(4000), 0).cond["label"].bincount(minlength=3) / 4000
    torch.testing.assert_close(drawn, torch.tensor([0.7, 0.0, 0.3]), atol=0.03, rtol=0)


@pytest.mark.parametrize("rule", ["balanced", [1.0, 2.0, 3.0]])
def test_a_template_is_a_function_of_seed_and_index(rule):
    modality = image(labels=rule)
    whole, part = modality.template(range(20), 7), modality.template([13, 4], 7)
    assert torch.equal(whole.key[[13, 4]], part.key) and torch.equal(part.key, keys(7, [13, 4], "sample"))
    assert torch.equal(whole.cond["label"][[13, 4]], part.cond["label"])
    assert whole.clean["image"].shape == (20, 3, SIZE, SIZE) and whole.free["image"].all()


def test_without_classes_there_is_no_label():
    modality = image(classes=0)
    assert batch_of(modality).cond == modality.template(range(2), 0).cond == {}


def test_mirroring_depends_on_the_key_alone():
    modality = image(flip=True, encoders={"z": Teacher()})
    batch, again, plain = batch_of(modality, 40), batch_of(modality, 40), batch_of(image(encoders={"z": Teacher()}), 40)
    assert torch.equal(batch.clean["image"], again.clean["image"])
    mirrored = (batch.clean["image"] != plain.clean["image"]).flatten(1).any(1)  # (B,)
    assert 8 < mirrored.sum() < 32
    torch.testing.assert_close(batch.clean["image"][mirrored], plain.clean["image"][mirrored].flip(-1))
    assert torch.equal(batch.raw["image"][mirrored], plain.raw["image"][mirrored].flip(-1))
    assert torch.equal(batch.raw["image"][~mirrored], plain.raw["image"][~mirrored])
    assert not torch.equal(batch.clean["image"], batch_of(modality, 40, seed=1).clean["image"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: batch_of(image(flip=True), target=True), "flip=true needs targets=online"),
        (lambda: batch_of(image(size=16)), r"pictures are of shape \(3, 8, 8\), the modality expects \(3, 16, 16\)"),
        (lambda: batch_of(image(classes=2)), "label 2 is not below the modality's 2 classes"),
        (lambda: image(labels="random"), "labels 'random': choices are 'balanced'"),
        (lambda: image(labels=3), r"label 3 is not in 0 \.\. 2"),
        (lambda: image(labels=[1, 2]), "labels need 3 weights"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(MultigenError, match=message):
        make()


def test_saved_pictures_open(tmp_path):
    samples = [one["image"] for one in examples(2)]
    paths = image().save([samples[0], None, samples[1]], tmp_path / "out")
    assert [p.name for p in paths] == ["000000.png", "000002.png"]
    assert np.array_equal(np.asarray(Pillow.open(paths[1])), samples[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_shows_every_sample(tmp_path, channels):
    samples = [np.full((SIZE, SIZE, channels), 40 * i, np.uint8) for i in range(5)]
    drawn = grid([*samples[:4], None, samples[4]], columns=3, size=SIZE, zoom=2, gap=1)
    assert drawn.shape == (2 * 17 + 1, 3 * 17 + 1, channels)
    assert [int(drawn[1 + 17 * (i // 3) + 8, 1 + 17 * (i % 3) + 8, 0]) for i in range(6)] == [0, 40, 80, 120, 224, 160]
    path = image(channels=channels).draw(samples, tmp_path / "grid.png")
    assert Pillow.open(path).mode == ("L" if channels == 1 else "RGB")


def test_drawing_nothing_is_fine(tmp_path):
    assert image().draw([None, None], tmp_path / "none.png").is_file()


def test_text_survives_the_tensor():
    lines = ["", "fiancées hat", "☃" * 3]
    assert [bytes(row).rstrip(b"\0").decode() for row in encode_text(lines).numpy()] == lines


def test_without_classes_there_is_no_label_whatever_the_rule():
    template = Image(8, classes=0, labels=[3.0, 1.0]).template(range(3), seed=0)
    assert template.cond == {} and len(template) == 3
