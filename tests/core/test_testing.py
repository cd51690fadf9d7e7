"""The shipped assertions: what is right passes, and every way of being wrong is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from multigen import testing
from multigen.denoiser import Output, check_taps
from multigen.diffusion import Diffusion
from multigen.files import write_text
from multigen.interpolation import Never, Shifted, Trigonometric
from multigen.modality import collate_targets, run_encoders
from multigen.objective import Denoising, Objective
from multigen.process import P2, Gaussian, Masked, MinSNR, Uniform, symmetric, zero_com
from multigen.random import Noise, keys
from multigen.sampling import EulerMaruyama, Grid, Heun, Sampler
from multigen.state import Batch, Features, MultigenError

MASK = torch.arange(5) < torch.tensor([5, 3, 4, 1])[:, None]  # (B, N)
PAIRS = MASK[:, :, None] & MASK[:, None, :]  # (B, N, N)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))


def classes(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(high, (4, *shape), generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------------------------------- process

RIGHT: dict[str, tuple[Any, torch.Tensor, torch.Tensor | None]] = {
    "velocity": (Gaussian(), normal(2), None),
    "clean": (Gaussian("clean", loss_on="velocity"), normal(3, 4, 4), None),
    "noise": (Gaussian("noise", weight=MinSNR()), normal(5, 3), MASK),
    "trigonometric": (Gaussian(path=Trigonometric()), normal(5, 3), MASK),
    "shifted": (Gaussian("clean", path=Shifted(3.0), weight=P2()), normal(5, 3), MASK),
    "jitter": (Gaussian("clean", jitter=0.2), normal(2), None),
    "centred": (Gaussian("clean", project=zero_com), zero_com(normal(5, 3), MASK), MASK),
    "masked": (Masked(6), classes(6, 5), MASK),
    "masked, single site": (Masked(6, elbo=True), classes(6), None),
    "smoothed": (Masked(6, smoothing=0.1, score="all"), classes(6, 5), MASK),
    "uniform": (Uniform(6, path=Trigonometric()), classes(6, 5), MASK),
    "symmetric": (Uniform(4, project=symmetric), symmetric(classes(4, 5, 5), PAIRS), PAIRS),
    "read out at the end": (Masked(3, path=Never()), classes(3, 5), MASK),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_processes(name):
    testing.check_process(*RIGHT[name])


class Moving(Gaussian):
    def corrupt(self, clean, t, free, noise):
        return super().corrupt(clean, t, torch.ones_like(free), noise)._replace(free=free)


class Leaking(Gaussian):
    def prior(self, like, free, noise):
        return super().prior(like, free, noise) + 0.1 * like * free[:, None]


class Short(Gaussian):
    def corrupt(self, clean, t, free, noise):
        return super().corrupt(clean, 0.9 * t, free, noise)


class Late(Gaussian):
    def corrupt(self, clean, t, free, noise):
        return super().corrupt(clean, 0.1 + 0.9 * t, free, noise)


class Summed(Gaussian):
    def loss(self, pred, corrupted, t):
        return super().loss(pred, corrupted, t).sum()


class Everywhere(Gaussian):
    def loss(self, pred, corrupted, t):
        return super().loss(pred, corrupted._replace(free=torch.ones_like(corrupted.free)), t)


class Backwards(Gaussian):
    def loss(self, pred, corrupted, t):
        return -super().loss(pred, corrupted, t)


class Mixing(Gaussian):
    def corrupt(self, clean, t, free, noise):
        corrupted = super().corrupt(clean, t, free, noise)
        return corrupted._replace(noisy=torch.where(free[:, None], corrupted.noisy + clean.mean(0), clean))


class Wandering(Gaussian):
    def velocity(self, pred, noisy, t):
        return 1.2 * super().velocity(pred, noisy, t)


class Stuck(Gaussian):
    def velocity(self, pred, noisy, t):
        return torch.where(t[:, None] > 0.9, 0, super().velocity(pred, noisy, t))


class Fickle(Gaussian):
    def prior(self, like, free, noise):
        return torch.where(free[:, None], torch.randn_like(like), like)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Moving, "not free change at t"),
        (Leaking, "prior: free sites depend on the clean data"),
        (Short, "t = 1 is not the clean data"),
        (Late, "t = 0 depends on the clean data"),
        (Summed, "one number per example"),
        (Everywhere, "without a free site score"),
        (Backwards, "scores no better than a wrong one"),
        (Mixing, "depends on its batch"),
        (Wandering, "velocity: "),
        (Stuck, "does not return the clean data"),
        (Fickle, "prior: "),
    ],
)
def test_wrong_processes(wrong, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_process(wrong(), normal(2))


def test_examples_outside_the_subspace():
    with pytest.raises(AssertionError, match="does not lie in the process's subspace"):
        testing.check_process(Gaussian(project=zero_com), normal(5, 3), MASK)


# ----------------------------------------------------------------------------------------------------------------- oracle


@pytest.mark.parametrize("predict", ["velocity", "clean", "noise"])
@pytest.mark.parametrize(("stepper", "tolerance"), [(Heun(), 1e-3), (EulerMaruyama(), 0.05)])
def test_any_sampler_returns_what_the_oracle_knows(predict, stepper, tolerance):
    clean = {"x": normal(5, 3).double(), "k": classes(6, 5)}
    processes = {"x": Gaussian(predict, path=Trigonometric()), "k": Uniform(6)}
    template = Batch(clean, {"x": MASK, "k": MASK}, {"x": MASK, "k": MASK}, keys(0, range(4)))
    state = Sampler(Grid(100), continuous=stepper)(testing.Oracle(clean, processes), processes, template)
    assert testing.close(state["x"], clean["x"], MASK, tolerance)
    assert torch.equal(state["k"][MASK], clean["k"][MASK])


def test_oracle_refuses_what_it_does_not_know():
    class Strange:
        pass

    with pytest.raises(MultigenError, match="not Strange"):
        testing.exact(Strange(), normal(2), normal(2), torch.zeros(4))  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- denoiser


class Network(nn.Module):
    """Sites of two components and one condition, mixed by their masked mean."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.k, self.label = nn.Linear(3, 8), nn.Embedding(7, 8), nn.Embedding(3, 8)
        self.heads = nn.ModuleDict({"x": nn.Linear(8, 3), "k": nn.Linear(8, 6)})

    def null(self, cond):
        return {k: torch.full_like(v, 2) for k, v in cond.items()}

    def hidden(self, noisy, t, cond, mask):
        h = self.x(noisy["x"]) + self.k(noisy["k"]) + self.label(cond["label"])[:, None] + t["x"][:, None, None]  # (B, N, D)
        m = mask["x"][..., None]  # (B, N, 1)
        return h + torch.where(m, h, 0).sum(1, keepdim=True) / m.sum(1, keepdim=True)

    def forward(self, noisy, t, cond, mask, prev=None, taps=()):
        check_taps(taps, ["h"])
        h = self.hidden(noisy, t, cond, mask)
        return Output({k: head(h) for k, head in self.heads.items()}, {"h": Features(h, mask["x"])} if taps else {})


