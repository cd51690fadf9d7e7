"""Picks the command, runs it as a Hydra application, and turns mistakes into one line and an exit code.

0 done, 2 a mistake in what the user gave, 128 + n stopped by signal n, 1 (with its traceback) a defect of ours.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

COMMANDS = {
    "list": "experiments, modalities, and what is prepared",
    "prepare": "fetch and embed data, and compute the representations that training aligns to",
    "train": "train a model, or go on with an interrupted run",
    "sample": "make samples with a trained model",
    "evaluate": "measure a trained model on held-out data and write its report",
    "diagnose": "measure what each block of a trained model knows of each representation",
    "report": "write a run's report.html from what is already measured",
    "benchmark": "measure how fast an experiment trains and samples, or compare what its arms reached",
}

_USAGE = """multigen: diffusion and flow models guided by pretrained representations

usage: multigen COMMAND [key=value ...]

commands:
{commands}

`multigen COMMAND --help` explains a command. `--debug` (or MULTIGEN_DEBUG=1) shows where an error came from."""


def main() -> NoReturn:
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    debug = "--debug" in arguments or os.environ.get("MULTIGEN_DEBUG") == "1"
    rest = [a for a in arguments if a != "--debug"]
    return guarded(lambda: _dispatch(rest), debug)


def usage() -> str:
    known = {**COMMANDS, **{name: command.help for name, command in _extra().commands().items()}}
    width = max(map(len, known))
    return _USAGE.format(commands="\n".join(f"  {name:{width}}  {text}" for name, text in known.items()))


def _extra() -> Any:
    """Kept out of what is imported to print a version."""
    return import_module("multigen.cli.extra")


def _dispatch(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] in ("-V", "--version"):
        print(f"multigen {import_module('multigen').__version__}")
        return
    command, *overrides = arguments
    if command in COMMANDS:
        import_module("multigen.cli.application").run(command, overrides)
    elif command in (extra := _extra().commands()):
        _extra().run(extra[command], overrides)
    else:
        known = [*COMMANDS, *extra]
        close = get_close_matches(command, known, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise SystemExit(_fail(f"unknown command {command!r}: {guess}commands are {', '.join(known)}"))


def guarded(action: Callable[[], None], debug: bool = False) -> int:
    """Do something and return the exit code that says how it ended."""
    from multigen.state import MultigenError

    try:
        action()
    except MultigenError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `multigen list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except OSError as error:
        return _refused(error, debug)
    except Exception as error:
        return _interrupted(error)
    return 0


def _refused(error: OSError, debug: bool) -> int:
    """The exit code of what the disk would not take or give; anything else is a defect and goes on as it came."""
    from multigen.files import refused

    if not refused(error):
        raise error
    if debug:
        traceback.print_exc()
    return _fail(f"{error.filename or 'disk'}: {error.strerror}")


def _interrupted(error: Exception) -> int:
    """The exit code of a training that a signal stopped; anything else is a defect and goes on as it came."""
    from multigen.trainer import Interrupted

    if not isinstance(error, Interrupted):
        raise error
    print(error, file=sys.stderr)
    return error.code


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
