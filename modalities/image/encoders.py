"""Teachers: frozen networks that see the clean picture, or read its caption.

They read ``Batch.raw``: ``image``, uint8 (B, 3, R, R), and ``caption``, uint8 (B, L), UTF-8 padded with zeros. Features of
pictures come as tokens on the student's grid, row by row as the student's own tokens, so that each is aligned with its patch.
"""

from __future__ import annotations

from torch import Tensor

from multigen.state import Batch
from multigen.teachers import hub_vision, vision
from multigen.teachers.common import raw
from multigen.teachers.text import MiniLM

__all__ = ["EfficientNetLite0", "MiniLM", "Timm", "Transformers"]


class _Looking(vision.Pictures):
    """At the picture itself."""

    def pictures(self, batch: Batch) -> Tensor:
        return raw(batch, "image", self)  # (B, 3, R, R)


class EfficientNetLite0(_Looking, vision.EfficientNetLite0):
    __doc__ = vision.EfficientNetLite0.__doc__


class Timm(_Looking, vision.Timm):
    __doc__ = vision.Timm.__doc__


class Transformers(_Looking, hub_vision.Transformers):
    __doc__ = hub_vision.Transformers.__doc__
