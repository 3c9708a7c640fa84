"""What a step of a training loop costs beyond its arithmetic: batches, bookkeeping and progress.

A trial runs as in `harness train`. Whenever it says that a step begins, one bare step of the same
arithmetic is taken on a batch that is ready, so that the two alternate. Loss averages and sample
weights that a method keeps are not part of the bare step, but its losses and gates are. What comes
before the first step, such as drawing the indices of all weighted batches, is left out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import datasets, registry
from harness.disentangled import Disentangled
from harness.gates import add_gates, apply_mask, gates
from harness.losses import confident_cross_entropy, gce, sparsity
from harness.nets import Net, build_net
from harness.optimization import Training
from harness.space import build
from harness.study import Store, Work
from harness.training_set import TrainingSet
from harness.trial import Progress, ProgressFile, run_work
from methods.dcwp import GATE_START, MinedBatch, debiasing_loss
from tests.benchmarks.measure import Pair, timed
from tests.benchmarks.trials import CPU, bare_step, batches_of, shortened, study_of

Step = Callable[[], None]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dcwp", {}),
        ("lff", {}),
        ("disent", {}),
        ("disent", {"training.swap_after": 0}),
        ("jtt", {}),
    ],
    ids=["dcwp", "lff", "disent", "disent-swapping", "jtt"],
)
@pytest.mark.parametrize(("arch", "dataset"), [("cnn", "cmnist"), ("resnet18", "cifar10c")])
def test_loop(arch, dataset, method, settings, sizes, benchmark, note, tmp_path, request):
    steps = sizes.pairs + 2  # the first step warms up, the end of the last is not told
    study = study_of(
        method,
        sizes.dataset(dataset),
        {"backbone.arch": arch}
        | shortened(method, steps)
        | batches_of(method, sizes.batch_size)
        | settings,
    )
    root, store = datasets.default_root(), Store(tmp_path)
    loaded = datasets.load(study.dataset, root, study.ratio, study.data_seed)
    built = build(registry.load(method), study.base)
    turns = _Turns(
        ProgressFile(tmp_path / "progress"),
        lambda stage: _bare(built, stage, TrainingSet(loaded, CPU)),
    )
    work = Work(study.id, "train", 0, 0, study.base)

    def trial() -> None:
        with suppress(_MeasuredError):
            record = run_work(study, work, store, root, lambda record: None, turns)
            pytest.fail(record.error)

    benchmark.pedantic(trial, rounds=1)
    for stage, pairs in turns.pairs.items():
        note(f"loop {request.node.callspec.id} {stage}: step / bare step", pairs, aim=1.05)


class _MeasuredError(BaseException):
    """Ends a trial whose loops are measured: its evaluation is not what is."""


class _Turns:
    """A trial's progress callback that takes a bare step between any two of the trial's steps."""

    def __init__(self, progress: Progress, bare: Callable[[str], Step]) -> None:
        self.pairs: dict[str, list[Pair]] = defaultdict(list)
        self.progress, self.bare = progress, bare
        self.resumed = 0.0

    def __call__(self, stage: str, step: int, steps: int) -> None:
        self.progress(stage, step, steps)  # part of the harness's step
        now = time.perf_counter()
        if step == 0:  # a stage is entered
            return
        if step == 1:
            self.step = self.bare(stage)
        seconds = timed(self.step)
        if step > 2:
            self.pairs[stage].append(Pair(now - self.resumed, seconds))
        if stage == "fit" and step == steps:
            raise _MeasuredError
        self.resumed = time.perf_counter()


def _bare(method: Any, stage: str, train: TrainingSet) -> Step:
    """The arithmetic of one of a method's loops."""
    make = partial(build_net, method.backbone, train.num_classes, train.image_shape)
    match method.name, stage:
        case "dcwp", "pretrain":
            return _plain(make(), method.pretrain, train)
        case "dcwp", "mine":
            return _biased(make(), method.mining, train)
        case "dcwp", "learn_mask":
            return _gated(make(), method, train)
        case "dcwp", "fit":
            return _fine_tuned(make(), method, train)
        case "jtt", "mine":
            return _plain(make(), method.mining, train)
        case "jtt", "fit":
            return _plain(make(), method.retrain, train)
        case "lff", "fit":
            return _failing(make(), make(), method.training, train)
        case "disent", "fit":
            net = Disentangled(method.backbone, train.num_classes, train.image_shape)
            return _disentangled(net, method.training, train)
    raise ValueError(f"no bare step for stage {stage} of {method.name}")


