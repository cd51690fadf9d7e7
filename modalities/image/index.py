"""Listing the pictures of a source: their classes, their sides, and what is other than it was.

An index is a folder of `multigen.store` with the label, the side and the place of each picture. Its manifest lists the classes
in label order (``groups``) and says where the pictures are (``path``). A place changes with the picture's content (see
`modalities.image.sources.base.Entry`), so that whatever is made of an index notices a picture that was replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modalities.image.pictures import FORMAT, LAYOUT
from modalities.image.sources import Entry, Source
from modalities.image.sources.base import bare
from multigen import store
from multigen.random import hash64
from multigen.state import MultigenError
from multigen.store import Store, Writer

NAMED = 5
"""Of what is left out, so much is named on the terminal."""


def make_index(source: Source, folder: Path, share: float = 10.0, classed: bool = True, strict: bool = False) -> Path:
    """List the pictures of a source, unless that was done and nothing has changed since; say what has.

    Args:
        source: where they are.
        folder: where the index shall lie.
        share: per cent of the pictures that are held out, by a hash of their names, where the source holds out none.
        classed: whether folders, and numbers that the source has, are classes.
        strict: stop at a folder or file that the source cannot list, instead of leaving it out.

    Raises:
        MultigenError: there is no picture, a class has none, pictures lie both inside and outside of class folders, or a class
            is none of those that the source names.
    """
    found = source.files()
    _tell_unreadable(source, strict)
    base = source.path if source.path.is_dir() else source.path.parent
    recipe = {"format": FORMAT, "files": store.digest(base, found), "share": share, "classed": classed}
    about = {
        "name": source.path.name,
        "path": str(source.path),
        **source.about(),
        "recipe": {"kind": type(source).__name__, **recipe},
    }
    return store.prepare(Writer(folder, LAYOUT, about), lambda writer: _fill(writer, source, share, classed))


def _tell_unreadable(source: Source, strict: bool) -> None:
    left = source.unreadable()
    if left and strict:
        raise MultigenError(left[0])
    tell_left_out(left, f"{len(left):,} files and folders of {source.path} that cannot be read")


def tell_left_out(reasons: Sequence[str], told: str, rest: str = "") -> None:
    """Name some of what is left out, and count it.

    Args:
        reasons: one line each.
        told: how many of what.
        rest: where all are named.
    """
    for reason in reasons[:NAMED]:
        print(f"left out: {reason}")
    if reasons:
        more = f", {len(reasons) - NAMED:,} more{rest}" if len(reasons) > NAMED else ""
        print(f"left out {told}{more}; strict=true stops at the first")


def _fill(writer: Writer, source: Source, share: float, classed: bool) -> None:
    groups, sides, names = list[str | int](), list[str](), list[str]()
    changes = _Changes.of(writer.folder)
    for entry in _with_class(source) if classed else source.entries():
        group = entry.group if classed else ""
        _check_group(entry, group, groups, source)
        groups.append(group)
        sides.append(entry.split)
        names.append(entry.name)
        changes.see(entry)
        writer.add({**entry._asdict(), "label": 0})
    if not names:
        raise MultigenError(f"{source.path} holds no picture")
    changes.tell(source.path)
    classes, labels = numbered(groups, source.classes() if classed else ())
    _check_labels(labels, classes, names, groups, source)
    # a source whose only side is train has nothing held out yet
    splits = [side or "train" for side in sides] if {*sides} - {"", "train"} else divided(names, share)
    writer.relabel(splits, label=labels)
    writer.about = {**writer.about, "groups": classes}


def _with_class(source: Source) -> Iterator[Entry]:
    """The pictures, but for held-out sides without any class where others have one: those of a test are often kept secret."""
    waiting, labelled = list[Entry](), set[str]()
    for entry in source.entries():
        if entry.group == "" and entry.split in ("valid", "test"):
            waiting.append(entry)
        else:
            labelled |= {entry.split} if entry.group != "" else set()
            yield entry
    secret = Counter(entry.split for entry in waiting if labelled and entry.split not in labelled)
    yield from (entry for entry in waiting if entry.split not in secret)
    for side, count in secret.items():
        print(f"left out the side {side} of {source.path}: none of its {count:,} pictures has a class, unlike those of others")


def _check_group(entry: Entry, group: str | int, groups: Sequence[str | int], source: Source) -> None:
    if groups and (group == "") != (groups[0] == ""):
        advice = "put all of them into folders of their class, or give data.classed=false"
        raise MultigenError(f"{source.path}: {entry.name} has {'no' if group == '' else 'a'} class, unlike others; {advice}")


def _check_labels(
    labels: Sequence[int], classes: Sequence[str], names: Sequence[str], groups: Sequence[str | int], source: Source
) -> None:
    for label, name, group in zip(labels, names, groups, strict=True):
        if group != "" and not 0 <= label < len(classes):
            known = f"{len(classes)} classes{f', from {classes[0]!r} to {classes[-1]!r}' if classes else ''}"
            raise MultigenError(f"{source.path}: {name} is of class {group!r}, which is none of its {known}")


def numbered(groups: Sequence[str | int], names: Sequence[str] = ()) -> tuple[list[str], list[int]]:
    """The classes in label order, and the label of each picture. Numbers are labels as they are. Names count in the order of
    `names`, or where the source has none in that of the alphabet; a name that is not among them has label -1.

    >>> numbered(["cat", "ant", "cat"]), numbered([2, 0]), numbered(["", ""])
    ((['ant', 'cat'], [1, 0, 1]), (['0', '1', '2'], [2, 0]), ([], [0, 0]))
    >>> numbered(["cat", "ant", "bee"], ["cat", "ant"])
    (['cat', 'ant'], [0, 1, -1])
    """
    if all(isinstance(group, int) for group in groups):
        labels = [int(group) for group in groups]
        return list(names) or [str(i) for i in range(max(labels) + 1)], labels
    if not (held := {str(group) for group in groups} - {""}):
        return [], [0] * len(groups)
    classes = list(names) or sorted(held)
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number.get(str(group), -1) for group in groups]


def divided(names: Iterable[str], share: float) -> list[str]:
    """The side of each picture: about `share` per cent are held out, by a hash of the name, and at least one."""
    place = [hash64("pictures", name) % 1_000_000 for name in names]
    bound = max(10_000 * share, min(place) + 1)
    return ["valid" if at < bound else "train" for at in place]


@dataclass
class _Changes:
    """What is other than in the index that was there before."""

    before: dict[str, str]
    """Name -> place, of those not seen yet."""
    count: int
    """Of pictures that were there."""
    replaced: list[str] = field(default_factory=list)
    new: int = 0

    @staticmethod
    def of(folder: Path) -> _Changes:
        if not store.whole(folder):
            return _Changes({}, 0)
        found = Store(folder, LAYOUT, "pictures")
        items = (found[row] for row in range(len(found)))
        return _Changes({item["name"]: item["place"] for item in items}, len(found))

    def see(self, entry: Entry) -> None:
        place = self.before.pop(entry.name, None)
        self.new += place is None
        # places without a stamp are of an older version, and say nothing about the content
        self.replaced += [] if place in (None, entry.place, bare(entry.place)) else [entry.name]

    def tell(self, path: Path) -> None:
        """One line, once all was seen."""
        if not self.count or not (self.replaced or self.new or self.before):
            return
        example = f", such as {self.replaced[0]}" if self.replaced else ""
        told = f"{len(self.replaced):,} pictures or the files that hold them were replaced{example}"
        print(f"{path} has changed: {told}; {self.new:,} are new, {len(self.before):,} gone; latents are made again")
