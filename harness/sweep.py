"""Runs a schedule of work on Ray Tune, or in this process. The only file that imports Ray."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.ledger import Record
from harness.schedule import Schedule
from harness.study import Store, Work
from harness.trial import ProgressFile, run_work

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Odd name, but the one switch that keeps all of Ray's listeners on the loopback interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


class Listener(Protocol):
    """What wants to know how a sweep is going: the live table, the tracker."""

    def started(self, work: Work) -> None:
        """A piece of work was given to a worker."""

    def looked(self, work: Work, record: Record) -> None:
        """Its classifier was evaluated once more."""

    def finished(self, work: Work, record: Record) -> None:
        """Its record is in the ledger."""


@dataclass(frozen=True)
class Site:
    """Where work runs and what it reads.

    Attributes:
        concurrency: Pieces of work at once.
        gpus: Accelerators they share; 0 for a CPU sweep.
        address: An existing Ray cluster; None starts one here.
    """

    store: Store
    data_root: Path
    concurrency: int = 1
    gpus: float = 0.0
    address: str | None = None


def run_inline(schedule: Schedule, site: Site, listener: Listener) -> None:
    """Runs all work in this process, one piece after the other."""
    while isinstance(work := schedule.next(), Work):
        study = site.store.open(work.study)
        listener.started(work)
        progress = ProgressFile(site.store.progress_file(work.study, work.key))
        record = run_work(
            study,
            work,
            site.store,
            site.data_root,
            partial(listener.looked, work),
            progress,
        )
        progress.close()
        schedule.finished(work.study, record)
        listener.finished(work, record)


def run_on_ray(schedule: Schedule, site: Site, listener: Listener) -> None:
    """Runs all work on Ray Tune; returns early when it is interrupted.

    Workers are reused between trials. The driver writes the ledger; a worker that dies leaves a
    failed record.

    Raises:
        ValueError: The cluster at `site.address` does not answer.
    """
    with _Cluster(site) as results:
        from ray import tune

        resources = {"cpu": 1.0}
        if site.gpus:
            resources["gpu"] = site.gpus / site.concurrency
        events = _events(schedule, listener)
        trainable = tune.with_parameters(_train, root=site.store.root, data_root=site.data_root)
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                metric="value",
                mode="max",
                num_samples=-1,
                max_concurrent_trials=site.concurrency,
                reuse_actors=True,
                search_alg=_searcher(schedule, listener, events),
                scheduler=_scheduler(schedule),
            ),
            run_config=tune.RunConfig(
                name="sweep", storage_path=str(results), verbose=0, callbacks=[events]
            ),
        )
        previous = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
        try:
            tuner.fit()
        finally:
            signal.signal(signal.SIGTERM, previous)


class _Cluster:
    """A local Ray instance in a short temporary folder, or a connection to a running cluster."""

    def __init__(self, site: Site) -> None:
        self.site = site
        # Ray's sockets live here and their paths may have 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="hrn-", dir="/tmp"))

    def __enter__(self) -> Path:
        environment = dict(LOCAL_ENVIRONMENT)
        if self.site.address:
            del environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        import ray

        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.site.address:
                ray.init(address=self.site.address, **quiet)
            else:
                ray.init(
                    num_cpus=self.site.concurrency,
                    num_gpus=math.ceil(self.site.gpus),
                    include_dashboard=False,
                    object_store_memory=200 * 2**20,
                    _temp_dir=str(self.folder),
                    **quiet,
                )
        except (ConnectionError, ValueError, OSError) as error:
            self.__exit__()
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"no Ray cluster at {self.site.address or 'this machine'} ({reason}): check "
                "--address, and RAY_AUTH_TOKEN if the cluster asks for a token"
            ) from None
        return self.folder / "results"

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def _train(config: dict[str, Any], root: Path, data_root: Path) -> None:
    """A Tune trial: one piece of work in a worker process."""
    from ray import tune

    work = Work(**config["work"])
    store = Store(root)
    study = store.open(work.study)
    progress = ProgressFile(store.progress_file(work.study, work.key))

    def report(record: Record) -> None:
        value = study.value(record) if record.looks else math.nan
        text = json.dumps(dataclasses.asdict(record))
        tune.report({"value": value, "look": len(record.looks), "record": text})

    try:
        report(run_work(study, work, store, data_root, report, progress))
    finally:
        progress.close()


def _record_in(result: dict[str, Any] | None) -> Record | None:
    return Record.from_json(json.loads(result["record"])) if result and "record" in result else None


def _events(schedule: Schedule, listener: Listener) -> Any:
    """Tune's callback: turns results into records. A factory, since the base class is Ray's."""
    from ray import tune

    class Events(tune.Callback):
        def on_trial_result(
            self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any],
            **info: Any,
        ) -> None:  # fmt: skip
            record = _record_in(result)
            assert record is not None
            if record.status == "stopped":
                listener.looked(Work(**trial.config["work"]), record)
            else:
                self.close(trial, record)

        def on_trial_complete(
            self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
        ) -> None:
            """Also called for a trial that the scheduler stopped after a look."""
            record = _record_in(trial.last_result)
            if record is not None and record.status == "stopped":
                self.close(trial, record)

        def on_trial_error(
            self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
        ) -> None:
            work = Work(**trial.config["work"])
            error = "the worker process died; memory may have run out (--concurrency lowers it)"
            base = _record_in(trial.last_result) or Record(
                work.role, work.number, work.seed, work.settings, "failed"
            )
            self.close(trial, dataclasses.replace(base, status="failed", error=error))

        def close(self, trial: Trial, record: Record) -> None:
            work = Work(**trial.config["work"])
            schedule.finished(work.study, record)
            listener.finished(work, record)

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune snapshots callbacks for a resume that this harness does not use

    return Events()


def _searcher(schedule: Schedule, listener: Listener, events: Any) -> Any:
    """Tune's view of the schedule."""
    from ray.tune.search import Searcher

    class Scheduled(Searcher):
        def suggest(self, trial_id: str) -> Any:
            work = schedule.next()
            if isinstance(work, Work):
                listener.started(work)
                return {"work": work._asdict()}
            if work == "wait":
                time.sleep(0.05)  # Tune asks again at once
                return None
            return Searcher.FINISHED

        def on_trial_complete(self, trial_id: str, *_: Any, **__: Any) -> None:
            return

        def save(self, checkpoint_path: str) -> None:
            return  # the ledger is the state

        def restore(self, checkpoint_path: str) -> None:
            return

    return Scheduled(metric="value", mode="max")


def _scheduler(schedule: Schedule) -> Any:
    """Asynchronous successive halving among the search trials of each study that asked for it."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    rungs = {
        study: ASHAScheduler(time_attr="look", metric="value", mode="max", max_t=1000)
        for study, agenda in schedule.agendas.items()
        if agenda.study.scheduler == "asha"
    }

    def of(trial: Trial) -> ASHAScheduler | None:
        work = Work(**trial.config["work"])
        return rungs.get(work.study) if work.role == "search" else None

    class PerStudy(FIFOScheduler):
        def on_trial_add(self, controller: Any, trial: Trial) -> None:
            if (asha := of(trial)) is not None:
                asha.on_trial_add(controller, trial)

        def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
            if (asha := of(trial)) is not None:
                return str(asha.on_trial_result(controller, trial, result))
            return str(FIFOScheduler.CONTINUE)

        def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
            if (asha := of(trial)) is not None:
                asha.on_trial_complete(controller, trial, result)

    return PerStudy()  # type: ignore[no-untyped-call]
