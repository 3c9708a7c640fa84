"""A place to break sweeps in: starts real ones, waits, continues them, and audits what is left.

A fault gets a `Lab`, makes a store, starts a sweep there, breaks something, has the same command
finish the sweep, and returns an `Outcome`. `Lab.audit` turns that into a `Verdict` of counts.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    "mining.steps": 8,
    "pretrain.steps": 8,
    "prune.steps": 8,
    "retrain.steps": 8,
    "retrain.eval_every": 4,
    "training.steps": 8,
    "training.eval_every": 4,
}
COMMON = ("--dataset", "synthetic", "--ratio", "1", "--preset", "quick", "--device", "cpu")
SIZE = ("--trials", "4", "--seeds", "2", "--concurrency", "2")


def words(*methods: str, parts: Sequence[str]) -> tuple[str, ...]:
    """The words of a sweep of 6 runs per method.

    Args:
        methods: Their names.
        parts: The groups of settings that they have, such as retrain.
    """
    chosen = [each for method in methods for each in ("--method", method)]
    for name, value in SETTINGS.items():
        if name.partition(".")[0] in parts:
            chosen += ["--set", f"{name}={value}"]
    return (*chosen, *COMMON, *SIZE)


SWEEP = words("dcwp", "erm", parts=["mining", "pretrain", "prune", "retrain", "training"])
"""Two methods, 4 trials and 2 confirm seeds each: 12 runs, of which dcwp's share stages."""
RUNS = 12
MARK = "HARNESS_FAULTS_SWEEP"
"""In the environment of every process of a sweep: which one."""
PATIENCE = 300.0
"""Seconds within which whatever is waited for has to happen, on a machine that is busy."""
LINGER = 150.0
"""Seconds that Ray's agents may outlive a driver that was killed."""
_SAID = re.compile(r"^\S+ (finished|stopped|failed) (\S+) (\w+) (\d+) seed (\d+): ", re.MULTILINE)


class Key(NamedTuple):
    """Which run of a store."""

    study: str
    role: str
    number: int
    seed: int


class Undisturbed(NamedTuple):
    """A sweep that nothing happened to, and how long it took."""

    store: Path
    seconds: float


@dataclass
class Sweep:
    """A running sweep (or one that has ended) in a process group of its own.

    Attributes:
        mark: Tells its processes from those of other sweeps.
        log: What it prints, on either stream.
        known: Ledger lines of runs that were seen finished at any moment it was looked at.
    """

    store: Path
    process: subprocess.Popen[bytes]
    mark: str
    log: Path
    began: float
    known: dict[Key, str] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def last_line(self) -> str:
        """The last line it printed."""
        return self.line("")

    def line(self, text: str) -> str:
        """The last line it printed that contains a text; empty if none does."""
        lines = (line for line in reversed(self.output.splitlines()) if line.strip())
        return next((line.strip() for line in lines if text in line), "")

    def look(self) -> dict[Key, str]:
        """Notes what is recorded now, as text by run, on top of what was seen before."""
        for key, line in ledger_lines(self.store):
            self.known.setdefault(key, line)
        return self.known

    def said(self) -> set[Key]:
        """The runs that it told the user were recorded: a witness beside the ledger."""
        return {Key(m[2], m[3], int(m[4]), int(m[5])) for m in _SAID.finditer(self.output)}

    def wait_for(self, happened: Callable[[], bool], what: str) -> None:
        """Returns when something is so; fails when the sweep ends or time runs out before."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no {what}, exit {self.process.poll()}: {self.output}")
            time.sleep(0.02)
        self.look()

    def wait_for_records(self, count: int) -> None:
        """Returns when the store has that many records."""
        self.wait_for(lambda: len(ledger_lines(self.store)) >= count, f"{count} records")

    def wait_for_line_or_end(self, text: str) -> None:
        """Returns when it has printed a text, or has ended."""
        with suppress(AssertionError):
            self.wait_for_line(text)

    def wait_for_line(self, text: str) -> None:
        """Returns when it has printed a text."""
        self.wait_for(lambda: text in self.output, f"{text!r}")

    def run_for(self, seconds: float) -> None:
        """Returns after that long, or when it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.look()

    def processes(self, name: str = "") -> list[int]:
        """Its live processes, Ray's included, whose command line contains `name`."""
        return [pid for pid in marked(self.mark) if name in command_line(pid)]

    def send(self, number: signal.Signals, group: bool = False) -> bool:
        """Sends a signal to the driver, or as a terminal does to its process group.

        Returns:
            Whether it was still running.
        """
        self.look()
        if self.process.poll() is not None:
            return False
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return True

    def kill(self, *names: str) -> int:
        """Kills its processes whose command line contains one of the names; returns how many."""
        self.look()
        chosen = {pid for name in names for pid in self.processes(name)}
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(chosen)

    def end(self, patience: float = PATIENCE) -> int:
        """Waits for its end; returns the exit code, or stops it and fails if there is none."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.clear()
            raise AssertionError(f"still running after {patience:.0f} s: {self.output}") from None
        self.look()
        return code

    def clear(self) -> None:
        """Kills whatever is left of it, at once."""
        for pid in marked(self.mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Outcome:
    """What a fault leaves to be audited.

    Attributes:
        sweeps: In the order they were started; the first one met the fault.
        before: How many runs were finished when it was injected.
        words: The sweep's; an undisturbed one with them is what it is compared with.
        told: What the user was told, if it is not the last line of the first sweep.
        database: MLflow's, if it is not the one in the store.
        codes: The exit codes that the sweeps should have had; None for any.
        ends: What the last line of the first sweep should contain.
    """

    store: Path
    sweeps: Sequence[Sweep]
    before: int
    words: Sequence[str] = SWEEP
    told: str = ""
    database: Path | None = None
    codes: Sequence[int | None] | None = None
    ends: str = ""


class Verdict(NamedTuple):
    """What a fault did, in counts.

    Attributes:
        before: Runs finished when it was injected.
        recomputed: Records that changed or are there twice.
        missing: Runs that MLflow lacks.
        different: Runs that are not as in the undisturbed sweep, or missing.
        trouble: What else is not as it should be: exit codes, or the last line.
        told: What the user was told.
    """

    before: int
    lost: int
    recomputed: int
    duplicated: int
    orphaned: int
    missing: int
    different: int
    equal: bool
    tracebacks: int
    trouble: str
    told: str

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, leaked or wrong."""
        return self.equal and not self.trouble and not any(self[1:7]) and not self.tracebacks


