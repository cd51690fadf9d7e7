"""From latents to pictures: the decoder of an autoencoder of diffusers, loaded when the first picture is asked for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from multigen.distributed import resolve
from multigen.state import MultigenError


class Decoder:
    """The decoder of an `AutoencoderKL` (Rombach et al. 2022): latents (B, C, h, w) to pictures (B, 3, H, W) in -1 .. 1.

    Args:
        path: a folder of diffusers (``config.json`` and safetensors), or a name on its hub such as
            ``stabilityai/sd-vae-ft-ema``; the client's own cache and offline switch apply.
        device: where it runs.
        batch_size: pictures at a time.
    """

    def __init__(self, path: str, device: str = "auto", batch_size: int = 16) -> None:
        self.path, self.device, self.batch_size = path, device, batch_size

    @cached_property
    def network(self) -> Any:
        """The whole autoencoder.

        Raises:
            MultigenError: diffusers is not installed, or there is no such autoencoder.
        """
        try:
            from diffusers import AutoencoderKL
        except ImportError:
            raise MultigenError(f"decoding latents with {self.path} needs the package 'diffusers'; {_ADVICE}") from None
        try:
            network = AutoencoderKL.from_pretrained(self.path, use_safetensors=True)  # safetensors: never run a file's code
        except Exception as error:  # the hub's client has dozens of ways to say that there is no such thing
            reason = str(error).strip().splitlines()[0]
            raise MultigenError(f"cannot load the autoencoder {self.path} ({reason}); {_ADVICE}") from None
        return network.to(resolve(self.device)).eval().requires_grad_(False)

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
