"""C1, C2: the weight of a term over the steps, and the three published settings."""

from __future__ import annotations

import itertools
import math

import pytest

from multigen.curriculum import Ramp, weight_at
from multigen.state import MultigenError


def check(ramp, steps, expected):
    assert [ramp(n) for n in steps] == pytest.approx(expected, abs=1e-12)


def test_images_warm_the_diffusion_loss_up_over_50000_steps():
    a = Ramp(warmup=50_000)
    check(a, [0, 1, 25_000, 49_999, 50_000, 400_000, 10**9], [0, 1 / 50_000, 0.5, 49_999 / 50_000, 1, 1, 1])


def test_images_later_start_and_the_three_decays():
    """The published cosine decay has a slip of brackets and begins at 0.491; the intended one begins at 1 and ends at 0."""
    for fall, middle in (("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)):
        horizon = None if fall == "constant" else 450_000
        a = Ramp(start=1_000, warmup=49_000, fall=fall, horizon=horizon)
        end = 1.0 if fall == "constant" else 0.0
        check(a, [0, 999, 1_000, 25_500, 50_000, 250_000, 450_000, 900_000], [0, 0, 0, 0.5, 1, middle, end, end])


def test_proteins_count_epochs():
    n = 37
    a = Ramp(warmup=50, steps_per_epoch=n)
    check(a, [0, n - 1, n, 25 * n, 50 * n - 1, 50 * n], [0, 0, 1 / 50, 0.5, 49 / 50, 1])
    b = Ramp(0.2, fall="cosine", horizon=200, steps_per_epoch=n)
    quarter = 0.2 * (1 + math.cos(math.pi / 4)) / 2
    check(b, [0, n - 1, 50 * n, 100 * n, 200 * n, 300 * n, 400 * n], [0.2, 0.2, quarter, 0.1, 0, 0, 0])


def test_molecules_count_from_one_and_move_within_an_epoch():
    n = 40
    a = Ramp(warmup=30, steps_per_epoch=n, offset=1, fractional=True)
    check(a, [0, 15 * n - 1, 30 * n - 2, 30 * n - 1, 100 * n], [1 / (30 * n), 0.5, 1 - 1 / (30 * n), 1, 1])


@pytest.mark.parametrize(
    "rise, expected",
    [("linear", [0, 0.25, 0.5, 1]), ("cosine", [0, (1 - math.sqrt(0.5)) / 2, 0.5, 1]), ("constant", [0, 0, 0, 1])],
)
def test_shapes_of_the_rise(rise, expected):
    check(Ramp(warmup=100, rise=rise), [0, 25, 50, 100], expected)


@pytest.mark.parametrize("fall", ["linear", "cosine"])
def test_a_fall_never_rises_again_and_stays_past_its_horizon(fall):
    ramp = Ramp(peak=2.0, warmup=10, fall=fall, hold=20, horizon=60, end=0.5)
    line = [ramp(n) for n in range(200)]
    assert line[10:21] == [2.0] * 11
    assert all(a >= b for a, b in itertools.pairwise(line[20:]))
    assert line[40] == pytest.approx(1.25)
    assert set(line[60:]) == {0.5}


def test_cut_off_and_delayed_start():
    check(Ramp(0.5, start=10, horizon=20), [0, 9, 10, 19, 20, 10**6], [0, 0, 0.5, 0.5, 0, 0])
    check(Ramp(horizon=20, end=0.1), [0, 19, 20], [1, 1, 0.1])


def test_fall_from_the_very_first_step_and_of_no_length():
    check(Ramp(fall="linear", horizon=10), [0, 5, 10], [1, 0.5, 0])
    check(Ramp(fall="linear", hold=10, horizon=10), [9, 10, 11], [1, 0, 0])


def test_the_default_is_one_and_constants_are_weights():
    assert {Ramp()(n) for n in (0, 1, 10**7)} == {1.0}
    assert weight_at(0.25, 10) == 0.25 and weight_at(lambda step: step / 4, 3) == 0.75


def test_a_weight_remembers_nothing():
    ramp = Ramp(warmup=100, fall="cosine", horizon=300)
    forwards = [ramp(n) for n in range(400)]
    backwards = [ramp(n) for n in reversed(range(400))]
    assert forwards == backwards[::-1]
    assert ramp == Ramp(warmup=100, fall="cosine", horizon=300)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"rise": "quadratic"}, "rise is 'quadratic'; choices are constant, linear, cosine"),
        ({"fall": "exp", "horizon": 5}, "fall is 'exp'"),
        ({"fall": "linear"}, "needs a horizon"),
        ({"warmup": 100, "horizon": 50}, "before the end of the plateau at 100"),
        ({"warmup": 100, "hold": 50}, "hold 50 lies before the end of the warm-up at 100"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch and total at least 1"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(MultigenError, match=words):
        Ramp(**settings)


def test_shares_of_a_run_keep_the_shape():
    short, long = (Ramp(warmup=0.05, fall="cosine", hold=0.5, horizon=1, total=total) for total in (100, 10_000))
    for share in (0, 0.02, 0.05, 0.4, 0.75, 1, 1.5):
        assert short(round(100 * share)) == pytest.approx(long(round(10_000 * share)))
    assert Ramp(warmup=0.05, total=1_000_000)(25_000) == Ramp(warmup=50_000)(25_000) == 0.5
    with pytest.raises(MultigenError, match="not both"):
        Ramp(steps_per_epoch=5, total=100)
