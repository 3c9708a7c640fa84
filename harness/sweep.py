"""Runs a schedule of work on Ray Tune. The only file that imports Ray."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.console import say
from harness.disk import is_disk_failure
from harness.execution import Listener, Site
from harness.interruption import stopping, time_limited
from harness.ledger import Record
from harness.schedule import Schedule
from harness.space import one_line
from harness.study import Store, Work
from harness.trial import ProgressFile, run_work

# Ray reads these when it is imported.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Odd name, but the one switch that keeps the listeners of a local Ray on the loopback
    # interface. It has no effect on a cluster that runs already.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.experiment import Trial  # noqa: E402
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402


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
    with _cluster(site) as folder, _watched(schedule), stopping(schedule):
        tune.Tuner(
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
        ).fit()


@contextmanager
def _cluster(site: Site) -> Iterator[Path]:
    """A local Ray in a short temporary folder, or a connection to a running cluster."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with _short_folder() as folder:
        try:
            if site.address:
                _reach(site.address)
                ray.init(address=site.address, **quiet)
            else:
                _start(site, folder / "ray", quiet)
            yield folder
        except ConnectionError as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"no Ray cluster answers at {site.address} ({reason}): check --address, and "
                "RAY_AUTH_TOKEN if the cluster asks for a token"
            ) from None
        finally:
            ray.shutdown()


def _start(site: Site, folder: Path, quiet: dict[str, Any]) -> None:
    """Starts a Ray of our own.

    Raises:
        ValueError: It did not start, as on a machine that is very busy.
    """
    # Ray would make one in the home folder, readable by others.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        ray.init(
            num_cpus=site.concurrency,
            num_gpus=site.gpus,
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            _temp_dir=str(folder),  # which Ray opens to everybody
            **quiet,
        )
    except Exception as error:  # what Ray raises is an Exception, and no more
        reason = one_line(error)
        raise ValueError(f"Ray did not start: {reason}; the same command tries again") from None


@contextmanager
def _short_folder() -> Iterator[Path]:
    """A temporary folder for Ray, whose sockets have paths of 107 bytes at most.

    Folders that killed sweeps have left are removed: nobody holds their lock.
    """
    temporary = Path("/tmp")  # noqa: S108 - only the name is known beforehand
    for left in temporary.glob("hrn-*/lock"):
        with suppress(Timeout, OSError), FileLock(left, timeout=0):
            shutil.rmtree(left.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".hrn-", dir=temporary))
    try:
        with FileLock(folder / "lock"):
            folder = folder.rename(temporary / folder.name[1:])  # held before others can see it
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _watched(schedule: Schedule) -> Iterator[None]:
    """Halts the schedule when a part of our own Ray dies: Tune would wait for it for ever."""
    # No public function tells, except by ending this process after a minute without the GCS.
    node: Any = ray._private.worker._global_node
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            dead = {kind for kind, _ in node.dead_processes()} & {"raylet", "gcs_server"}
            if dead:
                schedule.halt(f"Ray's {' and '.join(sorted(dead))} died")
                say(f"{schedule.halted}; what is recorded is safe, and the same command continues")
                signal.raise_signal(signal.SIGUSR1)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _reach(address: str) -> None:
    """Raises ConnectionError within seconds; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ConnectionError(error.strerror or str(error)) from None


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
