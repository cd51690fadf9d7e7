"""Metrics of pictures, with an encoder simple enough to know the answers."""

import math

import numpy as np
import pytest
import torch

from modalities.image.metrics import AsSampled, FeatureDistance
from modalities.image.modality import Image
from multigen.random import Noise, keys
from multigen.state import Features, MultigenError

SIZE = 8


class Pictures:
    """Pictures of one colour and some noise; the class is the brightest channel."""

    def __init__(self, n=60, seed=0, shift=0):
        self.fingerprint = f"colours-{n}-{seed}-{shift}"
        noise = Noise(keys(seed, range(n), "pictures"))
        self.labels = np.arange(n) % 3
        colour = 60 + shift + 100 * torch.nn.functional.one_hot(torch.tensor(self.labels), 3)  # (n, 3)
        pixels = colour[:, None, None] + 40 * noise.uniform([1, 1, 3]) + 20 * noise.fold(1).uniform([SIZE, SIZE, 3])
        self.images = pixels.clamp(0, 255).byte().numpy()  # (n, SIZE, SIZE, 3)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        fine = self.images[index].repeat(2, 0).repeat(2, 1) // 2  # darker: what a metric must not look at
        return {"image": self.images[index], "raw": fine, "label": int(self.labels[index]), "caption": "colour"}


class Colours:
    """Mean and deviation of each channel: (B, 6)."""

    fingerprint = "channel-moments"
    calls = 0

    def __call__(self, batch):
        self.calls += 1
        x = batch.raw["image"].float().flatten(2)  # (B, 3, H * W)
        value = torch.cat([x.mean(2), x.std(2)], 1) / 64  # (B, 6)
        return Features(value, torch.ones(len(value), dtype=torch.bool))

    def to(self, device):
        return self


@pytest.fixture
def metric(data_root):
    return FeatureDistance(Pictures(), Pictures(30, seed=1), Colours(), name="colours", components=4, subset=20, device="cpu")


def _update(metric, pictures, labelled=True, batch=16):
    data = [pictures[i] for i in range(len(pictures))]
    for start in range(0, len(data), batch):
        part = data[start : start + batch]
        template = Image(SIZE, classes=3 if labelled else 0).collate(part, range(len(part)))
        metric.update([item["image"] for item in part], template)
    return metric.compute()


def test_held_out_pictures_as_samples_have_no_distance(metric):
    found = _update(metric, metric.held_out.dataset)
    assert found["frechet_colours_pca4"] == pytest.approx(0, abs=1e-6)
    assert found["kid_colours"] < 0.01
    assert found["nearest_train_colours"] == pytest.approx(found["nearest_train_colours_real"])
    assert found["near_copies_colours"] == found["near_copies_colours_real"] == pytest.approx(0.05, abs=0.04)
    assert found["label_accuracy_colours"] == found["label_accuracy_colours_real"] == 1


def test_training_pictures_as_samples_are_found_out_as_copies(metric):
    found = _update(metric, metric.train.dataset)
    assert found["near_copies_colours"] == 1
    assert found["nearest_train_colours"] == pytest.approx(0, abs=1e-6)
    assert found["frechet_colours_pca4_train"] == pytest.approx(0, abs=1e-6)
    assert found["frechet_colours_pca4"] == pytest.approx(found["frechet_colours_pca4_real"])
    assert found["kid_colours"] == pytest.approx(found["kid_colours_real"])


def test_worse_samples_are_further(metric):
    found = _update(metric, Pictures(30, seed=2, shift=40))
    assert found["frechet_colours_pca4"] > 5 * found["frechet_colours_pca4_real"]
    assert found["kid_colours"] > found["kid_colours_real"] + found["kid_colours_std"]


def test_wrong_labels_cost_accuracy(metric):
    wrong = Pictures(30, seed=2)
    wrong.labels = (wrong.labels + 1) % 3
    found = _update(metric, wrong)
    assert found["label_accuracy_colours"] == 0
    assert found["label_accuracy_colours_real"] == 1


def test_without_labels_there_is_no_accuracy(metric):
    found = _update(metric, Pictures(30, seed=2), labelled=False)
    assert not [k for k in found if k.startswith("label_accuracy")]


def test_every_measure_is_explained_and_has_its_real_twin(metric):
    found = _update(metric, Pictures(30, seed=2))
    measures = {k for k in found if not k.endswith(("_std", "_real"))}
    about = metric.about()
    assert measures == about["meaning"].keys() == about["reference"].keys()
    assert all(f"{k}_real" in found for k in measures)
    assert not [k for k in found if "fid" in k]
    assert about["sets"]["train"]["count"] == 60 and about["reference"]["kid_colours"].startswith("30 held-out")


def test_invalid_samples_are_left_out(metric):
    pictures = Pictures(6, seed=2)
    template = Image(SIZE, classes=3).collate([pictures[i] for i in range(6)], range(6))
    metric.update([None, *(pictures[i]["image"] for i in range(1, 6))], template)
    assert len(metric.samples) == 5
    assert metric.compute()["label_accuracy_colours"] == 1


def test_no_valid_sample_gives_no_number(metric, tmp_path):
    template = Image(SIZE, classes=3).template(range(2), 0)
    metric.update([None, None], template)
    assert all(math.isnan(x) for x in metric.compute().values())
    assert metric.pictures(tmp_path) == {}


def test_reference_features_are_computed_once(metric):
    _ = metric.real_train, metric.real_held_out
    again = FeatureDistance(metric.train.dataset, metric.held_out.dataset, Colours(), name="colours", device="cpu")
    torch.testing.assert_close(again.real_train, metric.real_train)
    assert again.encoder.calls == 0


def test_the_encoder_sees_real_pictures_as_it_sees_samples(metric):
    data = Pictures()
    assert (AsSampled(data)[3]["raw"] == data[3]["image"]).all()
    item = metric.train[0]["image"]
    torch.testing.assert_close(metric._encode([item])[0], metric.real_train[0])


def test_pictures_show_copies_beside_what_they_copy(metric, tmp_path):
    from PIL import Image as Pillow

    _update(metric, metric.train.dataset)
    ((caption, path),) = metric.pictures(tmp_path, shown=3).items()
    assert "3 samples" in caption
    drawn = np.asarray(Pillow.open(path)).astype(int)
    upper, lower = drawn[2 : 2 + 96], drawn[100 : 100 + 96]
    assert (upper == lower).all() and upper.std() > 0


def test_too_few_real_pictures(data_root):
    metric = FeatureDistance(Pictures(1), Pictures(30, seed=1), Colours(), device="cpu")
    with pytest.raises(MultigenError, match="at least 2 real pictures"):
        _update(metric, Pictures(6))
