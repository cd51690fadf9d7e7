"""Our FID, sFID's network and Inception score against torch-fidelity, on the same pictures and weights.

Without downloads, through randomly initialised weights. With ``MULTIGEN_INCEPTION`` naming the published weights (the file
``weights-inception-2015-12-05-6726825d.pth``) the same is asked of them, and of torch-fidelity's whole chain.
"""

import os

import pytest
import torch

from modalities.image.metrics import Frechet, Inception, InceptionScore, Quality
from modalities.image.metrics.measures import Seen
from multigen import distances
from multigen.random import Noise, keys
from multigen.state import Batch

fid = pytest.importorskip("torch_fidelity.metric_fid")
isc = pytest.importorskip("torch_fidelity.metric_isc")
prc = pytest.importorskip("torch_fidelity.metric_prc")
inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

WEIGHTS = os.environ.get("MULTIGEN_INCEPTION")
TOLERANCE = 0.01


class Pictures:
    """Blurred noise, of some colour."""

    def __init__(self, n, seed, colour):
        self.fingerprint = f"noise-{n}-{seed}"
        low = Noise(keys(seed, range(n), "pictures")).uniform([3, 5, 5])  # (n, 3, 5, 5)
        x = torch.nn.functional.interpolate(low, (40, 40), mode="bilinear") * torch.tensor(colour).view(3, 1, 1)
        self.images = (255 * x).byte().permute(0, 2, 3, 1).contiguous().numpy()  # (n, 40, 40, 3)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}

    @property
    def tensor(self):
        return torch.from_numpy(self.images).permute(0, 3, 1, 2).contiguous()  # (n, 3, 40, 40)


@pytest.fixture(scope="module")
def network():
    return Inception(WEIGHTS)


@pytest.fixture(scope="module")
def theirs(network, tmp_path_factory):
    """torch-fidelity's extractor, made as it makes it: from a file."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(network.net.state_dict(), path)
    return inception.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(path))


@pytest.fixture(scope="module")
def sets():
    return Pictures(9, 0, (1.0, 1.0, 1.0)), Pictures(8, 1, (1.0, 0.6, 0.3))


@pytest.fixture(scope="module")
def features(network, sets):
    return [network(some.tensor) for some in sets]


def test_features(theirs, sets, features):
    for ours, expected in zip((features[0]["pool"], features[0]["logits"]), theirs(sets[0].tensor[:3]), strict=True):
        torch.testing.assert_close(ours[:3], expected, rtol=1e-5, atol=1e-5)


def test_fid_of_the_same_arrays(features):
    """Of some of the features: their eigenvalues of a product of 2048 x 2048 take minutes."""
    made, real = (f["pool"][:, :256] for f in features)
    expected = fid.fid_statistics_to_metric(*(fid.fid_features_to_statistics(x) for x in (made, real)), verbose=False)
    ours = distances.frechet(*map(distances.moments, (made, real)))
    assert ours > 10 * TOLERANCE  # there is something to agree about
    assert ours == pytest.approx(expected[fid.KEY_METRIC_FID], abs=TOLERANCE)


def test_inception_score_of_the_same_arrays(features):
    expected = isc.isc_features_to_metric(features[0]["logits"], splits=3, shuffle=False)
    ours = InceptionScore(splits=3)(Seen(None, features[0]["logits"]), Seen(None, None))
    assert ours["inception_score"] == pytest.approx(expected[isc.KEY_METRIC_ISC_MEAN], rel=1e-9)
    assert ours["inception_score_std"] == pytest.approx(expected[isc.KEY_METRIC_ISC_STD], abs=1e-9)


def test_precision_and_recall_of_the_same_arrays():
    from multigen.neighbours import overlap

    x, y = (Noise(keys(seed, range(200), "x")).normal([6]) + seed for seed in (0, 1))
    options = {"prc_neighborhood": 3, "prc_batch_size": 50, "save_cpu_ram": True, "verbose": False}
    expected = prc.prc_features_to_metric(x, y, **options)
    ours = overlap(x, y, 3)
    assert (ours.precision, ours.recall) == pytest.approx((expected["precision"], expected["recall"]))
    assert 0.1 < ours.precision < 0.9


@pytest.mark.skipif(not WEIGHTS, reason="MULTIGEN_INCEPTION names no file of weights")
def test_the_whole_chain(network, data_root):
    """FID and Inception score from the pictures on, in all 2048 features, as torch-fidelity's own command computes them."""
    import torch_fidelity

    made, real = Pictures(64, 0, (1.0, 1.0, 1.0)), Pictures(64, 1, (1.0, 0.6, 0.3))
    options = {"fid": True, "isc": True, "isc_splits": 1, "samples_shuffle": False, "cuda": False, "verbose": False}
    found = torch_fidelity.calculate_metrics(
        input1=_Tensors(made), input2=_Tensors(real), feature_extractor_weights_path=WEIGHTS, cache=False, **options
    )
    metric = Quality(network, {"fid": Frechet("pool", "fid"), "score": InceptionScore(splits=1)}, real, device="cpu")
    metric.update(list(made.images), Batch({}, {}, {}, keys(0, range(64))))
    ours, score = metric.compute().values(), found["inception_score_mean"]
    print(f"ours {list(ours)}, torch-fidelity {found}")
    assert list(ours) == pytest.approx([found["frechet_inception_distance"], score, 0], abs=TOLERANCE)
    assert found["frechet_inception_distance"] > 10 * TOLERANCE


class _Tensors(torch.utils.data.Dataset):
    """Pictures as torch-fidelity wants them: uint8 (3, H, W)."""

    def __init__(self, pictures):
        self.tensor = pictures.tensor

    def __len__(self):
        return len(self.tensor)

    def __getitem__(self, index):
        return self.tensor[index]
