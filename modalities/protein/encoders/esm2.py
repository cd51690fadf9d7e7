"""ESM-2, a language model of protein sequences (Lin et al. 2023, Science 379), through the package fair-esm."""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from modalities.protein.alphabet import LETTERS, MASK
from modalities.protein.encoders.common import sequence, visible
from modalities.protein.modality import structure_of
from multigen.files import nearest
from multigen.nn.frozen import Frozen
from multigen.state import Batch, Features, MultigenError, at_least, pool


class Shape(NamedTuple):
    """Of a network: number of layers, width D, attention heads."""

    layers: int
    width: int
    heads: int


SIZES = {
    "esm2_t6_8M_UR50D": Shape(6, 320, 20),
    "esm2_t12_35M_UR50D": Shape(12, 480, 20),
    "esm2_t30_150M_UR50D": Shape(30, 640, 20),
    "esm2_t33_650M_UR50D": Shape(33, 1280, 20),
    "esm2_t36_3B_UR50D": Shape(36, 2560, 40),
    "esm2_t48_15B_UR50D": Shape(48, 5120, 40),
}
"""The published networks (MIT)."""
_URL = "https://dl.fbaipublicfiles.com/fair-esm/models/{}.pt"
_PREFIXES = ("encoder.sentence_encoder.", "encoder.")
_HEADS = ("contact_head.", "lm_head.")
"""Parts of a network that features do not need."""


class ESM2(Frozen):
    """Hidden states of ESM-2: what the sequence alone says, (B, L, D) or, pooled, (B, D).

    Each chain is embedded by itself, between the start and end tokens it was trained with: it has never seen two proteins in
    one sequence. Residues that are missing in a chain's structure are not filled in: their neighbours become adjacent. X is
    the model's own token for an unknown residue, and a masked residue its mask.

    Args:
        model: a name of `SIZES`, downloaded to the hub's cache of torch unless `path` is given.
        path: a checkpoint in fair-esm's format instead; it says itself how large the network is.
        layer: 0 for the embeddings, k for what comes out of layer k, negative from the end: -1 is the last, normalised.
        pooled: the mean over the residues instead.
        pretrained: False leaves the weights random (a control, and for tests).
        shape: layers, width and heads of a random network that is none of `SIZES`.
        seed: of the random weights.
        tokens: most tokens of one call of the network, padding included; a longer chain is called alone.

    Raises:
        MultigenError: there is no such model or layer, the hub cannot be reached, or the file is no checkpoint of ESM-2.
    """

    table: Tensor

    def __init__(
        self,
        model: str = "esm2_t6_8M_UR50D",
        path: str | Path | None = None,
        layer: int = -1,
        pooled: bool = False,
        pretrained: bool = True,
        shape: Sequence[int] | None = None,
        seed: int = 0,
        tokens: int = 2048,
    ) -> None:
        at_least(1, tokens=tokens)
        super().__init__(layer=layer, pooled=pooled)
        size, state = _source(model, path, pretrained, shape)
        self.layer, self.pooled, self.tokens = _layer(layer, size.layers), pooled, tokens
        self.net, self.alphabet = _network(size, self.layer, seed)
        if state is not None:
            _load(self.net, state, Path(path) if path else Path(model))
        ids = [self.alphabet.mask_idx if i == MASK else self.alphabet.get_idx(letter) for i, letter in enumerate(LETTERS)]
        self.register_buffer("table", torch.tensor(ids), persistent=False)  # (22,)
        self.freeze(layer=self.layer)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        letters, mask = sequence(batch)  # (B, L), (B, L)
        chain = structure_of(batch).get("chain", torch.zeros_like(letters))  # (B, L)
        value = torch.zeros(*letters.shape, self.net.embed_dim, device=letters.device)  # (B, L, D)
        flat = value.flatten(0, 1)  # (B L, D), the same memory
        for places in packed(chains(mask, chain), self.tokens):
            index = pad_sequence(places, batch_first=True, padding_value=-1)  # (R, M)
            real = index >= 0  # (R, M)
            flat[index[real]] = self.embed(letters.flatten()[index], real)[real]
        features = Features(value, visible(batch))
        return pool(features) if self.pooled else features

    def embed(self, letters: Tensor, real: Tensor) -> Tensor:
        """Tokens of one chain a row, Long (R, M), and which are residues (the first ones), Bool (R, M) -> (R, M, D)."""
        ids = torch.where(real, self.table[letters], self.alphabet.padding_idx)  # (R, M)
        ids = functional.pad(ids, (1, 1), value=self.alphabet.padding_idx)  # (R, M + 2)
        ids[:, 0] = self.alphabet.cls_idx
        ids.scatter_(1, real.sum(1, keepdim=True) + 1, self.alphabet.eos_idx)
        return self.net(ids, repr_layers=[self.layer])["representations"][self.layer][:, 1:-1].float()  # (R, M, D)


