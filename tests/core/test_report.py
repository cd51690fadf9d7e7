"""The report: complete in itself, honest about what is missing, and safe with any text."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from multigen.files import write_json, write_text
from multigen.report import Section, read, write_report
from multigen.report.blocks import Text, number
from multigen.report.charts import DARK, LIGHT, Line, chart, draw, smoothed
from multigen.state import MultigenError

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
VOID = {"meta", "link", "img", "source", "br", "hr"}


class Page(HTMLParser):
    """Checks that tags balance, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.images, self.words = [], [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.sources += [given[k] for k in ("src", "srcset") if k in given]
        self.images += [given] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def run(tmp_path):
    """A run's folder with everything in it."""
    return make_run(tmp_path / "run")


def make_run(folder, name="numbers/one", seed=3, value=0.25):
    config = f"""
name: {name}
seed: {seed}
data: {{train: {{_target_: somewhere.Numbers}}}}
denoiser: {{_target_: somewhere.Network}}
encoders: {{tokens: {{_target_: somewhere.Teacher}}}}
objective: {{terms: {{denoise: {{_target_: x.Denoising}}, patches: {{_target_: x.Alignment, tap: block2, target: tokens}}}}}}
trainer: {{steps: 80, batch_size: 16}}
"""
    write_text(folder / "config.yaml", config)
    rows = [
        {"step": s, "loss/denoise": 1 / s, "weight/denoise": min(1, s / 40), "learning_rate": 0.1} for s in range(2, 82, 2)
    ]
    rows += [{"step": s, "valid/denoise": 2 / s, "examples_per_second": 100.0} for s in (40, 80)]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 82, "loss/den')
    for step in (20, 40, 80):
        (folder / "samples").mkdir(exist_ok=True)
        (folder / f"samples/step_{step:08d}.png").write_bytes(PNG)
    for picture in ("samples", "real", "near"):
        (folder / "evaluation").mkdir(exist_ok=True)
        (folder / f"evaluation/{picture}.png").write_bytes(PNG)
    data = {
        "class": "somewhere.Numbers",
        "name": "Numbers",
        "licence": "CC BY-SA 4.0",
        "attribution": "By Ada.",
        "count": 4321,
    }
    evaluation = {
        "metrics": {"distance": value, "distance_std": 0.0125, "distance_real": 0.125, "broken": None},
        "about_metrics": {
            "d": {"meaning": {"distance": "how far"}, "reference": {"distance": "4,321 numbers"}, "note": "Note."}
        },
        "samples": {
            "count": 640,
            "valid": 638,
            "seed": 7,
            "sampler": {"continuous": {"class": "a.Heun"}, "grid": {"steps": 25}},
        },
        "checkpoint": {"step": 80, "weights": "ema_0.999"},
        "validation": {"loss": 0.75, "loss/denoise": 1.5, "draws": 1188},
        "parameters": 1234567,
        "data": data,
        "held_out": {**data, "split": "valid"},
        "grids": {"Some samples": "evaluation/samples.png", "Real": "evaluation/real.png"},
        "pictures": {"Copies?": "evaluation/near.png"},
        "versions": {"multigen": "0.1.0"},
    }
    write_json(folder / "evaluation.json", evaluation)
    return folder


def _page(path):
    return Page(path.read_text())


def test_report_needs_nothing_else(run):
    path = write_report(run)
    page = _page(path)
    assert path == run / "report.html"
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    assert page.links and all(link[0] == "#" and link[1:] in page.ids for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert "<script" not in path.read_text() and "url(" not in path.read_text()


def test_report_says_what_made_each_number(run):
    text = _page(write_report(run)).text
    for expected in (
        "Network trained for 80 steps on Numbers, seed 3: denoise loss, hidden features at block2 aligned to Teacher tokens.",
        "distance how far 0.2500 ± 0.01250 0.1250 640 seed 7, 2 invalid Heun, 25 steps EMA 0.999 of step 80 4,321 numbers",
        "broken - -",
        "loss/denoise 1.500 1,188",
        "1,234,567 parameters",
        "100 examples a second",
        "Note.",
        "Pictures and models show or derive from Numbers (CC BY-SA 4.0). By Ada.",
        "Evaluated with multigen 0.1.0.",
        "tap: block2",
    ):
        assert expected in text, expected
    assert text.count("By Ada.") == 3  # once for each data set, once for all


def test_pictures_can_be_read_by_those_who_do_not_see_them(run):
    page = _page(write_report(run))
    assert all(image["alt"] for image in page.images)
    alts = " ".join(image["alt"] for image in page.images)
    assert (
        "denoise loss by training step: training from 0.5 to 0.0125 at step 80; held out from 0.05 to 0.025 at step 80."
        in alts
    )
    assert "Samples drawn at training step 40" in alts
    assert "Copies?" in alts
    assert "learning rate" not in alts  # it never changed
    dark = [s for s in page.sources if s.startswith("data:image/svg")]
    assert len(dark) == 4 and len(set(dark)) == 4  # two charts, each for light and for dark pages


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.jsonl", "evaluation.json", "samples", "evaluation", "everything"])
def test_what_is_missing_is_left_out(run, missing):
    import shutil

    for path in list(run.iterdir()) if missing == "everything" else [run / missing]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = _page(write_report(run)).text
    if missing in ("evaluation.json", "everything"):
        assert "Not evaluated yet" in text
    if missing == "evaluation.json":
        assert "Samples at step 80" in " ".join(re.findall(r"alt=\"([^\"]*)\"", (run / "report.html").read_text()))


@pytest.mark.parametrize("config", ["data:\ntrainer: null\n", "objective: {terms: {a: null}}\n", "denoiser: 3\n"])
def test_odd_configurations_are_shown(run, config):
    write_text(run / "config.yaml", config)
    assert "80 steps" in _page(write_report(run)).text


def test_hostile_text_stays_text(tmp_path):
    path = write_report(make_run(tmp_path / "run", name="'<script>alert(1)</script>'"))
    assert "<script>" not in path.read_text()
    assert "<script>alert(1)</script>" in _page(path).text


def test_runs_of_different_modalities_stand_side_by_side_uncompared(tmp_path):
    runs = [make_run(tmp_path / name, name=f"{name}/one") for name in ("numbers", "letters")]
    write_text(runs[1] / "config.yaml", (runs[1] / "config.yaml").read_text() + "modality: {_target_: somewhere.Letters}\n")
    page = _page(write_report(runs, tmp_path / "page.html", "Both"))
    assert "Comparison" not in page.text and {"numbers/one", "letters/one"} <= set(page.text.split())


def test_several_runs_are_compared(tmp_path):
    runs = [make_run(tmp_path / "a", value=0.5), make_run(tmp_path / "b", seed=4)]
    page = _page(write_report(runs, tmp_path / "both.html", "Two seeds"))
    assert len(set(page.ids)) == len(page.ids)
    assert "distance 0.5000 ± 0.01250 0.2500 ± 0.01250" in page.text
    alts = " ".join(image["alt"] for image in page.images)
    assert "numbers/one, seed 3 from 0.05 to 0.025 at step 80; numbers/one, seed 4 from" in alts
    same = [make_run(tmp_path / "c"), make_run(tmp_path / "d")]
    assert str(tmp_path / "d") in _page(write_report(same, tmp_path / "same.html")).text


def test_a_modality_adds_parts(run):
    def part(record):
        return Section("Bond lengths", [Text(f"of {record.steps} steps")])

    page = _page(write_report(run, more={"numbers/one": [part, lambda record: None]}))
    assert "Bond lengths of 80 steps" in page.text
    assert "run-0-bond-lengths" in page.ids


def test_wide_pictures_of_metrics_have_the_width_of_the_page(run):
    from matplotlib.image import imsave

    for name, width in {"wide": 1000, "left": 500, "right": 500}.items():
        imsave(run / f"evaluation/{name}.png", [[(0.0, 0.0, 0.0)] * width])
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["pictures"] = {name: f"evaluation/{name}.png" for name in ("left", "wide", "right", "none")}
    write_json(run / "evaluation.json", evaluation)
    galleries = re.findall(r'--columns: (\d)">(.*?)</div>', write_report(run).read_text(), re.DOTALL)
    measured = [(columns, re.findall(r'alt="(\w+)"', inside)) for columns, inside in galleries if "Grid" not in inside]
    assert measured[:2] == [("1", ["wide"]), ("2", ["left", "right"])]


def test_a_run_that_was_resumed_counts_each_step_once(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('\n{"step": 80, "loss/denoise": 9.0}\n')
    steps, values = read(run).series("loss/denoise")
    assert steps == sorted(set(steps)) and values[-1] == 9.0
    assert read(run).series("valid/denoise")[1][-1] == 2 / 80


def test_no_run_folder(tmp_path):
    with pytest.raises(MultigenError, match="nowhere is not a run folder"):
        write_report(tmp_path / "nowhere")


def test_report_of_a_damaged_evaluation_names_the_file(run):
    (run / "evaluation.json").write_text("{")
    with pytest.raises(MultigenError, match=r"evaluation\.json is damaged"):
        write_report(run)


def test_charts_are_the_same_for_the_same_numbers():
    lines = [Line("a", range(50), [x / 50 for x in range(50)], raw=True)]
    light, dark, words = chart(lines, "A title")
    assert (light, dark, words) == chart(lines, "A title")
    assert LIGHT.ink in light and DARK.ink in dark and "A title" in light
    assert words == "A title by training step: a from 0 to 0.98 at step 49."


def test_many_lines_are_told_apart():
    axes = Figure().add_subplot()
    count = 2 * len(LIGHT.palette)
    for dashed in (False, True):
        for i in range(count):
            draw(axes, Line(str(i), [0, 1], [0, 1], i, dashed), LIGHT)
    drawn = [(x.get_color(), x.get_marker(), x._unscaled_dash_pattern) for x in axes.get_lines()]
    assert len({str(x) for x in drawn}) == 2 * count and len({x[0] for x in drawn}) == len(LIGHT.palette) == 10
    for i in range(count):
        draw(axes, Line(str(i), range(30), range(30), i), LIGHT)
    long = [(x.get_color(), x.is_dashed()) for x in axes.get_lines()[2 * count :]]
    assert len(set(long)) == count, "without markers"


DICHROMATS = {  # linear RGB as it is seen without one kind of cone (Machado and others 2009), and the least distance
    "all cones": ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 30),
    "protan": ([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]], 18),
    "deutan": ([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]], 18),
    "tritan": ([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]], 10),
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])


