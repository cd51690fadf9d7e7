"""Teachers: tokens in the student's order, frozen, told apart by fingerprint; the real weights against known answers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

from modalities.image.encoders import EfficientNetLite0, MiniLM, Pixels, Timm
from multigen.files import data_root as real_root
from multigen.modality import encode_text
from multigen.state import Batch, MultigenError
from multigen.teachers import weights
from multigen.teachers.vision import resize, to_grid


def prepared(name):
    return pytest.mark.skipif(not (real_root() / "teachers" / name).is_file(), reason="needs `multigen prepare data=emoji`")


has_efficientnet, has_minilm = prepared("efficientnet_lite0.safetensors"), prepared("minilm/model.safetensors")


def batch_of(**raw) -> Batch:
    return Batch({}, {}, {}, torch.zeros(len(next(iter(raw.values()))), dtype=torch.long), raw=raw)


def pictures(n: int = 2, size: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return batch_of(image=torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8))


@pytest.fixture(scope="module")
def efficientnet():
    return EfficientNetLite0(size=64, grid=4, pretrained=False)


def test_tokens_and_pooled(efficientnet):
    tokens = efficientnet(pictures())
    assert tokens.value.shape == (2, 16, 1280) and tokens.mask.shape == (2, 16) and tokens.mask.all()
    pooled = EfficientNetLite0(size=64, pooled=True, pretrained=False)
    pooled.load_state_dict(efficientnet.state_dict())
    native = EfficientNetLite0(size=64, grid=None, pretrained=False)
    native.load_state_dict(efficientnet.state_dict())
    torch.testing.assert_close(pooled(pictures()).value, native(pictures()).value.mean(1))
    assert pooled(pictures()).mask.shape == (2,)


@pytest.mark.parametrize(("stage", "width", "side"), [(0, 16, 32), (2, 40, 8), (4, 112, 4), (6, 320, 2)])
def test_stages(stage, width, side):
    found = EfficientNetLite0(size=64, grid=None, stage=stage, pretrained=False)(pictures(1))
    assert found.value.shape == (1, side * side, width)


def test_tokens_follow_the_pixels():
    """Row by row: a change in one corner of the picture changes the tokens of that corner."""
    teacher = EfficientNetLite0(size=64, grid=4, stage=1, pretrained=False)
    before = pictures(1)
    image = before.raw["image"].clone()
    image[:, :, :8, -8:] = 255 - image[:, :, :8, -8:]
    change = (teacher(batch_of(image=image)).value - teacher(before).value).abs().sum(-1)[0]  # (16,)
    assert change.argmax() == 3 and change[12] == 0


@pytest.mark.parametrize(("grid", "shape"), [(None, (4, 4)), (2, (2, 2)), (4, (4, 4)), (8, (8, 8)), ((2, 8), (2, 8))])
def test_grids(grid, shape):
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    found = to_grid(maps, grid)
    assert found.shape == (1, 1, *shape)
    torch.testing.assert_close(found.mean(), maps.mean())
    if shape == (2, 2):
        torch.testing.assert_close(found[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))


def test_resizing_keeps_the_range():
    picture = 255 * (torch.arange(64).view(1, 1, 1, 64) > 31).float().expand(1, 3, 64, 64)
    assert resize(picture, 48).min() == 0 and resize(picture, 48).max() == 255


def test_teachers_are_frozen(efficientnet):
    efficientnet.train()
    assert not efficientnet.training and not any(m.training for m in efficientnet.modules())
    assert not any(p.requires_grad for p in efficientnet.parameters())
    before = {k: v.clone() for k, v in efficientnet.state_dict().items()}
    assert not efficientnet(pictures()).value.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in efficientnet.state_dict().items())


def test_one_picture_does_not_see_another(efficientnet):
    alone = efficientnet(batch_of(image=pictures().raw["image"][1:])).value
    torch.testing.assert_close(efficientnet(pictures()).value[1:], alone, rtol=1e-4, atol=1e-5)


def test_fingerprints_tell_teachers_apart():
    def teacher(seed=0, **options):
        return Timm("mobilenetv3_small_050", **{"size": 64, "pretrained": False, "seed": seed, **options})

    assert teacher().fingerprint == teacher().fingerprint
    others = [teacher(1), teacher(size=96), teacher(grid=2), teacher(pooled=True), teacher(layer=1)]
    assert len({t.fingerprint for t in [teacher(), *others]}) == 6


def test_raw_pictures_are_asked_for(efficientnet):
    with pytest.raises(MultigenError, match=r"EfficientNetLite0 needs raw 'image', the batch has \['caption'\]"):
        efficientnet(batch_of(caption=encode_text(["a"])))


@pytest.mark.parametrize(
    ("model", "options", "shape"),
    [
        ("vit_tiny_patch16_224", {"size": 64, "grid": 4}, (2, 16, 192)),
        ("vit_tiny_patch16_224", {"size": 64, "grid": 8, "layer": 3}, (2, 64, 192)),
        ("mobilenetv3_small_050", {"size": 64, "grid": 4}, (2, 16, 288)),
        ("mobilenetv3_small_050", {"size": 64, "layer": 1}, (2, 256, 8)),
        ("mobilenetv3_small_050", {"size": 64, "pooled": True}, (2, 288)),
    ],
)
def test_any_network_of_timm(model, options, shape):
    found = Timm(model, pretrained=False, **options)(pictures())
    assert found.value.shape == shape and found.mask.shape == shape[:-1] and found.value.isfinite().all()


def test_timm_weights_from_a_file(tmp_path):
    one = Timm("mobilenetv3_small_050", 64, pretrained=False, seed=1)
    extra = {"classifier.weight": torch.zeros(10, 1024)}
    save_file({**one.net.state_dict(), **extra}, tmp_path / "w.safetensors")
    two = Timm("mobilenetv3_small_050", 64, weights=tmp_path / "w.safetensors")
    assert two.fingerprint == one.fingerprint
    torch.testing.assert_close(two(pictures()).value, one(pictures()).value)
    save_file(extra, tmp_path / "bad.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"abc")
    for name, reason in {"bad": "does not fit: it lacks", "cut": "cannot read", "no": "cannot read"}.items():
        with pytest.raises(MultigenError, match=reason):
            Timm("mobilenetv3_small_050", 64, weights=tmp_path / f"{name}.safetensors")


def test_positions_from_a_file_are_resampled_to_the_size_that_is_looked_at(tmp_path):
    from timm.layers import resample_abs_pos_embed

    one = Timm("vit_tiny_patch16_224", pretrained=False)
    save_file(one.net.state_dict(), tmp_path / "w.safetensors")
    two = Timm("vit_tiny_patch16_224", 64, weights=tmp_path / "w.safetensors")
    assert two.net.pos_embed.shape == (1, 1 + 4 * 4, 192)
    torch.testing.assert_close(two.net.pos_embed, resample_abs_pos_embed(one.net.pos_embed, [4, 4]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Timm("mobilenetv3_smal_050", pretrained=False), "timm has no network .*did you mean 'mobilenetv3_small_050'"),
        (lambda: Timm("mobilenetv3_small_050.nothing", pretrained=False), "timm has no weights"),
        (lambda: Timm("mobilenetv3_small_050", 64, layer=77, pretrained=False)(pictures()), "no features of layer 77"),
        (lambda: EfficientNetLite0(stage=7, pretrained=False), r"stages 0 \.\. 6, not 7"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(MultigenError, match=message):
        make()


def test_pixels_are_the_picture_made_smaller():
    flat = batch_of(image=torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 8, 8))
    value, mask = Pixels(size=2)(flat)
    assert value.shape == (2, 12) and mask.all()
    assert torch.allclose(value[0].view(3, 4), torch.tensor([0.0, 0.2, 1.0])[:, None].expand(3, 4), atol=1e-6)
    assert torch.equal(Pixels(size=64)(pictures()).value, pictures().raw["image"].flatten(1) / 255)
    assert Pixels(2).fingerprint != Pixels(4).fingerprint


def test_unprepared_weights_name_the_command(data_root):
    for teacher in (EfficientNetLite0, MiniLM):
        with pytest.raises(MultigenError, match=r"not prepared .*run `multigen prepare experiment=NAME`"):
            teacher()


def test_weight_names_cover_the_network(efficientnet):
    bn = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    block = [(layer, bn if layer.startswith("_bn") else ["weight"]) for layer in weights._BLOCK]
    first = [(layer, rest) for layer, rest in block if layer in weights._FIRST]
    ends = {"_conv_stem": ["weight"], "_conv_head": ["weight"], "_bn0": bn, "_bn1": bn, "_fc": ["weight", "bias"]}
    names = [f"{layer}.{r}" for layer, rest in ends.items() for r in rest]
    names += [f"_blocks.{i}.{layer}.{r}" for i in range(16) for layer, rest in (block if i else first) for r in rest]
    assert sorted(map(weights.timm_name, names)) == sorted(efficientnet.net.state_dict())


# --------------------------------------------------------------------------------------------------------------- captions


def test_sentences_have_length_one_and_ignore_padding(sentences):
    teacher = MiniLM(folder=sentences)
    found = teacher(batch_of(caption=encode_text(["red apple", "a green apple a dog", "Red APPLE"])))
    assert found.value.shape == (3, 16) and found.mask.tolist() == [True] * 3
    torch.testing.assert_close(found.value.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(found.value[0], found.value[2])
    alone = teacher(batch_of(caption=encode_text(["red apple"]))).value
    torch.testing.assert_close(found.value[:1], alone, rtol=1e-5, atol=1e-6)


def test_caption_tokens_are_padded_and_cut(sentences):
    found = MiniLM(tokens=5, folder=sentences)(batch_of(caption=encode_text(["dog", "a red apple a dog"])))
    assert found.value.shape == (2, 5, 16)
    assert found.mask.tolist() == [[True, True, True, False, False], [True] * 5]


def test_sentence_fingerprints(sentences):
    assert MiniLM(folder=sentences).fingerprint == MiniLM(folder=sentences).fingerprint
    assert MiniLM(folder=sentences).fingerprint != MiniLM(tokens=5, folder=sentences).fingerprint


# ------------------------------------------------------------------------------------------------------- the real weights


@has_efficientnet
def test_efficientnet_gives_the_published_networks_answers():
    """Logits of a synthetic picture, computed once with the code that its authors published for these weights."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    picture = torch.stack([x * 2, y * 2, (x * y) % 256]).to(torch.uint8)[None]  # (1, 3, 96, 96)
    teacher = EfficientNetLite0(size=96, grid=None)
    found = teacher.logits(batch_of(image=picture))[0].topk(5)
    assert found.indices.tolist() == [818, 827, 556, 470, 920]
    torch.testing.assert_close(found.values, torch.tensor([16.0370, 15.4933, 14.2705, 13.4916, 13.2552]), rtol=0, atol=2e-3)
    means = teacher(batch_of(image=picture)).value.mean((0, 1))[:5]  # (5,)
    torch.testing.assert_close(means, torch.tensor([1.9759, 0.0000, 1.5440, 0.4412, 0.0000]), rtol=0, atol=2e-3)