def chains(mask: Tensor, chain: Tensor) -> list[Tensor]:
    """Where the residues of each chain lie in the flattened batch: Long (length,) each, the longest chain first.

    Args:
        mask: Bool (B, L), residues.
        chain: Long (B, L), number of the chain.
    """
    where = mask.flatten().nonzero()[:, 0]  # (n,)
    row = torch.arange(len(mask), device=mask.device)[:, None]  # (B, 1)
    label = (row * (chain.max() + 1) + chain).flatten()[where]  # (n,)
    order = label.argsort(stable=True)  # (n,)
    count = label[order].unique_consecutive(return_counts=True)[1]  # (R,)
    return sorted(where[order].split(count.tolist()), key=len, reverse=True)


def packed(pieces: Sequence[Tensor], tokens: int) -> Iterator[list[Tensor]]:
    """Consecutive pieces, the longest first, in groups of at most `tokens` sites with padding and two special tokens."""
    start = 0
    while start < len(pieces):
        count = max(1, tokens // (len(pieces[start]) + 2))
        yield list(pieces[start : start + count])
        start += count


def _source(
    model: str, path: str | Path | None, pretrained: bool, shape: Sequence[int] | None
) -> tuple[Shape, Mapping[str, Tensor] | None]:
    """The size of the network, and its weights (None for random ones)."""
    if path is not None:
        return read(Path(path))
    if shape is None and model not in SIZES:
        raise MultigenError(f"there is no ESM-2 {model!r}: {nearest(model, SIZES)}")
    if not pretrained:
        return Shape(*shape) if shape else SIZES[model], None
    if shape is not None:
        raise MultigenError(f"shape={list(shape)} is that of a random ESM-2: give pretrained=false with it")
    return read(download(model))


def _layer(layer: int, count: int) -> int:
    """A layer counted from 0, from one that may be counted from the end."""
    found = layer if layer >= 0 else count + 1 + layer
    if not 0 <= found <= count:
        raise MultigenError(f"an ESM-2 of {count} layers has features 0 .. {count} (or -1 .. {-count - 1}), not {layer}")
    return found


def _network(size: Shape, layer: int, seed: int) -> tuple[Any, Any]:
    """fair-esm's network and alphabet, without what is not needed for the states of `layer`."""
    from esm.data import Alphabet
    from esm.model.esm2 import ESM2 as Network

    if size.width % size.heads:
        raise MultigenError(f"an ESM-2 of width {size.width} cannot have {size.heads} heads")
    alphabet = Alphabet.from_architecture("ESM-1b")
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        net = Network(*size, alphabet=alphabet)
    net.contact_head, net.lm_head = nn.Identity(), nn.Identity()
    net.layers = net.layers[: layer + 1]  # one more than needed: only the very last layer's states are normalised
    return net, alphabet


def read(path: Path) -> tuple[Shape, dict[str, Tensor]]:
    """Size and weights from a checkpoint of fair-esm, without running any code in it.

    Raises:
        MultigenError: the file cannot be read, or is none.
    """
    try:
        with torch.serialization.safe_globals([Namespace]):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MultigenError(f"cannot read the ESM-2 weights {path}: {reason}") from None
    try:
        options = stored["cfg"]["model"]
        size = Shape(options.encoder_layers, options.encoder_embed_dim, options.encoder_attention_heads)
        return size, {_plain(name): tensor for name, tensor in stored["model"].items()}
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise MultigenError(f"{path} is no checkpoint of ESM-2: it lacks {error}") from None


def _plain(name: str) -> str:
    """A parameter's name in a checkpoint -> its name in the network."""
    prefix = next((p for p in _PREFIXES if name.startswith(p)), "")
    return name.removeprefix(prefix)


def _load(net: nn.Module, found: Mapping[str, Tensor], path: Path) -> None:
    wanted = net.state_dict()
    wrong = [name for name, x in wanted.items() if name not in found or found[name].shape != x.shape]
    if wrong:
        raise MultigenError(f"{path} does not fit an ESM-2 of its size: it lacks {wrong[:3]}, or has other shapes there")
    net.load_state_dict({name: found[name] for name in wanted})


def download(model: str) -> Path:
    """The checkpoint of a published network in the hub's cache, fetched if it is not there.

    Raises:
        MultigenError: it cannot be reached.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"{model}.pt"
    if path.is_file():
        return path
    url = _URL.format(model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except Exception as error:  # the hub's client has dozens of ways to say that it is not reached
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MultigenError(f"cannot download {url} ({reason}); a local file can be given as `path`") from None
    return path
