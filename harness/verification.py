"""Whether a method is deterministic: one trial, run in fresh processes, compared bit by bit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

from harness import console, datasets
from harness.compose import Choice, compose
from harness.console import say
from harness.disk import unseal
from harness.jobs import prepare_data
from harness.ledger import Look, Record
from harness.stages import digest
from harness.study import Store, Study, Work
from harness.trial import run_work


class Outcome(NamedTuple):
    """What one run came to.

    Attributes:
        stages: Digest of the result of each stage it called, in order.
        network: Digest of the final network; empty if the run failed.
    """

    record: Record
    stages: list[str]
    network: str


class Comparison(NamedTuple):
    """One thing that two runs must agree on."""

    what: str
    difference: str  # empty if they do


def verify(choice: Choice, data_root: Path | None, seed: int) -> int:
    """Runs a trial twice, and once more on the first run's stages; returns the exit code.

    Each run has a process of its own, with another seed for the hashes of strings. Neither the
    store nor MLflow is touched.
    """
    study = compose(choice, searched=False).studies[0]
    work = Work(study.id, "train", 0, seed, study.base)
    root = data_root or datasets.default_root()
    prepare_data(study.dataset, root, study.ratio, study.data_seed)
    with tempfile.TemporaryDirectory(prefix="harness-verify-") as scratch:
        fresh, another = Store(Path(scratch) / "1"), Store(Path(scratch) / "2")
        first = _run_afresh("first run", 1, study, work, fresh, root)
        if first.record.status == "failed":
            return _say_failure("first run", first)
        again = [("second run", another)]
        if first.stages:
            again.append(("run on stored stages", fresh))
        for hash_seed, (name, store) in enumerate(again, 2):
            other = _run_afresh(name, hash_seed, study, work, store, root)
            if other.record.status == "failed":
                return _say_failure(name, other)
            found = list(compare(first, other))
            _say_comparisons(name, found)
            different = [each for each in found if each.difference]
            if different:
                what, difference = different[0]
                say(f"not bit-identical: {name}, {what}: {difference}")
                return 1
    looks, parameters = len(first.record.looks), first.record.metrics["parameters"]
    say(
        f"bit-identical: {len(first.stages)} stages, {looks} looks, {parameters:.0f} parameters, "
        f"network sha256 {first.network}"
    )
    return 0


def compare(first: Outcome, other: Outcome) -> Iterator[Comparison]:
    """Everything that bit-identical runs agree on, in the order in which it is computed."""
    one, two = first.record, other.record
    for a, b in zip_longest(_stages(first), _stages(other)):
        difference = ""
        if a is None or b is None or a.name != b.name:
            difference = f"{a.name if a else 'none'} in one, {b.name if b else 'none'} in the other"
        elif a.key != b.key:
            difference = "called with other arguments"
        elif a.digest != b.digest:
            difference = "equal arguments, other result"
        yield Comparison(f"stage {(a or b).name}", difference)
    for position, (look, twin) in enumerate(zip_longest(one.looks, two.looks)):
        step = (look or twin).step
        yield Comparison(f"look {position + 1} (step {step})", _difference(look, twin))
    # As text, in which one NaN equals another.
    pairs = (
        (n, repr(one.metrics.get(n)), repr(two.metrics.get(n))) for n in one.metrics | two.metrics
    )
    unequal = (f"{name} {a} and {b}" for name, a, b in pairs if a != b)
    yield Comparison("metrics", next(unequal, ""))
    other_bits = f"sha256 {first.network} and {other.network}"
    yield Comparison("network", "" if first.network == other.network else other_bits)


class _Stage(NamedTuple):
    name: str
    key: str
    digest: str


def _stages(outcome: Outcome) -> Iterator[_Stage]:
    for use, result in zip(outcome.record.stages, outcome.stages, strict=True):
        yield _Stage(use["name"], use["key"], result)


def _difference(look: Look | None, twin: Look | None) -> str:
    if look is None or twin is None:
        return "in one run only"
    if look.step != twin.step:
        return f"at step {look.step} and {twin.step}"
    counts = look.correct | twin.correct
    return ", ".join(s for s in counts if look.correct.get(s) != twin.correct.get(s))


def _run_afresh(
    name: str, hash_seed: int, study: Study, work: Work, store: Store, data_root: Path
) -> Outcome:
    """Runs the trial in a new process.

    Raises:
        ValueError: The process died.
    """
    # A pool starts its process when it is given the first task.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, _hashes_seeded(hash_seed):
        try:
            return pool.submit(_outcome, name, study, work, store, data_root).result()
        except BrokenProcessPool:
            raise ValueError(f"the process of the {name} died; is there enough memory?") from None


@contextmanager
def _hashes_seeded(seed: int) -> Iterator[None]:
    """Sets PYTHONHASHSEED for the processes that are started meanwhile."""
    previous = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = str(seed)
    try:
        yield
    finally:
        del os.environ["PYTHONHASHSEED"]
        if previous is not None:
            os.environ["PYTHONHASHSEED"] = previous


def _outcome(name: str, study: Study, work: Work, store: Store, data_root: Path) -> Outcome:
    with console.data_progress() as bar:

        def progress(stage: str, done: int, steps: int) -> None:
            if steps:
                bar(f"{name}: {stage}", done, steps)

        record = run_work(study, work, store, data_root, lambda record: None, progress)
    if record.status == "failed":
        return Outcome(record, [], "")
    network = torch.load(store.checkpoint(study.id, work.key), weights_only=True)
    manifests = [unseal(path.read_text()) for path in store.stages.glob("*/manifest.json")]
    digests = {manifest["key"]: manifest["digest"] for manifest in manifests}
    return Outcome(record, [digests[use["key"]] for use in record.stages], digest(network))


def _say_comparisons(name: str, comparisons: list[Comparison]) -> None:
    say(f"{name}:")
    for what, difference in comparisons:
        say(f"  {what}: {f'DIFFERS: {difference}' if difference else 'equal'}")


def _say_failure(name: str, outcome: Outcome) -> int:
    say(f"{name} failed: {outcome.record.error}")
    return 1