@dataclass
class Lab:
    """A data root, a scratch folder, and the sweeps that others are compared with."""

    folder: Path
    started: list[Sweep] = field(default_factory=list)
    _references: dict[tuple[str, ...], Undisturbed] = field(default_factory=dict)
    _stores: int = 0

    def new_store(self) -> Path:
        """A store that is not there yet."""
        self._stores += 1
        return self.folder / f"store-{self._stores}"

    def start(
        self,
        store: Path,
        words: Sequence[str] = SWEEP,
        *,
        more: Sequence[str] = (),
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Sweep:
        """Starts a sweep in a process group of its own.

        Args:
            store: Where to.
            words: Of the command line, after `harness sweep`; what is computed depends on them.
            more: Words on which it does not depend, such as a tracking server's.
            prefix: A command that is to run it, such as unshare or env with their options.
            environment: What to set on top of this process's environment.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"sweep-{len(self.started) + 1}.log"
        command = [*prefix, sys.executable, "-m", "harness", "sweep", *words, *more]
        command += ["--store", str(store), "--data-root", str(self.folder / "data")]
        mark = secrets.token_hex(8)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=os.environ | (environment or {}) | {MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(Sweep(store, process, mark, log, time.monotonic()))
        return self.started[-1]

    def finish(self, store: Path, words: Sequence[str] = SWEEP, **how: Any) -> Sweep:
        """Starts a sweep as :meth:`start` does and waits for its end."""
        sweep = self.start(store, words, **how)
        sweep.look()
        sweep.end()
        return sweep

    def start_until_a_random_moment(
        self, rng: random.Random, store: Path | None = None, **how: Any
    ) -> Sweep:
        """A sweep stopped at nowhere special: after some number of records, and a bit later.

        The moments are shares of the duration of an undisturbed sweep, so that a busy machine
        does not move all of them to the same stage.
        """
        seconds = self.undisturbed(how.get("words", SWEEP)).seconds
        while True:
            sweep = self.start(store or self.new_store(), **how)
            if count := rng.randrange(RUNS):
                sweep.wait_for_records(count)
                sweep.run_for(rng.uniform(0, seconds / (4 * RUNS)))
            else:
                sweep.run_for(rng.uniform(0.1, 0.6) * seconds)
            if store or sweep.process.poll() is None:
                return sweep  # else it was over before anything could happen to it

    def continued(
        self, broken: Sweep, code: int | None = None, ends: str = "", **how: Any
    ) -> Outcome:
        """Waits for a sweep that was broken to end, and has the same command finish it.

        Args:
            broken: What is recorded when this is called counts as finished before the fault.
            code: The exit code it should end with; None for any.
            ends: What its last line should contain.
            how: As in :meth:`start`.
        """
        before = len(broken.look())
        broken.end()
        again = self.finish(broken.store, **how)
        words = how.get("words", SWEEP)
        return Outcome(broken.store, [broken, again], before, words, codes=[code, 0], ends=ends)

    def undisturbed(self, words: Sequence[str] = SWEEP) -> Undisturbed:
        """The same sweep in a store of its own, without a fault; run once."""
        name = tuple(words)
        if name not in self._references:
            sweep = self.finish(self.folder / f"undisturbed-{len(self._references) + 1}", words)
            self._references[name] = Undisturbed(sweep.store, time.monotonic() - sweep.began)
        return self._references[name]

    def audit(self, outcome: Outcome) -> Verdict:
        """Compares what was known at any time, and an undisturbed sweep, with what is there now."""
        lines = ledger_lines(outcome.store)
        final = dict(lines)
        known = {key for sweep in outcome.sweeps for key in (*sweep.known, *sweep.said())}
        changed = sum(
            final.get(key, line) != line for s in outcome.sweeps for key, line in s.known.items()
        )
        reference = self.undisturbed(outcome.words)
        expected = {key: essence(line) for key, line in ledger_lines(reference.store)}
        found = {key: essence(line) for key, line in final.items()}
        runs = mlflow_runs(outcome.database or outcome.store / "mlflow.db")
        studies = {key.study for key in expected}
        wanted = Counter({(key.study, f"{key.role}/{key.number}/{key.seed}") for key in expected})
        wanted += Counter((study, "") for study in studies)
        written = Counter((run.study, run.key) for run in runs)
        codes = [sweep.process.poll() for sweep in outcome.sweeps]
        allowed = outcome.codes or [*[None] * (len(codes) - 1), 0]
        trouble = ""
        if any(want not in (None, code) for code, want in zip(codes, allowed, strict=True)):
            trouble = f"exit codes {codes}, expected {list(allowed)}"
        elif outcome.ends not in outcome.sweeps[0].last_line:
            trouble = f"does not end in {outcome.ends!r}"
        return Verdict(
            before=outcome.before,
            lost=len(known - final.keys()),
            recomputed=changed + len(lines) - len(final),
            duplicated=sum((written - wanted).values()),
            orphaned=sum(run.status == "RUNNING" for run in runs),
            missing=sum((wanted - written).values()),
            different=sum(found.get(k) != expected.get(k) for k in {*found, *expected}),
            equal=board(outcome.store).equals(board(reference.store)),
            tracebacks=sum(s.output.count("Traceback (most recent") for s in outcome.sweeps),
            trouble=trouble,
            told=outcome.told or outcome.sweeps[0].last_line,
        )

    def left_behind(
        self, sweeps: Sequence[Sweep] | None = None, patience: float = LINGER
    ) -> list[str]:
        """Processes that outlive their sweeps by more than that many seconds from now."""
        deadline = time.monotonic() + patience
        while left := [
            f"{pid} {command_line(pid)}"
            for sweep in (self.started if sweeps is None else sweeps)
            for pid in marked(sweep.mark)
        ]:
            if time.monotonic() > deadline:
                return left
            time.sleep(1)
        return []

    def clear(self) -> None:
        """Kills whatever is left of all sweeps."""
        for sweep in self.started:
            sweep.clear()


def ledger_lines(store: Path) -> list[tuple[Key, str]]:
    """Every complete line of every ledger, read without the product's reader, with its run."""
    found = []
    for path in sorted(store.glob("studies/*/ledger.jsonl")):
        for line in path.read_text().split("\n")[:-1]:
            data = json.loads(line)
            key = Key(path.parent.name, data["role"], data["number"], data["seed"])
            found.append((key, line))
    return found


def essence(line: str) -> dict[str, Any]:
    """A record without what depends on the clock and on who was first to compute a stage."""
    data = json.loads(line)
    for name in ("seconds", "started", "seal", "traceback"):
        data.pop(name, None)
    for look in data["looks"]:
        del look["seconds"]
    data["stages"] = [(stage["name"], stage["key"]) for stage in data["stages"]]
    return dict(data)


class TrackedRun(NamedTuple):
    """A run in MLflow's database; `key` is empty for that of a study itself."""

    study: str
    key: str
    status: str


def mlflow_runs(database: Path) -> list[TrackedRun]:
    """All runs that are not deleted, read without MLflow."""
    query = (
        "SELECT runs.status, study.value, key.value, root.value FROM runs"
        " LEFT JOIN tags study ON study.run_uuid = runs.run_uuid AND study.key = 'harness.study'"
        " LEFT JOIN tags key ON key.run_uuid = runs.run_uuid AND key.key = 'harness.key'"
        " LEFT JOIN tags root ON root.run_uuid = runs.run_uuid"
        " AND root.key = 'harness.study_root' WHERE runs.lifecycle_stage = 'active'"
    )
    if not database.exists():
        return []
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute(query).fetchall()
    finally:
        connection.close()
    return [
        TrackedRun((study or root or "").split(" ")[0], key or "", status)
        for status, study, key, root in rows
    ]


def board(store: Path) -> pd.DataFrame:
    """The leaderboard without what depends on the clock."""
    from harness.study import Store
    from reports.leaderboard import leaderboard
    from reports.results import from_store

    frame = leaderboard(from_store(Store(store)))
    return frame[[column for column in frame if "seconds" not in column]]


def marked(mark: str) -> list[int]:
    """The processes that have a sweep's mark, Ray's included: all inherit it."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:  # it has just ended, or is somebody else's
                continue
    return found


def command_line(pid: int) -> str:
    """Of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""
