"""Latents as a modality: the posterior's draws, scale, decoding by an autoencoder, the data set on the disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modalities.image.autoencoder import Decoder
from modalities.image.latents import Latents
from multigen import testing
from multigen.random import keys
from multigen.state import MultigenError

SIDE, CHANNELS = 4, 2


def example(i: int, std: float = 0.5):
    random = np.random.default_rng(i)
    mean = random.normal(size=(CHANNELS, SIDE, SIDE)).astype(np.float32)
    return {"latent_mean": mean, "latent_std": np.full_like(mean, std), "label": i % 3, "name": f"picture {i}"}


class Data:
    fingerprint = "latents"

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return example(index)


def latents(**options) -> Latents:
    return Latents(**{"size": SIDE, "classes": 3, "channels": CHANNELS, **options})


def batch_of(modality: Latents, n: int = 4, seed: int = 0, **options):
    return modality.collate([example(i, **options) for i in range(n)], keys(seed, range(n)).tolist())


def test_the_contract_of_modalities():
    testing.check_modality(latents(), Data())


def test_each_key_draws_its_own_latent_from_the_posterior():
    examples = [example(0)] * 4000
    clean = latents().collate(examples, keys(0, range(4000)).tolist()).clean["image"] / 0.18215  # (B, C, h, w)
    assert clean[0].ne(clean[1]).all()
    mean = torch.from_numpy(example(0)["latent_mean"])
    torch.testing.assert_close(clean.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(clean.std(0), torch.full_like(mean, 0.5), atol=0.03, rtol=0)
    first, again, other = (batch_of(latents(), seed=seed).clean["image"] for seed in (0, 0, 1))
    assert torch.equal(first, again) and first.ne(other).all()


def test_moments_may_come_as_one_array():
    one = example(3)
    stacked = {"moments": np.concatenate([one["latent_mean"], one["latent_std"]]), "label": 0}
    pair = [latents().collate([e], [7]).clean["image"] for e in (one, stacked)]
    assert torch.equal(*pair)
    with pytest.raises(MultigenError, match=r"holds no latent_mean .* it holds \['label'\]"):
        latents().collate([{"label": 0}], [0])
    with pytest.raises(MultigenError, match=r"of shape \(2, 4, 4\), the modality expects \(2, 8, 8\)"):
        batch_of(latents(size=8))


def test_scale_and_shift_are_undone_when_decoding():
    modality = latents(scale=[0.5, 2.0], shift=[1.0, -1.0])
    batch = batch_of(modality, std=0.0)
    expected = torch.from_numpy(np.stack([example(i)["latent_mean"] for i in range(4)]))  # (B, C, h, w)
    by_hand = (expected - torch.tensor([1.0, -1.0])[:, None, None]) * torch.tensor([0.5, 2.0])[:, None, None]
    torch.testing.assert_close(batch.clean["image"], by_hand)
    for one, back in zip(expected, modality.decode(batch.clean, batch), strict=True):
        np.testing.assert_allclose(back, one, atol=1e-6)


def test_samples_without_a_decoder_are_saved_as_arrays(tmp_path):
    modality = latents()
    state = {"image": torch.stack([torch.full((CHANNELS, SIDE, SIDE), x) for x in (0.2, float("nan"))])}
    samples = modality.decode(state, modality.template([0, 1], 0))
    assert samples[1] is None
    assert [p.name for p in modality.save(samples, tmp_path)] == ["000000.npy"]
    np.testing.assert_allclose(np.load(tmp_path / "000000.npy"), 0.2 / 0.18215, rtol=1e-6)
    assert modality.draw(samples, tmp_path / "all.png").stat().st_size > 0
    assert modality.formats == () and latents(decoder="vae").formats == (".npz",)
    with pytest.raises(MultigenError, match="for pictures, uint8, and the samples are float32"):
        modality.write([(samples[:1], modality.template([0], 0))], 1, tmp_path / "samples.npz")


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """A small random one, saved as diffusers does."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    shape = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": CHANNELS, "sample_size": 2 * SIDE}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    network = diffusers.AutoencoderKL(**shape, **blocks).eval()
    folder = tmp_path_factory.mktemp("vae")
    network.save_pretrained(folder)
    return network, folder


def test_pictures_are_those_of_the_autoencoder(autoencoder, tmp_path):
    network, folder = autoencoder
    modality = latents(decoder=str(folder))
    batch = batch_of(modality, n=3)
    samples = modality.decode(batch.clean, batch)
    with torch.no_grad():
        decoded = network.decode(batch.clean["image"] / 0.18215).sample  # (B, 3, H, W)
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    assert samples[0].shape == (2 * SIDE, 2 * SIDE, 3)
    assert np.abs(np.stack(samples).astype(int) - expected.numpy().astype(int)).max() <= 1
    assert [p.suffix for p in modality.save(samples, tmp_path)] == [".png"] * 3
    path = modality.write([(samples[:2], batch), (samples[2:], batch)], 3, tmp_path / "samples.npz")
    with np.load(path) as written:
        assert np.array_equal(written["arr_0"], np.stack(samples))
    assert modality.draw(samples, tmp_path / "all.png").is_file()


def test_batches_of_the_decoder_change_nothing(autoencoder):
    _, folder = autoencoder
    x = torch.randn(5, CHANNELS, SIDE, SIDE)
    torch.testing.assert_close(Decoder(str(folder), batch_size=2)(x), Decoder(str(folder))(x), atol=1e-5, rtol=1e-4)


def test_a_decoder_that_is_not_there_or_of_other_latents_is_named(autoencoder, tmp_path):
    _, folder = autoencoder
    with pytest.raises(MultigenError, match=r"cannot load the autoencoder .*nowhere .*modality\.decoder=FOLDER"):
        Decoder(str(tmp_path / "nowhere"))(torch.zeros(1, CHANNELS, SIDE, SIDE))
    with pytest.raises(MultigenError, match="decodes 2 channels, not 4"):
        Decoder(str(folder))(torch.zeros(1, 4, SIDE, SIDE))
