"""How sure a mean over seeds is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

LEVEL = 0.95
_RESAMPLES = 9999


def interval(values: Sequence[float | None]) -> list[float] | None:
    """Percentile bootstrap interval of the mean (Efron 1979); None for fewer than two values, or where one is missing.

    With three seeds it reaches from the least to the largest value, and holds the true mean in three cases of four.
    """
    import numpy as np
    from scipy.stats import bootstrap

    known = [x for x in values if x is not None]
    if len(known) < 2 or len(known) < len(values):
        return None
    if max(known) == min(known):
        return [known[0], known[0]]
    found = bootstrap(
        (known,), np.mean, confidence_level=LEVEL, n_resamples=_RESAMPLES, method="percentile", random_state=0
    ).confidence_interval
    return [float(found.low), float(found.high)]


def student(differences: Sequence[float]) -> list[float] | None:
    """Student's interval of a mean difference between two arms, seed by seed; None for fewer than two seeds.

    Arms share the randomness of their seed, so what differs is known better than what each comes to; and for a few normal
    values this interval holds the true mean as often as it says, where the bootstrap's does not.
    """
    from scipy.stats import t

    if len(differences) < 2:
        return None
    middle, count = mean(differences), len(differences)
    half = float(t.ppf((1 + LEVEL) / 2, count - 1)) * stdev(differences) / math.sqrt(count)
    return [middle - half, middle + half]


def clearly(interval: Sequence[float] | None) -> int:
    """1 where an interval lies above zero, -1 where it lies below, 0 where it holds zero or is unknown.

    >>> clearly([0.1, 0.2]), clearly([-0.2, -0.1]), clearly([-0.1, 0.1]), clearly(None)
    (1, -1, 0, 0)
    """
    return 0 if interval is None else int(interval[0] > 0) - int(interval[1] < 0)


def estimate(values: Sequence[float | None]) -> dict[str, Any]:
    """``values``, their ``mean`` and its ``interval``; no mean where a value is missing: it would be of the better ones."""
    known = [x for x in values if x is not None]
    whole = bool(known) and len(known) == len(values)
    return {"values": list(values), "mean": mean(known) if whole else None, "interval": interval(values)}


def apart(a: Sequence[float] | None, b: Sequence[float] | None) -> bool:
    """Whether two intervals share no number.

    >>> apart([1.0, 2.0], [2.5, 3.0]), apart([1.0, 2.0], [1.5, 3.0]), apart(None, [1.0, 2.0])
    (True, False, False)
    """
    return a is not None and b is not None and (a[1] < b[0] or b[1] < a[0])
