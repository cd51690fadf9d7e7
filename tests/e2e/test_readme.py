"""What the README and its neighbours show is run as it stands there: commands as far as their work."""

import ast
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from documented import ROOT, Line, calls, lines
from hydra.errors import HydraException

from modalities.image import published
from multigen.build import compose
from multigen.build.experiment import Experiment
from multigen.build.make import check
from multigen.cli import settings as own
from multigen.cli import suite
from multigen.cli.evaluate import named
from multigen.cli.extra import commands
from multigen.cli.main import COMMANDS, run
from multigen.cli.trained import overlaid
from multigen.random import keys
from multigen.state import Batch, MultigenError

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "README.md",
        "Makefile",
        ".benchmark/README.md",
        "data/README.md",
        "modalities/*/README.md",
        "modalities/*/TEACHERS.md",
        "modalities/*/commands.py",
        "configs/**/*.yaml",
    )
    for path in sorted(ROOT.glob(pattern))
]
LINES: dict[str, Line] = {}
"""What is shown, once; a line that uses a run, once on each page, for the run is another there."""
for line in [line for page in PAGES for line in lines(page)]:
    uses = "multigen train" not in line.text and re.search("RUN|outputs", line.text)
    LINES.setdefault(f"{line.page}: {line.text}" if uses else line.text, line)

RUNS = {
    ".benchmark/README.md": {"RUN": "protein/reed"},
    "README.md": {"RUN": "image/imagenet256_reed", "outputs/vanilla": "image/emoji_vanilla"},
    "modalities/molecule/README.md": {"RUN": "molecule/vanilla"},
    "modalities/protein/README.md": {"RUN": "protein/reed"},
    "modalities/protein/commands.py": {"outputs/reed": "protein/reed"},
    "modalities/molecule/commands.py": {"outputs/complete": "molecule/complete"},
    "configs/sample.yaml": {"RUN": "image/imagenet256_sit", "outputs/demo": "image/demo", "outputs/joint": "points/joint"},
    "configs/evaluate.yaml": {"outputs/demo": "image/demo"},
    "configs/diagnose.yaml": {"outputs/reed": "image/emoji_reed", "outputs/vanilla": "image/emoji_vanilla"},
}
"""Page -> run folder -> the experiment whose run it is, where no line of the page trains or imports it."""


def blocks(language: str) -> list[str]:
    return [text for name, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE) if name == language]


def test_the_example_is_short_and_trains(capsys):
    example, _ = blocks("python")
    assert len(example.strip().splitlines()) <= 25
    exec(compile(ast.parse(example), "README.md", "exec"), {})
    last = capsys.readouterr().out.strip().splitlines()[-1]
    alignment = float(re.search(r"'align': (-?[\d.]+)", last)[1])
    assert alignment < -0.3, "aligned with the encoder after four steps"


def test_the_encoder_of_ones_own_encodes():
    found: dict[str, Any] = {}
    exec(compile(ast.parse(blocks("python")[1]), "README.md", "exec"), found)
    images = torch.rand(2, 3, 32, 32)  # (B, C, H, W)
    value, mask = found["Colours"]()(Batch.dense({"image": images}, keys(0, range(2))))
    torch.testing.assert_close(value, torch.nn.functional.avg_pool2d(images, 8).flatten(2).mT)
    assert mask.shape == (2, 16) and mask.all()


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith(".md")])
def test_links_lead_somewhere(page):
    for target, _, part in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", (ROOT / page).read_text(encoding="utf-8")):
        to = (ROOT / page).parent / target if target else ROOT / page
        assert to.exists(), target
        if part:
            prose = re.sub(r"^```.*?^```", "", to.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
            titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
            assert part in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, f"{target}#{part}"


# ---------------------------------------------------------------------------------------------------------------- commands


class Reached(BaseException):
    """A command has read what it was told and begins its work with that."""


def work(*given):
    raise Reached(*given)


@pytest.fixture
def told(monkeypatch, tmp_path, data_root):
    """The settings of the commands that are given, in a folder with configurations of the user's own; no command does work."""
    seen = []
    read = own.read

    def arms(plan, folder, device):  # that the line names; all of a suite's own are composed in test_domains
        chosen = list(plan.arms) if seen[-1]["arms"] else list(plan.arms)[:1]
        runs = [suite.configure(plan, suite.Run(arm, plan.seeds[0]), folder / arm, device) for arm in chosen]
        raise Reached([run.config for run in runs])

    monkeypatch.setattr(own, "read", lambda *given, **kinds: seen.append(read(*given, **kinds)) or seen[-1])
    monkeypatch.setattr(Experiment, "__init__", work)
    monkeypatch.setattr(suite, "prepare", arms)
    for name in ("evaluate.make", "suite.again", "benchmark.compare", "report.report"):
        monkeypatch.setattr(f"multigen.cli.{name}", work)
    monkeypatch.setattr("multigen.cli.trained.opened", lambda run, one: None)
    monkeypatch.setattr("modalities.image.commands._trees", work)
    monkeypatch.setattr("modalities.image.foreign.read", work)
    monkeypatch.setattr("modalities.protein.commands._task", lambda *given: None)  # reads a structure
    monkeypatch.setattr("multigen.distributed.accelerator", lambda *given: SimpleNamespace(device=torch.device("cpu")))
    monkeypatch.setattr("sys.argv", ["multigen"])
    # composes once more, to see whether the mode is set there
    monkeypatch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *given, **named: None, raising=False)
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "configurations/experiment/my/experiment.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(blocks("yaml")[-1])
    (tmp_path / "mine.py").write_text(blocks("python")[1])
    monkeypatch.syspath_prepend(tmp_path)
    return seen


