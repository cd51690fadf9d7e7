"""Where samples are written when the user does not say: what is made in another way never takes another's place."""

from types import SimpleNamespace

import pytest

from multigen.cli.sample import folder_of
from multigen.run import Run


def asked(folder, **changes):
    settings = {"out": None, "seed": 0, "modality": {}, **{k: v for k, v in changes.items() if k != "sampler"}}
    experiment = SimpleNamespace(config={"sampler": changes.get("sampler", {"grid": 10})})
    return SimpleNamespace(
        settings=settings, experiment=experiment, weights="model", run=Run(folder), checkpoint=SimpleNamespace(step=7)
    )


def test_one_folder_for_each_way(tmp_path):
    ways = [{}, {"seed": 1}, {"sampler": {"grid": 20}}, {"modality": {"length": 30}}, {"modality": {"pattern": "MK__"}}]
    folders = [folder_of(asked(tmp_path, **way)) for way in ways]
    assert len(set(folders)) == len(ways)
    assert folder_of(asked(tmp_path, modality={"length": 30})) == folders[3]


@pytest.mark.parametrize("modality", [{}, None])
def test_more_of_the_same_go_to_the_same_place(tmp_path, modality):
    assert folder_of(asked(tmp_path, modality=modality, n=5)) == folder_of(asked(tmp_path, n=9))
    assert str(folder_of(asked(tmp_path, out="here"))) == "here"
