"""JTT: which samples are mined, when, and how often they come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness import Run, TrainingSet
from harness.datasets import get
from harness.nets import Backbone, Net
from harness.plan import plan
from harness.space import Settings, build
from harness.stages import StageStore
from harness.training_set import BiasedDataset, Transform
from methods import jtt
from methods.jtt import JTT, Mining, Retrain

SMALL: Settings = {
    "mining.steps": 2, "mining.batch_size": 16, "retrain.steps": 3, "retrain.batch_size": 16,
    "retrain.eval_every": 1,
}  # fmt: skip


class Flipping(nn.Module):
    """Is right about every sample of the tiny data, or wrong about every one, in turns."""

    def __init__(self) -> None:
        super().__init__()
        self.sign = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        top, bottom = images[:, 2, :4].mean((1, 2)), images[:, 2, 4:].mean((1, 2))
        evidence = self.sign * (top - bottom)  # positive for class 1
        return torch.stack([-evidence, evidence], 1)


class FlippingDescent:
    def __init__(self, parameters: object, config: object) -> None:
        (self.sign,) = parameters  # type: ignore[misc]

    def step(self, loss: Tensor) -> None:
        assert loss.requires_grad
        with torch.no_grad():
            self.sign.neg_()


@pytest.fixture
def flipping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jtt, "build_net", lambda *_: Flipping())
    monkeypatch.setattr(jtt, "Descent", FlippingDescent)


@pytest.fixture
def plain(tiny: BiasedDataset) -> TrainingSet:
    """The tiny data without augmentation; the third channel is dark by class alone."""
    return TrainingSet(dataclasses.replace(tiny, transform=Transform()), torch.device("cpu"))


@pytest.mark.usefixtures("flipping")
def test_online_predictions_are_logged_before_the_update(plain: TrainingSet) -> None:
    """After 2 steps the network is right: wrong in the second and fourth batch of the epoch."""
    torch.manual_seed(0)
    mined = jtt.mine(plain, Backbone(), Mining(steps=2, batch_size=16))
    torch.manual_seed(0)
    list(plain.shuffled(16, 2))
    batches = [batch.indices for batch in plain.shuffled(16, 4)]
    expected = torch.zeros(64, dtype=torch.bool)
    expected[torch.cat([batches[1], batches[3]])] = True
    assert torch.equal(mined, expected)


@pytest.mark.usefixtures("flipping")
@pytest.mark.parametrize(("steps", "share"), [(2, 0.0), (3, 1.0)])
def test_the_pass_in_evaluation_mode_sees_one_network(
    plain: TrainingSet, steps: int, share: float
) -> None:
    config = Mining(steps=steps, batch_size=16, predictions="eval_pass")
    assert jtt.mine(plain, Backbone(), config).float().mean() == share


def test_each_kind_of_prediction_has_its_mode(
    plain: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Net] = []
    real = jtt.build_net

    def build_net(*arguments: object) -> Net:
        built.append(real(*arguments))  # type: ignore[arg-type]
        return built[-1]

    monkeypatch.setattr(jtt, "build_net", build_net)
    torch.manual_seed(0)
    config = Mining(optimizer="adam", lr=1e-3, weight_decay=0.0, steps=2, batch_size=16)
    jtt.mine(plain, Backbone(), config)
    assert built[0].training
    assert built[0].get_buffer("features.bn1.num_batches_tracked") == 2 + 4

    torch.manual_seed(0)
    config = Mining(predictions="eval_pass", optimizer="adam", lr=1e-3, steps=2, batch_size=16)
    mined = jtt.mine(plain, Backbone(), config)
    assert built[1].get_buffer("features.bn1.num_batches_tracked") == 2
    batch = next(plain.ordered(64))
    with torch.inference_mode():
        wrong = built[1].eval()(batch.images).argmax(1) != batch.labels
    assert 0 < wrong.sum() < 64
    assert torch.equal(mined, wrong)


@pytest.fixture
def mined() -> Tensor:
    return torch.arange(64) < 5


def test_an_epoch_holds_the_training_set_and_the_copies(train: TrainingSet, mined: Tensor) -> None:
    """64 + 5 · 20 = 164 samples are 10 batches of 16 and one of 4."""
    torch.manual_seed(0)
    epochs = [
        list(jtt.draw(train, mined, Retrain(upweight=20, batch_size=16, steps=22)))[part]
        for part in (slice(11), slice(11, 22))
    ]
    for epoch in epochs:
        assert [len(batch.labels) for batch in epoch] == [16] * 10 + [4]
        counts = torch.bincount(torch.cat([batch.indices for batch in epoch]))
        assert torch.equal(counts, torch.where(mined, 21, 1))
    first, second = (torch.cat([batch.indices for batch in epoch]) for epoch in epochs)
    assert not torch.equal(first, second)
    for batch in epochs[0]:
        assert torch.equal(batch.labels, train.labels[batch.indices])


def test_sampling_draws_with_weight_upweight(train: TrainingSet, mined: Tensor) -> None:
    """A share of 5 · 20 / (5 · 20 + 59), where copies would make it 105 / 164."""
    torch.manual_seed(0)
    config = Retrain(upweight=20, weighting="sampling", batch_size=16, steps=4000)
    drawn = torch.cat([batch.indices for batch in jtt.draw(train, mined, config)])
    share = mined[drawn].float().mean().item()
    assert abs(share - 100 / 159) < 0.0057  # 3 standard deviations; copies are 0.011 away


def test_fit_trains_a_fresh_network_and_audits(
    train: TrainingSet, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(tmp_path)
    method = build(JTT, SMALL)
    assert not method.uses_bias_labels
    torch.manual_seed(0)
    looks = [net.get_buffer("features.bn1.num_batches_tracked").item()
             for net in method.fit(train, run)]  # fmt: skip
    assert looks == [1, 2, 3]
    assert [use.name for use in run.stages] == ["mine"]
    mined = make_run(tmp_path).stage(jtt.mine, train, method.backbone, method.mining)
    assert run.metrics["mining/size"] == int(mined.sum()) > 0
    assert {"mining/precision", "mining/recall"} <= run.metrics.keys()


def test_mining_is_shared_by_trials_that_differ_later(
    train: TrainingSet, make_run: Callable[..., Run], tmp_path: Path
) -> None:
    list(build(JTT, SMALL).fit(train, make_run(tmp_path)))
    for changes, reused in (({"retrain.upweight": 20}, True), ({"mining.steps": 3}, False)):
        run = make_run(tmp_path)
        list(build(JTT, SMALL | changes).fit(train, run))
        assert [use.reused for use in run.stages] == [reused], changes


def test_it_is_planned(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    planned = plan(JTT, SMALL, get("cmnist"), "x", 0, torch.device("cpu"), store)
    assert [stage.name for stage in planned] == ["mine"]