def _ready(train: TrainingSet, size: int) -> tuple[Tensor, Tensor]:
    images, labels, _ = next(train.shuffled(size, 1))
    return images, labels


def _plain(net: Net, config: Training, train: TrainingSet) -> Step:
    images, labels = _ready(train, config.batch_size)
    return bare_step(net.parameters(), config, lambda: F.cross_entropy(net(images), labels))


def _biased(net: Net, config: Any, train: TrainingSet) -> Step:
    images, labels = _ready(train, config.batch_size)

    def loss() -> Tensor:
        if config.rule == "ensemble":
            return confident_cross_entropy(net(images), labels, config.confidence)
        return gce(net(images), labels, config.gce_q, config.gce_form).mean()

    return bare_step(net.parameters(), config, loss)


def _mined(train: TrainingSet, size: int) -> MinedBatch:
    return MinedBatch(*_ready(train, size), torch.arange(size) % 2 == 0, torch.ones(size))


def _gated(net: Net, method: Any, train: TrainingSet) -> Step:
    config = method.prune
    net.requires_grad_(False)
    add_gates(net, config.gate, config.gate_temperature, GATE_START)
    learned = list(gates(net).values())
    batch = _mined(train, config.batch_size)

    def loss() -> Tensor:
        debiasing = debiasing_loss(net, batch, method.contrastive, config.contrastive_weight)
        return debiasing + config.sparsity_weight * sparsity(learned, config.sparsity)

    return bare_step(learned, config, loss)


def _fine_tuned(net: Net, method: Any, train: TrainingSet) -> Step:
    config = method.retrain
    layers = (m for m in net.named_modules() if isinstance(m[1], nn.Conv2d | nn.Linear))
    apply_mask(net, {name: torch.ones_like(layer.weight) for name, layer in layers})
    batch = _mined(train, config.batch_size)
    return bare_step(
        net.parameters(),
        config,
        lambda: debiasing_loss(net, batch, method.contrastive, config.contrastive_weight),
    )


def _failing(biased: Net, debiased: Net, config: Any, train: TrainingSet) -> Step:
    images, labels = _ready(train, config.batch_size)
    weights = torch.ones(config.batch_size)

    def loss() -> Tensor:
        losses = F.cross_entropy(debiased(images), labels, reduction="none")
        biased_losses = gce(biased(images), labels, config.gce_q)
        return biased_losses.mean() + (weights * losses).mean()

    return bare_step([*biased.parameters(), *debiased.parameters()], config, loss)


def _disentangled(net: Disentangled, config: Any, train: TrainingSet) -> Step:
    images, labels = _ready(train, config.batch_size)
    weights, order = torch.ones(config.batch_size), torch.randperm(config.batch_size)

    def both(intrinsic: Tensor, biased: Tensor, biased_labels: Tensor) -> Tensor:
        losses = F.cross_entropy(intrinsic, labels, reduction="none")
        biased_losses = gce(biased, biased_labels, config.gce_q)
        return (weights * losses).mean() + config.bias_weight * biased_losses.mean()

    def loss() -> Tensor:
        z_l, z_b = net.embed(images)
        total = both(*net.logits(z_l, z_b), labels)
        if config.swap_after == 0:
            total = total + both(*net.logits(z_l, z_b[order]), labels[order])
        return total

    return bare_step(net.parameters(), config, loss)
