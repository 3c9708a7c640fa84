"""What the stage cache costs: reading a result, and the digests that make its keys."""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median
from typing import Any

import pytest
import torch.nn.functional as F

from harness import datasets, registry, run, stages
from harness.nets import Backbone, build_net
from harness.optimization import Training
from harness.pretraining import initialise, pretrain
from harness.run import Run
from harness.space import build
from harness.stages import StageStore
from harness.training_set import TrainingSet
from tests.benchmarks.measure import Pair
from tests.benchmarks.trials import CPU, bare_step, shortened, study_of

NETS = pytest.mark.parametrize(("arch", "dataset"), [("cnn", "cmnist"), ("resnet18", "cifar10c")])


@NETS
def test_hit(arch, dataset, sizes, compare, tmp_path):
    """A hit digests the arguments, reads, verifies and loads; a miss takes thousands of steps."""
    loaded = datasets.load(sizes.dataset(dataset), datasets.default_root(), 1.0)
    train = TrainingSet(loaded, CPU)
    trial = Run(0, CPU, StageStore(tmp_path), loaded)
    backbone, config = Backbone(arch), Training(steps=1, batch_size=sizes.batch_size)
    initial = trial.stage(initialise, train, backbone)

    net = build_net(backbone, train.num_classes, train.image_shape)
    images, labels, _ = next(train.shuffled(config.batch_size, 1))
    compare(
        f"stage hit, {arch}: pre-trained weights / one bare step",
        lambda: trial.stage(pretrain, train, backbone, config, initial),
        bare_step(net.parameters(), config, lambda: F.cross_entropy(net(images), labels)),
    )


class _Stopwatch:
    """A function with the seconds spent in it, nested calls counted once."""

    def __init__(self, function: Any) -> None:
        self.function, self.seconds, self.depth = function, 0.0, 0

    def __call__(self, value: Any) -> Any:
        started, self.depth = time.perf_counter(), self.depth + 1
        try:
            return self.function(value)
        finally:
            self.depth -= 1
            if not self.depth:
                self.seconds += time.perf_counter() - started


@pytest.mark.filterwarnings("ignore:the mined set")
@NETS
def test_digests_in_a_trial(arch, dataset, sizes, benchmark, note, monkeypatch):
    """All digests of a DCWP trial against the steps of its quick schedule."""
    few = study_of(
        "dcwp",
        sizes.dataset(dataset),
        {"backbone.arch": arch} | shortened("dcwp", 2 + sizes.pairs),
        preset="quick",
    )
    full = study_of("dcwp", few.dataset, {"backbone.arch": arch}, preset="quick")
    loaded = datasets.load(few.dataset, datasets.default_root(), few.ratio)
    began: dict[str, list[float]] = defaultdict(list)  # stage -> when each of its steps began
    current = ["fit"]

    def observe(step: int, steps: int) -> None:
        began[current[0]].append(time.perf_counter())

    train = TrainingSet(loaded, CPU, observe)
    trial = Run(0, CPU, None, loaded, enter=lambda stage: current.__setitem__(0, stage))
    watch = _Stopwatch(stages.digest)
    monkeypatch.setattr(stages, "digest", watch)
    monkeypatch.setattr(run, "digest", watch)
    method: Any = build(registry.load("dcwp"), few.base)
    benchmark.pedantic(lambda: next(method.fit(train, trial)), rounds=1)

    phases = {"pretrain": "pretrain", "mine": "mining", "learn_mask": "prune", "fit": "retrain"}
    seconds = sum(
        int(full.base[f"{phases[stage]}.steps"])
        * median(after - before for before, after in zip(times[1:], times[2:], strict=False))
        for stage, times in began.items()
    )
    note(
        f"digests, {arch}: of a dcwp trial / its quick schedule",
        [Pair(watch.seconds, seconds)],
        aim=0.02,
    )
