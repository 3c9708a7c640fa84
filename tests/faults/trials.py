"""Trials that raise, hang, go NaN, crash or take too much memory, always or once."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.catalogue import fault
from tests.faults.lab import COMMON, SIZE, Lab, Outcome, essence, ledger_lines

PLUGIN = Path(__file__).parent / "methods" / "faulty.py"
HEALTHY = ("--method", "faulty", "--plugin", str(PLUGIN), *COMMON, *SIZE,
           "--searcher", "random")  # fmt: skip
FIXED = ("--set", "mark=0.6", "--set")
NONE = (*HEALTHY, *FIXED, "fault=none")
ONCE = "HARNESS_FAULTS_ONCE"


def searched(store: Path) -> dict[int, dict[str, Any]]:
    """The search records by trial number, without the setting that says how they fail."""
    found = {}
    for key, line in ledger_lines(store):
        if key.role == "search":
            found[key.number] = essence(line)
            del found[key.number]["settings"]["fault"]
    return found


def fail_always(lab: Lab, rng: random.Random, kind: str, error: str) -> Outcome:
    """Some settings always fail: a failed record each, with one line, and all else as without."""
    words = (*HEALTHY, *FIXED, f"fault={kind}")
    more = ["--trial-timeout", "0.5"] if kind == "hang" else []
    sweep = lab.finish(lab.new_store(), words, more=more)
    healthy, found = searched(lab.undisturbed(NONE).store), searched(sweep.store)
    failed = {n for n, record in found.items() if record["status"] == "failed"}
    meant = {n for n, record in found.items() if record["settings"]["scale"] > 0.6}
    if not meant or failed != meant or len(found) != len(healthy):
        raise AssertionError(f"{failed} failed instead of {meant}: {sweep.output}")
    for number, record in found.items():
        said = record["error"]
        if number in failed and (error not in said or len(said.splitlines()) != 1):
            raise AssertionError(f"trial {number} says {said!r}")
        if number not in failed and record != healthy[number]:
            raise AssertionError(f"trial {number} is not as without the others' failures")
    if kind == "hang":  # the reference would hang: compared with the healthy one above instead
        return replay(lab, sweep.store, words, more, sweep.line("failed: "))
    return Outcome(sweep.store, [sweep], 0, words, told=sweep.line("failed: "), codes=[0])


def replay(lab: Lab, store: Path, words: tuple[str, ...], more: list[str], told: str) -> Outcome:
    """The same command again, which has nothing left to train, is its own reference."""
    again = lab.finish(store, words, more=more)
    if "nothing left to train" not in again.output:
        raise AssertionError(f"a failed trial was computed again: {again.output}")
    lab._references[words] = type(lab.undisturbed(NONE))(store, 0.0)
    return Outcome(store, [again], len(ledger_lines(store)), words, told=told, codes=[0])


ALWAYS = {
    "raise": ("a method that raises at some settings", "the method's own error"),
    "nan": ("a method whose loss is NaN at some settings", "the loss is nan"),
    "hang": ("a method that hangs at some settings, with --trial-timeout", "--trial-timeout"),
    "limit": ("a method that exceeds a memory limit (RLIMIT_AS) at some settings", "MemoryError"),
}
for kind, (injected, error) in ALWAYS.items():
    fault(f"trial: {kind}", injected, times=1)(partial(fail_always, kind=kind, error=error))


@fault("trial: crash", "SIGSEGV in a trial, once", times=2)
def crash_once(lab: Lab, rng: random.Random) -> Outcome:
    return strike_once(lab, "crash", [])


@fault("trial: out of memory", "a trial that the system kills for its memory, once", times=2)
def exceed_memory_once(lab: Lab, rng: random.Random) -> Outcome:
    with memory_limited("4G") as prefix:
        return strike_once(lab, "eat", prefix)


@contextmanager
def memory_limited(size: str) -> Iterator[list[str]]:
    """A command prefix: what it runs has that much memory in all, by a control group."""
    group, limit = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
    if not group.exists():  # version 2
        group, limit = group.parent, "memory.max"
    group /= f"harness-faults-{os.getpid()}"
    group.mkdir(exist_ok=True)
    try:
        (group / limit).write_text(size)
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        with suppress(OSError):  # some of Ray's processes may take a while to end
            group.rmdir()


def strike_once(lab: Lab, kind: str, prefix: list[str]) -> Outcome:
    """The work is given out again, and the end is that of an undisturbed sweep."""
    store = lab.new_store()
    flag = store.with_suffix(".struck")
    lab.undisturbed(NONE)
    sweep = lab.finish(store, NONE, prefix=prefix, environment={ONCE: f"{kind}:{flag}"})
    if not flag.exists() or not sweep.line("died"):
        raise AssertionError(f"did not strike: {sweep.output}")
    statuses = {json.loads(line)["status"] for _, line in ledger_lines(store)}
    if statuses != {"finished"}:
        raise AssertionError(f"an innocent trial failed: {sweep.output}")
    return Outcome(store, [sweep], 0, NONE, told=sweep.line("died"), codes=[0])
