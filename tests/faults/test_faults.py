"""A short set of faults, and that the audit can tell; `python -m tests.faults` is the long set."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.lab import SWEEP, Lab, Outcome, Verdict, ledger_lines

LONGER = (*SWEEP, "--trials", "10")
RUNS = 24


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    lab.undisturbed(LONGER)
    yield lab
    lab.clear()


def test_a_sweep_that_meets_one_fault_after_the_other_ends_as_an_undisturbed_one(lab: Lab) -> None:
    store = lab.new_store()
    interrupted = lab.start(store, LONGER)
    interrupted.wait_for_records(1)
    refused = lab.finish(store, LONGER)
    interrupted.send(signal.SIGINT, group=True)  # as a terminal does: to the workers, too
    assert interrupted.end() == 130
    assert "the same command continues" in interrupted.last_line
    assert "is being run by another process" in refused.last_line

    terminated = lab.start(store, LONGER)
    terminated.wait_for_records(len(interrupted.known) + 1)
    os.kill(terminated.processes("ray::ImplicitFunc")[0], signal.SIGKILL)
    terminated.wait_for_line("died")
    terminated.wait_for_records(len(terminated.known) + 1)
    terminated.send(signal.SIGTERM)
    assert terminated.end() == 130
    assert "the same command continues" in terminated.last_line

    beheaded = lab.start(store, LONGER)
    beheaded.wait_for_records(len(terminated.known) + 1)
    beheaded.kill("/raylet ")
    assert beheaded.end() == 1
    assert "the same command continues" in beheaded.last_line

    killed = lab.start(store, LONGER)
    killed.wait_for_records(len(beheaded.known) + 1)
    killed.send(signal.SIGKILL)
    killed.end()
    assert len(killed.known) < RUNS

    sweeps = [interrupted, refused, terminated, beheaded, killed, lab.finish(store, LONGER)]
    verdict = lab.audit(
        Outcome(store, sweeps, len(killed.known), LONGER, codes=[130, 2, 130, 1, -9, 0])
    )
    assert verdict.is_good, verdict
    assert not lab.left_behind(sweeps)


def rewrite(store: Path, change: Callable[[list[str]], list[str]]) -> None:
    path = sorted(store.glob("studies/*/ledger.jsonl"))[0]
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


def altered(line: str) -> str:
    data = json.loads(line)
    data.pop("seal")
    tables = data["looks"][-1]["correct"].values()
    cells = next(row for table in tables for row in table if row[0])
    cells[0] -= 1
    return json.dumps(data)


def query(store: Path, statement: str) -> None:
    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute(statement)


def duplicate_a_run(store: Path) -> None:
    with sqlite3.connect(store / "mlflow.db") as database:
        one = "(SELECT run_uuid FROM tags WHERE key = 'harness.key' LIMIT 1)"
        for table in ("runs", "tags"):
            rows = database.execute(f"SELECT * FROM {table} WHERE run_uuid = {one}").fetchall()
            names = [c[1] for c in database.execute(f"PRAGMA table_info({table})")]
            at = names.index("run_uuid")
            for row in rows:
                copy = [*row[:at], "twin", *row[at + 1 :]]
                database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(copy))})", copy)


FIRST = "(SELECT run_uuid FROM tags WHERE key = 'harness.key' LIMIT 1)"
SABOTAGE = {
    "nothing": (lambda store: None, {}),
    "a lost line": (lambda store: rewrite(store, lambda lines: lines[1:]), {"lost": 1}),
    "a line twice": (lambda store: rewrite(store, lambda ls: [*ls, ls[0]]), {"recomputed": 1}),
    "another result": (
        lambda store: rewrite(store, lambda ls: [*ls[:-1], altered(ls[-1])]),
        {"recomputed": 1, "different": 1},
    ),
    "a run twice in MLflow": (duplicate_a_run, {"duplicated": 1}),
    "a run left running": (
        lambda store: query(store, f"UPDATE runs SET status = 'RUNNING' WHERE run_uuid = {FIRST}"),
        {"orphaned": 1},
    ),
    "a run missing in MLflow": (
        lambda store: query(
            store, f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = {FIRST}"
        ),
        {"missing": 1},
    ),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_the_audit_sees(lab: Lab, tmp_path: Path, name: str) -> None:
    sabotage, counts = SABOTAGE[name]
    reference = lab.started[0]
    store = shutil.copytree(reference.store, tmp_path / "store")
    sabotage(store)
    verdict = lab.audit(Outcome(store, [reference], 0, LONGER, codes=[0]))
    assert len(ledger_lines(reference.store)) == len(reference.known) == RUNS
    found = {n: getattr(verdict, n) for n in Verdict._fields[1:7] if getattr(verdict, n)}
    assert found.items() >= counts.items() and set(found) <= {*counts, "different"}
    assert verdict.is_good == (not counts)


def test_the_audit_believes_what_the_user_was_told(lab: Lab, tmp_path: Path) -> None:
    reference = lab.started[0]
    assert {key for key in reference.said()} == set(reference.known)
    store = shutil.copytree(reference.store, tmp_path / "store")
    rewrite(store, lambda lines: lines[1:])
    witness = type(reference)(store, reference.process, "", reference.log, 0.0)
    assert lab.audit(Outcome(store, [witness], 0, LONGER, codes=[0])).lost == 1


def test_the_audit_sees_exit_codes_and_tracebacks(lab: Lab, tmp_path: Path) -> None:
    reference = lab.started[0]
    assert not lab.audit(Outcome(reference.store, [reference], 0, LONGER, codes=[130])).is_good
    log = tmp_path / "log"
    log.write_text(f"{reference.output}\nTraceback (most recent call last):\n")
    loud = type(reference)(reference.store, reference.process, "", log, 0.0)
    assert not lab.audit(Outcome(reference.store, [loud], 0, LONGER)).is_good
