"""Measures beside reference statistics, in a network simple enough to know the answers."""

import json
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

from modalities.image.metrics import Frechet, GaussianMMD, InceptionScore, Kernel, Neighbours, Quality, Teacher
from modalities.image.metrics.measures import Seen
from modalities.image.modality import Image
from modalities.image.sets import Archive
from multigen import distances
from multigen.evaluate import evaluate_finished
from multigen.random import Noise, keys
from multigen.state import Features, MultigenError

SIZE = 4


class Pixels:
    """Features are the means of the channels, the pixels of one of them, and logits of three classes."""

    name, standard, fingerprint = "pixels", False, "pixels-1"
    calls = 0

    def __call__(self, pictures):
        self.calls += 1
        x = pictures.float() / 64  # (B, 3, H, W)
        return {"pool": x.mean((2, 3)), "spatial": x[:, 0].flatten(1), "logits": 3 * x.mean((2, 3))}

    def to(self, device):
        return self


class Published(Pixels):
    """The same under the name of the network that the literature means."""

    name, standard = "inception", True


class Pictures:
    """Noise about a grey; items as data sets have them."""

    def __init__(self, n=60, seed=0, grey=100, size=SIZE):
        self.fingerprint = f"noise-{n}-{seed}-{grey}-{size}"
        pixels = grey + 40 * Noise(keys(seed, range(n), "pictures")).normal([size, size, 3])  # (n, size, size, 3)
        self.images = pixels.clamp(0, 255).byte().numpy()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": 0}


MEASURES = {
    "fid": Frechet("pool", "fid"),
    "sfid": Frechet("spatial", "sfid"),
    "score": InceptionScore(splits=4),
    "neighbours": Neighbours(),
    "kid": Kernel(subset=50, subsets=10),
    "mmd": GaussianMMD("pool", sigma=1.0, scale=1.0),
}
PLAIN = {"kid", "precision", "recall", "symmetric_precision", "symmetric_recall", "mmd", "inception_score"}


def quality(reference, network=None, measures=MEASURES, **settings):
    return Quality(network or Pixels(), measures, reference, device="cpu", batch_size=16, **settings)


def measured(metric, data, batch=25):
    for start in range(0, len(data), batch):
        part = [data[i]["image"] for i in range(start, min(start + batch, len(data)))]
        metric.update(part, Image(SIZE, classes=0).template(range(len(part)), 0))
    return metric.compute()


def test_a_set_against_itself(data_root):
    found = measured(quality(Pictures()), Pictures())
    assert found["frechet_pixels_pool"] == pytest.approx(0, abs=1e-9)
    assert found["frechet_pixels_spatial"] == pytest.approx(0, abs=1e-9)
    assert found["mmd_pixels"] == pytest.approx(0, abs=1e-12)
    shares = [found[f"{name}_pixels"] for name in ("precision", "recall", "symmetric_precision", "symmetric_recall")]
    assert shares == [1, 1, 1, 1]
    assert -0.2 < found["kid_pixels"] < 0.02  # unbiased: below 0 of subsets that share their pictures


def test_numbers_are_those_of_all_features_at_once_whatever_the_batches(data_root):
    data, real = Pictures(70, seed=1, grey=120), Pictures()
    features = [Pixels()(Image._stack([d[i]["image"] for i in range(len(d))])) for d in (data, real)]
    expected = distances.frechet(*(distances.moments(f["spatial"]) for f in features))
    for batch in (1, 25, 70):
        found = measured(quality(real), data, batch)
        assert found["frechet_pixels_spatial"] == pytest.approx(expected, rel=1e-9)
        kernel = distances.kernel_distance(features[0]["pool"], features[1]["pool"], 50, 10)
        assert (found["kid_pixels"], found["kid_std_pixels"]) == pytest.approx(kernel)


def test_published_names_are_kept_for_the_published_network(data_root):
    ours, theirs = (measured(quality(Pictures(), network), Pictures(30)) for network in (Pixels(), Published()))
    assert set(theirs) == {"fid", "sfid", "inception_score_std", "kid_std", "mmd_inception", *PLAIN - {"mmd"}}
    assert not [name for name in ours if "fid" in name or not name.removesuffix("_std").count("pixels")]
    assert list(ours.values()) == list(theirs.values())


