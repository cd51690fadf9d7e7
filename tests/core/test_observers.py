"""What observers report of a training, and that training does not notice them."""

from functools import partial

import pytest
import torch
from toy_numbers import Data, Network, Numbers, Sampler

from multigen.diffusion import Diffusion
from multigen.evaluate import validation_loss
from multigen.objective import Denoising, Objective
from multigen.observers import Measures, SampleGrid, Until, Validation
from multigen.process import Gaussian
from multigen.run import Run
from multigen.trainer import Interrupted, Trainer


def _fit(folder, observers, steps=6):
    torch.manual_seed(0)
    diffusion = Diffusion(Network(), {"x": Gaussian("velocity")}, Objective({"denoise": Denoising()}), drop=0.5)
    trainer = Trainer(
        diffusion,
        Data(),
        Numbers(),
        Run(folder),
        optimizer=partial(torch.optim.AdamW, lr=0.1),
        steps=steps,
        batch_size=4,
        ema=(0.5, 0.9),
        device="cpu",
        log_to=(),
        observers=observers,
        progress=False,
    )
    trainer.fit()
    return trainer


def _logged(trainer, key):
    return {row["step"]: row[key] for row in trainer.run.history() if key in row}


@pytest.mark.parametrize("average", [0, 1, None])
def test_validation_measures_the_weights_that_it_says(tmp_path, average):
    trainer = _fit(tmp_path, [Validation(Data(5), every=2, repeats=2, average=average)])
    logged = _logged(trainer, "valid/denoise/x")
    assert list(logged) == [2, 4, 6]
    network = trainer.diffusion.denoiser if average is None else trainer.averages[average].module
    same = Diffusion(network, trainer.diffusion.processes, trainer.diffusion.objective)
    assert logged[6] == pytest.approx(validation_loss(same, Data(5), Numbers(), repeats=2).total, rel=1e-6)
    assert _logged(trainer, "valid")[6] == pytest.approx(logged[6])
    assert len(set(logged.values())) == 3
    assert _logged(trainer, "weight/denoise") == {6: 1.0}


def test_sample_grids_show_the_same_noise_taking_shape(tmp_path):
    trainer = _fit(tmp_path, [SampleGrid(Sampler(), every=3, n=5, held_out=Data(), batch_size=2)])
    drawn = {p.name: p.read_text().split() for p in sorted(trainer.run.samples.iterdir())}
    assert list(drawn) == ["real.png", "step_00000003.png", "step_00000006.png"]
    assert drawn["real.png"] == ["0.000", "0.200", "0.400", "0.600", "0.800"]
    early, late = ([float(x) for x in drawn[name]] for name in ("step_00000003.png", "step_00000006.png"))
    ratio = late[0] / early[0]
    assert ratio != 1 and late == pytest.approx([ratio * x for x in early], rel=0.02)


class Count:
    """How many samples there are, and their mean."""

    def __init__(self) -> None:
        self.samples = []

    def update(self, samples, template):
        self.samples += [float(x[0]) for x in samples]
        assert len(samples) == len(template)

    def compute(self):
        return {"count": float(len(self.samples)), "mean": sum(self.samples) / len(self.samples)}


def test_measures_are_of_fresh_samples_at_every_step(tmp_path):
    made = []
    metrics = lambda: made.append(Count()) or {"count": made[-1]}  # noqa: E731
    trainer = _fit(tmp_path, [Measures(Sampler(), metrics, every=3, n=5, batch_size=2)])
    assert _logged(trainer, "sample/count") == {3: 5.0, 6: 5.0} and _logged(trainer, "sample/valid_samples") == {
        3: 1.0,
        6: 1.0,
    }
    assert len(made) == 2 and len(set(_logged(trainer, "sample/mean").values())) == 2


def test_a_run_that_ends_early_goes_on_as_if_it_had_not(tmp_path):
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        _fit(tmp_path / "a", [Until(4)])
    again, whole = _fit(tmp_path / "a", [Until(6)]), _fit(tmp_path / "b", [])
    assert again.step == 6 and torch.equal(again.diffusion.denoiser.scale, whole.diffusion.denoiser.scale)


def test_training_does_not_notice_that_it_is_watched(tmp_path):
    watched = _fit(tmp_path / "a", [Validation(Data(), every=1), SampleGrid(Sampler(), every=1, n=4)])
    alone = _fit(tmp_path / "b", [])
    assert torch.equal(watched.diffusion.denoiser.scale, alone.diffusion.denoiser.scale)
    assert torch.equal(watched.averages[0].module.scale, alone.averages[0].module.scale)
    assert not watched.averages[0].module.training
