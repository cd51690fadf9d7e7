"""``multigen import`` and ``multigen export``: published checkpoints of diffusion transformers as runs, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from multigen.cli.extra import Command
from multigen.state import MultigenError

if TYPE_CHECKING:
    from modalities.image.published import Layout, Shapes, Tensors
    from multigen.build import Config
    from multigen.checkpoint import Checkpoint

COMMANDS = {
    "caption": Command("caption pictures with a vision-language model, for teachers of text", f"{__name__}:caption"),
    "import": Command("make a run of a published checkpoint: SiT, REPA, REED or DiT", f"{__name__}:take"),
    "export": Command("write a run's weights as a published checkpoint", f"{__name__}:give"),
}

_IMPORT = """Make a run folder of a published checkpoint, to sample from, to evaluate, and to start a training from.

usage: multigen import KIND FILE out=RUN [key=value ...]

  KIND            sit, repa, reed or dit: whose code wrote the file
  FILE            what torch.save wrote (a whole checkpoint, or a state dict alone), or .safetensors. No code in it is run
  out=RUN         the run folder to make
  heads=N         attention heads, where the width is not of a published size
  KEY=VALUE       of the configuration: modality.decoder=FOLDER, data.name=FOLDER, sampler=ode, ...

Model and average are both kept, and the average is sampled from. Every tensor has its place, or the import is refused and says
which have none; the position table must be the known one; the averages of projectors are left out.

examples:
  multigen import reed reed-xl.pt out=outputs/reed
  multigen sample run=outputs/reed n=8
  multigen train experiment=image/imagenet256_reed start=outputs/reed"""

_EXPORT = """Write a run's weights under the names, and in the direction of time, of published code.

usage: multigen export KIND RUN out=FILE

  KIND            sit, repa, reed or dit: whose code is to read it
  RUN             a run folder, or one of its checkpoints: RUN/checkpoints/step_00050000
  out=FILE        .pt for model and average together, .safetensors for the average alone (or the model, if there is none)

examples:
  multigen export reed outputs/reed out=reed.pt"""

_CAPTION = """Caption the pictures of an experiment's data with any vision-language model of the transformers library.

usage: multigen caption EXPERIMENT model=MODEL out=FILE [key=value ...]

  EXPERIMENT       whose data are captioned, training and held-out pictures alike
  model=MODEL      a name in the hub, or a folder
  out=FILE         JSON lines {"id": NAME, "caption": TEXT} by the name that the data have for a picture. What is in it stays:
                   an interrupted command goes on; two at once need a file each
  prompt=TEXT      what the model is asked
  tokens=200       length of a caption at most
  batch_size=16    pictures at a time
  device=auto      auto, cpu, cuda, cuda:1
  KEY=VALUE        of the experiment's configuration: data.path=FOLDER, ...

Teachers of text read them with encoders.caption.captions=FILE.

