"""What the core expects of a network."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from multigen.denoiser import Denoiser, Output
from multigen.diffusion import Diffusion
from multigen.state import Batch, MultigenError, State, where
from multigen.testing.comparing import close, same


def check_denoiser(denoiser: nn.Module, batch: Batch, taps: Sequence[str] = (), time: float = 0.5) -> None:
    """Shapes, taps, null conditions; predictions are deterministic and depend on neither padding nor other examples.

    Args:
        denoiser: put into evaluation mode meanwhile.
        batch: the clean state stands for the noisy one.
        taps: names that the network should have.
        time: t of every component.
    """
    assert isinstance(denoiser, Denoiser), "the denoiser needs methods __call__ and null, see multigen.denoiser.Denoiser"
    was = denoiser.training
    denoiser.eval()
    try:
        output = predict(denoiser, batch, time, taps)
        _check_output(output, batch, taps)
        _check_null(denoiser, batch, time)
        _check_unknown_tap(denoiser, batch, time)
        again = predict(denoiser, batch, time)
        assert _preds_agree(again, output, batch, 0), "asking for taps changes the prediction, or it is not deterministic"
        _check_padding(denoiser, batch, output, time, taps)
        for i in range(len(batch)):
            row = batch.map(lambda x, i=i: x[i : i + 1])  # type: ignore[misc]
            whole = Output({k: x[i : i + 1] for k, x in output.pred.items()}, {})
            assert _preds_agree(predict(denoiser, row, time), whole, row, 1e-4), (
                f"the prediction of example {i} depends on its batch"
            )
        _check_gradients(denoiser, batch, time)
    finally:
        denoiser.train(was)


def predict(denoiser: Any, batch: Batch, time: float, taps: Collection[str] = (), cond: State | None = None) -> Output:
    t = {k: torch.full([len(batch)], time, device=batch.key.device) for k in batch.clean}  # (B,) each
    return denoiser(batch.clean, t, batch.cond if cond is None else cond, batch.mask, taps=taps)


def _check_output(output: Output, batch: Batch, taps: Sequence[str]) -> None:
    assert set(output.pred) == set(batch.clean), f"predicts {sorted(output.pred)}, components are {sorted(batch.clean)}"
    for k, x in batch.clean.items():
        shape = output.pred[k].shape if x.is_floating_point() else output.pred[k].shape[:-1]
        assert shape == x.shape, f"predicts {k!r} of shape {tuple(output.pred[k].shape)} for a component of {tuple(x.shape)}"
        assert output.pred[k][batch.mask[k]].isfinite().all(), f"the prediction of {k!r} is not finite"
    assert set(output.taps) == set(taps), f"returns taps {sorted(output.taps)}, asked for were {sorted(taps)}"
    for name, (value, mask) in output.taps.items():
        assert mask.dtype == torch.bool and mask.shape == value.shape[:-1], (
            f"tap {name!r}: a mask Bool {tuple(value.shape[:-1])} is needed, got {mask.dtype} {tuple(mask.shape)}"
        )
        assert len(value) == len(batch), f"tap {name!r}: {len(value)} rows for {len(batch)} examples"


def _check_null(denoiser: Any, batch: Batch, time: float) -> None:
    before = {k: x.clone() for k, x in batch.cond.items()}
    null = denoiser.null(batch.cond)
    for k, x in batch.cond.items():
        assert same(x, before[k]), f"null changes the condition {k!r} that it is given"
        kind = (null[k].shape, null[k].dtype) if k in null else None
        assert kind == (x.shape, x.dtype), f"null: condition {k!r} is {x.dtype} {tuple(x.shape)}, its null is {kind}"
    predict(denoiser, batch, time, cond=null)


def _check_unknown_tap(denoiser: Any, batch: Batch, time: float) -> None:
    try:
        predict(denoiser, batch, time, ["no such tap"])
    except MultigenError:
        return
    raise AssertionError("asking for an unknown tap raises no MultigenError; see multigen.denoiser.check_taps")


def _check_padding(denoiser: Any, batch: Batch, output: Output, time: float, taps: Sequence[str]) -> None:
    """What stands in padding changes nothing."""
    garbage = {k: x.new_full((), 100) if x.is_floating_point() else x.flatten()[-1] for k, x in batch.clean.items()}
    clean = {k: where(batch.mask[k], x, garbage[k].expand_as(x)) for k, x in batch.clean.items()}
    changed = predict(denoiser, batch.replace(clean=clean), time, taps)
    assert _preds_agree(changed, output, batch, 1e-4), "the prediction depends on what stands in padding"
    for name, (value, mask) in output.taps.items():
        assert close(changed.taps[name].value, value, mask, 1e-4), f"tap {name!r} depends on what stands in padding"


def _check_gradients(denoiser: nn.Module, batch: Batch, time: float) -> None:
    """A parameter that never gets a gradient stops data-parallel training, and does nothing."""
    with torch.enable_grad():
        total = sum(x.float().sum() for x in predict(denoiser, batch, time).pred.values())
    named = [(k, p) for k, p in denoiser.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(total, [p for _, p in named], allow_unused=True) if named else ()  # type: ignore[arg-type]
    unused = [k for (k, _), g in zip(named, grads, strict=True) if g is None]
    assert not unused, f"parameters that the prediction does not use: {unused}"


def _preds_agree(a: Output, b: Output, batch: Batch, tolerance: float) -> bool:
    return all(close(a.pred[k], b.pred[k], batch.mask[k], tolerance) for k in batch.clean)


def learns_one_batch(
    diffusion: Diffusion, batch: Batch, steps: int = 100, lr: float = 3e-3, ratio: float = 0.5
) -> list[float]:
    """Adam on one batch with its noise held fixed: the loss of the last step is below `ratio` times that of the first.

    A network that cannot do this has a gradient, a mask or a target in the wrong place. Returns the loss of every step.
    """
    optimizer = torch.optim.Adam(diffusion.parameters(), lr)
    diffusion.train()
    losses = []
    for step in range(steps):
        total, _, probe = diffusion(batch, step)  # (), parts, ()
        optimizer.zero_grad()
        (total + probe).backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[-1] < ratio * losses[0], (
        f"the loss went from {losses[0]:.4g} to {losses[-1]:.4g} in {steps} steps on one batch"
    )
    return losses
