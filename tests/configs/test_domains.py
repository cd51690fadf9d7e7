"""Every suite of `multigen benchmark domain=NAME` names experiments that exist, and settings that they take."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from multigen.benchmark.suite import Run, suite, written
from multigen.build import compose, config_dir, options
from multigen.build.make import check
from multigen.cli.suite import overrides

NEEDED = {"pdb": {"data.path": "DIR", "embeddings": "DIR"}, "geom_drugs": {"data.path": "DIR", "unimol": "FILE"}}
DOMAINS = {
    name: suite(compose("benchmark", [f"domain={name}", f"++domain.settings={written(NEEDED.get(name, {}))}"])["domain"])
    for name in options("domain")
}
ARMS = [(name, arm) for name, made in DOMAINS.items() for arm in made.arms]


def composed(name, arm):
    made = DOMAINS[name]
    return compose("train", overrides(made, Run(arm, 1)))


def targets(node):
    if isinstance(node, dict):
        yield from [node] if "_target_" in node else []
        for child in node.values():
            yield from targets(child)


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_an_arm_is_composed(name, arm):
    config, made = composed(name, arm), DOMAINS[name]
    assert made.name == name and config["seed"] == 1 and config["trainer"]["steps"] == made.steps
    assert config.get("pairing") == {"null": "random", "shuffled": "shuffled"}.get(arm, "own")
    for node in targets(config):
        check(node, name)
    observers = {k: x for k, x in config["trainer"]["observers"].items() if x}
    assert observers["validation"]["every"] == made.validation["every"]
    assert not made.measures or observers["measures"]["n"] == made.measures["n"]


@pytest.mark.parametrize("name", DOMAINS)
def test_arms_differ_in_their_guidance_alone(name):
    """Same data, schedule, optimiser and times: what is not the same is what is compared."""
    first, *rest = [composed(name, arm) for arm in DOMAINS[name].arms if arm != "joint"]
    for config in rest:
        assert _examples(config["data"]) == _examples(first["data"])
        for key in ("denoiser", "processes", "times", "optimizer", "diffusion"):
            assert config[key] == first[key], key
        same = ("steps", "batch_size", "batch_tokens", "schedule", "precision", "ema", "clip")
        assert all(config["trainer"].get(key) == first["trainer"].get(key) for key in same)


def _examples(data):
    """Which examples are read, whatever representations lie beside them."""
    return {side: {k: x for k, x in data[side].items() if k != "targets"} for side in ("train", "valid")}


def test_braces_in_commands_are_quoted():
    """A shell makes two arguments of a={b:c,d:e}, of which the last one counts."""
    comments = [
        (path.name, line)
        for path in config_dir().rglob("*.yaml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    ]
    assert len(comments) > 100 and not [found for found in comments if re.search(r"(?<=[\s`(])[\w.+]+=\{", found[1])]


README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SWEEPS = re.findall(r"^multigen train -m (experiment=[^,\s]+ seed=0,1,2 \S+=\S+)", README, re.MULTILINE)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_run_of_an_ablation_is_composed(sweep):
    choices = [[f"{key}={value}" for value in values.split(",")] for key, values in (x.split("=") for x in sweep.split())]
    configs = [compose("train", list(given)) for given in itertools.product(*choices)]
    swept = sweep.split()[-1].partition("=")[0].split(".")
    assert len(configs) == 3 * len(choices[-1]) >= 6
    for config in configs[:: len(choices[0])][: len(choices[-1])]:
        for node in targets(config):
            check(node, sweep)
    assert len({str(_at(config, swept)) for config in configs}) == len(choices[-1])


def test_there_is_a_sweep_for_each_question():
    assert len(SWEEPS) >= 6


def _at(config, path):
    return _at(config[path[0]], path[1:]) if path else config
