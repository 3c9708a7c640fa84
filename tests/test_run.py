"""Run: what a method may ask, and what is noted of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.run import Run
from harness.stages import StageStore
from harness.training_set import BiasedDataset
from tests.conftest import make_dataset


def double(x: Tensor) -> Tensor:
    return 2 * x


def crash(x: Tensor) -> Tensor:
    raise ArithmeticError("in the stage")


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one second per reading."""
    now = iter(range(10_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))


@pytest.mark.usefixtures("ticking")
def test_uses_of_stages_are_noted_with_their_cost(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(tmp_path)
    run.stage(double, torch.ones(1))
    run.stage(double, torch.zeros(1))
    before = run.seconds_in_stages
    run.stage(double, torch.ones(1))
    names, keys, seconds, reused = zip(*run.stages, strict=True)
    assert names == ("double",) * 3
    assert keys[0] == keys[2] != keys[1]
    assert seconds == (1.0, 1.0, 1.0)  # credited to the one that read as well
    assert reused == (False, False, True)
    assert before >= 2 * 3  # two readings in each stage, two around it, and those of the lock
    assert run.seconds_in_stages == before + 1  # what reading took here


def test_stages_are_announced(tiny_run: Callable[..., Run]) -> None:
    entered: list[str] = []
    run = tiny_run(entered.append)
    run.stage(double, torch.ones(1))
    assert entered == ["double", "fit"]
    with pytest.raises(ArithmeticError, match="in the stage"):
        run.stage(crash, torch.ones(1))
    assert [use.name for use in run.stages] == ["double"]


@pytest.fixture
def tiny_run() -> Callable[..., Run]:
    def make(enter: Callable[[str], None]) -> Run:
        return Run(0, torch.device("cpu"), None, make_dataset(), enter=enter)

    return make


def test_seed_and_store_are_the_runs_own(make_run: Callable[..., Run], tmp_path: Path) -> None:
    keys = {
        make_run(tmp_path, seed=seed).stage(double, torch.ones(1)) is not None and seed
        for seed in (0, 1)
    }
    assert keys == {0, 1}
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 2


def test_logged_scalars_are_numbers_and_the_last_counts(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run.log(density=torch.tensor(0.25), size=3)
    run.log(density=0.5)
    assert run.metrics == {"density": 0.5, "size": 3.0}
    assert {type(value) for value in run.metrics.values()} == {float}


def test_bias_labels_need_a_declaration(make_run: Callable[..., Run]) -> None:
    with pytest.raises(PermissionError, match="does not declare"):
        make_run().conflicting()
    assert int(make_run(uses_bias_labels=True).conflicting().sum()) == 8


def test_without_a_store_nothing_is_written(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run()
    run.stage(double, torch.ones(1))
    run.stage(double, torch.ones(1))
    assert [use.reused for use in run.stages] == [False, False]
    assert not list(tmp_path.iterdir())
    assert StageStore(tmp_path / "none").root.exists() is False


def test_bias_labels_and_validation_open_to_declared_methods_only(
    tiny: BiasedDataset, make_run: Callable[..., Run]
) -> None:
    closed, declared = make_run(), make_run(uses_bias_labels=True)
    for ask in (closed.bias_labels, closed.conflicting, lambda: closed.validation("valid_biased")):
        with pytest.raises(PermissionError, match="does not declare"):
            ask()
    assert torch.equal(declared.bias_labels(), tiny.train.attributes)
    held_out, attributes = declared.validation("valid_unbiased")
    assert torch.equal(held_out.labels, tiny.evaluation["valid_unbiased"].labels)
    assert torch.equal(attributes, tiny.evaluation["valid_unbiased"].attributes)
    assert held_out.fingerprint != declared.validation("valid_biased")[0].fingerprint
    with pytest.raises(PermissionError, match="closed to every method"):
        declared.validation("test")


def test_audit_ranks_and_warns(make_run: Callable[..., Run], tiny: BiasedDataset) -> None:
    truth = tiny.conflicting()  # the first 8 of 64
    run = make_run()
    scores = torch.linspace(1, 0, 64)
    scores[[0, 8]] = scores[[8, 0]]  # ranks of the truth become 2 … 9
    run.audit(truth, scores)
    expected = sum(k / (k + 1) for k in range(1, 9)) / 8
    assert run.metrics["mining/average_precision"] == pytest.approx(expected)
    with pytest.warns(UserWarning, match="the mined set is empty"):
        run.audit(torch.zeros(64, dtype=torch.bool))
    assert run.metrics["mining/size"] == run.metrics["mining/recall"] == 0
    assert math.isnan(run.metrics["mining/precision"])
    with pytest.warns(UserWarning, match="holds 88% of the data"):
        run.audit(~truth)