@has_efficientnet
def test_efficientnet_recognises_a_photograph():
    from matplotlib import cbook

    with cbook.get_sample_data("grace_hopper.jpg") as file, Image.open(file) as opened:
        photo = ImageOps.fit(opened.convert("RGB"), (224, 224), Image.Resampling.BICUBIC)
    picture = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]  # (1, 3, 224, 224)
    assert EfficientNetLite0(size=224).logits(batch_of(image=picture)).argmax() == 652  # military uniform


@has_minilm
def test_minilm_knows_what_is_alike():
    lines = ["a happy face", "a smiling face", "a red sports car", "an automobile"]
    value = MiniLM()(batch_of(caption=encode_text(lines))).value  # (4, 384)
    alike = value @ value.T
    assert alike[0, 1] > 0.6 and alike[2, 3] > 0.4 and alike[:2, 2:].max() < 0.35


def test_converted_weights_are_read_back(data_root, monkeypatch, efficientnet):
    """The path from a pinned package to the network, with random weights in the package's own names."""
    timm_names = list(efficientnet.net.state_dict())
    original = {f"p{i}": tensor for i, tensor in enumerate(efficientnet.net.state_dict().values())}
    monkeypatch.setattr(weights, "timm_name", lambda name: timm_names[int(name[1:])])
    content = io.BytesIO()
    torch.save(original, content)
    monkeypatch.setattr(weights.assets, "read", lambda asset, member, root: content.getvalue())
    weights.prepare(data_root)
    read_back = EfficientNetLite0(size=64, grid=4)
    assert read_back.fingerprint == efficientnet.fingerprint


@pytest.mark.parametrize(
    ("name", "read"), [("minilm/tokenizer.json", weights.minilm), ("efficientnet_lite0.safetensors", weights.efficientnet)]
)
@pytest.mark.parametrize("damage", [lambda x: x[:-1], lambda x: x[:-1] + b"!"], ids=["cut", "changed"])
def test_damaged_weights_are_named_and_made_again(name, read, damage, data_root, monkeypatch):
    content = io.BytesIO()
    torch.save({"_fc.bias": torch.zeros(3)}, content)
    monkeypatch.setattr(weights.assets, "read", lambda asset, member, root: content.getvalue())
    weights.prepare()
    path = data_root / "teachers" / name
    before = path.read_bytes()
    path.write_bytes(damage(before))
    with pytest.raises(MultigenError, match=rf"are damaged: {path} .*run `multigen prepare experiment=NAME`"):
        read()
    weights.prepare()
    read()
    assert path.read_bytes() == before
