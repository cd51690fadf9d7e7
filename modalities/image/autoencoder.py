"""Autoencoders of diffusers (Rombach et al. 2022): pictures to the moments of latents, latents to pictures.

Latents are told apart by a digest of the encoder's weights alone: autoencoders whose decoders were tuned further, such as
sd-vae-ft-mse and sd-vae-ft-ema, share their latents.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multigen import describe
from multigen.distributed import resolve
from multigen.files import data_root
from multigen.state import Batch, Features, MultigenError


def load(path: str, what: str, advice: str) -> Any:
    """The whole autoencoder, frozen.

    Args:
        path: a folder of diffusers (``config.json`` and safetensors), here or below the data root, or a name on its hub such
            as ``stabilityai/sd-vae-ft-ema``; the client's own cache and offline switch apply.
        what: what it is for, in messages.
        advice: how else, in messages.

    Raises:
        MultigenError: diffusers is not installed, or there is no such autoencoder.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        raise MultigenError(f"{what} with {path} needs the package 'diffusers'; {advice}") from None
    try:
        network = AutoencoderKL.from_pretrained(located(path), use_safetensors=True)  # safetensors: never run a file's code
    except Exception as error:  # the hub's client has dozens of ways to say that there is no such thing
        reason = str(error).strip().splitlines()[0]
        raise MultigenError(f"cannot load the autoencoder {path} ({reason}); {advice}") from None
    return network.eval().requires_grad_(False)


def located(path: str) -> str:
    """A folder below the data root, if there is one of that name; else the path as it is."""
    given, prepared = Path(path).expanduser(), data_root() / path
    return str(prepared if not given.is_dir() and prepared.is_dir() else given if given.is_dir() else path)


def digest(network: Any) -> str:
    """Of everything that latents depend on."""
    encoder = {k: x.float() for k, x in network.state_dict().items() if k.startswith(("encoder.", "quant_conv."))}
    return describe.hash_tensors(encoder)


class Decoder:
    """The decoder of an `AutoencoderKL`: latents (B, C, h, w) to pictures (B, 3, H, W) in -1 .. 1. Loaded when first asked.

    Args:
        path: see `load`.
        device: where it runs.
        batch_size: pictures at a time.
    """

    def __init__(self, path: str, device: str = "auto", batch_size: int = 16) -> None:
        self.path, self.device, self.batch_size = path, device, batch_size

    @cached_property
    def network(self) -> Any:
        return load(self.path, "decoding latents", _ADVICE).to(resolve(self.device))

    @cached_property
    def digest(self) -> str:
        """Of the latents that it decodes."""
        return digest(self.network)

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W), on the latents' device."""
        self._check(latents)
        parts = [self.network.decode(part.to(self.network.device)).sample for part in latents.split(self.batch_size)]
        return torch.cat(parts).to(latents.device)  # (B, 3, H, W)

    def _check(self, latents: Tensor) -> None:
        if (channels := self.network.config.latent_channels) != latents.shape[1]:
            raise MultigenError(f"the autoencoder {self.path} decodes {channels} channels, not {latents.shape[1]}")


_ADVICE = "modality.decoder=FOLDER names another one, modality.decoder=null leaves samples as latents"


class Posterior:
    """The moments of a picture's latent, as an encoder of `multigen.cache`: value (B, h, w, 2 C), the mean and then the
    standard deviation of each channel. A picture that is not readable has no site that is real.

    Args:
        path: see `load`.
    """

    def __init__(self, path: str) -> None:
        self.path, self._device = path, torch.device("cpu")
        self.fingerprint = f"posterior-{digest(self.network)}"

    @cached_property
    def network(self) -> Any:
        return load(self.path, "encoding pictures", "data.vae=FOLDER names another one").to(self._device)

    @property
    def digest(self) -> str:
        """Of the latents that it makes."""
        return self.fingerprint.removeprefix("posterior-")

    def shape(self, pixels: int) -> list[int]:
        """(C, h, w) of the latents of pictures of so many pixels a side.

        Raises:
            MultigenError: such pictures cannot be halved as often as it halves them.
        """
        config = self.network.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        if pixels % factor:
            raise MultigenError(f"the autoencoder {self.path} needs pictures of a multiple of {factor} pixels, not {pixels}")
        return [config.latent_channels, pixels // factor, pixels // factor]

    def to(self, device: Any) -> Posterior:
        if torch.device(device) != self._device:
            self._device = torch.device(device)
            self.network.to(self._device)
        return self

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Features:
        pixels = batch.raw["image"].float() / 127.5 - 1  # (B, 3, H, W)
        found = self.network.encode(pixels).latent_dist
        value = torch.cat([found.mean, found.std], 1).permute(0, 2, 3, 1).contiguous()  # (B, h, w, 2 C)
        mask = batch.raw.get("readable", torch.ones(len(value), dtype=torch.bool, device=value.device))  # (B,)
        return Features(value, mask[:, None, None].expand(value.shape[:-1]))

    def __getstate__(self) -> dict[str, Any]:
        """Travels to other processes by name; each loads the weights for itself."""
        return {k: v for k, v in self.__dict__.items() if k != "network"}
