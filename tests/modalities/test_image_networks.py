"""Networks that metrics look through, without downloads: random weights, files, and what does not fit."""

import pytest
import torch
from safetensors.torch import save_file

from modalities.image.metrics import Clip, Inception, Timm
from modalities.image.metrics.networks import CLIP_MEAN, CLIP_STD, normalised
from multigen.state import MultigenError

pytest.importorskip("torch_fidelity")


@pytest.fixture(scope="module")
def inception():
    return Inception(None)


def pictures(n=2, size=32, seed=0):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_inception_gives_the_three_features_of_the_suite(inception):
    found = inception(pictures())
    assert {name: x.shape for name, x in found.items()} == {"pool": (2, 2048), "spatial": (2, 2023), "logits": (2, 1008)}
    assert all(x.dtype == torch.float32 and x.isfinite().all() and x.std() > 0.01 for x in found.values())
    torch.testing.assert_close(found["logits"], found["pool"] @ inception.net.fc.weight.T)
    assert not inception.standard and inception.name == "random_inception"


def test_spatial_features_are_place_by_place_seven_channels_of_an_inner_map(inception):
    seen = []
    hook = inception.net.Mixed_6d.branch1x1.register_forward_hook(lambda module, args, output: seen.append(output))
    spatial = inception(pictures(1))["spatial"].view(17, 17, 7)
    hook.remove()
    torch.testing.assert_close(spatial[3, 5], seen[0][0, :7, 3, 5])


def test_weights_come_from_a_file_and_others_than_the_published_are_told_apart(inception, tmp_path):
    torch.save(inception.net.state_dict(), tmp_path / "weights-inception-2015-12-05-6726825d.pth")
    other = Inception(tmp_path / "weights-inception-2015-12-05-6726825d.pth", seed=1)
    assert (other.standard, other.name) == (False, "other_inception")  # the name of the file does not count
    assert other.fingerprint == inception.fingerprint != Inception(None, seed=1).fingerprint
    torch.save({"conv": torch.zeros(3)}, tmp_path / "short.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    for name, said in {
        "short.pth": "does not fit: it lacks",
        "broken.pth": "cannot read",
        "nowhere.pth": "cannot read",
    }.items():
        with pytest.raises(MultigenError, match=said):
            Inception(tmp_path / name)


def test_a_download_that_fails_is_one_line(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MultigenError, match=r"cannot download https.*no network.*a local file can be given"):
        Inception()


def test_a_network_of_timm_pools_as_it_does_itself(tmp_path):
    network = Timm("vit_tiny_patch16_224", "tiny", size=224, pretrained=False)
    found = network(pictures())["pooled"]
    x = normalised(pictures(), 224, network.mean, network.std)
    torch.testing.assert_close(found, network.net.forward_features(x)[:, 0])  # its class token, normalised
    save_file(network.net.state_dict(), tmp_path / "weights.safetensors")
    again = Timm("vit_tiny_patch16_224", "tiny", weights=tmp_path / "weights.safetensors")
    assert again.fingerprint == network.fingerprint
    assert (
        Timm("vit_tiny_patch16_224", "tiny", 64, weights=tmp_path / "weights.safetensors")(pictures())["pooled"]
        .isfinite()
        .all()
    )
    with pytest.raises(MultigenError, match="does not fit"):
        Timm("vit_small_patch16_224", "small", weights=tmp_path / "weights.safetensors")


def test_clip_embeds_on_the_sphere(tmp_path):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 8}
    config = transformers.CLIPVisionConfig(**small, image_size=24, patch_size=8)
    theirs = transformers.CLIPVisionModelWithProjection(config).eval()
    theirs.save_pretrained(tmp_path / "clip", safe_serialization=True)
    network = Clip(str(tmp_path / "clip"))
    found = network(pictures())["embedding"]
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2))
    x = normalised(pictures(), 24, CLIP_MEAN, CLIP_STD)
    torch.testing.assert_close(found, torch.nn.functional.normalize(theirs(pixel_values=x).image_embeds, dim=-1))
    assert not network.standard  # CMMD is defined in a larger one
    with pytest.raises(MultigenError, match=r"cannot load .*nowhere"):
        Clip(str(tmp_path / "nowhere"))
