"""How sure a mean over seeds is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

LEVEL = 0.95
_RESAMPLES = 9999


def interval(values: Sequence[float | None]) -> list[float] | None:
    """Percentile bootstrap interval of the mean (Efron 1979); None for fewer than two values, or where one is missing.

    With three seeds it is about as wide as the values lie apart: no interval can tell more than three numbers do.
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
