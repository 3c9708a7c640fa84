"""Drives one `fit`: iterates, times and evaluates it. Knows nothing of Ray or MLflow."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from harness import datasets, registry
from harness.disk import is_disk_failure, replace_atomically
from harness.evaluation import count_parameters, evaluate
from harness.groups import Evaluation
from harness.ledger import Look, Record
from harness.run import Run, arithmetic
from harness.space import build
from harness.stages import StageStore
from harness.study import Store, Study, Work
from harness.training_set import BiasedDataset, TrainingSet

Progress = Callable[[str, int, int], None]
"""Told (stage, steps done, steps in all)."""


def run_work(
    study: Study,
    work: Work,
    store: Store,
    data_root: Path,
    report: Callable[[Record], None],
    progress: Progress,
    share_stages: bool = True,
) -> Record:
    """Trains one setting with one seed and returns its record; a failure is a record too.

    Validation splits are evaluated at every look. So is the test split, except in a search, where
    it is evaluated once, at the end, and sealed: no rule that chooses reads it, only the report
    that compares such rules. Outside of a search the final network is kept in the store.

    Args:
        study: Method, data set and rule.
        work: Setting and seed.
        store: Where stages and checkpoints are kept.
        data_root: Where data sets are kept.
        report: Told the record so far after every look; may raise to stop the trial.
        progress: Told which stage is being trained and how far it is.
        share_stages: False computes every stage here, for comparison.

    Raises:
        OSError: The disk is full, read-only or broken; there is no record.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    record = Record(work.role, work.number, work.seed, work.settings, "stopped", started=started)

    def note(looked: Record) -> None:
        nonlocal record
        record = looked
        report(looked)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with arithmetic(torch.device(study.device), study.amp):
                record = _fit(study, work, record, store, data_root, note, progress, share_stages)
        except Exception as error:  # a failed trial is a result, whatever its method raised
            if isinstance(error, OSError) and is_disk_failure(error):
                raise  # not the method's doing, and gone when there is space again
            reason = f"{study.method}: {type(error).__name__}: {error}"
            record = dataclasses.replace(
                record, status="failed", error=reason, traceback=traceback.format_exc()
            )
    # Deprecations and the like, which are for programmers, have categories of their own.
    said = dict.fromkeys(str(each.message) for each in caught if each.category is UserWarning)
    return dataclasses.replace(record, warnings=list(said))


def _fit(
    study: Study,
    work: Work,
    record: Record,
    store: Store,
    data_root: Path,
    report: Callable[[Record], None],
    progress: Progress,
    share_stages: bool,
) -> Record:
    device = torch.device(study.device)
    _make_reproducible(work.seed, device)
    dataset = datasets.load(study.dataset, data_root, study.ratio, study.data_seed)
    method = build(registry.load(study.method, study.plugin), work.settings)
    stage = "fit"
    done = 0

    def enter(name: str) -> None:
        nonlocal stage
        stage = name
        progress(name, 0, 0)

    def observe(step: int, steps: int) -> None:
        nonlocal done
        if stage == "fit":  # a reused stage takes no steps here, so none counts
            done = step
        progress(stage, step, steps)

    train = TrainingSet(dataset, device, observe)
    run = Run(
        work.seed,
        device,
        StageStore(store.stages) if share_stages else None,
        dataset,
        method.uses_bias_labels,
        enter,
    )
    clock = _Clock(run)
    looks: list[Look] = []
    model: nn.Module | None = None
    total: dict[str, list[list[int]]] = {}
    searching = work.role == "search"
    splits = [name for name in dataset.evaluation if not (searching and name == "test")]
    classifiers = method.fit(train, run)
    while (latest := clock.time(lambda: next(classifiers, None))) is not None:
        model = latest
        tables = _evaluate(model, dataset, splits)
        total = {split: t.total.tolist() for split, t in tables.items()}
        correct = {split: t.correct.tolist() for split, t in tables.items()}
        looks.append(Look(done, clock.seconds, correct))
        record = dataclasses.replace(
            record,
            looks=[*looks],
            total=total,
            metrics=dict(run.metrics),
            stages=[use._asdict() for use in run.stages],
            seconds=clock.seconds,
            uses_bias_labels=method.uses_bias_labels,
        )
        report(record)
    if model is None:
        raise RuntimeError("fit() yielded no classifier")
    if searching:
        test = _evaluate(model, dataset, ["test"])["test"]
        total = total | {"test": test.total.tolist()}
        correct = looks[-1].correct | {"test": test.correct.tolist()}
        looks[-1] = dataclasses.replace(looks[-1], correct=correct)
    else:
        _keep_checkpoint(model, store.checkpoint(study.id, work.key))
    metrics = run.metrics | count_parameters(model)
    return dataclasses.replace(record, status="finished", looks=looks, total=total, metrics=metrics)


class _Clock:
    """Seconds of a method's own work: reused stages credited, evaluation left out."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.outside_stages = 0.0

    def time(self, work: Callable[[], nn.Module | None]) -> nn.Module | None:
        started, in_stages = time.perf_counter(), self.run.seconds_in_stages
        result = work()
        spent = time.perf_counter() - started
        self.outside_stages += spent - (self.run.seconds_in_stages - in_stages)
        return result

    @property
    def seconds(self) -> float:
        return self.outside_stages + sum(use.seconds for use in self.run.stages)


def _make_reproducible(seed: int, device: torch.device) -> None:
    """Same seed, same bits: also in a worker process that has run other trials before."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if device.type == "cpu":
        torch.set_num_threads(1)  # sums split over threads differ in their last bits
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _evaluate(model: nn.Module, dataset: BiasedDataset, splits: list[str]) -> dict[str, Evaluation]:
    """Group tables by split, in a random stream of its own."""
    with torch.random.fork_rng():
        return {
            split: evaluate(model, dataset.evaluation[split], dataset.transform, dataset.aligned)
            for split in splits
        }


def _keep_checkpoint(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()  # torch hides what the system says of a full disk
    torch.save({name: value.cpu() for name, value in model.state_dict().items()}, buffer)
    replace_atomically(path, buffer.getbuffer())


class ProgressFile:
    """Tells another process how far this one is, by a small file rewritten once a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stage, self.began, self.written = "", 0.0, 0.0
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Notes a step; cheap enough to be called at every one."""
        now = time.monotonic()
        if stage != self.stage or done <= 1:
            self.stage, self.began = stage, now
        elif now - self.written < 1:
            return
        self.written = now
        rate = (done - 1) / (now - self.began) if done > 1 and now > self.began else 0.0
        part = self.path.with_suffix(".part")
        with suppress(OSError):  # a full disk, which need not be the training's concern
            part.write_text(json.dumps([stage, done, total, rate]))
            part.rename(self.path)

    def close(self) -> None:
        """Takes the file away: this work is over."""
        self.path.unlink(missing_ok=True)
