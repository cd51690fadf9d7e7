"""The smallest domain for tests: pairs of numbers, a network of one parameter, a sampler of one step."""

from types import MappingProxyType

import torch
from torch import nn

from multigen.denoiser import Output
from multigen.random import Noise, keys
from multigen.state import Batch


class Data:
    fingerprint = "numbers"

    def __init__(self, n=10):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return {"x": torch.tensor([index / 10, 1.0])}


class Numbers:
    """A modality of pairs of numbers."""

    encoders = MappingProxyType({})

    def collate(self, examples, keys):
        return self._batch(torch.stack([e["x"] for e in examples]), torch.tensor(keys))

    def encode(self, batch):
        return batch

    def template(self, index, seed):
        return self._batch(torch.zeros(len(index), 2), keys(seed, index, "sample"))

    def decode(self, state, template):
        return [x if x[0] > -2 else None for x in state["x"]]

    def save(self, samples, folder):
        raise AssertionError("not asked for")

    def draw(self, samples, path):
        path.write_text(" ".join("-" if s is None else f"{s[0]:.3f}" for s in samples))
        return path

    def _batch(self, x, key):
        real = torch.ones(len(x), dtype=torch.bool)
        return Batch({"x": x}, {"x": real}, {"x": real}, key, {"label": torch.zeros(len(x), dtype=torch.long)})


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self._modes = []

    def forward(self, noisy, t, cond, mask, prev=None, taps=()):
        self._modes.append(self.training)
        return Output({"x": self.scale * noisy["x"] + cond["label"][:, None]}, {})

    def null(self, cond):
        return {"label": torch.full_like(cond["label"], 1000)}


class Sampler:
    """One step from noise; counts its calls, and can be told to stop working."""

    def __init__(self, gain=1.0, fail_at=None):
        self.gain = gain
        self._calls, self._fail_at = 0, fail_at

    def __call__(self, denoiser, processes, template):
        self._calls += 1
        if self._calls == self._fail_at:
            raise KeyboardInterrupt
        noise = {"x": Noise(template.key).normal([2])}
        return {"x": self.gain * denoiser(noise, {}, template.cond, template.mask).pred["x"]}
