"""What is wrong with what is derived from the ledgers: Optuna's storage, MLflow's database."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from harness import optuna_view, tracking
from harness.disk import sync_folder
from harness.inspection import Finding, TrackedRun, tracked_runs
from harness.study import Store, Study


def in_optuna_view(store: Store, studies: list[Study]) -> list[Finding]:
    """What is wrong with Optuna's storage."""
    path = store.optuna_journal
    if not studies and not path.exists():
        return []
    expected = optuna_view.journal(store, studies)
    if path.exists() and path.read_bytes() == expected:
        return []
    what = "it is not what the ledgers say" if path.exists() else "it is missing"
    mend = partial(optuna_view.write_storage, store, studies)
    return [Finding(path, what, "writes it from the ledgers", mend)]


def in_mlflow(store: Store, studies: list[Study], unread: list[str]) -> list[Finding]:
    """What is wrong with the database in the store; a server looks after its own."""
    path = store.root / "mlflow.db"
    write = partial(_write_mlflow, store, studies)
    if not path.exists():
        used = (store.root / "mlflow-artifacts").exists()
        return [Finding(path, "it is missing", "writes it from the ledgers", write)] * used
    try:
        runs = tracked_runs(path)
    except sqlite3.DatabaseError as error:
        remedy = "moves it to mlflow.db.damaged-1, or -2 …, and writes it from the ledgers"
        mend = partial(_rebuild_mlflow, store, studies)
        return [Finding(path, f"it is damaged ({error})", remedy, mend)]
    instances = {study.id: tracking.instance(store, study) for study in studies}
    expected = {
        (name, key)
        for study, name in instances.items()
        for key in ["", *store.ledger(study).records]
    }
    kept: dict[tuple[str, str], TrackedRun] = {}
    strange, twice = [], []
    for run in runs:
        if run.study.split(" ")[0] in unread:
            continue
        name = (run.study, run.key)
        if name not in expected:
            # What --fresh replaced, or was removed from the store, stays in MLflow as it ended.
            if run.study in instances.values() or run.status == "RUNNING":
                strange.append(run)
        elif name in kept:
            twice.append(run)
        else:
            kept[name] = run
    unfinished = [name for name, run in kept.items() if run.status == "RUNNING"]
    found = []
    for what, extra in (("of no record", strange), ("there twice", twice)):
        if extra:
            said = _such_as(what, ((run.study, run.key) for run in extra))
            mend = partial(_delete_runs, path, [run.id for run in extra])
            remedy = "marks them deleted (`mlflow runs restore` brings one back)"
            found.append(Finding(path, said, remedy, mend))
    for what, names in (("missing", expected - kept.keys()), ("left RUNNING", unfinished)):
        if names:
            found.append(
                Finding(path, _such_as(what, names), "writes them from the ledgers", write)
            )
    return found


def _such_as(what: str, names: Iterable[tuple[str, str]]) -> str:
    ordered = sorted(names)
    study, key = ordered[0]
    return f"{len(ordered)} runs are {what}, such as {key or 'that'} of study {study}"


def _write_mlflow(store: Store, studies: list[Study]) -> None:
    """Has the tracker write what MLflow lacks, into a new database if this one cannot be used."""
    if _track(store, studies):
        _rebuild_mlflow(store, studies)


def _track(store: Store, studies: list[Study]) -> str:
    """Has the tracker write what MLflow lacks; returns its trouble.

    In a new process, for MLflow keeps a file open that it has once used, also when it was moved.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_sync, store, studies).result()


def _sync(store: Store, studies: list[Study]) -> str:
    tracker = tracking.Tracker(store, tracking.local_uri(store), studies)
    return tracker.close(patience=threading.TIMEOUT_MAX)


def _rebuild_mlflow(store: Store, studies: list[Study]) -> None:
    path = store.root / "mlflow.db"
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    # The database last: as long as it is there, a repair that was killed begins here again.
    for suffix in ("-wal", "-shm", ""):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(f"{aside}{suffix}")
    sync_folder(path.parent)
    if trouble := _track(store, studies):
        raise ValueError(trouble)


def _delete_runs(path: Path, runs: list[str]) -> None:
    """Deletes runs as MLflow does: for good only with `mlflow gc`."""
    now = int(1000 * time.time())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "UPDATE runs SET lifecycle_stage = 'deleted', deleted_time = ? WHERE run_uuid = ?",
            [(now, run) for run in runs],
        )
