"""What is said about a molecule, through a language model: a second modality beside its graph."""

from __future__ import annotations

from multigen.teachers.text import MiniLM


class Name(MiniLM):
    """MiniLM's embedding of the chemical name (``caption``), such as "propan-2-ol": (B, 384).

    A molecule without a name has none. For the arguments see `multigen.teachers.text.MiniLM`.
    """