def batch() -> Batch:
    masks = {"x": MASK, "k": MASK}
    return Batch(
        {"x": normal(5, 3), "k": classes(6, 5)}, masks, masks, keys(0, range(4)), {"label": torch.tensor([0, 1, 1, 0])}
    )


def test_right_denoiser():
    network = Network().train()
    testing.check_denoiser(network, batch(), ["h"])
    assert network.training


class NoNull(Network):
    null = None  # type: ignore[assignment]


class Unmasked(Network):
    def hidden(self, noisy, t, cond, mask):
        return super().hidden(noisy, t, cond, {"x": torch.ones_like(mask["x"])})


class AcrossTheBatch(Network):
    def hidden(self, *given):
        h = super().hidden(*given)
        return h + h[:, :1].mean(0)


class Random(Network):
    def hidden(self, *given):
        return super().hidden(*given) + torch.rand(1)


class Unused(Network):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)


class AnyTap(Network):
    def forward(self, *given, taps=(), **options):
        return super().forward(*given, taps=[tap for tap in taps if tap == "h"], **options)


class Changing(Network):
    def null(self, cond):
        cond["label"].fill_(2)
        return cond


class Half(Network):
    def forward(self, *given, **options):
        output = super().forward(*given, **options)
        return output._replace(pred={"x": output.pred["x"]})


class Pooled(Network):
    def forward(self, *given, **options):
        output = super().forward(*given, **options)
        return output._replace(pred=output.pred | {"x": output.pred["x"].mean(1)})


class FloatMask(Network):
    def forward(self, *given, **options):
        output = super().forward(*given, **options)
        return output._replace(taps={k: Features(f.value, f.mask.float()) for k, f in output.taps.items()})


class FloatNull(Network):
    def null(self, cond):
        return {k: v.float() for k, v in cond.items()}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Unmasked, "what stands in padding"),
        (AcrossTheBatch, "depends on its batch"),
        (Random, "not deterministic"),
        (Unused, r"does not use: \['spare.weight', 'spare.bias'\]"),
        (AnyTap, "unknown tap raises no MultigenError"),
        (Changing, "null changes the condition 'label'"),
        (Half, r"predicts \['x'\], components are \['k', 'x'\]"),
        (Pooled, "predicts 'x' of shape"),
        (FloatMask, "tap 'h': a mask Bool"),
        (FloatNull, "condition 'label' is torch.int64"),
        (lambda: nn.Linear(2, 2), "needs methods __call__ and null"),
    ],
)
def test_wrong_denoisers(wrong, message):
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=message):
        testing.check_denoiser(wrong(), batch(), ["h"])


# --------------------------------------------------------------------------------------------------------------- modality


class Lines:
    """Lines of 1 to 5 numbers."""

    fingerprint = "lines"

    def __len__(self):
        return 12

    def __getitem__(self, index):
        values = np.cos(np.arange(1 + index % 5) + index).astype(np.float32)
        return {"values": values, "target": {"mean": np.full(2, values.mean())}}


