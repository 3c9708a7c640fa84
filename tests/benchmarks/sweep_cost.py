"""What sharing stages saves: a sweep of DCWP's authors, with sharing and the way their scripts do.

    python -m tests.benchmarks.sweep_cost --dataset cmnist

The sweep is theirs: seven sparsity weights, one seed. Every trial is run twice, in turns: once with
a stage store, once computing all of its stages. On Colored MNIST the authors train a second network
beside the biased and beside the pre-trained one that nothing uses; so does the second arm. The
ratio of the seconds stands beside the ratio of the network steps, which ignores that steps differ
in cost, that the training set is scored, and that results are read and verified.

Steps, images and gate learning rate are scaled so that every part keeps its share: `--scale 250`
takes 8 steps where the authors take 2,000. The network is their CNN for either data set.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from harness import datasets, registry
from harness.pretraining import initialise, pretrain
from harness.space import Settings, build
from harness.stages import digest
from harness.study import Store, Study, Work
from harness.training_set import BiasedDataset, GroupedSplit, TrainingSet
from harness.trial import run_work
from tests.benchmarks.measure import machine
from tests.benchmarks.trials import CPU, batches_of, study_of

SPARSITY_WEIGHTS = (1e-9, 3e-9, 5e-9, 1e-8, 3e-8, 5e-8, 1e-7)
GATE_TRAVEL = 2000 * 1e-2  # the authors' pruning steps times their learning rate
BATCH = 256
ONE_STEP: Settings = {"mining.steps": 1, "pretrain.steps": 1, "prune.steps": 1}  # to warm up


class Schedule(NamedTuple):
    """Steps of a trial's phases, and the phases in which an unused network is trained as well."""

    mining: int
    pretrain: int
    prune: int
    retrain: int
    unused: tuple[str, ...] = ()

    def scaled(self, scale: int) -> Schedule:
        """The schedule with `scale` times fewer steps."""
        return Schedule(*(max(1, steps // scale) for steps in self[:4]), unused=self.unused)

    def settings(self) -> Settings:
        """As hyperparameters of DCWP, with a look at the end."""
        steps: Settings = {f"{phase}.steps": getattr(self, phase) for phase in self._fields[:4]}
        return steps | {
            "retrain.eval_every": self.retrain,
            "prune.lr": GATE_TRAVEL / self.prune,
        }

    def allowed(self) -> float:
        """How many times fewer network steps the sweep takes when stages are shared."""
        shared = self.mining + self.pretrain
        unused = sum(getattr(self, phase) for phase in self.unused)
        own = self.prune + self.retrain
        trials = len(SPARSITY_WEIGHTS)
        return trials * (shared + unused + own) / (shared + trials * own)


AUTHORS = {
    "cmnist": Schedule(2000, 10_000, 2000, 1000, unused=("mining", "pretrain")),
    "cifar10c": Schedule(10_000, 10_000, 2000, 1000),
    "synthetic": Schedule(10_000, 10_000, 2000, 1000),
}


def thinned(dataset: BiasedDataset, scale: int) -> BiasedDataset:
    """A data set with `scale` times fewer images; training images in whole batches."""

    def draw(split: GroupedSplit, count: int) -> GroupedSplit:
        order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))
        kept = order[:count]
        return GroupedSplit(split.images[kept], split.labels[kept], split.attributes[kept])

    batches = max(1, round(len(dataset.train.labels) / scale / BATCH))
    return dataclasses.replace(
        dataset,
        train=draw(dataset.train, batches * BATCH),
        evaluation={
            name: draw(split, max(1, len(split.labels) // scale))
            for name, split in dataset.evaluation.items()
        },
        fingerprint=f"{dataset.fingerprint} thinned {scale} {BATCH}",
    )


class Outcome(NamedTuple):
    """What a trial came to."""

    digest: str  # of its group tables, metrics and final weights
    seconds: float


class Arm(NamedTuple):
    """One way to run the sweep, in a store of its own.

    Attributes:
        beside: What every trial of this arm does besides.
    """

    study: Study
    store: Store
    root: Path
    share_stages: bool
    beside: Callable[[], None]

    def run(self, number: int, settings: Settings) -> Outcome:
        """Runs one trial.

        Raises:
            RuntimeError: It failed.
        """
        work = Work(self.study.id, "train", number, 0, self.study.base | settings)
        started = time.perf_counter()
        record = run_work(
            self.study,
            work,
            self.store,
            self.root,
            lambda record: None,
            lambda *progress: None,
            self.share_stages,
        )
        self.beside()
        seconds = time.perf_counter() - started
        if record.status != "finished":
            raise RuntimeError(f"{record.error}\n{record.traceback}")
        weights = torch.load(self.store.checkpoint(self.study.id, work.key), weights_only=True)
        tables = [record.total, [(look.step, look.correct) for look in record.looks]]
        return Outcome(digest([repr(tables), record.metrics, weights]), seconds)


def train_unused(study: Study, schedule: Schedule, train: TrainingSet) -> None:
    """Trains the networks that the authors' scripts train beside those they use."""
    method: Any = build(registry.load(study.method), study.base)
    for phase in schedule.unused:
        initial = initialise(train, method.backbone)
        pretrain(train, method.backbone, getattr(method, phase), initial)


def main() -> int:
    """Prints the ratio; returns 1 if the two arms differ in a bit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", choices=AUTHORS, default="cmnist")
    parser.add_argument("--scale", type=int, default=250, help="Divides steps and images.")
    typed = parser.parse_args()
    schedule = AUTHORS[typed.dataset].scaled(typed.scale)
    settings = {"backbone.arch": "cnn"} | batches_of("dcwp", BATCH) | schedule.settings()
    study = study_of("dcwp", typed.dataset, settings)
    root = datasets.default_root()
    data = thinned(datasets.load(study.dataset, root, study.ratio), typed.scale)
    print(f"{typed.dataset}: {len(data.train.labels)} images, {schedule}")

    with (
        tempfile.TemporaryDirectory() as folder,
        patch("harness.datasets.load", lambda *_: data),
    ):
        stores = Path(folder)
        unused = partial(train_unused, study, schedule, TrainingSet(data, CPU))
        sharing = Arm(study, Store(stores / "sharing"), root, True, lambda: None)
        alone = Arm(study, Store(stores / "alone"), root, False, unused)
        Arm(study, Store(stores / "warm-up"), root, True, lambda: None).run(0, ONE_STEP)
        pairs = []
        for number, weight in enumerate(SPARSITY_WEIGHTS):
            setting: Settings = {"prune.sparsity_weight": weight}
            pairs.append((sharing.run(number, setting), alone.run(number, setting)))
            ours, theirs = pairs[-1]
            print(
                f"sparsity weight {weight:g}: {ours.seconds:.1f} s with sharing, "
                f"{theirs.seconds:.1f} s without, "
                f"{'equal' if ours.digest == theirs.digest else 'DIFFERENT'} bits",
                flush=True,
            )
    seconds = [sum(outcome.seconds for outcome in arm) for arm in zip(*pairs, strict=True)]
    measured, allowed = seconds[1] / seconds[0], schedule.allowed()
    print(
        f"{seconds[0]:.1f} s with sharing, {seconds[1]:.1f} s without: ratio {measured:.2f}, "
        f"network steps allow {allowed:.2f}, quotient {measured / allowed:.3f}"
    )
    equal = sum(ours.digest == theirs.digest for ours, theirs in pairs)
    distinct = len({ours.digest for ours, _ in pairs})
    print(f"{equal} of {len(pairs)} trials equal to the last bit; {distinct} distinct results")
    print(machine())
    return 0 if equal == len(pairs) else 1


if __name__ == "__main__":
    sys.exit(main())