examples:
  multigen caption image/emoji_reed model=Qwen/Qwen2-VL-2B-Instruct out=captions.jsonl
  multigen train experiment=image/emoji_reed +encoders.caption.captions=captions.jsonl targets=online"""


class _Given(NamedTuple):
    kind: str
    path: Path
    """Of the checkpoint, or the run."""
    out: Path
    rest: list[str]
    """Settings."""


# ----------------------------------------------------------------------------------------------------------------- caption


def caption(arguments: list[str]) -> None:
    """``multigen caption``."""
    if _helped(arguments, _CAPTION):
        return
    from modalities.image import captions
    from multigen.build.experiment import Experiment
    from multigen.cache.progress import bar
    from multigen.distributed import resolve
    from multigen.modality import whole

    own = {"prompt": captions.PROMPT, "tokens": "200", "batch_size": "16", "device": "auto", "model": "", "out": ""}
    given = own | {k: v for k, _, v in (a.partition("=") for a in arguments) if k in own}
    for key in ("model", "out"):
        if not given[key]:
            raise MultigenError(f"multigen caption needs {key}=...; see `multigen caption --help`")
    if len(plain := [a for a in arguments if "=" not in a]) != 1:
        raise MultigenError(f"multigen caption needs one experiment, got {plain}; see `multigen caption --help`")
    rest = [a for a in arguments if "=" in a and a.partition("=")[0] not in own]
    made = Experiment(_compose([f"experiment={plain[0]}", *rest]))
    pictures = [(data, i) for data in map(whole, made.datasets.values()) for i in range(len(data))]
    model = captions.Captioner(given["model"], given["prompt"], _number(given, "tokens")).to(resolve(given["device"]))
    with bar("captioning", len(pictures)) as show:
        count = captions.write(model, (data[i] for data, i in pictures), given["out"], _number(given, "batch_size"), show)
    print(f"{count:,} pictures captioned: {given['out']}")


def _number(given: Mapping[str, str], key: str) -> int:
    if not given[key].isdigit():
        raise MultigenError(f"{key}={given[key]} is no number")
    return int(given[key])


# ------------------------------------------------------------------------------------------------------------------ import


def take(arguments: list[str]) -> None:
    """``multigen import``."""
    if _helped(arguments, _IMPORT):
        return
    from modalities.image import foreign

    given = _given("import", arguments)
    run = import_run(given.kind, given.path, foreign.read(given.path), given.out, given.rest)
    print(f"imported {given.path} as {run}; now: multigen sample run={run} n=8")


def import_run(kind: str, path: Path, found: Any, out: Path, overrides: Sequence[str] = ()) -> Path:
    """Make a run folder of the weights `found` (see `foreign.read`) in a file."""
    from modalities.image import published
    from multigen import checkpoint
    from multigen.files import sha256
    from multigen.run import Run

    layout = published.layout(kind)
    trees = {"model": found.model or found.ema, **({"ema": found.ema} if found.model and found.ema else {})}
    config, shapes = _composed(layout, trees["model"], path, overrides)
    size, patch = config["denoiser"]["size"], config["denoiser"]["patch"]
    mapped = {name: published.to_ours(tree, shapes, layout, size, patch, f"{path} ({name})") for name, tree in trees.items()}
    average = f"ema_{config['trainer']['ema'][0]:g}"
    files = {"model": mapped["model"], **({average: _denoiser(mapped["ema"])} if "ema" in mapped else {})}
    run = Run(out, {**config, "run": str(out)})
    origin = {"kind": kind, "file": path.name, "sha256": sha256(path)}
    with run.open():
        checkpoint.save(run.checkpoints, found.step, files, {"config": run.digest, "order": {}, "imported": origin})
    return out


def _composed(layout: Layout, tensors: Tensors, path: Path, overrides: Sequence[str]) -> tuple[Config, Shapes]:
    """The configuration of the network in the file, and the shapes of all that it would train."""
    from modalities.image import published

    heads = [a.removeprefix("heads=") for a in overrides if a.startswith("heads=")]
    if heads and not heads[-1].isdigit():
        raise MultigenError(f"heads={heads[-1]} is no number")
    sizes = published.sizes(tensors, str(path))
    known = published.settings(sizes, layout, int(heads[-1]) if heads else None)
    asked = [a for a in overrides if not a.startswith("heads=")]
    config = _compose([f"experiment={layout.experiment}", *(f"{k}={v}" for k, v in known.items()), *asked])
    if other := [f"{k} {_at(config, k)!r} instead of {v!r}" for k, v in known.items() if _at(config, k) != v]:
        raise MultigenError(f"{path} is of another size than was asked for: {', '.join(other)}")
    return config, _shapes(config)


def _compose(settings: list[str]) -> Config:
    from multigen.build import compose
    from multigen.cli.errors import explain

    try:
        return compose("train", settings)
    except MultigenError:
        raise
    except Exception as error:
        raise (explain(error, "train", settings) or error) from error


def _at(config: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _shapes(config: Config) -> Shapes:
    """Of every tensor that a run of this configuration would store, without making one."""
    import torch

    from multigen.build.experiment import Experiment

    with torch.device("meta"):
        return {name: tuple(x.shape) for name, x in Experiment(config).diffusion.state_dict().items()}


def _denoiser(tensors: Tensors) -> Tensors:
    """What of a diffusion's tensors an average is made of."""
    return {name.removeprefix("denoiser."): x for name, x in tensors.items() if name.startswith("denoiser.")}


