"""What each command does, from validated options to printed result."""

from __future__ import annotations

import keyword
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock, Timeout

from harness import console, datasets, registry, tracking
from harness.compose import Choice, compose
from harness.conformance import Conformance
from harness.console import say
from harness.execution import Site, run_inline
from harness.ledger import Record
from harness.plan import PlannedStage, plan, shared_stages
from harness.proposals import Proposals
from harness.schedule import Schedule, SingleRun, Sweep
from harness.skeleton import skeleton
from harness.space import Settings, parameters, unknown
from harness.stages import StageStore
from harness.study import CONFIRM_SEED, Store, Study, Work
from reports import leaderboard as reports


def sweep(
    choice: Choice,
    store: Store,
    data_root: Path | None,
    trials: int | None = None,
    seeds: int | None = None,
    budget_hours: float | None = None,
    concurrency: int | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
    fresh: bool = False,
    dry_run: bool = False,
) -> int:
    """Searches, confirms and ranks; returns the exit code."""
    made = compose(choice)
    root = data_root or datasets.default_root()
    say(f"preset {made.preset.name} ({made.preset.doc}): {made.reason}")
    gpus = torch.cuda.device_count() if made.device == "cuda" else 0
    site = Site(store, root, concurrency or (2 * gpus if gpus else cores()), gpus, address)
    trials, seeds = trials or made.preset.trials, seeds or made.preset.seeds
    if dry_run:
        for study in made.studies:
            _say_plan(study, site, trials, seeds)
        return 0
    store.claim()
    tracker = tracking.Tracker(store, tracking_uri or tracking.local_uri(store), made.studies)
    with ExitStack() as locks:
        for study in made.studies:
            locks.enter_context(_owned(store, study, site.concurrency, fresh))
        _prepare_data(made.studies, root)
        deadline = time.monotonic() + 3600 * budget_hours if budget_hours else math.inf
        schedule = _schedule(made.studies, site, trials, seeds, deadline)
        complete = True
        if schedule.has_work():
            complete = _run(schedule, site, tracker)
        else:
            say("nothing left to train: every trial and confirm run is in the store")
        board = _board(store, made.studies)
        _say_trouble(tracker.close(reports.to_markdown(board)))
    _show_board(board)
    return _verdict(schedule, complete)


def _run(schedule: Schedule, site: Site, tracker: tracking.Tracker) -> bool:
    """Runs all that is scheduled; False if it was interrupted."""
    from harness.sweep import run_on_ray  # loads Ray, which takes seconds

    with console.SweepView(schedule, site.store) as view:
        run_on_ray(schedule, site, _Both(view, tracker))
    return schedule.next() is None


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
        return _plan(by_id[work.study], work.settings, work.seed, site)

    return Schedule(agendas, plan_of, stages)


def _plan(study: Study, settings: Settings, seed: int, site: Site) -> list[PlannedStage]:
    card = datasets.describe(study.dataset, site.data_root, study.ratio, study.data_seed)
    return plan(
        registry.load(study.method, study.plugin),
        settings,
        datasets.get(study.dataset),
        card["fingerprint"] if card else "not built",
        seed,
        torch.device(study.device),
        StageStore(site.store.stages),
    )


