"""The two jobs that train: a sweep and a single run, from typed choice to printed result."""

from __future__ import annotations

import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from harness import console, datasets, optuna_view, reporting, tracking
from harness.compose import Choice, compose
from harness.console import say
from harness.dry_run import say_plan, stages_of
from harness.execution import Site, run_inline
from harness.ledger import Record
from harness.nets import Backbone, build_net
from harness.plan import PlannedStage
from harness.proposals import Proposals
from harness.schedule import INTERRUPTED, Schedule, SingleRun, Sweep
from harness.space import build, one_line
from harness.stages import StageStore
from harness.study import CONFIRM_SEED, Metrics, Snapshot, Store, Study, Work
from reports.leaderboard import splits_table
from reports.report import Report, make_report
from reports.results import from_store


def sweep(
    choice: Choice,
    store: Store,
    data_root: Path | None,
    trials: int | None = None,
    seeds: int | None = None,
    budget_hours: float | None = None,
    trial_timeout: float | None = None,
    concurrency: int | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
    fresh: bool = False,
    dry_run: bool = False,
) -> int:
    """Searches, confirms and ranks; returns the exit code."""
    made = compose(choice)
    root = (data_root or datasets.default_root()).resolve()  # as workers have other folders
    for option, value in (("--budget-hours", budget_hours), ("--trial-timeout", trial_timeout)):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{option} {value}: give a finite number, or leave it out")
    if address and not concurrency:
        raise ValueError("--address needs --concurrency: how many runs its nodes do at once")
    say(f"preset {made.preset.name} ({made.preset.doc}): {made.reason}")
    gpus = torch.cuda.device_count() if made.device == "cuda" else 0
    slots = concurrency or (2 * gpus if gpus else cores())
    time_limit = 60 * trial_timeout if trial_timeout else None
    site = Site(store, root, slots, gpus, address, time_limit)
    trials, seeds = trials or made.preset.trials, seeds or made.preset.seeds
    if dry_run:
        for study in made.studies:
            say_plan(study, site, trials, seeds)
        return 0
    store.claim()
    _fetch_weights(made.studies)
    tracker = _tracker(store, tracking_uri, made.studies)
    with ExitStack() as locks:
        for study in made.studies:
            locks.enter_context(_owned(store, study, site.concurrency, fresh))
        _prepare_all(made.studies, root)
        deadline = time.monotonic() + 3600 * budget_hours if budget_hours else math.inf
        schedule = _schedule(made.studies, site, trials, seeds, deadline)
        if schedule.has_work():
            _run(schedule, site, tracker)
        else:
            say("nothing left to train: every trial and confirm run is in the store")
        report = _report(store, made.studies)
        _say_trouble(tracker.close(reporting.artifacts(report)))
        _write_optuna_view(store)
    reporting.show([s for s in report.sections if s.chapter == "Leaderboard"])
    return _verdict(schedule)


def _tracker(store: Store, uri: str | None, studies: list[Study]) -> tracking.Tracker:
    """Follows the studies; that tracking is away now does not keep them from being run."""
    tracker = tracking.Tracker(store, uri or tracking.local_uri(store), studies)
    _say_trouble(tracker.explained_trouble())
    return tracker


def _run(schedule: Schedule, site: Site, tracker: tracking.Tracker) -> None:
    """Runs all that is scheduled, or until the schedule is halted."""
    from harness.sweep import run_on_ray  # loads Ray, which takes seconds

    with console.SweepView(schedule, site.store) as view:
        run_on_ray(schedule, site, _Both(view, tracker))


def _write_optuna_view(store: Store) -> None:
    """Brings Optuna's storage up to date; it is a view, and may wait for a store to be mended."""
    try:
        optuna_view.write_storage(store, store.studies())
    except (OSError, ValueError) as error:  # a full disk; another study that cannot be read
        say(f"warning: {store.optuna_journal} is not up to date: {one_line(error)}")


class _Both:
    """Two listeners as one."""

    def __init__(self, first: console.SweepView, second: tracking.Tracker) -> None:
        self.listeners = (first, second)

    def started(self, work: Work) -> None:
        for listener in self.listeners:
            listener.started(work)

    def looked(self, work: Work, record: Record) -> None:
        for listener in self.listeners:
            listener.looked(work, record)

    def finished(self, work: Work, record: Record) -> None:
        for listener in self.listeners:
            listener.finished(work, record)


