"""Structures in the report: a script that is embedded once, or pictures and the command that fetches it."""

import dataclasses
import io
import json
import re
import tarfile
from html import unescape

import pytest

from multigen.files import sha256
from multigen.report import Section, viewer, write_report
from multigen.report.blocks import Gallery, Picture, Text, Viewer
from multigen.state import MultigenError

PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
CODE = "window.$3Dmol = {say: '</script><!-- x'};"
MODEL = Viewer("ATOM </div><script>alert(1)</script> \"'", "pdb", {"cartoon": {}}, Picture(PIXEL, "A <chain>"), "Turn me")


@pytest.fixture
def fetched(data_root, monkeypatch):
    """As if the viewer's package had been fetched; its script is `CODE`."""
    path = data_root / "assets" / viewer.SCRIPT.file
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {viewer._LICENCE: "Copyright */ Ada", viewer._CODE: CODE}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    monkeypatch.setattr(viewer, "SCRIPT", dataclasses.replace(viewer.SCRIPT, sha256=sha256(path)))
    return path


def page(folder, *blocks):
    folder.mkdir(exist_ok=True)
    return write_report(folder, more={folder.name: [lambda record: Section("Structures", list(blocks))]}).read_text()


def test_script_is_embedded_once_with_its_licence(tmp_path, fetched):
    text = page(tmp_path / "run", MODEL, Gallery([MODEL, MODEL.picture, MODEL]), Text("after"))
    assert text.count("window.$3Dmol") == 1 and "Copyright * / Ada" in text and viewer.CREDIT in text
    assert text.count("data-structure=") == 3 and text.count(PIXEL) == 4
    assert "fetch=true" not in text


def test_nothing_in_script_or_structure_ends_the_script(tmp_path, fetched):
    text = page(tmp_path / "run", MODEL)
    assert text.count("<script>") == text.count("</script>") == 2
    assert "<!--" not in text
    html = re.search(r'data-structure="([^"]*)"', text)[1]
    assert json.loads(unescape(html)) == {"text": MODEL.text, "format": "pdb", "style": {"cartoon": {}}}


def test_page_loads_nothing(tmp_path, fetched):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page(tmp_path / "run", MODEL))[1]
    assert policy.startswith("default-src 'none';") and "http" not in policy
    without = re.search(r'Content-Security-Policy" content="([^"]*)"', page(tmp_path / "other", Text("none")))[1]
    assert "script" not in without


def test_page_without_structures_has_no_script(tmp_path, fetched):
    text = page(tmp_path / "run", Text("none"))
    assert "<script" not in text and viewer.CREDIT not in text


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_without_the_script_pictures_and_the_command_that_fetches_it(tmp_path, data_root, state):
    if state == "damaged":
        (data_root / "assets").mkdir(parents=True)
        (data_root / "assets" / viewer.SCRIPT.file).write_bytes(b"not it")
    text = page(tmp_path / "run", Gallery([MODEL]), Text("after"))
    assert "<script" not in text and PIXEL in text and 'alt="A &lt;chain&gt;"' in text
    assert text.count(f"multigen report run={tmp_path / 'run'} fetch=true") == 1
    assert "fetch=true" not in page(tmp_path / "other", Text("no structures"))


def test_command_fetches_the_script_and_asks_the_modality(tmp_path, fetched, capsys):
    from omegaconf import OmegaConf

    from multigen.cli import report
    from multigen.files import write_text

    target = f"{Toy.__module__}.Toy"
    write_text(tmp_path / "run" / "config.yaml", f"name: toy\nmodality: {{_target_: {target}}}\n")
    given = {"run": str(tmp_path / "run"), "out": None, "title": None, "fetch": True}
    report.main(OmegaConf.create(given))
    assert "Of toy" in (tmp_path / "run" / "report.html").read_text()


def test_the_script_is_offered_where_it_cannot_be_had(data_root, fetched, monkeypatch, capsys):
    assert viewer.offer() and not capsys.readouterr().err
    fetched.unlink()
    monkeypatch.setattr(viewer.assets.shutil, "which", lambda name: None)
    assert not viewer.offer()
    line = capsys.readouterr().err
    assert line.startswith("structures in reports will be pictures") and "npm is not installed" in line
    with pytest.raises(MultigenError, match="npm is not installed"):
        viewer.fetch()


@pytest.mark.parametrize("modality", [None, {}, {"_target_": "nowhere.Nothing"}, {"_target_": "builtins.dict", "a": {}}])
def test_a_run_whose_modality_adds_nothing_has_a_page(modality):
    from multigen.cli.report import parts

    assert list(parts({"modality": modality})) == []


class Toy:
    """A modality, as far as the report asks."""

    @staticmethod
    def parts():
        return [lambda record: Section("Of toy", [Text(f"{record.title}")])]
