"""What a trial of a sweep costs beyond its own work, in time and in memory."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

from harness import datasets, tracking
from harness.compose import Choice, compose
from harness.dry_run import stages_of
from harness.execution import Site
from harness.ledger import Record
from harness.proposals import Proposals
from harness.schedule import Schedule, Sweep
from harness.stages import StageStore
from harness.study import Store, Work
from harness.sweep import run_on_ray
from tests.benchmarks.measure import Pair
from tests.benchmarks.trials import batches_of, shortened, study_of
from tests.benchmarks.worker import run_one

GIB = 2**30


class _Stamps:
    """The tracker of a sweep, and when each trial was given out."""

    def __init__(self, tracker: tracking.Tracker) -> None:
        self.tracker, self.started_at = tracker, list[float]()

    def started(self, work: Work) -> None:
        self.started_at.append(time.perf_counter())
        self.tracker.started(work)

    def looked(self, work: Work, record: Record) -> None:
        self.tracker.looked(work, record)

    def finished(self, work: Work, record: Record) -> None:
        assert record.status == "finished", record.error
        self.tracker.finished(work, record)


def test_overhead_of_a_trial(sizes, benchmark, note, tmp_path):
    """Trials that wait for a second, one after the other: what is above 1 is overhead in s."""
    trials, seconds = (4, 0.1) if sizes.tiny else (20, 1.0)
    choice = Choice(
        methods=["sleeper"],
        datasets=["synthetic"],
        ratios=[1.0],
        plugins=[Path(__file__).with_name("sleeper.py")],
        set=[f"seconds={seconds}"],
        searcher="random",
        device="cpu",
    )
    (study,) = compose(choice).studies
    store, root = Store(tmp_path / "store"), tmp_path / "data"
    store.claim()
    store.create(study, lookahead=1)
    datasets.prepare("synthetic", root, study.ratio)
    site = Site(store, root)
    ledger = store.ledger(study.id)
    agenda = Sweep(study, ledger, Proposals(study, ledger, trials, lookahead=1), confirm_seeds=())
    schedule = Schedule(
        [agenda],
        lambda work: stages_of(study, work.settings, work.seed, site),
        StageStore(store.stages),
    )
    tracker = tracking.Tracker(store, tracking.local_uri(store), [study])
    stamps = _Stamps(tracker)
    benchmark.pedantic(lambda: run_on_ray(schedule, site, stamps), rounds=1)
    tracker.close()

    assert len(stamps.started_at) == trials
    intervals = [b - a for a, b in zip(stamps.started_at, stamps.started_at[1:], strict=False)]
    note(
        "trial on Ray: start to next start / its own work",
        [Pair(interval, seconds) for interval in intervals[1:]],  # the first starts the worker
        aim=1 + 1 / seconds,
    )


def test_memory_of_a_trial(sizes, benchmark, note, tmp_path):
    """Peak resident memory of a DCWP trial on cifar10c beyond its mapped arrays, of 1.5 GiB."""
    settings = {"backbone.arch": "resnet18"} | shortened("dcwp", steps=3)
    settings |= batches_of("dcwp", sizes.batch_size)
    study = study_of("dcwp", sizes.dataset("cifar10c"), settings)
    root = datasets.default_root()
    datasets.prepare(study.dataset, root, study.ratio)
    fresh = multiprocessing.get_context("spawn")
    process = fresh.Process(target=run_one, args=(study, Store(tmp_path), root))
    peaks: list[int] = []

    def watch() -> None:
        process.start()
        while process.is_alive():
            peaks.append(_resident_beyond_arrays(process.pid))
            time.sleep(0.05)
        assert process.exitcode == 0

    benchmark.pedantic(watch, rounds=1)
    note("memory: of a trial beyond its arrays / aim", [Pair(max(peaks) / GIB, 1.5)], 1, "GiB")


def _resident_beyond_arrays(pid: int | None) -> int:
    """Resident bytes of a process, without those of .npy files mapped into it."""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    kib, mapped = 0, ""
    for line in lines:
        field = line.split(maxsplit=5)
        if field[0] == "Rss:" and not mapped.endswith(".npy"):
            kib += int(field[1])
        elif not field[0].endswith(":"):
            mapped = field[5] if len(field) > 5 else ""
    return kib * 1024
