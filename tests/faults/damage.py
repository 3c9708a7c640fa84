"""Files of a store that are flipped, cut short or deleted between interruption and continuation."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.faults.catalogue import fault
from tests.faults.environment import harness
from tests.faults.lab import PATIENCE, RUNS, Lab, Outcome, Sweep, ledger_lines


def flip(file: Path, rng: random.Random) -> None:
    """Changes one bit of one byte."""
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def cut(file: Path, rng: random.Random) -> None:
    """Takes the second half away."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def delete(file: Path, rng: random.Random) -> None:
    """Takes all of it away."""
    file.unlink()


HOW: dict[str, Callable[[Path, random.Random], None]] = {
    "flipped": flip, "cut short": cut, "deleted": delete,
}  # fmt: skip


class Part(NamedTuple):
    """A kind of file.

    Attributes:
        pattern: Of its path in the store, or in the data folder where `in_data`.
        refused: Kinds of damage with which the sweep refuses to go on until it is mended.
        backup: Whether only a backup mends it, not `harness store repair`.
        is_view: Whether a sweep does without it, until it is repaired.
        sealed: Whether every changed bit is noticed; SQLite has no checksums.
    """

    pattern: str
    in_data: bool = False
    refused: tuple[str, ...] = ()
    backup: bool = False
    is_view: bool = False
    sealed: bool = True


PARTS = {
    "stage value": Part("stages/*/value.pt"),
    "stage manifest": Part("stages/*/manifest.json"),
    "Optuna's journal": Part("optuna.journal"),
    "MLflow's database": Part("mlflow.db", is_view=True, sealed=False),
    "data array": Part("arrays/**/*.npy", in_data=True),
    "data manifest": Part("arrays/**/manifest.json", in_data=True),
    "ledger": Part("studies/*/ledger.jsonl", refused=("flipped",)),
    "study.json": Part("studies/*/study.json", refused=("flipped", "cut short"), backup=True),
    "checkpoint": Part("studies/*/checkpoints/*.pt"),
}


def interrupted(lab: Lab) -> Sweep:
    """A sweep that was stopped when it had confirmed one run at least, and so has all files."""
    store = lab.new_store()
    sweep = lab.start(store)
    sweep.wait_for(lambda: bool(list(store.glob(PARTS["checkpoint"].pattern))), "checkpoint")
    sweep.wait_for(lambda: confirmed(store), "confirm run")
    sweep.send(signal.SIGTERM)
    sweep.end()
    if not 0 < len(sweep.known) < RUNS:
        raise AssertionError(f"was over before it was interrupted: {sweep.output}")
    return sweep


def confirmed(store: Path) -> bool:
    return any(key.role == "confirm" for key, _ in ledger_lines(store))


def damage(lab: Lab, rng: random.Random, part: Part, how: str) -> Outcome:
    """Damages a file, checks, repairs where that is needed (else every other time), continues."""
    lab.undisturbed()
    broken = interrupted(lab)
    store = broken.store
    root = lab.folder / "data" if part.in_data else store
    files = sorted(root.glob(part.pattern))
    if not files:
        raise AssertionError(f"no {part.pattern} in {root}")
    file = rng.choice(files)
    backup = shutil.copy(file, store.with_suffix(".backup"))
    HOW[how](file, rng)
    told = "" if part.in_data else check(store, file)
    if how in part.refused:
        told = refusal(lab, store, file)
    if part.backup:
        shutil.copy(backup, file)
    first = how in part.refused or rng.random() < 0.5
    if first and not part.backup and not part.in_data:
        repair(store)
    left = {key for key, _ in ledger_lines(store)} if part.pattern.endswith("jsonl") else None
    again = lab.finish(store)
    if not first and part.is_view:  # the sweep went on without it
        repair(store)
    if part.in_data:
        told = again.line("building it again")
    before = len(left if left is not None else broken.known)
    # What was destroyed with its only copy is computed again; its results are compared below.
    sweeps = [again] if left is not None or "checkpoints" in part.pattern else [broken, again]
    return Outcome(store, sweeps, before, told=told, codes=[130, 0][-len(sweeps) :])


def refusal(lab: Lab, store: Path, file: Path) -> str:
    """The line with which the same command refuses, which names the file."""
    refused = lab.start(store)
    code = refused.process.wait(PATIENCE)
    line = refused.last_line
    if code != 2 or str(file) not in line or "Traceback" in refused.output:
        raise AssertionError(f"does not refuse {file}: exit {code}, {refused.output}")
    return line


def check(store: Path, file: Path) -> str:
    """`harness store check` names the file; the line in which it does."""
    code, said = harness("store", "check", "--store", str(store))
    named = [x for x in said.splitlines() if str(file) in x or str(file.parent) in x]
    if code != 1 or not named or "Traceback" in said:
        raise AssertionError(f"`store check` does not name {file}: exit {code}, {said}")
    return named[0]


def repair(store: Path) -> None:
    """`harness store repair` leaves nothing to find."""
    for words in ("repair", "check"):
        code, said = harness("store", words, "--store", str(store))
        if code or "Traceback" in said:
            raise AssertionError(f"`store {words}`: exit {code}, {said}")


for name, part in PARTS.items():
    for how in HOW:
        if how == "flipped" and not part.sealed:
            continue
        fault(f"{name} {how}", f"{name} {how} between interruption and continuation", times=1)(
            partial(damage, part=part, how=how)
        )
