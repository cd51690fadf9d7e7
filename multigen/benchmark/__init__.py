"""Measurements that compare: how long a step takes with and without something, and what arms of an experiment reach."""

from multigen.benchmark.compare import arms, compare, write_comparison
from multigen.benchmark.speed import Times, Turn, asking_always, loading, ratio, sampling, spread, take_turns, training

__all__ = [
    "Times",
    "Turn",
    "arms",
    "asking_always",
    "compare",
    "loading",
    "ratio",
    "sampling",
    "spread",
    "take_turns",
    "training",
    "write_comparison",
]
