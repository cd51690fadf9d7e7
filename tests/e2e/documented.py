"""Calls of multigen that pages show, split into words as bash would do it: what `test_readme` gives to the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SHELL = {"", "bash", "sh", "shell", "console"}
"""Languages of fenced blocks that are read."""
_QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.""")
_SEVERAL = re.compile(r"(?<!\$)\{\S*(?:,|\.\.)\S*\}")
_CALL = re.compile(r"\bmultigen(?:\.cli)? +\w")


class Line(NamedTuple):
    """A line of a page."""

    page: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.number}"


# ------------------------------------------------------------------------------------------------------------------- pages


@cache
def lines(page: str) -> list[Line]:
    """The different lines of a page that call multigen, in its order."""
    read = {".md": _markdown, ".yaml": _help, ".py": _help}.get(Path(page).suffix, _makefile)
    found: dict[str, Line] = {}
    for number, text in read((ROOT / page).read_text(encoding="utf-8")):
        bare = _bare(text)
        if _CALL.search(bare[1]):
            found.setdefault(bare[0], Line(page, number, bare[0]))
    return list(found.values())


def _markdown(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of what stands in fenced blocks of a shell, and of `multigen ...` in prose."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    for block in fence.finditer(text):
        if block[1] in SHELL:
            yield from _joined(_number(text, block.start(2)), block[2])
    prose = fence.sub(lambda block: "\n" * block[0].count("\n"), text)
    for code in re.finditer(r"`((?:multigen|torchrun)\s[^`]*)`", prose):
        yield _number(prose, code.start()), " ".join(code[1].split())


def _joined(number: int, block: str) -> Iterator[tuple[int, str]]:
    """Lines of a block: one that ends in a backslash with the next, and a loop as one line."""
    whole: list[str] = []
    for offset, line in enumerate(block.splitlines()):
        whole.append(line.removeprefix("$ "))
        joined = " ".join(part.removesuffix("\\") for part in whole)
        looping = joined.startswith("for ") and not re.search(r"\bdone\b", joined)
        if looping and not line.endswith(("do", ";", "\\")):
            whole[-1] = f"{_bare(whole[-1])[0]} ;"
        if not looping and not line.endswith("\\"):
            yield number + offset + 1 - len(whole), joined
            whole = []
    assert not whole, f"does not end: {' '.join(whole)}"


def _help(text: str) -> Iterator[tuple[int, str]]:
    """Examples of a command's help, and the ``command`` of an experiment or a suite."""
    for examples in re.finditer(r'^(?:# |.*""")?examples:\n((?:(?:# )?  \S.*\n)+)', text, re.MULTILINE):
        first = _number(text, examples.start(1))
        for offset, line in enumerate(examples[1].splitlines()):
            yield first + offset, line.lstrip("# ").removesuffix('"""')
    for command in re.finditer(r"^# command +(.*\n(?:#     +.*\n)*)", text, re.MULTILINE):
        for offset, line in enumerate(command[1].splitlines()):
            yield _number(text, command.start(1)) + offset, line.lstrip("# ")


def _makefile(text: str) -> Iterator[tuple[int, str]]:
    """Recipes, their variables filled in."""
    known = dict(re.findall(r"^(\w+) *[?:]?= *(.*)$", text, re.MULTILINE))
    for number, line in enumerate(text.splitlines(), 1):
        while line.startswith("\t") and (name := re.search(r"\$\((\w+)\)", line)):
            line = line.replace(name[0], known.get(name[1], ""))
        if line.startswith("\t"):
            yield number, re.sub(r"(?<!\S)\S*/multigen ", "multigen ", line[1:].lstrip("@-"))


def _number(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


# ------------------------------------------------------------------------------------------------------------------- shell


def calls(text: str, runs: Sequence[str] = ()) -> list[list[str]]:
    """What follows ``multigen`` in each call of a line; of a loop with its first and its last value.

    Args:
        runs: folders that there are, for patterns.
    """
    text, bare = _bare(text)
    if several := _SEVERAL.search(bare):
        raise AssertionError(f"bash makes several words of {text[slice(*several.span())]}, and the last one wins: quote it")
    if special := re.search(r"[()<>]", bare):
        raise AssertionError(f"bash does not read {special[0]} as a part of a word: quote it")
    found = [words for command in _unrolled(_commands(text), runs) if (words := _arguments(command)) is not None]
    assert found or not _CALL.search(bare), f"cannot tell how multigen is called: {text}"
    return found


def _bare(text: str) -> tuple[str, str]:
    """A line without its comment, and the same with q for whatever is quoted."""
    bare = _QUOTED.sub(lambda quoted: "q" * len(quoted[0]), text)
    end = comment.start() if (comment := re.search(r"(?<!\S)#", bare)) else len(text)
    return text[:end].rstrip(), bare[:end].rstrip()


def _commands(text: str) -> list[list[str]]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split, lexer.commenters = True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def _unrolled(commands: list[list[str]], runs: Sequence[str]) -> Iterator[list[str]]:
    name, values = "", [""]
    for words in commands:
        match words:
            case ["for", name, "in", *given]:
                there = [run for word in given for run in (sorted(r for r in runs if fnmatch(r, word)) or [word])]
                values = list(dict.fromkeys([there[0], there[-1]]))
                continue
            case ["done"]:
                name, values = "", [""]
                continue
            case ["do", *words]:
                pass
        for value in values:
            yield [re.sub(rf"\$(?:{name}\b|\{{{name}\}})", value, word) if name else word for word in words]


def _arguments(words: list[str]) -> list[str] | None:
    """What multigen is given, without what ``...`` stands for; None if another program is called."""
    while words and re.match(r"[A-Za-z_]\w*=", words[0]):
        words = words[1:]
    match [word for word in words if word != "..." and not word.endswith("=...")]:
        case ["multigen", *arguments]:
            return arguments
        case ["python" | "python3", "-m", "multigen.cli", *arguments]:
            return arguments
        case ["torchrun", *arguments]:
            from torch.distributed.run import parse_args

            launched = parse_args(arguments)
            assert launched.module and launched.training_script == "multigen.cli", "torchrun starts -m multigen.cli"
            return list(launched.training_script_args)
    return None
