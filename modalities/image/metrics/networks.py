"""What measures of pictures are computed in: the features of frozen networks, each with its own way of resizing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multigen.files import sha256
from multigen.modality import Encoder
from multigen.nn.frozen import Frozen, fit
from multigen.random import keys
from multigen.state import Batch, MultigenError, pool
from multigen.stock import read_tensors
from multigen.teachers import vision

WEIGHTS = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
OFFICIAL = "6726825d"
"""What the checksum of the network's published weights begins with."""
CLIP = "openai/clip-vit-large-patch14-336"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Network(Protocol):
    """Sees pictures."""

    name: str
    """In the names of measures."""
    standard: bool
    """Whether it is the network in which published measures are defined, so that they may bear their names."""
    fingerprint: str

    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        """Uint8 (B, 3, H, W) -> Float (B, D) by the name of the features."""
        ...

    def to(self, device: Any) -> Any: ...


class Inception(Frozen):
    """The Inception network of FID (Heusel et al. 2017), from torch-fidelity: TensorFlow's weights of 2015, and its resizing.

    ===========  =====================================================================================================
    ``pool``     2048 means of the last maps: FID, KID, precision and recall.
    ``spatial``  7 channels of 17 x 17 places of an inner map, place by place: sFID (Nash et al. 2021).
    ``logits``   1008 logits without bias: Inception score.
    ===========  =====================================================================================================

    These are the three that ADM's evaluation suite reads, so its statistics may be used.

    Args:
        weights: a file, or where to download it (kept in torch's hub folder); None leaves the weights random, of `seed`.
            Measures are called FID only if the file's checksum is that of the published weights.
    """

    def __init__(self, weights: str | Path | None = WEIGHTS, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.net = _bare_inception()
            if weights is None:
                _spread(self.net)
        path = None if weights is None else downloaded(str(weights))
        if path is not None:
            fit(self.net, _tensors(path), path)
        self.standard = path is not None and sha256(path).startswith(OFFICIAL)
        self.name = "inception" if self.standard else "random_inception" if path is None else "other_inception"
        self.freeze()

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        inner: list[Tensor] = []
        hook = self.net.Mixed_6d.branch1x1.register_forward_hook(lambda module, args, output: inner.append(output[:, :7]))
        try:
            pooled, logits = self.net(pictures)  # (B, 2048), (B, 1008)
        finally:
            hook.remove()
        spatial = inner[0].permute(0, 2, 3, 1).flatten(1).float()  # (B, 17 * 17 * 7)
        return {"pool": pooled, "spatial": spatial, "logits": logits}


def _bare_inception() -> Any:
    """The network as its constructor makes it, which insists on reading weights: it is given an empty file."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
            return super().load_state_dict(state_dict, *args, **options) if state_dict else None

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    return Bare("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=empty)


def _spread(net: nn.Module) -> None:
    """Random weights that keep the scale of what they are given: torch's own let 20 layers fade to nothing."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def downloaded(source: str) -> Path:
    """A file, or a copy of a URL in torch's hub folder, whose name ends in the first digits of its checksum."""
    if "://" not in source:
        return Path(source).expanduser()
    path = Path(torch.hub.get_dir()) / "checkpoints" / source.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(source, str(path), path.stem.rpartition("-")[2], progress=False)
        except (OSError, RuntimeError) as error:
            raise MultigenError(f"cannot download {source} ({error}); a local file can be given as `weights`") from None
    return path


def _tensors(path: Path) -> dict[str, Tensor]:
    """Of a ``.pth`` or ``.safetensors`` file, without running code from it."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # damaged files fail in many ways
        raise MultigenError(f"cannot read the weights {path}: {str(error).splitlines()[0]}") from None


class Teacher:
    """Any teacher of the modality, its tokens averaged: features ``pooled``.

    Args:
        encoder: reads ``raw["image"]``, uint8 (B, 3, H, W).
        name: of the encoder in the names of the measures; by default its class, in small letters.
    """

    standard = False

    def __init__(self, encoder: Encoder, name: str | None = None) -> None:
        self.encoder, self.name = encoder, name or type(encoder).__name__.lower()
        self.fingerprint = encoder.fingerprint

    def __call__(self, pictures: Tensor) -> dict[str, Tensor]:
        return {"pooled": averaged(self.encoder, pictures)}

    def to(self, device: Any) -> Teacher:
        self.encoder = self.encoder.to(device)
        return self


@torch.no_grad()
def averaged(encoder: Encoder, pictures: Tensor) -> Tensor:
    """What an encoder sees in uint8 (B, 3, H, W), its sites averaged: Float (B, D)."""
    batch = Batch({}, {}, {}, keys(0, range(len(pictures))), raw={"image": pictures})
    return pool(encoder(batch)).value.float()


class Timm(Frozen):
    """A network of timm with the pooling of its own: of DINOv2, the normalised class token, as FD-DINOv2 takes it.

    Frechet distances in DINOv2 ViT-L/14 features are those of Stein et al. (2023): 224 pixels, bicubic.

    Args:
        model: timm's name, such as ``vit_large_patch14_dinov2.lvd142m``.
        name: of the network in the names of the measures.
        size: pixels of the side at which it looks.
        pretrained: download the weights from timm's hub.
        weights: a local safetensors file with them instead.
    """

    standard = False

    def __init__(
        self, model: str, name: str, size: int = 224, pretrained: bool = True, weights: str | Path | None = None
    ) -> None:
        super().__init__()
        self.name, self.size = name, size
        config = vision.known_to_timm(model)
        self.net = vision.headless(model, size, pretrained, weights)
        self.mean, self.std = tuple(config.mean), tuple(config.std)
        self.freeze(model=model, size=size)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        return {"pooled": self.net(normalised(pictures, self.size, self.mean, self.std)).float()}  # (B, D)


class Clip(Frozen):
    """Embeddings of pictures by CLIP, of length 1, in which CMMD is defined (Jayasumana et al. 2024): ``embedding``.

    Args:
        model: a model of the transformers library: its name, or a folder with its configuration and safetensors. One of the
            published shape is taken for the published one: its weights are not checked, but their fingerprint is recorded.
    """

    def __init__(self, model: str = CLIP) -> None:
        super().__init__()
        from transformers import CLIPVisionModelWithProjection

        try:
            self.net = CLIPVisionModelWithProjection.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise MultigenError(f"cannot load {model} ({reason}); a local folder can be given as `model`") from None
        config = self.net.config
        published = (config.image_size, config.patch_size, config.hidden_size, config.num_hidden_layers) == (336, 14, 1024, 24)
        self.size, self.standard, self.name = int(cast(int, config.image_size)), published, "clip"
        self.freeze(model=Path(model).name)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        x = normalised(pictures, self.size, CLIP_MEAN, CLIP_STD)  # (B, 3, size, size)
        return {"embedding": F.normalize(self.net(pixel_values=x).image_embeds.float(), dim=-1)}  # (B, D)


def normalised(pictures: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Uint8 (B, 3, H, W) -> Float (B, 3, size, size): bicubic, standardised by the mean and deviation of 0 .. 1."""
    x = vision.resize(pictures.float(), size)  # (B, 3, size, size)
    centre, scale = (x.new_tensor(list(values)).view(-1, 1, 1) for values in (mean, std))  # (3, 1, 1)
    return (x / 255 - centre) / scale
