"""What the README shows is run as it stands there."""

import ast
import re
from pathlib import Path

from multigen.build import options
from multigen.cli.extra import commands
from multigen.cli.main import COMMANDS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
ROOT = Path(__file__).parents[2]


def blocks(language: str) -> list[str]:
    return [text for name, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE) if name == language]


def test_the_example_is_short_and_trains(capsys):
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 25
    exec(compile(ast.parse(example), "README.md", "exec"), {})
    last = capsys.readouterr().out.strip().splitlines()[-1]
    alignment = float(re.search(r"'align': (-?[\d.]+)", last)[1])
    assert alignment < -0.3, "aligned with the encoder after four steps"


def test_commands_and_experiments_exist():
    lines = blocks("") + re.findall(r"`(multigen .*?)`", README)
    shown = re.findall(r"multigen (\w+) ?((?:\S+=\S+ ?)*)", "\n".join(lines))
    assert len(shown) >= 6
    for command, overrides in shown:
        assert command in {*COMMANDS, *commands()}
        for experiment in re.findall(r"experiment=(\S+)", overrides):
            assert experiment in options("experiment")


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