# ------------------------------------------------------------------------------------------------------------------ export


def give(arguments: list[str]) -> None:
    """``multigen export``."""
    if _helped(arguments, _EXPORT):
        return
    given = _given("export", arguments)
    if given.rest:
        raise MultigenError(f"unknown setting {given.rest[0]!r}; see `multigen export --help`")
    print(f"wrote {export_run(given.kind, given.path, given.out)}")


def export_run(kind: str, folder: Path, out: Path) -> Path:
    """Write a run's newest checkpoint, or the one that `folder` is, in a published layout."""
    from modalities.image import foreign, published
    from multigen.cli.trained import source

    layout = published.layout(kind)
    run, found = source(folder)
    config = run.stored()
    _check_process(config, layout, folder)
    size, patch = config["denoiser"]["size"], config["denoiser"]["patch"]
    trees = {name: published.to_theirs(tree, layout, size, patch, str(folder)) for name, tree in _trees(found).items()}
    return foreign.write(out, trees)


def _trees(found: Checkpoint) -> dict[str, Tensors]:
    """Model and first average, each as a diffusion's tensors: an average lacks projectors, which are taken from the model."""
    from multigen.checkpoint import averages

    model = found.tensors("model")
    names = averages(found)
    if not names:
        return {"model": model}
    return {"model": model, "ema": model | {f"denoiser.{k}": x for k, x in found.tensors(names[0]).items()}}


def _check_process(config: Config, layout: Layout, folder: Path) -> None:
    """Refuse a network that means something else by its output, time or input than the published one, or has no classes."""
    if not (config.get("modality") or {}).get("classes"):
        raise MultigenError(f"{folder} cannot be written as {layout.experiment}: it has no class labels")
    wanted = _compose([f"experiment={layout.experiment}"])
    for key in ("processes", "denoiser._target_", "denoiser.time_scale", "denoiser.self_conditioned"):
        try:
            found = _at(config, key)
        except KeyError:
            found = None
        if found != (expected := _at(wanted, key)):
            raise MultigenError(f"{folder} cannot be written as {layout.experiment}: {key} is {found}, not {expected}")


# ----------------------------------------------------------------------------------------------------------------- options


def _helped(arguments: list[str], text: str) -> bool:
    if wanted := not arguments or bool({"-h", "--help"} & set(arguments)):
        print(text)
    return wanted


def _given(command: str, arguments: list[str]) -> _Given:
    """KIND PATH out=... key=value ..."""
    from modalities.image import published

    if flags := [a for a in arguments if a.startswith("-")]:
        raise MultigenError(f"unknown option {flags[0]!r}; settings are written key=value, see `multigen {command} --help`")
    plain, settings = [a for a in arguments if "=" not in a], [a for a in arguments if "=" in a]
    out = [a.removeprefix("out=") for a in settings if a.startswith("out=")]
    if plain:
        published.layout(plain[0])
    if len(plain) != 2 or not out:
        raise MultigenError(f"{command} needs a kind, a {_NEEDS[command]} and out=; see `multigen {command} --help`")
    return _Given(plain[0], Path(plain[1]), Path(out[-1]), [a for a in settings if not a.startswith("out=")])


_NEEDS = {"import": "checkpoint file", "export": "run folder or checkpoint"}
