"""Teachers out of the transformers library: patch tokens alone, on the student's grid, preprocessed as each model says."""

from __future__ import annotations

import json

import hub_models
import pytest
import torch
import torch.nn.functional as F
from hub_models import PREFIX

from modalities.image.encoders import Transformers
from multigen.build import compose, options
from multigen.build.experiment import Experiment
from multigen.build.make import check
from multigen.state import Batch, MultigenError
from multigen.teachers.hub_vision import preprocessing


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    return {name: hub_models.seeing(name, root / name) for name in PREFIX}


def pictures(n: int = 2, size: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)
    return Batch({}, {}, {}, torch.zeros(n, dtype=torch.long), raw={"image": image})


@pytest.mark.parametrize("name", PREFIX)
def test_patch_tokens_without_class_and_registers(name, models):
    """At the model's own size: what the library's model says of the pictures, as its own preprocessing makes them."""
    from transformers import AutoModel

    teacher, batch = Transformers(models[name]), pictures()
    found = teacher(batch)
    assert found.value.shape == (2, 16, 32) and found.mask.shape == (2, 16) and found.mask.all()
    whole = AutoModel.from_pretrained(models[name]).eval()
    net = getattr(whole, "vision_model", whole)
    given = json.loads((models[name] / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(given[f"image_{k}"]).view(3, 1, 1) for k in ("mean", "std"))
    options = {"noise": torch.arange(16.0).expand(2, -1)} if name == "mae" else {}
    net.config.mask_ratio = 0.0
    with torch.no_grad():
        expected = net((batch.raw["image"] / 255 - mean) / std, **options).last_hidden_state
    assert expected.shape[1] == 16 + PREFIX[name]
    torch.testing.assert_close(found.value, expected[:, PREFIX[name] :], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PREFIX)
def test_tokens_lie_where_the_pixels_lie(name, models):
    """Of one layer: what changes most is the token of the place that changed."""
    teacher, before = Transformers(models[name], layer=0), pictures(1)
    image = before.raw["image"].clone()
    image[:, :, 8:16, 16:24] = 255 - image[:, :, 8:16, 16:24]
    change = (teacher(before.replace(raw={"image": image})).value - teacher(before).value).norm(dim=-1)[0]  # (16,)
    assert change.argmax() == 1 * 4 + 2


@pytest.mark.parametrize("name", PREFIX)
def test_positions_are_resampled_to_the_size(name, models):
    larger = Transformers(models[name], size=48)
    assert larger(pictures(size=64)).value.shape == (2, 36, 32)
    coarse = Transformers(models[name], size=64, grid=4)(pictures(size=64)).value
    fine = Transformers(models[name], size=64)(pictures(size=64)).value.unflatten(1, (8, 8)).permute(0, 3, 1, 2)
    torch.testing.assert_close(coarse.mT.unflatten(-1, (4, 4)), F.avg_pool2d(fine, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PREFIX)
def test_pooled(name, models):
    tokens = Transformers(models[name])(pictures()).value
    mean = Transformers(models[name], pooled="mean")(pictures())
    torch.testing.assert_close(mean.value, tokens.mean(1), rtol=1e-4, atol=1e-5)
    assert mean.mask.shape == (2,)
    own = Transformers(models[name], pooled="own")
    if name in ("mae", "ijepa"):
        with pytest.raises(MultigenError, match=f"{name} sums up no picture by itself"):
            own(pictures())
    else:
        assert own(pictures()).value.shape == (2, 32) and own.fingerprint != Transformers(models[name]).fingerprint


def test_preprocessing_is_the_models_own(models, tmp_path):
    seen = preprocessing(models["siglip2"])
    assert (seen.size, seen.mode) == (32, "bilinear")
    assert seen.mean == pytest.approx([0.5] * 3) and preprocessing(models["clip"]).mode == "bicubic"
    plain = {"size": {"shortest_edge": 24}, "do_rescale": False, "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(plain))
    raw = preprocessing(tmp_path)
    assert raw.size == 24 and raw.mean == [0.0] * 3
    assert [255 * s for s in raw.std] == [1.0] * 3  # 0 .. 255 as it is
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SIZELESS))
    with pytest.raises(MultigenError, match="has no size"):
        preprocessing(tmp_path)
    nothing = {"size": 24, "image_mean": None, "resample": None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(nothing))
    assert preprocessing(tmp_path).mean == [0.0] * 3 and preprocessing(tmp_path).mode == "bicubic"


SIZELESS = {"do_rescale": True}


def test_random_weights_need_the_configuration_alone(models, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((models["dinov2"] / name).read_text())
    one, same, other = (Transformers(tmp_path, pretrained=False, seed=seed) for seed in (0, 0, 1))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    with pytest.raises(MultigenError, match=r"cannot load .*a local folder can be given"):
        Transformers(tmp_path)


def test_lacking_weights_are_named(models, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((models["dinov2"] / name).read_text())
    stored = load_file(models["dinov2"] / "model.safetensors")
    stored.pop("layernorm.weight")
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    for shape in (None, (3,)):
        if shape:
            save_file({**stored, "layernorm.weight": torch.ones(shape)}, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(MultigenError, match=r"Dinov2Model: 1 are missing or of another shape, such as layernorm\.weight"):
            Transformers(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(MultigenError, match=r"cannot load .*deserializing header"):
        Transformers(tmp_path)


@pytest.mark.parametrize("name", PREFIX)
def test_weights_that_are_stored_in_half_precision(name, models, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in ("config.json", "preprocessor_config.json"):
        (tmp_path / file).write_text((models[name] / file).read_text().replace('"dtype": "float32"', '"dtype": "bfloat16"'))
    stored = load_file(models[name] / "model.safetensors")
    save_file({k: x.bfloat16() for k, x in stored.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    exact, half = (Transformers(folder)(pictures()).value for folder in (models[name], tmp_path))
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 30}, "patches of 8 pixels, which do not divide size 30"),
        ({"pooled": "max"}, "choices are false, 'mean', 'own'"),
        ({"pooled": "own", "layer": 0}, "layer 0"),
        ({"layer": 2}, r"has layers 0 \.\. 1 and -1, not 2"),
    ],
)
def test_wrong_options_are_named(options, message, models):
    with pytest.raises(MultigenError, match=message):
        Transformers(models["dinov2"], **options)(pictures())


@pytest.mark.parametrize("name", sorted(PREFIX))
def test_presets_take_the_place_of_an_experiments_teacher(name, models):
    config = compose("train", ["experiment=image/emoji_repa", f"encoder={name}"])
    node = config["encoders"]["tokens"]
    assert check(node, name) is Transformers and node["grid"] == 8 and "/" in node["model"]
    tiny = {**node, "model": str(models[name]), "size": 64}
    teacher = Experiment({**config, "encoders": {"tokens": tiny}}).encoders["tokens"]
    assert teacher(pictures()).value.shape == (2, 64, 32)


def test_each_preset_names_model_and_licence():
    from multigen.build import config_dir

    assert set(options("encoder")) == {*PREFIX, "qwen2_vl"}
    for name in options("encoder"):
        text = (config_dir() / "encoder" / f"{name}.yaml").read_text()
        target = "tokens" if name in PREFIX else "caption"
        node = compose("train", ["experiment=image/emoji_repa", f"encoder={name}"])["encoders"][target]
        assert f"Hub: {node['model']}." in text and "Licence: " in text