@contextmanager
def _owned(store: Store, study: Study, lookahead: int = 1, fresh: bool = False) -> Iterator[None]:
    """Holds a study against other sweeps while this one runs it."""
    if fresh:
        shutil.rmtree(store.folder(study.id), ignore_errors=True)
    store.create(study, lookahead)
    lock = FileLock(store.folder(study.id) / "sweep.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"study {study.id} is being run by another process; wait for it") from None
    try:
        yield
    finally:
        lock.release()


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare_data(studies: list[Study], root: Path) -> None:
    wanted = dict.fromkeys((s.dataset, s.ratio, s.data_seed) for s in studies)
    for dataset, ratio, seed in wanted:
        with console.data_progress() as progress, _warnings_as_lines():
            datasets.prepare(dataset, root, ratio, seed, progress)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        say(f"warning: {warning.message}")


def _say_plan(study: Study, site: Site, trials: int, seeds: int) -> None:
    """Prints what a sweep would do; trains nothing."""
    ledger = site.store.ledger(study.id)
    search = len(study.search_seeds) * (trials if study.space else 1)
    done = len(ledger.of("search")), len(study.confirmed(ledger))
    say(f"{study.id}")
    say(f"  {search} search runs ({done[0]} done), {seeds} confirm runs ({done[1]} done)")
    say(f"  searched: {', '.join(f'{n} in {r}' for n, r in study.space.items()) or 'nothing'}")

    def plan_of(settings: Settings) -> list[PlannedStage]:
        return _plan(study, settings, study.search_seeds[0], site)

    for stage, causes in shared_stages(plan_of, study.base, study.space).items():
        kept = next(s.stored for s in plan_of(study.base) if s.name == stage)
        shared = f"one per trial: depends on {', '.join(causes)}" if causes else "shared by trials"
        say(f"  stage {stage}: {shared}{' (already computed)' if kept else ''}")
    say(f"  {_estimate(study, site, search - done[0] + seeds - done[1])}")
    free = shutil.disk_usage(site.store.root if site.store.root.exists() else Path.cwd()).free
    card = datasets.describe(study.dataset, site.data_root, study.ratio, study.data_seed)
    built = "on disk" if card else "not built yet"
    say(f"  data set {built} in {site.data_root}; {free / 2**30:.0f} GiB free for the store")


def _estimate(study: Study, site: Site, runs: int) -> str:
    """Time for so many runs, from earlier ones under the same conditions in this store."""
    seconds = [
        record.seconds
        for other in site.store.studies()
        if (other.method, other.dataset, other.preset, other.device)
        == (study.method, study.dataset, study.preset, study.device)
        for record in site.store.ledger(other.id).records.values()
        if record.status == "finished"
    ]
    if not seconds:
        return f"{runs} runs; no estimate of time, nothing like them has run in this store"
    hours = runs * sum(seconds) / len(seconds) / site.concurrency / 3600
    return (
        f"{runs} runs on {site.concurrency} workers: at most {hours:.2f} h from the mean of "
        f"{len(seconds)} earlier runs, less what shared stages save"
    )


def _board(store: Store, studies: list[Study]) -> pd.DataFrame:
    ids = {study.id for study in studies}
    return reports.leaderboard(reports.confirmed_runs(store, ids))


def _say_trouble(trouble: str) -> None:
    if trouble:
        say(f"warning: {trouble}")


def _show_board(board: pd.DataFrame) -> None:
    if board.empty:
        say("no confirmed results yet")
        return
    for heading, part in reports.titles(board):
        console.show(part, heading)


def _verdict(schedule: Schedule, complete: bool) -> int:
    """Says what failed or is missing; the exit code."""
    records = [r for agenda in schedule.agendas.values() for r in agenda.ledger.records.values()]
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        say(f"failed: {record.key}: {record.error}")
    if not complete:
        say(f"interrupted: {schedule.remaining()} runs are left; the same command continues")
        return 130
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
    tracker = tracking.Tracker(store, tracking_uri or tracking.local_uri(store), [study])
    with _owned(store, study):
        _prepare_data([study], root)
        ledger = store.ledger(study.id)
        single = SingleRun(study, ledger, seed)
        schedule = Schedule([single], lambda work: [], StageStore(store.stages))
        with console.SweepView(schedule, store) as view:
            run_inline(schedule, Site(store, root), _Both(view, tracker))
        _say_trouble(tracker.close())
    record = ledger.records[single.work.key]
    if record.status == "failed":
        say(f"failed: {record.error}")
        return 1
    console.show(reports.splits_table(study, record), f"{study.method} on {study.dataset}")
    return 0


def leaderboard(store: Store, form: str, only: list[str] | None) -> None:
    """Prints the ranking of all confirmed results."""
    if form not in reports.FORMATS:
        raise ValueError(unknown("format", form, reports.FORMATS))
    runs = reports.confirmed_runs(store)
    if only and not runs.empty:
        runs = runs[runs["dataset"].isin([datasets.get(name).name for name in only])]
    board = reports.leaderboard(runs)
    match form:
        case "table":
            _show_board(board)
        case "markdown":
            print(reports.to_markdown(board), end="")
        case "csv":
            print(board.to_csv(index=False), end="")


def methods(name: str | None, dataset: str | None) -> None:
    """Lists the methods, or shows one with its hyperparameters."""
    if name is None:
        names = registry.names()
        summaries = [registry.summary(registry.load(each)) for each in names]
        console.show(pd.DataFrame({"method": names, "summary": summaries}))
        return
    method = registry.load(name)
    say(registry.summary(method))
    shown = [datasets.get(dataset).name] if dataset else list(datasets.RECIPES)
    space = registry.search_space(method, shown[0]) if dataset else {}
    published = {d: registry.preset_settings(name, "paper", d, 1.0) for d in shown}
    rows = []
    for parameter in parameters(method).values():
        search = space.get(parameter.name, parameter.search)
        searched = f"{search}{' (on request)' if parameter.on_request else ''}" if search else ""
        values = {d: s[parameter.name] for d, s in published.items() if parameter.name in s}
        authors = ", ".join(f"{d}: {v}" for d, v in values.items())
        rows.append((parameter.name, str(parameter.default), searched, authors, parameter.doc))
    columns = ["hyperparameter", "default", "range", "authors' setting (1 %)", "meaning"]
    console.show(pd.DataFrame(rows, columns=columns))


def check(name: str, plugin: Path | None) -> int:
    """Runs a method's conformance checks; returns the exit code."""
    method = registry.load(name, str(plugin.resolve()) if plugin else "")
    faults = 0
    for finding in Conformance(method).findings():
        say(f"{'FAULT' if finding.fault else 'ok   '} {finding.check}")
        if finding.fault:
            say(f"      {finding.fault}")
            faults += 1
    say(f"{name}: {faults} faults" if faults else f"{name} conforms")
    return 1 if faults else 0


def new_method(name: str, folder: Path) -> None:
    """Writes a working method to start from."""
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise ValueError(f"{name!r} cannot name a method: use lower-case letters, digits and _")
    path = folder / f"{name}.py"
    try:
        with path.open("x") as file:  # never overwrites
            file.write(skeleton(name))
    except FileExistsError:
        raise ValueError(f"{path} exists; choose another name") from None
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None
    say(f"wrote {path}; next: harness check {name} --plugin {path}")


def datasets_(name: str | None, ratio: float, seed: int, data_root: Path | None) -> None:
    """Lists the data sets, or shows the card of one."""
    root = data_root or datasets.default_root()
    if name is None:
        rows = [
            (r.name, ", ".join(f"{x:g}" for x in r.ratios), r.summary)
            for r in datasets.RECIPES.values()
        ]
        console.show(pd.DataFrame(rows, columns=["data set", "published ratios (%)", "summary"]))
        return
    recipe = datasets.get(name)
    manifest = datasets.describe(name, root, ratio, seed)
    say(f"{recipe.name}: {recipe.summary}")
    say(f"classes {recipe.num_classes}, attributes {recipe.num_attributes}, "
        f"images {'x'.join(map(str, recipe.image_shape))}")  # fmt: skip
    say(f"sources: {recipe.sources}")
    if manifest is None:
        say(f"ratio {ratio:g} is not on disk: `harness data prepare {name} --ratio {ratio:g}`")
        return
    say(f"on disk in {root}, built in {manifest['build_seconds']:.0f} s")
    console.show(reports.groups_table(manifest["groups"], recipe.aligned_table()))


def prepare(name: str, ratio: float, seed: int, data_root: Path | None) -> None:
    """Fetches raw files and builds arrays, unless they are there."""
    root = data_root or datasets.default_root()
    with console.data_progress() as progress, _warnings_as_lines():
        folder = datasets.prepare(name, root, ratio, seed, progress)
    say(str(folder))


def sync(store: Store, tracking_uri: str | None) -> int:
    """Writes to MLflow what it lacks; returns the exit code."""
    uri = tracking_uri or tracking.local_uri(store)
    studies = store.studies()
    trouble = tracking.Tracker(store, uri, studies).close(patience=float("inf"))
    say(f"warning: {trouble}" if trouble else f"{len(studies)} studies are in {uri}")
    return 1 if trouble else 0


def ui(store: Store, tracking_uri: str | None, port: int) -> int:
    """Serves the tracking UI on this machine until interrupted."""
    say(f"MLflow UI on http://127.0.0.1:{port} (Ctrl-C ends it)")
    return tracking.serve(tracking_uri or tracking.local_uri(store), store, port)
