"""MLflow as a view of the ledgers, kept up to date beside a sweep. The only file that imports it.

One thread of the driver writes; workers never do. What cannot be written now is written later: each
pass compares the ledger with what MLflow has, so a sweep, `harness sync` or the next sweep catches
up, and nothing is there twice.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from filelock import FileLock

from harness.ledger import Record
from harness.study import Store, Study, Work

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "debias-harness"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    # Without this the server starts seven job consumers of 240 MB each that outlive it.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
BATCH = 1000  # metrics per request, MLflow's limit
SHARE = 0.1
"""Of the time of a sweep that may go to writing, which takes the interpreter from Ray's driver."""


def local_uri(store: Store) -> str:
    """The tracking database inside a store."""
    return f"sqlite:///{store.root.resolve() / 'mlflow.db'}"


@dataclass(frozen=True)
class _Session:
    client: MlflowClient
    experiment: str


def _lock(store: Store) -> FileLock:
    """Held by the one process that writes: two must not make a schema, or a run, at once."""
    return FileLock(store.root / "mlflow.lock")


def _connect(uri: str, store: Store) -> _Session:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for logger in ("alembic", "mlflow.store", "urllib3"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # errors are raised, and said by us
    store.root.mkdir(parents=True, exist_ok=True)
    with _lock(store):
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            local = uri.startswith("sqlite:")
            folder = (store.root / "mlflow-artifacts").resolve().as_uri() if local else None
            experiment = client.create_experiment(EXPERIMENT, artifact_location=folder)
        else:
            experiment = found.experiment_id
        if uri.startswith("sqlite:///"):
            with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
                database.execute("PRAGMA journal_mode=WAL")  # readers do not block the writer
    return _Session(client, str(experiment))


class Tracker:
    """A listener that keeps MLflow in step with the ledgers, in a thread of its own.

    Args:
        store: Where the ledgers are.
        uri: A tracking server or database.
        studies: The studies to follow.

    Attributes:
        trouble: Why the last pass could not write everything; empty if it did.

    Raises:
        ValueError: The URI is not one that runs can be written to.
    """

    def __init__(self, store: Store, uri: str, studies: list[Study]) -> None:
        if urlsplit(uri).scheme.split("+")[0] not in SCHEMES:
            raise ValueError(
                f"cannot track at {redacted(uri)!r}: use http://HOST:PORT, or a database such as "
                "sqlite:///FILE"
            )
        self.store, self.uri, self.studies = store, uri, studies
        self.trouble = ""
        self._session: _Session | None = None
        self._connect()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._artifacts: Mapping[str, str] = {}
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def started(self, work: Work) -> None:
        """Nothing to write yet."""

    def looked(self, work: Work, record: Record) -> None:
        """Nothing to write yet: a run is written whole when it is finished."""

    def finished(self, work: Work, record: Record) -> None:
        """Wakes the writer."""
        self._changed.set()

    def close(
        self, artifacts: Mapping[str, str] = MappingProxyType({}), patience: float = 60.0
    ) -> str:
        """Writes what is left and attaches files to each study.

        Args:
            artifacts: Text by file name, such as a leaderboard.
            patience: Seconds to wait for a slow server.

        Returns:
            What could not be written and why; empty if all was.
        """
        self._artifacts = artifacts
        self._closing.set()
        self._changed.set()
        self._thread.join(patience)
        if self._thread.is_alive():
            self.trouble = f"it is slow, and not all was written in {patience:.0f} s"
        return self.explained_trouble()

    def explained_trouble(self) -> str:
        """The trouble in a line, with what to do; empty if there is none."""
        if not self.trouble:
            return ""
        remedy = f"`harness sync --tracking-uri {redacted(self.uri)}` writes what is missing"
        if self.uri == local_uri(self.store):
            remedy = "`harness sync` writes what is missing, `harness store repair` mends the file"
        return f"tracking at {redacted(self.uri)}: {self.trouble}; {remedy}"

    def _connect(self) -> _Session | None:
        """The session, made if need be; None, and trouble, if the server does not answer."""
        if self._session is None:
            try:
                self._session = _connect(self.uri, self.store)
            except Exception as error:  # MLflow, SQLAlchemy and requests raise unrelated types
                self.trouble = f"it does not answer: {_line(error, self.uri)}"
        return self._session

    def _follow(self) -> None:
        pause = 0.0
        while True:
            self._changed.wait()
            self._closing.wait(pause)
            self._changed.clear()
            closing = self._closing.is_set()
            self.trouble = ""
            began = time.monotonic()
            session = self._connect()
            if session is not None:
                try:
                    self._write(session, closing)
                except Exception as error:  # a tracking failure must not touch the sweep
                    self.trouble = _line(error, self.uri)
            if closing:
                return
            pause = (time.monotonic() - began) / SHARE

    def _write(self, session: _Session, closing: bool) -> None:
        for study in self.studies:
            with _lock(self.store):
                root = _sync(session, self.store, study)
            if closing:
                for name, text in self._artifacts.items():
                    session.client.log_text(root, text, name)
                session.client.set_terminated(root)


def redacted(uri: str, text: str = "") -> str:
    """A URI, or a text that quotes it, without the user name and password of the URI."""
    account = urlsplit(uri).netloc.rpartition("@")[0]
    text = text or uri
    return text.replace(f"{account}@", "***@") if account else text


def _line(error: Exception, uri: str) -> str:
    text = " ".join(redacted(uri, str(error) or " ").split())
    return f"{type(error).__name__}: {text[:160]}{'…' if len(text) > 160 else ''}"


def _sync(session: _Session, store: Store, study: Study) -> str:
    """Writes the study and those of its records that MLflow lacks; returns the study's run."""
    root = _study_run(session, store, study)
    runs = {}
    known = f"tags.`harness.study` = '{instance(store, study)}'"
    for run in list(_runs_of(session, known)):
        if run.info.status == "RUNNING":  # the writer died in the middle of it
            session.client.delete_run(run.info.run_id)
        else:
            runs[run.data.tags["harness.key"]] = str(run.info.run_id)
    ledger = store.ledger(study.id)
    for role in ("search", "confirm", "train"):
        for record in ledger.of(role):
            if record.key not in runs:
                first = runs.get(f"search/{record.number}/{study.search_seeds[0]}")
                parent = first if role == "confirm" and first else root
                runs[record.key] = _write(session, store, study, record, parent)
    return root


def _runs_of(session: _Session, query: str) -> Iterator[Run]:
    token = None
    while True:
        page = session.client.search_runs(
            [session.experiment], query, max_results=1000, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def instance(store: Store, study: Study) -> str:
    """Tells a study from the one that --fresh replaced."""
    return f"{study.id} {store.environment(study.id)['created']}"


def _study_run(session: _Session, store: Store, study: Study) -> str:
    """The run of the study itself, made if need be."""
    name = instance(store, study)
    found = session.client.search_runs(
        [session.experiment], f"tags.`harness.study_root` = '{name}'", max_results=1
    )
    if found:
        return str(found[0].info.run_id)
    tags = _tags(store, study) | {"harness.study_root": name}
    run = session.client.create_run(session.experiment, run_name=study.id, tags=tags)
    session.client.log_dict(run.info.run_id, study.to_json(), "study.json")
    return str(run.info.run_id)


def _tags(store: Store, study: Study) -> dict[str, str]:
    environment = store.environment(study.id)
    return {
        "method": study.method,
        "dataset": study.dataset,
        "ratio": f"{study.ratio:g}",
        "preset": study.preset,
        "selection": study.select,
        "device": f"{study.device}{' with bfloat16' if study.amp else ''}",
        "mlflow.source.git.commit": environment["git_commit"],
        **{f"version.{name}": value for name, value in environment.items()},
    }


def _write(session: _Session, store: Store, study: Study, record: Record, parent: str) -> str:
    """One record as one finished run."""
    from mlflow.entities import Metric, Param

    client = session.client
    tags = _tags(store, study) | {
        "harness.study": instance(store, study),
        "harness.key": record.key,
        "role": record.role,
        "seed": str(record.seed),
        "status": record.status,
        "mlflow.parentRunId": parent,
    }
    if record.error:
        tags["error"] = record.error[:5000]
    if record.warnings:
        tags["warnings"] = "; ".join(record.warnings)[:5000]
    name = f"{record.role} {record.number} seed {record.seed}"
    run = client.create_run(session.experiment, run_name=name, tags=tags)
    run_id = run.info.run_id
    started = run.info.start_time
    metrics = [Metric(n, v, started, s) for n, v, s in _metrics(study, record)]
    params = [Param(k, str(v)) for k, v in record.settings.items()]
    fits = BATCH - len(params)  # of all entities in a request
    client.log_batch(run_id, metrics[:fits], params)
    for begin in range(fits, len(metrics), BATCH):
        client.log_batch(run_id, metrics[begin : begin + BATCH])
    client.log_dict(run_id, _groups(record), "groups.json")
    checkpoint = store.checkpoint(study.id, record.key)
    if checkpoint.exists():
        client.log_artifact(run_id, str(checkpoint))
    client.set_terminated(run_id, "FAILED" if record.status == "failed" else "FINISHED")
    return str(run_id)


def _groups(record: Record) -> dict[str, Any]:
    """The group tables of a record, by split."""
    looks = [look.__dict__ | {"correct": record.open_results(look)} for look in record.looks]
    return {"total": {split: record.total[split] for split in record.open_splits}, "looks": looks}


def _metrics(study: Study, record: Record) -> list[tuple[str, float, int]]:
    """Name, value and step of every number of a record."""
    numbers = [(name, value, 0) for name, value in record.metrics.items()]
    numbers += [("seconds", record.seconds, 0)]
    numbers += [(f"stage_seconds/{s['name']}", s["seconds"], 0) for s in record.stages]
    for position, look in enumerate(record.looks):
        for split in record.open_results(look):
            table = record.evaluation(split, study.aligned, position)
            numbers += [(f"{split}/{n}", v, look.step) for n, v in table.metrics().items()]
    return numbers


def serve(uri: str, store: Store, port: int) -> int:
    """Runs the tracking UI on the loopback interface until interrupted; returns its exit code."""
    _connect(uri, store)
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Not as an argument, which every user of the machine can read: it may hold a password.
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": uri}
    server = subprocess.Popen(
        command, start_new_session=True, cwd=Path(store.root), env=environment
    )
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        if server.poll() is None:
            os.killpg(server.pid, 15)
            server.wait(timeout=20)
