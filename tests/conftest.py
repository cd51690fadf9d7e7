"""What every test starts from: one thread, a quiet environment, and a data root of its own on request."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported: tests run side by side
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def data_root(tmp_path, monkeypatch):
    """An empty data root."""
    root = tmp_path / "data"
    monkeypatch.setenv("MULTIGEN_DATA", str(root))
    return root
