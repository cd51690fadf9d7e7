"""Published checkpoints against a second implementation of the published formulas, on state dicts in the published layout.

Peebles and Xie 2023 and Ma et al. 2024 for the network; Ho et al. 2020 for the schedule; time as each of the
four codes counts it.
"""

from __future__ import annotations

import argparse
import math
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_sit import Weights, attention, gelu, linear, norm, silu, under, wave

from modalities.image import foreign, published
from modalities.image.commands import _check_process, export_run, import_run
from multigen import checkpoint
from multigen.build.experiment import Experiment
from multigen.cli.main import run as command
from multigen.interpolation import DDPM
from multigen.process import Gaussian
from multigen.run import Run
from multigen.state import MultigenError

WIDTH, DEPTH, HEADS, PATCH, CHANNELS, CLASSES, SIDE = 32, 3, 4, 2, 4, 5, 8
NEEDED = [f"heads={HEADS}", "modality.decoder=null", "sampler.grid.steps=3"]
"""Settings of an import of such a network."""
DEEP = 16
"""Blocks that the second tap of REED needs."""


class Kind(NamedTuple):
    """One published layout, as its authors describe it."""

    variance: bool
    targets: tuple[int, ...]
    """Widths of the representations."""


KINDS = {"sit": Kind(True, ()), "repa": Kind(False, (6,)), "reed": Kind(False, (6, 10)), "dit": Kind(True, ())}