def test_the_inception_score_of_sure_and_evenly_spread_classes_is_their_number():
    sure = 100 * torch.eye(5).repeat(8, 1)  # (40, 5)
    assert InceptionScore(splits=2)(Seen(None, sure), Seen(None, None))["inception_score"] == pytest.approx(5)
    undecided = torch.zeros(40, 5)
    assert InceptionScore(splits=2)(Seen(None, undecided), Seen(None, None))["inception_score"] == pytest.approx(1)


def test_it_says_what_was_compared_with_what(data_root):
    metric = quality(Pictures())
    found = measured(metric, Pictures(30))
    about = metric.about()
    assert about["meaning"].keys() == {k for k in found if "std" not in k}
    assert set(about["meaning"]) - set(about["reference"]) == {"inception_score_pixels"}
    assert about["reference"]["precision_pixels"] == "60 pictures at 4 x 4 pixels of the data"
    known = about["statistics"]
    assert (known["count"], known["resolution"], known["network"]) == (60, [4, 4], "pixels")
    assert known["set"]["fingerprint"] == "noise-60-0-100-4" and known["fingerprint"] == "pixels-1"
    assert known["source"].startswith(str(data_root)) and known["source"].endswith(".safetensors")


def test_reference_features_are_computed_once_and_the_file_can_be_given_instead(data_root):
    first = quality(Pictures())
    expected = measured(first, Pictures(30))
    again = quality(Pictures())
    assert measured(again, Pictures(30)) == expected
    assert again.network.calls == 3 < first.network.calls  # the samples alone
    kept = first.about()["statistics"]["source"]
    assert measured(quality(kept), Pictures(30)) == expected

    class Other(Pixels):
        name, fingerprint = "other", "other-1"

    with pytest.raises(MultigenError, match="holds features of pixels, not of other"):
        measured(quality(kept, Other()), Pictures(30))


@pytest.mark.parametrize("stored", [False, True])
def test_another_resolution_is_refused_at_the_first_samples(stored, data_root):
    metric = quality(Pictures(size=8))
    if stored:
        metric = quality(metric.reference.statistics().about["source"])
    with pytest.raises(MultigenError, match="is of 8 x 8 pixels, the samples are of 4 x 4"):
        metric.update([Pictures(1)[0]["image"]], Image(SIZE, classes=0).template([0], 0))


def suite(path, network, data, pictures=True, spatial=True):
    """A file of statistics as ADM's suite has them."""
    features = network(Image._stack([data[i]["image"] for i in range(len(data))]))
    arrays = {}
    for name, keys_ in (("pool", ("mu", "sigma")), ("spatial", ("mu_s", "sigma_s"))):
        if name == "pool" or spatial:
            x = features[name].double().numpy()
            arrays |= dict(zip(keys_, (x.mean(0), np.cov(x, rowvar=False)), strict=True))
    np.savez(path, **arrays, **({"arr_0": data.images[:20]} if pictures else {}))


def test_statistics_of_the_published_suite(data_root, tmp_path):
    data = Pictures()
    suite(tmp_path / "reference.npz", Published(), data)
    metric = quality(tmp_path / "reference.npz", Published())
    found = measured(metric, Pictures(30, seed=1))
    expected = measured(quality(data, Published()), Pictures(30, seed=1))
    assert found["fid"] == pytest.approx(expected["fid"]) and found["sfid"] == pytest.approx(expected["sfid"])
    few = measured(quality(Archive(tmp_path / "reference.npz"), Published()), Pictures(30, seed=1))
    assert found["precision"] == few["precision"] and found["kid"] == few["kid"]  # of the pictures beside them
    known = metric.about()["statistics"]
    assert known["source"] == str(tmp_path / "reference.npz") and known["resolution"] == [4, 4] and known["count"] is None
    with pytest.raises(MultigenError, match="features of the published Inception network, not of pixels"):
        measured(quality(tmp_path / "reference.npz"), data)


