"""Precision and recall from balls around examples, against answers that can be seen, and against another implementation."""

import pytest
import torch

from multigen.neighbours import overlap, radii
from multigen.random import Noise, keys
from multigen.state import MultigenError


def _normal(n, d, seed=0):
    return Noise(keys(seed, range(n), "test")).normal([d])  # (n, d)


@pytest.mark.parametrize("block", [1, 3, 100])
def test_radii_are_squared_distances_to_the_kth_other(block):
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert radii(x, 1, block).tolist() == [1, 1, 4, 16]
    assert radii(x, 3, block).tolist() == [49, 36, 16, 49]


@pytest.mark.parametrize("block", [1, 7, 100])
def test_a_set_against_itself_overlaps_wholly(block):
    x = _normal(40, 6)
    found = overlap(x, x, 3, block)
    assert (found.precision, found.recall, found.symmetric_precision, found.symmetric_recall) == (1, 1, 1, 1)


def test_sets_far_apart_do_not_overlap():
    x = _normal(40, 6)
    found = overlap(x, x + 100)
    assert (found.precision, found.recall, found.symmetric_precision, found.symmetric_recall) == (0, 0, 0, 0)


def test_every_share_is_what_the_definition_says():
    """Real 0, 1, 2, 3 with radius 1; made 1.4 and 1.6, 10 with radii 0.2, 0.2, 8.4 to the nearest."""
    real, made = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([[1.4], [1.6], [10.0]])
    found = overlap(made, real, k=1)
    assert found.precision == pytest.approx(2 / 3)  # 10 is in no real ball
    assert found.recall == pytest.approx(2 / 4)  # 2 and 3 lie in the ball of 10; 1 does not lie in that of 1.4
    assert found.complement_precision == pytest.approx(1 / 3)  # of the made balls that of 10 alone holds a real one
    assert found.complement_recall == pytest.approx(2 / 4)  # the balls of 1 and 2 hold 1.4 and 1.6, those of 0 and 3 nothing
    assert found.symmetric_precision == found.complement_precision and found.symmetric_recall == found.recall


def test_symmetric_measures_do_not_ask_which_of_two_spheres_is_the_real_one():
    """Khayatkhoei and AbdAlmageed's case: supports at equal distance, inside and outside, in many dimensions."""
    sphere = torch.nn.functional.normalize(_normal(300, 64), dim=-1)
    inner, outer = (
        scale * torch.nn.functional.normalize(_normal(300, 64, seed), dim=-1) for seed, scale in ((1, 0.7), (2, 1.3))
    )
    found = {name: overlap(x, sphere, k=5) for name, x in (("inner", inner), ("outer", outer))}
    assert found["inner"].precision - found["outer"].precision > 0.5
    assert abs(found["inner"].symmetric_precision - found["outer"].symmetric_precision) < 0.2


def test_too_few_for_a_neighbour():
    with pytest.raises(MultigenError, match="neighbour 3 needs at least 4 examples, got 3"):
        overlap(torch.zeros(9, 2), torch.zeros(3, 2))