def swept(arguments):
    """The first and the last run of a sweep, each as a sweep of its own."""
    if "-m" not in arguments:
        return [arguments]
    from hydra.core.override_parser.overrides_parser import OverridesParser

    read = OverridesParser.create().parse_override
    parsed = [None if a.startswith("-") else read(a) for a in arguments]
    values = [list(x.sweep_string_iterator()) if x and x.is_sweep_override() else [] for x in parsed]
    assert any(values), "nothing is swept"
    keys = [a.partition("=")[0] for a in arguments]
    return [[f"{k}={xs[end]}" if xs else a for a, k, xs in zip(arguments, keys, values, strict=True)] for end in (0, -1)]


@cache
def runs(page):
    """Run folder -> settings of its training: those that the page's lines train or import, and those named above."""
    found = {name: [f"experiment={experiment}"] for name, experiment in RUNS.get(page, {}).items()}
    # a line with braces may be refused, which is for its own test to say
    for command, *arguments in [call for line in lines(page) if "{" not in line.text for call in calls(line.text)]:
        if command == "train":
            for settings in swept(arguments):
                given = dict(a.split("=", 1) for a in settings if "=" in a)
                unnamed = f"outputs/{given.get('experiment', '').replace('/', '_')}-seed{given.get('seed', 0)}-20260101-000000"
                found[given.pop("run", unnamed)] = [f"{k}={x}" for k, x in given.items()]
        if command == "import" and len(arguments) > 2:
            out = next(a.removeprefix("out=") for a in arguments if a.startswith("out="))
            found[out] = [f"experiment={published.layout(arguments[0]).experiment}"]
    return found


def make_runs(page, words):
    """Run folders as far as the configuration, of those that a call names."""
    for name, settings in runs(page).items():
        if any(name in word for word in words) and not Path(name).exists():
            Path(name).mkdir(parents=True)
            (Path(name) / "config.yaml").write_text(stored(*settings))


@cache
def stored(*settings):
    return yaml.safe_dump(compose("train", settings))


def nodes(value, preparing):
    """All components in a configuration; those that make data only when they do."""
    if isinstance(value, dict) and "_target_" in value:
        yield value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, child in children:
        if key != "prepare" or preparing:
            yield from nodes(child, preparing)


def composed(page, words, told):
    """Give a call to the command line, and check what it would work with.

    A command alone, as prose names it, has to be one; N is 8; a file below ``data/examples`` has to be there. No other file,
    no network and no pictures are needed before the work, so that FILE, DIR and VAE are names like any other.
    """
    command, *arguments = [re.sub(r"=N$", "=8", word) for word in words]
    if not arguments:
        assert command in {*COMMANDS, *commands()}
        return
    if missing := [a for a in arguments if a.startswith("data/examples/") and not (ROOT / a).is_file()]:
        raise AssertionError(f"there is no {missing[0]}")
    if command != "train" or any(a.startswith("resume=") for a in arguments):
        make_runs(page, arguments)
    for settings in swept(arguments):
        told.clear()
        try:
            assert run([command, *settings]) == 0, "the command refuses what it is told"
            assert "--help" in settings, "the command does not come to its work"
            continue
        except Reached as reached:
            used = reached.args
        if command == "evaluate":
            of_run = next((x for x in used if isinstance(x, dict) and "modality" in x), {})
            used += (named(overlaid(of_run.get("metrics") or {}, told[-1]["metrics"])),)
        if command == "diagnose" and told[-1]["teachers"]:
            used += (compose("train", [f"experiment={told[-1]['teachers']}"]),)
        for node in nodes(used, command == "prepare"):
            check(node, command)


@pytest.mark.parametrize("line", LINES.values(), ids=str)
def test_a_shown_command_is_composed(line, told):
    for words in calls(line.text, tuple(runs(line.page))):
        composed(line.page, words, told)