def linear(colours):
    values = np.array([[int(x[i : i + 2], 16) / 255 for i in (1, 3, 5)] for x in colours])  # (n, 3)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)  # (n, 3)


def lab(rgb):
    xyz = rgb.clip(0, 1) @ XYZ.T / XYZ.sum(1)  # (n, 3) relative to white
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)  # (n, 3)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)  # (n, 3)


@pytest.mark.parametrize(("theme", "pages"), [(LIGHT, ["#f6f7f9", "#ffffff"]), (DARK, ["#12151b", "#1b1f27"])])
def test_colours_are_told_apart_by_readers_who_see_few(theme, pages):
    for seen, least in DICHROMATS.values():
        found = lab(linear(theme.palette) @ np.array(seen).T)  # (n, 3)
        apart = np.linalg.norm(found[:, None] - found, axis=-1)  # (n, n)
        assert apart[~np.eye(len(found), dtype=bool)].min() >= least
    light, page = (linear(x) @ XYZ[1] for x in (theme.palette, pages))  # (n,), (m,) luminance
    high, low = np.maximum.outer(light, page), np.minimum.outer(light, page)  # (n, m)
    assert ((high + 0.05) / (low + 0.05)).min() >= 3
    assert len({*LIGHT.colours, *DARK.colours}) == 24, "recolouring takes one for another"


def test_smoothing_keeps_constants_lines_and_length():
    assert smoothed([2.0] * 100) == [2.0] * 100
    line = [float(x) for x in range(200)]
    assert smoothed(line, 0.1)[:150] == pytest.approx(line[:150])
    assert smoothed([]) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (1234567.0, "1,235,000"),
        (99.996, "100.0"),
        (0.0, "0"),
        (-3.0, "-3.000"),
        (1.23456e-9, "1.235e-09"),
        (640, "640"),
        (float("nan"), "-"),
        (None, "-"),
    ],
)
def test_number(value, text):
    assert number(value) == text
