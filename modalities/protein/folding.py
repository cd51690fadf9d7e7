"""From a sequence to a predicted structure: what a folding program must offer, and one that does."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from multigen.distributed import resolve
from multigen.state import MultigenError

BREAK = ":"
"""Stands between the chains of a complex."""


class Folded(NamedTuple):
    """A predicted structure."""

    backbone: NDArray[np.float32]
    """(L, 4, 3): N, CA, C, O in Angstrom, chains one after another."""
    plddt: NDArray[np.float32]
    """(L,): predicted local distance difference test of each residue, 0 to 100."""


class Fold(Protocol):
    """Predicts structures. Any callable will do; two calls with one sequence should agree."""

    def __call__(self, sequence: str) -> Folded:
        """The structure of one sequence of the twenty amino acids, with `BREAK` between its chains; L counts no break."""
        ...


class ESMFold:
    """ESMFold (Lin et al. 2023) through ``fair-esm``, which needs its extra ``esmfold`` and openfold, and fetches 3 GB of
    weights when it is first called.

    Args:
        device: where it runs; 16 GB of memory are enough for about 700 residues.
        chunk: residues whose axial attention is computed at once: less memory, more time; None for all.
        recycles: passes through the trunk; None for the published 4.

    Raises:
        MultigenError: when called, if the packages are not installed or the weights cannot be fetched.
    """

    def __init__(self, device: str = "auto", chunk: int | None = 128, recycles: int | None = None) -> None:
        self.device, self.chunk, self.recycles = device, chunk, recycles

    def __call__(self, sequence: str) -> Folded:
        import torch

        with torch.no_grad():
            output = self._model.infer(sequence, num_recycles=self.recycles)
        real = output["atom37_atom_exists"][0, :, 1].bool().cpu()  # (linked residues,): the linkers between chains have no CA
        backbone = output["positions"][-1, 0, :, :4].float().cpu()[real]  # (L, 4, 3)
        plddt = output["plddt"][0, :, 1].float().cpu()[real]  # (L,), of CA
        return Folded(backbone.numpy(), plddt.numpy())

    @cached_property
    def _model(self) -> Any:
        try:
            import esm

            model = esm.pretrained.esmfold_v1()
        except ModuleNotFoundError as error:
            raise MultigenError(
                f"ESMFold needs the package {error.name!r}, which is not installed: see fair-esm's extra 'esmfold'"
            ) from error
        except OSError as error:  # all that urllib raises
            raise MultigenError(f"ESMFold's weights cannot be fetched: {error}") from error
        model = model.eval().to(resolve(self.device))
        model.set_chunk_size(self.chunk)
        return model