def test_what_a_file_of_statistics_lacks_is_named(data_root, tmp_path):
    suite(tmp_path / "bare.npz", Published(), Pictures(), pictures=False, spatial=False)
    fid = {"fid": MEASURES["fid"]}
    assert measured(quality(tmp_path / "bare.npz", Published(), fid), Pictures())["fid"] == pytest.approx(0, abs=1e-9)
    for more, said in (("sfid", "no mean and covariance of 'spatial'"), ("kid", r"holds no pictures \(arr_0\)")):
        with pytest.raises(MultigenError, match=said):
            measured(quality(tmp_path / "bare.npz", Published(), {**fid, more: MEASURES[more]}), Pictures())
    kept = quality(Pictures(), measures={"fid": MEASURES["fid"]})._real.about["source"]
    with pytest.raises(MultigenError, match=r"lacks pool\.rows"):
        measured(quality(kept, measures={"kid": MEASURES["kid"]}), Pictures())


def test_rows_are_bounded_and_evenly_spaced_and_the_gaussian_is_of_all(data_root):
    metric = quality(Pictures(), rows=12, reference_rows=10)
    measured(metric, Pictures(30))
    real = metric._real.seen["pool"]
    whole = Pixels()(Image._stack([Pictures()[i]["image"] for i in range(60)]))["pool"]
    torch.testing.assert_close(real.rows, whole[::6])
    torch.testing.assert_close(real.gaussian.mean, whole.double().mean(0))
    assert len(metric._spaces["pool"].seen().rows) == 12


def test_any_teacher_gives_features(data_root):
    class Colours:
        fingerprint = "colours"

        def __call__(self, batch):
            value = batch.raw["image"].float().flatten(2).transpose(1, 2) / 64  # (B, H * W, 3)
            return Features(value, torch.ones(value.shape[:2], dtype=torch.bool))

        def to(self, device):
            return self

    found = measured(quality(Pictures(), Teacher(Colours()), {"frechet": Frechet("pooled")}), Pictures(30, seed=1))
    same = measured(quality(Pictures(), measures={"fid": MEASURES["fid"]}), Pictures(30, seed=1))
    assert list(found) == ["frechet_colours"] and list(found.values()) == pytest.approx(list(same.values()), rel=1e-4)


def test_no_reference_no_sample_no_number(data_root):
    with pytest.raises(MultigenError, match="give reference="):
        quality(None)
    metric = quality(Pictures())
    metric.update([None, Pictures(1)[0]["image"]], Image(SIZE, classes=0).template([0, 1], 0))
    found = metric.compute()
    assert found.keys() == metric.about()["meaning"].keys() and all(math.isnan(x) for x in found.values())
    alone = quality(None, measures={"score": InceptionScore(splits=1)})
    assert measured(alone, Pictures(30))["inception_score_pixels"] >= 1
    assert alone.about()["reference"] == {} and alone.pictures(None) == {}


class Set:
    """As `multigen.evaluate` reads a finished set."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __call__(self, index):
        return [self.data[i]["image"] for i in index], Image(SIZE, classes=0).template(index, 0)

    def about(self):
        return {"name": "noise"}


def _of_two(rank, folder):
    """One of two processes that measure together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTIGEN_DATA", str(folder / "data"))
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
        metric = quality(Pictures(), reference_rows=17)
        evaluate_finished(Set(Pictures(31, seed=1)), {"q": metric}, folder / "found.json", batch_size=4)
        (folder / f"calls{rank}").write_text(str(metric.network.calls))
        dist.destroy_process_group()


def test_two_processes_measure_what_one_does(tmp_path, data_root):
    torch.multiprocessing.spawn(_of_two, (tmp_path,), nprocs=2)
    two = json.loads((tmp_path / "found.json").read_text())
    metric = quality(Pictures(), reference_rows=17)
    one = evaluate_finished(Set(Pictures(31, seed=1)), {"q": metric}, tmp_path / "one.json", batch_size=4)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-9, abs=1e-9)
    assert two["samples"] == one["samples"] == {"count": 31, "valid": 31, "name": "noise"}
    assert [int((tmp_path / f"calls{rank}").read_text()) for rank in range(2)] == [4 + 2, 4 + 2]  # half each