def state_dict(kind: str, depth: int = DEPTH, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random network in the published layout."""
    torch.manual_seed(seed)
    out = PATCH**2 * CHANNELS * (1 + KINDS[kind].variance)
    linears = {"t_embedder.mlp.0": (WIDTH, 256), "t_embedder.mlp.2": (WIDTH, WIDTH), "final_layer.linear": (out, WIDTH)}
    linears["final_layer.adaLN_modulation.1"] = (2 * WIDTH, WIDTH)
    for i in range(depth):
        shapes = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH), "adaLN_modulation.1": (6 * WIDTH, WIDTH)}
        shapes |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
        linears |= {f"blocks.{i}.{name}": shape for name, shape in shapes.items()}
    for i, z in enumerate(KINDS[kind].targets):
        widths = [(0, WIDTH, 7), (2, 7, 7), (4, 7, z)]
        linears |= {f"projectors.{i}.{j}": (b, a) for j, a, b in widths}
    found = {f"{name}.weight": 0.1 * torch.randn(shape) for name, shape in linears.items()}
    found |= {f"{name}.bias": 0.1 * torch.randn(shape[0]) for name, shape in linears.items()}
    found["x_embedder.proj.weight"] = 0.3 * torch.randn(WIDTH, CHANNELS, PATCH, PATCH)
    found["x_embedder.proj.bias"] = 0.1 * torch.randn(WIDTH)
    found["y_embedder.embedding_table.weight"] = 0.5 * torch.randn(CLASSES + 1, WIDTH)
    grid, half = SIDE // PATCH, WIDTH // 2
    rows = [wave(x, half) + wave(y, half) for y in range(grid) for x in range(grid)]
    return found | {"pos_embed": torch.tensor(rows).float()[None]}


def block(w: Weights, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(linear(w, "adaLN_modulation.1", silu(c)), 6)  # (D,) each
    x = x + gate1 * attention(w, norm(x) * (1 + scale1) + shift1, HEADS, "attn.proj")
    return x + gate2 * linear(w, "mlp.fc2", gelu(linear(w, "mlp.fc1", norm(x) * (1 + scale2) + shift2)))


def forward(w: Weights, image: np.ndarray, time: float, label: int, depth: int = DEPTH) -> tuple[np.ndarray, list[np.ndarray]]:
    """image (C, H, W), their time -> all output channels (C or 2 C, H, W), and the tokens after each block."""
    angles = [time * math.exp(-math.log(10_000) * i / 128) for i in range(128)]
    c = np.array([math.cos(a) for a in angles] + [math.sin(a) for a in angles])  # (256,)
    c = linear(w, "t_embedder.mlp.2", silu(linear(w, "t_embedder.mlp.0", c))) + w["y_embedder.embedding_table.weight"][label]
    corners = [(y, x) for y in range(0, SIDE, PATCH) for x in range(0, SIDE, PATCH)]
    kernel = w["x_embedder.proj.weight"]  # (D, C, P, P)
    patches = [np.einsum("dcpq,cpq->d", kernel, image[:, y : y + PATCH, x : x + PATCH]) for y, x in corners]
    h = np.stack(patches) + w["x_embedder.proj.bias"] + w["pos_embed"][0]  # (T, D)
    tokens = []
    for i in range(depth):
        h = block(under(w, f"blocks.{i}."), h, c)
        tokens.append(h)
    shift, scale = np.split(linear(w, "final_layer.adaLN_modulation.1", silu(c)), 2)
    values = linear(w, "final_layer.linear", norm(h) * (1 + scale) + shift)  # (T, P P C')
    out = np.zeros((values.shape[1] // PATCH**2, SIDE, SIDE))
    for (y, x), one in zip(corners, values, strict=True):
        out[:, y : y + PATCH, x : x + PATCH] = one.reshape(PATCH, PATCH, -1).transpose(2, 0, 1)
    return out, tokens


def numpy(tensors: dict[str, torch.Tensor]) -> Weights:
    return {name: x.double().numpy() for name, x in tensors.items()}


def asked(kind: str, t: float) -> float:
    """Their time at ours: SiT's own code runs from noise to data, REPA's and REED's back, DiT counts 999 steps down to 0."""
    return {"sit": t, "repa": 1 - t, "reed": 1 - t, "dit": 999 - 1000 * t}[kind]


def imported(
    kind: str, tmp_path: Any, content: Any = None, depth: int = DEPTH, name: str = "theirs.pt", extra: tuple = ()
) -> Any:
    """The run folder of a file with this content."""
    path = tmp_path / name
    torch.save(state_dict(kind, depth) if content is None else content, path)
    return import_run(kind, path, foreign.read(path), tmp_path / "run", [*NEEDED, *extra])


def denoiser(run: Any, weights: str | None = None) -> Any:
    experiment = Experiment(Run(run).stored())
    checkpoint.load_denoiser(experiment.denoiser, checkpoint.latest(Run(run).checkpoints), weights)
    return experiment.denoiser.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_published_formulas(kind, tmp_path):
    net = denoiser(imported(kind, tmp_path))
    w = numpy(state_dict(kind))
    # DiT is trained at whole steps: 999, 600 and 0
    t = torch.tensor([0.0, 0.399, 0.999] if kind == "dit" else [0.0, 0.3, 0.97])
    image, label = torch.randn(3, CHANNELS, SIDE, SIDE), torch.tensor([2, CLASSES, 0])
    with torch.no_grad():
        output = net({"image": image}, {"image": t}, {"label": label}, {}, taps=["block2"])
    for i in range(3):
        theirs, tokens = forward(w, image[i].double().numpy(), asked(kind, t[i].double().item()), int(label[i]))
        sign = -1 if kind in ("repa", "reed") else 1
        assert np.abs(theirs).max() > 0.3
        np.testing.assert_allclose(output.pred["image"][i].numpy(), sign * theirs[:CHANNELS], atol=1e-5)
        np.testing.assert_allclose(output.taps["block2"].value[i].numpy(), tokens[1], atol=1e-5)


@pytest.mark.parametrize("kind", ["repa", "reed"])
def test_projectors_go_to_the_terms_that_train_them(kind, tmp_path):
    run = imported(kind, tmp_path)
    terms = checkpoint.latest(Run(run).checkpoints).tensors("model")
    stored = state_dict(kind)
    for i, term in enumerate(["patches", "captions"][: len(KINDS[kind].targets)]):
        for layer in (0, 2, 4):
            assert torch.equal(
                terms[f"objective.trained.{term}.projector.{layer}.weight"], stored[f"projectors.{i}.{layer}.weight"]
            )


def test_ddpm_is_the_discrete_schedule_and_its_derivatives_are_those_of_autograd():
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bar = (1 - beta).cumprod(0)  # alpha^2 after step k
    k = torch.arange(1000, dtype=torch.float64)
    path = DDPM()(1 - (k + 1) / 1000)
    torch.testing.assert_close(path.alpha, bar.sqrt(), rtol=1e-10, atol=0)
    torch.testing.assert_close(path.sigma, (1 - bar).sqrt(), rtol=1e-10, atol=0)
    with pytest.raises(MultigenError, match="0 < first <= last < 1, got 0"):
        DDPM(last=1.0)
    end = DDPM()(torch.ones(1, dtype=torch.float64))
    assert end.alpha == 1 and end.sigma == 0 and end.d_sigma.isfinite()
    t = torch.linspace(0.0004, 0.9996, 50, dtype=torch.float64, requires_grad=True)
    c = DDPM()(t)
    for value, derivative in ((c.alpha, c.d_alpha), (c.sigma, c.d_sigma)):
        torch.testing.assert_close(derivative, torch.autograd.grad(value.sum(), t, retain_graph=True)[0])


def test_a_noise_prediction_on_ddpm_gives_the_velocity_of_the_path():
    path, t = DDPM(), torch.tensor([0.2, 0.7], dtype=torch.float64)
    clean, eps = torch.randn(2, 2, 3, dtype=torch.float64).unbind()
    c = path(t)
    noisy = c.alpha[:, None] * clean + c.sigma[:, None] * eps
    velocity = Gaussian("noise", path).velocity(eps, noisy, t)
    torch.testing.assert_close(velocity, c.d_alpha[:, None] * clean + c.d_sigma[:, None] * eps)


@pytest.mark.parametrize("kind", KINDS)
def test_export_is_the_reverse_of_import(kind, tmp_path):
    model, ema = state_dict(kind), state_dict(kind, seed=1)
    run = imported(kind, tmp_path, {"model": model, "ema": ema, "steps": 4, "args": argparse.Namespace(a=1), "opt": {}})
    assert checkpoint.latest(Run(run).checkpoints).step == 4
    back = foreign.read(export_run(kind, run, tmp_path / "back.pt"))
    assert set(back.model) == set(model) == set(back.ema)
    for name, x in model.items():
        torch.testing.assert_close(back.model[name], x, rtol=1e-6, atol=1e-6)
        expected = x if name.startswith("projectors") else ema[name]  # of these the average is not kept
        torch.testing.assert_close(back.ema[name], expected, rtol=1e-6, atol=1e-6)
    alone = foreign.read(export_run(kind, checkpoint.latest(Run(run).checkpoints).path, tmp_path / "back.safetensors"))
    assert alone.ema is None and torch.equal(alone.model["blocks.0.attn.qkv.bias"], ema["blocks.0.attn.qkv.bias"])


def test_the_average_is_sampled_from_by_default(tmp_path):
    content = {"model": state_dict("sit"), "ema": {f"module.{k}": x for k, x in state_dict("sit", seed=1).items()}}
    run = imported("sit", tmp_path, content)
    assert torch.equal(denoiser(run).labels.weight, state_dict("sit", seed=1)["y_embedder.embedding_table.weight"])
    assert torch.equal(denoiser(run, "model").labels.weight, state_dict("sit")["y_embedder.embedding_table.weight"])


@pytest.mark.parametrize("kind", ["reed", "dit"])
def test_an_imported_run_is_sampled_from(kind, tmp_path, capsys):
    run = imported(kind, tmp_path)
    assert command(["sample", f"run={run}", "n=3", "device=cpu", f"out={tmp_path / 'samples'}"]) == 0
    assert "3 samples of step 0 (model)" in capsys.readouterr().out
    latents = [np.load(tmp_path / "samples" / f"{i:06d}.npy") for i in range(3)]
    assert all(x.shape == (CHANNELS, SIDE, SIDE) and np.isfinite(x).all() and x.std() > 0.1 for x in latents)
    assert (tmp_path / "samples" / "all.png").is_file()


def test_samples_of_an_imported_run_are_decoded(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    shape = {"block_out_channels": (4, 4), "norm_num_groups": 2, "latent_channels": CHANNELS, "sample_size": 2 * SIDE}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    diffusers.AutoencoderKL(**shape, **blocks).save_pretrained(tmp_path / "vae")
    run = imported("sit", tmp_path)
    asked = [f"run={run}", f"modality.decoder={tmp_path / 'vae'}", f"out={tmp_path / 'samples'}", "n=2", "device=cpu"]
    assert command(["sample", *asked]) == 0
    assert Image.open(tmp_path / "samples" / "000001.png").size == (2 * SIDE, 2 * SIDE)


def test_what_is_ours_alone_has_no_published_name():
    for own in (
        "denoiser.registers",
        "denoiser.companions.read.weight",
        "denoiser.embed.0.weight",
        "denoiser.blocks.3.attn.q_norm.weight",
        "objective.trained.other.projector.0.bias",
    ):
        assert published.theirs(own, published.layout("reed")) is None
    assert published.theirs("objective.trained.captions.projector.4.bias", published.layout("reed")) == "projectors.1.4.bias"


def faults(path: Any, kind: str = "sit", extra: tuple = ()) -> str:
    with pytest.raises(MultigenError) as error:
        import_run(kind, path, foreign.read(path), path.parent / "run", [*NEEDED, *extra])
    assert "\n" not in str(error.value) and not (path.parent / "run").exists()
    return str(error.value)


def saved(tmp_path: Any, content: Any) -> Any:
    torch.save(content, tmp_path / "theirs.pt")
    return tmp_path / "theirs.pt"


def test_every_key_that_does_not_fit_is_named(tmp_path):
    wrong = state_dict("sit")
    wrong["blocks.1.attn.q_norm.weight"] = torch.ones(8)
    wrong["blocks.2.mlp.fc2.bias"] = torch.ones(5)
    del wrong["t_embedder.mlp.2.weight"], wrong["blocks.0.attn.proj.bias"]
    found = faults(saved(tmp_path, wrong))
    for part in (
        "4 tensors differ",
        "missing t_embedder.mlp.2.weight",
        "missing blocks.0.attn.proj.bias",
        "unknown blocks.1.attn.q_norm.weight",
        "blocks.2.mlp.fc2.bias is [5], not [32]",
    ):
        assert part in found
    assert "unknown projectors.0.0.weight" in faults(saved(tmp_path, state_dict("repa")))
    assert "missing projectors.1.0.weight" in faults(saved(tmp_path, state_dict("repa")), "reed")


def test_what_is_no_checkpoint_of_this_size_or_at_all_is_refused_in_one_line(tmp_path):
    path = saved(tmp_path, state_dict("sit"))
    assert "another size" in faults(path, extra=("denoiser.depth=4",))
    with pytest.raises(MultigenError, match="heads cannot be read off a network of width 32: give heads=N"):
        import_run("sit", path, foreign.read(path), tmp_path / "run")
    assert "is no checkpoint of a SiT or DiT: it has no x_embedder.proj.weight" in faults(
        saved(tmp_path, {"a": torch.ones(1)})
    )
    assert "neither model nor ema" in faults(saved(tmp_path, {"epoch": 3}))
    moved = state_dict("sit")
    moved["pos_embed"] = moved["pos_embed"] + 0.1
    assert "pos_embed is not the table" in faults(saved(tmp_path, moved))
    with pytest.raises(MultigenError, match="unknown kind of checkpoint 'sti'"):
        published.layout("sti")


class Trap:
    def __reduce__(self) -> Any:
        return print, ("the file's code was run",)


def test_no_code_of_a_file_is_run(tmp_path, capsys):
    path = tmp_path / "trap.pt"
    path.write_bytes(pickle.dumps({"model": Trap()}, protocol=2))
    torch.save({"model": state_dict("sit"), "args": Trap()}, tmp_path / "trap2.pt")
    for one in (path, tmp_path / "trap2.pt"):
        with pytest.raises(MultigenError, match=r"is not read.* code is not run"):
            foreign.read(one)
    assert capsys.readouterr().out == ""
    (tmp_path / "cut.pt").write_bytes((tmp_path / "trap2.pt").read_bytes()[:5000])
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("cut.pt", "empty.pt", "absent.pt"):
        with pytest.raises(MultigenError, match=name):
            foreign.read(tmp_path / name)


def test_safetensors_are_read_too(tmp_path):
    save_file(state_dict("dit"), tmp_path / "theirs.safetensors")
    found = foreign.read(tmp_path / "theirs.safetensors")
    assert found.ema is None and set(found.model) == set(state_dict("dit"))


def test_a_run_that_means_something_else_is_not_exported(tmp_path):
    run = imported("sit", tmp_path)
    with pytest.raises(MultigenError, match=r"cannot be written as image/imagenet256_dit: processes is"):
        export_run("dit", run, tmp_path / "back.pt")
    with pytest.raises(MultigenError, match=r"must end in \.pt"):
        export_run("sit", run, tmp_path / "back.bin")
    config = Run(run).stored()
    for changed, reason in (
        ({"denoiser": {**config["denoiser"], "self_conditioned": True}}, "self_conditioned is True, not False"),
        ({"modality": {**config["modality"], "classes": 0}}, "it has no class labels"),
    ):
        with pytest.raises(MultigenError, match=reason):
            _check_process({**config, **changed}, published.layout("sit"), run)
    with pytest.raises(MultigenError, match=r"no place for: denoiser\.embed\.0\.weight"):
        published.to_theirs({"denoiser.embed.0.weight": torch.ones(2, 2)}, published.layout("sit"), SIDE, PATCH, "run")
    (tmp_path / "other").mkdir()
    with pytest.raises(MultigenError, match=r"no place for: objective\.trained\.patches"):
        export_run("sit", imported("repa", tmp_path / "other"), tmp_path / "back.pt")


MISTAKES = [
    ([], None),
    (["sti", "a.pt", "out=b"], "unknown kind of checkpoint 'sti': did you mean 'sit'?"),
    (["sit", "a.pt"], "import needs a kind, a checkpoint file and out="),
    (["sit", "absent.pt", "out=b"], "absent.pt is no file"),
    (["sit", "--force"], "unknown option '--force'"),
]


@pytest.mark.parametrize("arguments, message", MISTAKES)
def test_mistakes_on_the_command_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = command(["import", *arguments])
    out, err = capsys.readouterr()
    assert (code, "usage: multigen import" in out) == ((0, True) if message is None else (2, False))
    assert message is None or (message in err and err.count("\n") == 1)


class Noises:
    """Latents of noise, with the representations that REED wants."""

    fingerprint = "noises"
    labels = np.arange(8) % CLASSES  # (N,)

    def __init__(self, split: str, **settings: Any) -> None:
        self.rows = range(1, 8) if split == "train" else range(1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        draw = np.random.default_rng(self.rows[index]).normal
        target = {"tokens": draw(size=((SIDE // PATCH) ** 2, 6)), "caption": draw(size=10)}
        moments = np.ones((CHANNELS, SIDE, SIDE), np.float32)
        found = {"latent_mean": moments, "latent_std": moments, "label": int(self.labels[self.rows[index]])}
        return {**found, "target": {name: x.astype(np.float16) for name, x in target.items()}}


NOISES = [f"data.{side}._target_={__name__}.Noises" for side in ("train", "valid")]


def test_training_starts_from_an_imported_checkpoint(tmp_path, monkeypatch, capsys):
    """REED's own weights and heads, at latents and representations of noise."""
    monkeypatch.setenv("MULTIGEN_DATA", str(tmp_path))
    run = imported("reed", tmp_path, depth=DEEP)
    sizes = published.settings(published.sizes(state_dict("reed", DEEP), ""), published.layout("reed"), HEADS)
    small = ["trainer.steps=1", "trainer.batch_size=4", "trainer.workers=0", "trainer.precision=no", "trainer.log_to=[]"]
    small += [
        "trainer.observers.validation=null",
        "trainer.observers.samples=null",
        "trainer.progress=false",
        "device=cpu",
        "modality.decoder=null",
        *NOISES,
    ]
    keys = [f"{k}={v}" for k, v in sizes.items()]
    where = [f"run={tmp_path / 'tuned'}", f"start={run}"]
    assert command(["train", "experiment=image/imagenet256_reed", *where, *keys, *small]) == 0
    assert "(model)\n" in capsys.readouterr().out  # and no head is new
    tuned = checkpoint.latest(Run(tmp_path / "tuned").checkpoints).tensors("model")
    before = checkpoint.latest(Run(run).checkpoints).tensors("model")
    change = max(float((tuned[k] - x).abs().max()) for k, x in before.items())
    assert 0 < change < 2e-4  # one step of AdamW at 1e-4
