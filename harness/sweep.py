"""Runs a schedule of work on Ray Tune."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness.cluster import cluster, watched  # before Ray, which reads what it sets

# isort: split
import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

from harness.console import say
from harness.disk import is_disk_failure
from harness.execution import Listener, Site
from harness.interruption import stopping, time_limited
from harness.ledger import Record
from harness.schedule import Schedule
from harness.space import one_line
from harness.study import Store, Work
from harness.trial import ProgressFile, run_work


def run_on_ray(schedule: Schedule, site: Site, listener: Listener) -> None:
    """Runs all work on Ray Tune; returns early when the schedule is halted.

    Workers are reused between trials. The driver writes the ledger. The work of a worker that dies
    is given out again. Ctrl-C halts the schedule and lets running work finish; a second one, or
    SIGTERM, stops that too. So does a disk that fails, for its work cannot be recorded.

    Raises:
        ValueError: The cluster at `site.address` does not answer.
    """
    resources = {"cpu": 1.0}
    if site.gpus:
        resources["gpu"] = site.gpus / site.concurrency
    halving = _PerStudy(schedule)
    with cluster(site) as folder, stopping(schedule), watched(schedule):
        tuner = tune.Tuner(
            tune.with_resources(
                partial(
                    _train,
                    store=site.store.root.resolve(),
                    data_root=site.data_root,
                    time_limit=site.time_limit,
                ),
                resources,
            ),
            tune_config=tune.TuneConfig(
                metric="value",
                mode="max",
                num_samples=-1,
                max_concurrent_trials=site.concurrency,
                reuse_actors=True,
                search_alg=_Scheduled(schedule, listener),
                scheduler=halving,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(folder / "results"),
                verbose=0,
                callbacks=[_Records(schedule, listener, halving, site)],
            ),
        )
        try:
            tuner.fit()
        except (ray.exceptions.RayError, tune.TuneError, TimeoutError, RuntimeError) as error:
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            schedule.halt(f"Ray failed: {last}")


def _train(config: dict[str, Any], store: Path, data_root: Path, time_limit: float | None) -> None:
    """A Tune trial: one piece of work in a worker process."""
    work, place = Work(**config["work"]), Store(store)

    def report(record: Record) -> None:
        value = study.value(record) if record.looks else math.nan
        text = json.dumps(dataclasses.asdict(record))
        tune.report({"value": value, "look": len(record.looks), "record": text})

    try:
        study = place.open(work.study)
        progress = ProgressFile(place.progress_file(work.study, work.key))
        with time_limited(time_limit, place.stack_file(work.study, work.key)):
            try:
                report(run_work(study, work, place, data_root, report, progress))
            finally:
                progress.close()
    except OSError as error:
        if not is_disk_failure(error):
            raise
        tune.report({"value": math.nan, "look": 0, "disk": _line(error)})


def _line(error: OSError) -> str:
    return f"cannot write {error.filename or 'the store'}: {error.strerror}"


def _work_of(trial: Trial) -> Work:
    return Work(**trial.config["work"])


def _record_in(result: dict[str, Any]) -> Record:
    return Record.from_json(json.loads(result["record"]))


class _WithoutState:
    """Tune snapshots its parts for a resume that is not used here: the ledger is the state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        return

    def restore(self, checkpoint_path: str) -> None:
        return


class _Scheduled(_WithoutState, Searcher):
    """Tune's searcher: asks the schedule."""

    def __init__(self, schedule: Schedule, listener: Listener) -> None:
        super().__init__(metric="value", mode="max")
        self.schedule, self.listener = schedule, listener

    def suggest(self, trial_id: str) -> Any:
        work = self.schedule.next()
        if isinstance(work, Work):
            self.listener.started(work)
            return {"work": work._asdict()}
        if work == "wait":
            time.sleep(0.05)  # Tune asks again at once
            return None
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, *_: Any, **__: Any) -> None:
        return


class _Records(_WithoutState, tune.Callback):
    """Tune's callback: turns results into records."""

    def __init__(
        self, schedule: Schedule, listener: Listener, halving: _PerStudy, site: Site
    ) -> None:
        self.schedule, self.listener, self.halving = schedule, listener, halving
        self.site = site

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        if "disk" in result:
            self.schedule.halt(result["disk"])
            return
        record = _record_in(result)
        if record.status == "stopped":
            self.listener.looked(_work_of(trial), record)
        else:
            self._close(trial, record)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        """Closes a trial that the scheduler stopped; an interrupted one leaves no record."""
        if trial.trial_id in self.halving.stopped:
            self._close(trial, _record_in(trial.last_result))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """The worker died: a method's own errors are records."""
        work = _work_of(trial)
        if not self.schedule.awaits(work):
            return  # it died after its record had come in
        stack_file = self.site.store.stack_file(work.study, work.key)
        stack = stack_file.read_text() if stack_file.exists() else ""
        stack_file.unlink(missing_ok=True)
        if stack and self.site.time_limit:
            error = f"took longer than --trial-timeout, {self.site.time_limit / 60:g} minutes"
            self._take(trial, lambda: self.schedule.given_up(work, error, stack))
        elif isinstance(fault := trial.get_pickled_error(), ray.exceptions.RayTaskError):
            # Neither the method's error, which is a record, nor a death: it would come again.
            self.schedule.halt(f"a worker cannot run {work.key}: {one_line(fault.cause)}")
        else:
            say(f"the worker of {work.study} {work.key} died")
            self._take(trial, lambda: self.schedule.lost(work))

    def _close(self, trial: Trial, record: Record) -> None:
        self._take(trial, lambda: self.schedule.finished(_work_of(trial).study, record))

    def _take(self, trial: Trial, take: Callable[[], Record | None]) -> None:
        """Has the schedule take in how a trial ended; what cannot be written halts it."""
        try:
            record = take()
        except OSError as error:
            self.schedule.halt(_line(error))
            return
        if record is not None:
            self.listener.finished(_work_of(trial), record)


class _PerStudy(_WithoutState, FIFOScheduler):
    """Tune's scheduler: successive halving among the search trials of each study that asked."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stopped: set[str] = set()
        self.halving = {
            study: ASHAScheduler(time_attr="look", metric="value", mode="max", max_t=1000)
            for study, agenda in schedule.agendas.items()
            if agenda.study.scheduler == "asha"
        }

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        if (halving := self._of(trial)) is not None:
            halving.on_trial_add(controller, trial)

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        halving = self._of(trial)
        if halving is None or "disk" in result or _record_in(result).status != "stopped":
            return str(FIFOScheduler.CONTINUE)  # its last report; it ends by itself
        decision = str(halving.on_trial_result(controller, trial, result))
        if decision == FIFOScheduler.STOP:
            self.stopped.add(trial.trial_id)
        return decision

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if (halving := self._of(trial)) is not None:
            halving.on_trial_complete(controller, trial, result)

    def _of(self, trial: Trial) -> ASHAScheduler | None:
        work = _work_of(trial)
        return self.halving.get(work.study) if work.role == "search" else None