@dataclass
class Writing:
    """Lines as a modality: the shortest one that is right."""

    encoders: Any = None

    def collate(self, examples, keys):
        lengths = torch.tensor([len(e["values"]) for e in examples])  # (B,)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]  # (B, N)
        x = torch.zeros(mask.shape)  # (B, N)
        x[mask] = torch.cat([torch.from_numpy(e["values"]) for e in examples])
        return Batch({"x": x[..., None]}, {"x": mask}, {"x": mask}, torch.tensor(keys), target=collate_targets(examples))

    def encode(self, batch):
        return run_encoders(batch, {})

    def template(self, index, seed):
        key = keys(seed, index, "sample")
        length = 1 + Noise(key).fold("template").integers(5)  # (B,)
        mask = torch.arange(int(length.max())) < length[:, None]  # (B, N)
        return Batch({"x": torch.zeros(*mask.shape, 1)}, {"x": mask}, {"x": mask}, key)

    def decode(self, state, template):
        return [x[m].flatten().tolist() for x, m in zip(state["x"], template.mask["x"], strict=True)]

    def save(self, samples, folder):
        return [write_text(folder / "lines.txt", "\n".join(str(s) for s in samples if s is not None))]

    def draw(self, samples, path):
        return write_text(path, f"{len(samples)} lines")


def test_right_modality():
    testing.check_modality(Writing(), Lines())
    testing.check_round_trip(Writing(), Lines(), {"x": Gaussian("clean")})


class Normalised(Writing):
    def collate(self, examples, keys):
        batch = super().collate(examples, keys)
        return batch.replace(clean={"x": batch.clean["x"] - batch.clean["x"].mean()})


class OwnKeys(Writing):
    def collate(self, examples, keys):
        return super().collate(examples, range(len(keys)))


class Raw(Writing):
    def encode(self, batch):
        return batch.replace(raw={"text": batch.key})


class Freed(Writing):
    def encode(self, batch):
        return batch.replace(free={"x": torch.ones_like(batch.mask["x"])})


class FlatMask(Writing):
    def encode(self, batch):
        return batch.replace(mask={"x": batch.mask["x"].flatten()})


class ShortCondition(Writing):
    def encode(self, batch):
        return batch.replace(cond={"label": batch.key[:1]})


class BatchTemplate(Writing):
    def template(self, index, seed):
        batch = super().template(index, seed)
        mask = torch.arange(5) < 1 + torch.arange(len(index))[:, None]
        return batch.replace(clean={"x": torch.zeros(len(index), 5, 1)}, mask={"x": mask}, free={"x": mask})


class Finished(Writing):
    def template(self, index, seed):
        batch = super().template(index, seed)
        return batch.replace(free={"x": torch.zeros_like(batch.mask["x"])})


class OwnSeed(Writing):
    def template(self, index, seed):
        return super().template(index, seed).replace(key=torch.tensor(list(index)))


class Strict(Writing):
    def decode(self, state, template):
        return [None for _ in template.key]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Normalised, "component 'x'"),
        (OwnKeys, "keys on as Batch.key"),
        (Raw, r"\['text'\] in raw"),
        (Freed, "free that are not real"),
        (FlatMask, "no prefix of"),
        (ShortCondition, r"cond\['label'\] has 1 rows for 4 examples"),
        (BatchTemplate, "row 1 of a template depends on the other rows"),
        (Finished, "leaves nothing to be made"),
        (OwnSeed, "key of a template"),
        (Strict, "real examples invalid"),
    ],
)
def test_wrong_modalities(wrong, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_modality(wrong(), Lines())


def test_wrong_data():
    class Fickle(Lines):
        def __getitem__(self, index):
            return {"values": np.random.default_rng().random(3, np.float32)}

    with pytest.raises(AssertionError, match="another example for the same index"):
        testing.check_modality(Writing(), Fickle())


class Spreading(nn.Module):
    """Looks at how far its batch was padded."""

    def null(self, cond):
        return cond

    def forward(self, noisy, t, cond, mask, prev=None, taps=()):
        return Output({"x": noisy["x"] * mask["x"].shape[1]}, {})


def test_companions_change_nothing():
    contract = testing.Contract(Lines(), Writing(), Spreading(), {"x": Gaussian()})
    with pytest.raises(AssertionError, match="depends on its companions"):
        testing.check_companions(contract)


# --------------------------------------------------------------------------------------------------------------- learning


def test_learning_one_batch():
    torch.manual_seed(0)
    diffusion = Diffusion(Network(), {"x": Gaussian("clean"), "k": Masked(6)}, Objective({"denoise": Denoising()}))
    losses = testing.learns_one_batch(diffusion, batch(), steps=60, lr=0.03)
    assert len(losses) == 60 and losses[-1] < 0.5 * losses[0]
    frozen = Diffusion(Network().requires_grad_(False), diffusion.processes, diffusion.objective)
    nn.init.ones_(next(frozen.parameters()).requires_grad_(True))
    with pytest.raises(AssertionError, match="the loss went from"):
        testing.learns_one_batch(frozen, batch(), steps=2)
