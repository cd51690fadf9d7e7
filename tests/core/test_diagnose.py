"""Similarities of features: closed forms and invariances; and the study of a network whose taps are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from multigen.alignment import Alignment
from multigen.denoiser import Output
from multigen.diagnose import MEASURES, Settings, cka, cknna, draw, gram, study
from multigen.diagnose.features import pairing, rows
from multigen.diagnose.measures import LinearMap, accuracy, clusters, cosine, hsic
from multigen.process import Gaussian
from multigen.random import keys
from multigen.state import Batch, Features, MultigenError


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def rotation(width: int) -> Tensor:
    return torch.linalg.qr(random(width, width, seed=9)).Q


X, Y = random(60, 5), random(60, 8, seed=1)


def score(x: Tensor, y: Tensor) -> dict[str, float]:
    return {
        "cka": cka(gram(x), gram(y)),
        "biased": cka(gram(x), gram(y), unbiased=False),
        "cknna": cknna(gram(x, unit=True), gram(y, unit=True), 5),
    }


def test_identical_features_score_one():
    assert all(value == pytest.approx(1, abs=1e-9) for value in score(X, X).values())


def test_rotation_and_scale_change_nothing():
    related = torch.cat([X[:, :3], Y[:, :2]], 1)
    before = score(X, related)
    assert before == pytest.approx(score(X @ rotation(5), -3 * related @ rotation(5)), abs=1e-9)
    assert 0.2 < before["cka"] < 0.9
    shifted = score(X + 4, related)  # CKA is centred; CKNNA looks at directions from the origin
    assert shifted["cka"] == pytest.approx(before["cka"]) and shifted["biased"] == pytest.approx(before["biased"])
    assert score(related, X) == pytest.approx(before, abs=1e-9)


def test_biased_cka_is_kornblith_s_formula():
    x, y = X - X.mean(0), Y - Y.mean(0)
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert cka(gram(X), gram(Y), unbiased=False) == pytest.approx(float(expected))


def test_unbiased_hsic_is_the_mean_over_all_quadruples():
    """Song et al. 2012: the U-statistic of the kernel over ordered quadruples, written out."""
    a, b = gram(X[:7]), gram(Y[:7])
    total, count = 0.0, 0
    for i in range(7):
        for j in set(range(7)) - {i}:
            for q in set(range(7)) - {i, j}:
                for r in set(range(7)) - {i, j, q}:
                    total += float(a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q]))
                    count += 1
    assert float(hsic(a, b)) == pytest.approx(total / count)


def test_closed_forms_of_cka():
    """Orthogonal one-dimensional features: of x = +-1 and an independent balanced y = +-1 the covariance is 0."""
    x = torch.tensor([1.0, 1, -1, -1]).double().repeat(8)[:, None]
    y = torch.tensor([1.0, -1, 1, -1]).double().repeat(8)[:, None]
    assert cka(gram(x), gram(y), unbiased=False) == pytest.approx(0, abs=1e-12)
    # [x, y] against x: |[1, 0]|^2 / (|I_2| |1|) = 1 / sqrt(2)
    assert cka(gram(torch.cat([x, y], 1)), gram(x), unbiased=False) == pytest.approx(1 / math.sqrt(2))
    assert math.isnan(cka(gram(torch.ones(9, 2)), gram(torch.randn(9, 2))))


def test_independent_features_score_near_zero_with_the_unbiased_estimate_only():
    wide = [(random(100, 400, seed=2 * i), random(100, 300, seed=2 * i + 1)) for i in range(5)]
    unbiased = [cka(gram(x), gram(y)) for x, y in wide]
    assert abs(sum(unbiased) / 5) < 0.02 and max(map(abs, unbiased)) < 0.05
    assert min(cka(gram(x), gram(y), unbiased=False) for x, y in wide) > 0.7
    near = [cknna(gram(x, unit=True), gram(y, unit=True), 5) for x, y in wide]
    assert max(near) < 0.12 and sum(near) / 5 == pytest.approx(5 / 99, abs=0.03)


def test_cknna_counts_pairs_that_are_neighbours_in_both():
    """Two opposite pairs of near directions; crossed in the other set, so that no pair is near in both; or swapped within."""
    angle = torch.tensor([0.0, 0.1, math.pi, math.pi + 0.1]).double()
    x = torch.stack([angle.cos(), angle.sin()], 1)
    crossed = x[[0, 2, 1, 3]]
    assert cknna(gram(x, unit=True), gram(crossed, unit=True), 1) == 0
    assert cknna(gram(x, unit=True), gram(x[[1, 0, 3, 2]], unit=True), 1) == pytest.approx(1)
    with pytest.raises(MultigenError, match="at least 12 things, got 4"):
        cknna(gram(x, unit=True), gram(x, unit=True), 10)


def test_a_linear_map_is_found_and_a_constant_feature_does_no_harm():
    x = torch.cat([random(400, 4), torch.full((400, 1), 2.0)], 1)
    y = x @ random(5, 3, seed=3) + 1
    told = LinearMap(x[:300], y[:300], decay=1e-8)(x[300:])
    torch.testing.assert_close(told, y[300:], atol=1e-5, rtol=1e-5)
    assert cosine(told, y[300:]) == pytest.approx(1) and cosine(y, -2 * y) == pytest.approx(-1)


def test_clusters_are_found_and_told_apart_by_a_probe():
    centre = 6 * torch.eye(3, 7, dtype=torch.float64)
    truth = torch.arange(90) % 3
    x = centre[truth] + random(90, 7)
    found = clusters(x, 3)
    assert torch.equal(found, clusters(x, 3)) and len(set(zip(truth.tolist(), found.tolist(), strict=True))) == 3
    fit = torch.arange(90) < 45
    assert accuracy(x, found, fit) > 0.9
    assert accuracy(random(90, 7, seed=5), found, fit) < 0.6


# ---------------------------------------------------------------------------------------------------------------- the study


class Net(nn.Module):
    """Taps of every kind: the noisy input, nothing of it, the mean over its sites, and its sites."""

    tap_names = ("same", "blind", "mean")

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, noisy: Any, t: Any, cond: Any, mask: Any, prev: Any = None, taps: Any = ()) -> Output:
        x, real = noisy["x"] @ self.weight, mask["x"]  # (B, S, 4)
        blind = torch.cos(torch.arange(x[..., 0].numel()) * 7.0).reshape(*x.shape[:2], 1).expand_as(x)
        seen = {"same": Features(x, real), "blind": Features(blind, real), "mean": Features(x.mean(1), real.any(1))}
        return Output({"x": x}, {name: seen[name] for name in taps})


class Sites:
    """Examples of varying length; beyond it stand numbers that must not be read."""

    encoders: dict[str, Any] = {}  # noqa: RUF012
    fingerprint = "sites"

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, examples: Any, keys: Any) -> Batch:
        x = torch.stack([random(6, 4, seed=i).float() for i in examples])  # (B, 6, 4)
        real = torch.arange(6) < torch.tensor([3 + i % 4 for i in examples])[:, None]  # (B, 6)
        x = torch.where(real[..., None], x, 1e4)
        target = {"z": Features(x @ rotation(4).float(), real), "whole": Features(x[:, 0] ** 3, real.any(1))}
        return Batch({"x": x}, {"x": real}, {"x": real}, torch.tensor(keys), target=target)

    def encode(self, batch: Batch) -> Batch:
        return batch


def found(**options: Any) -> dict[str, Any]:
    asked = {"levels": (0.2, 1.0), "examples": 40, "rows": 120, "neighbours": 3, "clusters": 3, **options.pop("settings", {})}
    given = {"terms": {}, "taps": Net.tap_names, "batch_size": 16, **options}
    return study(Net(), {"x": Gaussian("velocity")}, modality=Sites(), dataset=Sites(), settings=Settings(**asked), **given)


def test_a_tap_that_is_the_target_scores_one_at_the_clean_end_and_a_blind_one_nothing():
    z = found()["targets"]["z"]
    assert z["rows"]["sites"] == 120 and z["pooled"] == {"same": False, "blind": False, "mean": True}
    for measure in ("cka", "cknna"):
        assert z[measure]["same"][1] == pytest.approx(1, abs=1e-4)
    assert z["cosine"]["same"][1] > 0.99 and z["probe"]["same"][1] > 0.8
    assert all(z[m]["same"][0] < z[m]["same"][1] for m in MEASURES)
    chance = z["chance"]["sites"]
    assert all(abs(z[m]["blind"][1] - chance[m]) < 0.25 for m in MEASURES)
    assert chance["cknna"] == pytest.approx(3 / 119)


def test_what_has_other_sites_is_pooled():
    whole = found()["targets"]["whole"]
    assert whole["pooled"] == {"same": True, "blind": True, "mean": False} and whole["rows"] == {"sites": 40, "pooled": 40}


def test_the_best_tap_is_named_and_neither_batches_nor_order_matter():
    first, other = found(), found(batch_size=7, taps=["mean", "same", "blind"])
    assert first["best"]["z"]["cka"] == "same"
    for measure in MEASURES:
        for tap in Net.tap_names[:1]:
            assert first["targets"]["z"][measure][tap] == pytest.approx(other["targets"]["z"][measure][tap], abs=1e-3)
    assert set(found(targets=["whole"])["targets"]) == {"whole"}


def test_the_trained_projector_is_measured_as_it_is():
    projector = nn.Linear(4, 4, bias=False)
    projector.weight.data = rotation(4).float().T
    term = Alignment("same", "z", projector, similarity="l2", gate="linear")
    trained = found(terms={"align": term, "other": object()})["trained"]
    assert trained["align"]["tap"] == "same" and trained["align"]["cosine"][1] == pytest.approx(1, abs=1e-4)
    assert trained["align"]["cosine"][0] < 0.9 and list(trained) == ["align"]


def test_padding_is_no_row_and_rows_are_those_of_both():
    batch = Sites().collate(range(8), keys(0, range(8)).tolist())
    tap = Features(batch.clean["x"], batch.mask["x"])
    at = pairing(batch.target["z"], {"tap": tap}, batch.key, 4, pooled=False)
    assert rows(tap, at).abs().max() < 10 and len(at.row) == sum(min(4, 3 + i % 4) for i in range(8))
    torch.testing.assert_close(rows(tap, at) @ rotation(4).float(), rows(batch.target["z"], at))


def test_bad_questions_are_refused():
    with pytest.raises(MultigenError, match="no target 'y'"):
        found(targets=["y"])
    with pytest.raises(MultigenError, match="levels lie between 0 and 1"):
        found(settings={"levels": (2.0,)})
    with pytest.raises(MultigenError, match="too few for 50 clusters"):
        found(settings={"clusters": 50})


def test_the_picture_is_drawn_even_of_what_is_no_number(tmp_path):
    result = found()
    result["targets"]["z"]["cka"]["blind"] = [float("nan")] * 2
    assert draw(result, tmp_path / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