def test_every_page_with_commands_is_read():
    shown = {line.page for page in PAGES for line in lines(page)}
    assert shown >= {"README.md", ".benchmark/README.md", "Makefile", "configs/train.yaml", "configs/domain/pdb.yaml"}
    assert shown >= {f"modalities/{x}/README.md" for x in ("image", "molecule", "points", "protein")}
    named = {word for line in LINES.values() for word in re.findall(r"multigen(?:\.cli)? (\w+)", line.text)}
    assert named == {*COMMANDS, *commands()}


WRONG = {
    "multigen trian experiment=image/emoji_reed": "did you mean 'train'",
    "multigen train experiment=image/emoji_reed trainer.steps=many": "'many'",
    "multigen train -m experiment=image/emoji_reed seed=0": "nothing is swept",
    "multigen train -m experiment=image/emoji_reed,image/emoji_red seed=0,1": "did you mean 'image/emoji_reed'",
    "multigen train experiment=protein/pdb_reed": "is needed and not given",
    "multigen train experiment=my/other --config-dir configurations": "'my/other'",
    "multigen sample run=RUN modality.label=3": "no parameter 'label'",
    "multigen sample run=RUN sampler.scale=3": "unknown key 'sampler.scale'",
    "multigen evaluate run=RUN metrics.inceptoin.rows=3": "metrics.inceptoin is no metric",
    "multigen evaluate samples=DIR metrics=[inception] metrics.inception.row=3": "no parameter 'row'",
    "multigen diagnose run=RUN teachers=image/emoji_red": "image/emoji_red",
    "multigen benchmark domain=image arms={a:image/emoji_reed,b:image/emoji_repa}": "quote it",
    "multigen benchmark domain=image 'arms={a:image/emoji_reed,b:image/emoji_rep}'": "arm 'b'",
    "multigen benchmark experiment=image/emoji_reed measure=[egnn]": "cannot measure 'egnn'",
    "multigen import red FILE out=RUN": "unknown kind of checkpoint 'red'",
    "multigen export reed RUN": "out=",
    "multigen caption image/emoji_red model=MODEL out=FILE": "did you mean 'image/emoji_reed'",
    "multigen design data/examples/1A8O.pdb.gz --run RUN": "inverse folding",
    "multigen complete data/examples/benzamidine.sdf --run RUN --ad 3": "required: --add",
    "multigen complete data/examples/aniline.sdf --run RUN --add 3": "there is no data/examples/aniline.sdf",
    "torchrun --processes 2 -m multigen.cli train experiment=image/emoji_reed": "usage: ",
    "torchrun --nproc-per-node 2 multigen train experiment=image/emoji_reed": "-m multigen.cli",
    "for run in RUN outputs/nowhere; do multigen evaluate run=$run; done": "outputs/nowhere is not a run folder",
    "xargs multigen train experiment=image/emoji_reed": "cannot tell how multigen is called",
}
"""Line -> what is said about it."""


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_command_is_noticed(text, told, capsys):
    with pytest.raises((AssertionError, MultigenError, HydraException, SystemExit)) as error:
        for words in calls(text):
            composed("README.md", words, told)
    assert WRONG[text] in f"{error.value} {capsys.readouterr().err}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("multigen train seed=1  # of seed={1,2}, see below", [["train", "seed=1"]]),
        ("multigen train 'arms={a:1,b:2}' \"measure=[x, y]\" a=#3", [["train", "arms={a:1,b:2}", "measure=[x, y]", "a=#3"]]),
        ("cd x && SEED=1 multigen list; pip install multigen[all] | tail", [["list"]]),
        ("torchrun --nproc-per-node=2 -m multigen.cli train seed=1 ...", [["train", "seed=1"]]),
        (
            "for x in a b c; do multigen evaluate run=$x out=${x}.json; done",
            [["evaluate", f"run={x}", f"out={x}.json"] for x in "ac"],
        ),
        (
            "for x in outputs/*; do multigen list $x; multigen list; done",
            [["list", "outputs/a"], ["list", "outputs/b"], ["list"], ["list"]],
        ),
        ("git clone x/multigen", []),
    ],
)
def test_a_line_is_split_as_bash_splits_it(text, found):
    assert sorted(calls(text, ["outputs/b", "outputs/a", "other"])) == sorted(found)


PAGE = """Read `multigen train
seed=1`, not `multigen`:

```
make demo
multigen train seed=1 # again
for x in a b
do
    multigen evaluate run=$x  # each
done
multigen sample \\
    run=a
```

```yaml
command: multigen list x
```
"""


def test_fenced_blocks_of_a_shell_and_prose_are_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = {line.number: calls(line.text) for line in lines(str(page))}
    evaluated, sampled = [["evaluate", "run=a"], ["evaluate", "run=b"]], [["sample", "run=a"]]
    assert found == {6: [["train", "seed=1"]], 7: evaluated, 11: sampled}