def _schedule(
    studies: list[Study], site: Site, trials: int, seeds: int, deadline: float
) -> Schedule:
    agendas = []
    for study in studies:
        ledger = site.store.ledger(study.id)
        lookahead = site.store.lookahead(study.id)
        search = Proposals(study, ledger, trials, lookahead, deadline)
        agendas.append(Sweep(study, ledger, search, range(CONFIRM_SEED, CONFIRM_SEED + seeds)))
    by_id = {study.id: study for study in studies}
    stages = StageStore(site.store.stages)

    def plan_of(work: Work) -> list[PlannedStage]:
        return stages_of(by_id[work.study], work.settings, work.seed, site)

    return Schedule(agendas, plan_of, stages)


@contextmanager
def _owned(store: Store, study: Study, lookahead: int = 1, fresh: bool = False) -> Iterator[None]:
    """Holds a study against other sweeps while this one runs it."""
    folder = store.folder(study.id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))  # outside, for --fresh removes it
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"study {study.id} is being run by another process; wait for it") from None
    try:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        recipe = datasets.get(study.dataset)
        store.create(study, lookahead, Metrics(recipe.primary, recipe.unbiased))
        yield
    finally:
        lock.release()


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fetch_weights(studies: list[Study]) -> None:
    """Fetches pre-trained weights before anything starts that would fail without them.

    Raises:
        ValueError: They cannot be had; says where to put them and what to set.
    """
    for study in studies:
        weights = str(study.base.get("backbone.weights", "none"))
        if weights != "none":
            recipe = datasets.get(study.dataset)
            backbone = build(Backbone, {"arch": study.base["backbone.arch"], "weights": weights})
            build_net(backbone, recipe.num_classes, recipe.image_shape)


def _prepare_all(studies: list[Study], root: Path) -> None:
    wanted = dict.fromkeys((s.dataset, s.ratio, s.data_seed) for s in studies)
    for dataset, ratio, seed in wanted:
        prepare_data(dataset, root, ratio, seed)


def prepare_data(dataset: str, root: Path, ratio: float, seed: int) -> Path:
    """Builds a data set unless it is there, showing progress; returns its folder."""
    with warnings.catch_warnings(record=True) as caught, console.data_progress() as progress:
        warnings.simplefilter("always")
        folder = datasets.prepare(dataset, root, ratio, seed, progress)
    for warning in caught:
        say(f"warning: {warning.message}")
    return folder


def _report(store: Store, studies: list[Study]) -> Report:
    snapshot = Snapshot(store.root)
    return make_report(from_store(snapshot, studies), snapshot, studies)


def _say_trouble(trouble: str) -> None:
    if trouble:
        say(f"warning: {trouble}")


def _verdict(schedule: Schedule) -> int:
    """Says what failed or is missing; the exit code."""
    records = [r for agenda in schedule.agendas.values() for r in agenda.ledger.records.values()]
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        say(f"failed: {record.key}: {record.error}")
    if schedule.halted:
        left = f"{schedule.remaining()} runs are left; the same command continues"
        if schedule.halted == INTERRUPTED:
            say(f"{INTERRUPTED}: {left}")
            return 130
        say(f"error: {schedule.halted}; {left}")
        return 1
    unconfirmed = [a.study.id for a in schedule.agendas.values() if not a.study.confirmed(a.ledger)]
    for study in unconfirmed:
        say(f"{study} has no confirmed result")
    return 1 if unconfirmed else 0


def train(
    choice: Choice, store: Store, data_root: Path | None, seed: int, tracking_uri: str | None
) -> int:
    """Trains and tests one setting with one seed; returns the exit code."""
    made = compose(choice, searched=False)
    study = made.studies[0]
    say(f"preset {made.preset.name} ({made.preset.doc}): {made.reason}")
    root = data_root or datasets.default_root()
    store.claim()
    _fetch_weights([study])
    tracker = _tracker(store, tracking_uri, [study])
    with _owned(store, study):
        _prepare_all([study], root)
        ledger = store.ledger(study.id)
        single = SingleRun(study, ledger, seed)
        schedule = Schedule([single], lambda work: [], StageStore(store.stages))
        with console.SweepView(schedule, store) as view:
            run_inline(schedule, Site(store, root), _Both(view, tracker))
        _say_trouble(tracker.close())
        _write_optuna_view(store)
    record = ledger.records[single.work.key]
    if record.status == "failed":
        say(f"failed: {record.error}")
        return 1
    console.show(splits_table(study, record), f"{study.method} on {study.dataset}")
    return 0
