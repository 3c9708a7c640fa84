"""Injects every fault into real sweeps and prints what was lost: `python -m tests.faults`."""

from __future__ import annotations

import argparse
import os
import platform
import random
import sqlite3
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from tests.faults import clock, damage, environment, processes, tracking_faults, trials  # noqa: F401 - each enters its faults
from tests.faults.catalogue import FAULTS, Fault
from tests.faults.lab import Lab, Sweep, Verdict

COLUMNS = (
    "fault", "injected", "times", "runs finished before", "lost", "computed twice",
    "MLflow runs duplicate, orphaned or missing", "leaderboard equal", "processes left",
    "what the user is told",
)  # fmt: skip


class Campaign:
    """Injects faults, keeps the verdicts, and makes the table of them."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab, self.seed = lab, seed
        self.verdicts: dict[str, list[Verdict]] = {}
        self.errors: dict[str, list[str]] = {}
        self.sweeps: dict[str, list[Sweep]] = {}
        self.left: dict[str, list[str]] = {}

    def inject(self, fault: Fault, number: int) -> None:
        """Does it once; the moment depends on the seed, the fault and the number only."""
        first = len(self.lab.started)
        began = time.monotonic()
        try:
            outcome = fault.inject(self.lab, random.Random(f"{self.seed}/{fault.name}/{number}"))
            verdict = self.lab.audit(outcome)
            self.verdicts.setdefault(fault.name, []).append(verdict)
            said = "nothing lost" if verdict.is_good else f"NOT GOOD: {verdict}"
        except (AssertionError, ValueError, sqlite3.DatabaseError) as error:  # it cannot be read
            said = f"FAILED: {error}"
            self.errors.setdefault(fault.name, []).append(str(error))
        self.sweeps.setdefault(fault.name, []).extend(self.lab.started[first:])
        seconds = time.monotonic() - began
        print(f"{fault.name} {number + 1}: {said} ({seconds:.0f} s)", file=sys.stderr, flush=True)

    def settle(self) -> None:
        """Waits until the last processes of killed sweeps are gone, and notes which are not."""
        self.lab.left_behind()
        self.left = {name: self.lab.left_behind(s, 0) for name, s in self.sweeps.items()}

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, leaked or wrong in all of it."""
        verdicts = [verdict for some in self.verdicts.values() for verdict in some]
        return not self.errors and not any(self.left.values()) and all(v.is_good for v in verdicts)

    def row(self, fault: Fault) -> list[str]:
        """A row of the table: sums over all times the fault was injected."""
        verdicts = self.verdicts.get(fault.name, [])
        errors = self.errors.get(fault.name, [])

        def total(*names: str) -> str:
            return str(sum(getattr(verdict, name) for verdict in verdicts for name in names))

        equal = sum(v.equal and not v.different for v in verdicts)
        folder = f"{self.lab.folder}/"
        told = list(dict.fromkeys(v.told.replace(folder, "") for v in verdicts if v.told))
        bad = [
            v.trouble or f"{v.tracebacks} tracebacks" for v in verdicts if v.trouble or v.tracebacks
        ]
        bad += [error.splitlines()[0] for error in errors]
        return [
            fault.name, fault.injected, str(len(verdicts) + len(errors)), total("before"),
            total("lost"), total("recomputed"), total("duplicated", "orphaned", "missing"),
            f"{equal} of {len(verdicts) + len(errors)}", str(len(self.left.get(fault.name, []))),
            "; ".join([*(f"FAILED: {each}" for each in bad), *told[:1]]),
        ]  # fmt: skip

    def text(self, faults: list[Fault], began: float) -> str:
        """Header and table."""
        rows = [self.row(fault) for fault in faults]
        count = sum(int(row[2]) for row in rows)
        return f"{header(self.seed, count, time.monotonic() - began)}\n\n{table(rows)}\n"


def table(rows: list[list[str]]) -> str:
    """Rows as a Markdown table."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |" for line in lines)


def header(seed: int, injections: int, seconds: float) -> str:
    """On what, with what and how often it was measured."""
    packages = ", ".join(f"{n} {version(n)}" for n in ("torch", "ray", "optuna", "mlflow"))
    return (
        f"{injections} faults injected into real sweeps in {seconds / 60:.0f} minutes, seed {seed}."
        f" {platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python"
        f" {platform.python_version()}, {packages}."
    )


def main() -> int:
    """Runs the campaign; returns 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", choices=list(FAULTS))
    parser.add_argument("--times", type=int, help="how often each is injected, instead of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="file for the table")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        lab = Lab(Path(folder))
        campaign = Campaign(lab, options.seed)
        chosen = [FAULTS[name] for name in options.only or FAULTS]
        try:
            for done, fault in enumerate(chosen, 1):
                for number in range(options.times or fault.times):
                    campaign.inject(fault, number)
                if options.output:  # as far as it is: the whole takes hours
                    options.output.write_text(campaign.text(chosen[:done], began))
            campaign.settle()
        finally:
            lab.clear()
    text = campaign.text(chosen, began)
    print(text)
    if options.output:
        options.output.write_text(text)
    return 0 if campaign.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
