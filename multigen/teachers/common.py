"""What teachers share: what they read of a batch, and what they remember of the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import ref

from torch import Tensor

from multigen.state import Batch, MultigenError

T = TypeVar("T")


def raw(batch: Batch, name: str, encoder: Any) -> Tensor:
    """What an encoder sees, or the reason why it cannot."""
    if name not in batch.raw:
        needs = f"{type(encoder).__name__} needs raw {name!r}, the batch has {sorted(batch.raw)}"
        raise MultigenError(f"{needs}: is the encoder one of the modality's, and does the data set offer it?")
    return batch.raw[name]


class Memo:
    """The last result of a function of tensors, as long as those very tensors live and nobody has written to them.

    Teachers that read the same batch one after the other share what is common to them. A copy (in another process) is empty.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[ref[Tensor], int]] = []
        self._value: Any = None

    def __call__(self, tensors: Sequence[Tensor], make: Callable[[], T]) -> T:
        if not self._same(tensors):
            self.forget()
            self._value = make()
            self._seen = [(ref(x, self.forget), x._version) for x in tensors]
        return self._value

    def _same(self, tensors: Sequence[Tensor]) -> bool:
        seen = self._seen
        return len(seen) == len(tensors) and all(
            old() is x and version == x._version for (old, version), x in zip(seen, tensors, strict=True)
        )

    def forget(self, _: object = None) -> None:
        self._seen, self._value = [], None

    def __getstate__(self) -> dict[str, Any]:
        return {"_seen": [], "_value": None}
