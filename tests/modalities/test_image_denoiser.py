"""SiT: sizes, initialisation, tokens, taps, labels (I1, I5, A4, A5)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modalities.image.denoiser import SIZES, SiT
from modalities.image.plain import PlainSiT
from multigen.alignment import Alignment
from multigen.denoiser import Denoiser
from multigen.diffusion import Diffusion
from multigen.nn import MLPProjector
from multigen.objective import Denoising, Objective
from multigen.process import Gaussian
from multigen.random import Noise, keys
from multigen.state import Batch, Features, MultigenError
from multigen.trainer.speed import training_flops


def small(**settings) -> SiT:
    torch.manual_seed(0)
    return SiT(**{"size": 8, "patch": 2, "channels": 3, "width": 16, "depth": 4, "heads": 2, "classes": 5, **settings})


def stirred(**settings) -> SiT:
    """A network that has left its zero initialisation."""
    net = small(**settings)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    return net


def run(net: SiT, image: torch.Tensor | None = None, t: float = 0.3, label: int = 1, taps=(), n: int = 2):
    image = Noise(keys(0, range(n))).normal([net.channels, net.size, net.size]) if image is None else image
    times, ones = torch.full((len(image),), t), torch.ones(len(image), dtype=torch.bool)
    cond = {"label": torch.full((len(image),), label)} if net.classes else {}
    return net({"image": image}, {"image": times}, cond, {"image": ones}, taps=taps)


def count(name: str) -> tuple[int, int]:
    with torch.device("meta"):
        net = SiT.named(name, size=32, channels=4, classes=1000)
    return sum(p.numel() for p in net.parameters()), net.position.numel()


@pytest.mark.parametrize("name, millions", [("XL/2", 675.11), ("L/2", 458.09), ("B/2", 130.50)])
def test_published_sizes_have_the_published_numbers_of_parameters(name, millions):
    """I1. The published counts include the frozen table of positions, which is a buffer here."""
    trained, table = count(name)
    assert round((trained + table) / 1e6, 2) == millions
    assert table == 256 * SIZES[name.partition("/")[0]]["width"]


@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("letter", SIZES)
def test_every_size_builds_at_every_patch(letter, patch):
    trained, table = count(f"{letter}/{patch}")
    assert table == (32 // patch) ** 2 * SIZES[letter]["width"]
    # from patch 2 only the embedding and the head change: (4 p^2) in, (4 p^2) out
    assert trained - count(f"{letter}/2")[0] == (4 * patch**2 - 16) * (2 * SIZES[letter]["width"] + 1)


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_the_small_size_runs_at_every_patch(patch):
    """I1: the published S sizes crash, because a width is left at that of B."""
    net = SiT.named(f"S/{patch}", size=16, channels=4, classes=3)
    output = run(net, n=1, taps=["block12"])
    assert output.pred["image"].shape == (1, 4, 16, 16)
    assert output.taps["block12"].value.shape == (1, (16 // patch) ** 2, 384)


@pytest.mark.parametrize(
    "settings", [{}, {"size": 24, "patch": 8, "channels": 1}, {"registers": 3}, {"bottleneck": 5}, {"classes": 0}], ids=str
)
def test_output_is_zero_and_blocks_are_the_identity_at_initialisation(settings):
    net = small(**settings)
    output = run(net, taps=net.tap_names)
    assert (output.pred["image"] == 0).all()
    first = output.taps["block1"].value
    assert all(torch.equal(f.value, first) for f in output.taps.values()) and first.abs().max() > 0


def test_initialisation_is_that_of_dit():
    net = small(width=128, heads=4)
    for linear in (net.embed, net.blocks[0].attn.qkv, net.blocks[1].mlp[0]):
        bound = (6 / (linear.in_features + linear.out_features)) ** 0.5
        assert 0.9 * bound < linear.weight.abs().max() <= bound and (linear.bias == 0).all()
    assert net.labels.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert net.time.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_every_parameter_is_trained_once_the_zeros_are_left():
    net = stirred(registers=2, bottleneck=6, qk_norm=True)
    run(net).pred["image"].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_patches_are_put_back_where_they_were_taken():
    net = small(size=12, patch=3, channels=2)
    image = torch.arange(2 * 2 * 12 * 12.0).reshape(2, 2, 12, 12)
    patches = net.patchify(image)
    assert patches.shape == (2, 16, 2 * 9)
    assert torch.equal(net.unpatchify(patches), image)
    assert torch.equal(patches[1, 6].reshape(2, 3, 3), image[1, :, 3:6, 6:9])  # row-major: token 6 is row 1, column 2


def test_the_embedding_of_patches_is_a_strided_convolution():
    net = small(size=12, patch=3, channels=2)
    image = torch.randn(2, 2, 12, 12)
    kernel = net.embed.weight.reshape(16, 2, 3, 3)
    conv = nn.functional.conv2d(image, kernel, net.embed.bias, stride=3).flatten(2).transpose(1, 2)
    assert torch.allclose(net.embed(net.patchify(image)), conv, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 4])
def test_tap_k_is_what_stands_after_k_blocks(k):
    """A4: counted from one."""
    net = stirred()
    image = torch.randn(2, 3, 8, 8)
    x = net.embed(net.patchify(image)) + net.position
    c = net.time(torch.full((2,), 0.3)) + net.labels(torch.tensor([1, 1]))
    for block in net.blocks[:k]:
        x = block(x, c)
    output = run(net, image, taps=[f"block{k}"])
    assert set(output.taps) == {f"block{k}"}
    assert torch.allclose(output.taps[f"block{k}"].value, x, atol=1e-5)
    assert output.taps[f"block{k}"].mask.shape == (2, 16) and output.taps[f"block{k}"].mask.all()


def test_taps_change_nothing_and_cost_nothing_when_not_asked_for():
    net, image = stirred(), torch.randn(2, 3, 8, 8)
    assert run(net, image).taps == {}
    assert torch.equal(run(net, image).pred["image"], run(net, image, taps=net.tap_names).pred["image"])


def test_registers_are_not_tapped_and_not_put_out():
    net = stirred(registers=3)
    output = run(net, taps=["block2"])
    assert output.taps["block2"].value.shape == (2, 16, 16) and output.pred["image"].shape == (2, 3, 8, 8)
    before = output.pred["image"]
    with torch.no_grad():
        net.registers.mul_(3)
    assert not torch.allclose(run(net).pred["image"], before)


def test_the_network_reads_position_time_and_label():
    net, image = stirred(), torch.randn(1, 3, 8, 8)
    plain = run(net, image).pred["image"]
    assert not torch.allclose(run(net, image, t=0.8).pred["image"], plain)
    assert not torch.allclose(run(net, image, label=2).pred["image"], plain)
    swapped = image.clone()
    swapped[..., :4], swapped[..., 4:] = image[..., 4:], image[..., :4]
    moved = run(net, swapped).pred["image"]
    assert not torch.allclose(torch.cat([moved[..., 4:], moved[..., :4]], -1), plain, atol=1e-4)


def test_null_is_the_row_after_the_last_class():
    """I5: the number of classes, not a constant."""
    net = small(classes=7)
    assert net.labels.weight.shape == (8, 16)
    null = net.null({"label": torch.tensor([0, 3, 6]), "other": torch.ones(3, 2)})
    assert null["label"].tolist() == [7, 7, 7] and (null["other"] == 1).all()
    assert small(classes=0).null({}) == {} and small(classes=0).labels is None
    assert isinstance(net, Denoiser)


def test_heads_never_enter_the_network():
    """A5: the projectors live in the objective; what is averaged, exported and sampled has none."""
    net = small()
    terms = {"denoise": Denoising(), "patches": Alignment("block2", "dino", MLPProjector(16, 6, 32))}
    diffusion = Diffusion(net, {"image": Gaussian()}, Objective(terms))
    assert set(diffusion.denoiser.state_dict()) == set(small().state_dict())
    heads = {name for name in diffusion.state_dict() if not name.startswith("denoiser.")}
    assert heads and all(name.startswith("objective.trained.patches.projector.") for name in heads)
    assert "position" not in net.state_dict()  # made anew from the size, never loaded


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_time_scale_resolves_small_differences_of_time(scale):
    net = small(time_scale=scale)
    near = (net.time(torch.tensor([0.5])) - net.time(torch.tensor([0.501]))).norm() / net.time(torch.tensor([0.5])).norm()
    assert near > 0.05 if scale == 1000 else near < 0.01


def test_it_runs_in_half_precision_under_autocast():
    net, image = stirred(), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(net, image, taps=["block4"])
    exact = run(net, image).pred["image"]
    assert (output.pred["image"].float() - exact).norm() < 0.05 * exact.norm()


def trained(recompute: bool, half: bool) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """Loss, gradients, and the bytes that are kept for the backward pass, of a step of REPA."""
    net, kept = stirred(recompute=recompute), dict[int, int]()
    terms = {"denoise": Denoising(), "patches": Alignment("block2", "dino", MLPProjector(16, 6, 32))}
    diffusion = Diffusion(net, {"image": Gaussian()}, Objective(terms))
    image = Noise(key := keys(0, range(4))).normal([3, 8, 8])
    ones, seen = {"image": torch.ones(4, dtype=torch.bool)}, torch.ones(4, 16, dtype=torch.bool)
    target = {"dino": Features(Noise(key).fold("dino").normal([16, 6]), seen)}
    batch = Batch({"image": image}, ones, ones, key, {"label": torch.arange(4)}, target)

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = diffusion(batch, 5).total
    loss.backward()
    return loss.detach(), [p.grad for p in diffusion.parameters()], sum(kept.values())


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_recomputing_activations_changes_memory_alone(half):
    plain, frugal = trained(False, half), trained(True, half)
    assert torch.equal(plain[0], frugal[0]) and len(plain[1]) == len(frugal[1])
    assert all(torch.equal(a, b) for a, b in zip(plain[1], frugal[1], strict=True))
    assert frugal[2] < 0.5 * plain[2]


def test_recomputed_work_does_not_count_as_work():
    counts = []
    for recompute in (False, True):
        net = stirred(recompute=recompute)
        diffusion = Diffusion(net, {"image": Gaussian()}, Objective({"denoise": Denoising()}))
        ones, key = {"image": torch.ones(2, dtype=torch.bool)}, keys(0, range(2))
        batch = Batch({"image": torch.zeros(2, 3, 8, 8)}, ones, ones, key, {"label": torch.arange(2)})
        counts.append(training_flops(diffusion, batch, 0))
        assert net.blocks[0].recompute is recompute
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: small(patch=3), "patch 3 does not divide the image size 8"),
        (lambda: small(heads=3), "width 16 must be a multiple of 4 and of the 3 heads"),
        (lambda: SiT.named("XXL/2", size=32), "'XXL/2'; choices are S, B, L, XL"),
        (lambda: SiT.named("B", size=32), "each with a patch side as in 'B/2'"),
        (lambda: run(small(), taps=["block5"]), "no tap 'block5'.*block1"),
        (lambda: run(small(), torch.zeros(1, 3, 16, 16)), r"built for image of shape \(3, 8, 8\), got \(3, 16, 16\)"),
        (
            lambda: small()({"image": torch.zeros(1, 3, 8, 8)}, {"image": torch.zeros(1)}, {}, {}),
            r"needs condition 'label'; the batch has \[\]",
        ),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(MultigenError, match=words):
        make()


def test_self_conditioning_reads_the_previous_prediction():
    net = SiT(8, 2, width=16, depth=1, heads=2, self_conditioned=True)
    torch.nn.init.normal_(net.head.weight)
    image = {"image": torch.randn(2, 3, 8, 8)}
    t, mask = {"image": torch.rand(2)}, {"image": torch.ones(2, dtype=torch.bool)}
    alone = net(image, t, {}, mask).pred["image"]
    zeros = net(image, t, {}, mask, prev={"image": torch.zeros(2, 3, 8, 8)}).pred["image"]
    other = net(image, t, {}, mask, prev={"image": torch.ones(2, 3, 8, 8)}).pred["image"]
    assert torch.equal(alone, zeros) and not torch.allclose(alone, other)


def test_the_plain_network_is_the_same_function():
    """What speed is measured against computes what it is measured against."""
    net = stirred()
    plain = PlainSiT(size=8, patch=2, channels=3, width=16, depth=4, heads=2, classes=5)
    found = {k.replace("attn.", "").replace("time.mlp.", "time."): v for k, v in net.state_dict().items()}
    found["embed.weight"] = found["embed.weight"].view(16, 3, 2, 2)
    plain.load_state_dict(found)
    image, ones = torch.randn(2, 3, 8, 8), {"image": torch.ones(2, dtype=torch.bool)}
    given = {"image": image}, {"image": torch.tensor([0.2, 0.9])}, {"label": torch.tensor([1, 5])}, ones
    ours, theirs = net(*given, taps=["block2"]), plain(*given, taps=["block2"])
    torch.testing.assert_close(theirs.pred["image"], ours.pred["image"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs.taps["block2"].value, ours.taps["block2"].value, rtol=1e-4, atol=1e-4)
    assert torch.equal(plain.null(given[2])["label"], net.null(given[2])["label"])


def test_only_a_network_without_extras_is_compared():
    node = {"_target_": "modalities.image.denoiser.SiT", "size": 8, "width": 16, "registers": 0, "joint": {}}
    config = {"denoiser": node, "trainer": {"compile": False}}
    found = SiT.alternatives(config)
    assert found["plain_sit"].config["denoiser"] == {"_target_": "modalities.image.plain.PlainSiT", "size": 8, "width": 16}
    assert found["plain_sit_compiled"].config["trainer"] == {"compile": True}
    assert SiT.alternatives({**config, "denoiser": {**node, "registers": 2}}) == {}
