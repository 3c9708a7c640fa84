"""A wall clock that jumps while a sweep is running."""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
from pathlib import Path

from tests.faults.catalogue import fault
from tests.faults.lab import Lab, Outcome, ledger_lines

YEAR = 365 * 86400


@fault("clock jumps", "wall clock a year ahead, then a year back, at random moments", times=3)
def jump(lab: Lab, rng: random.Random) -> Outcome:
    """The clock that the driver, the workers and MLflow read; that of Ray's C++ stays true."""
    library, offset = lab.folder / "clock.so", lab.folder / "clock-offset"
    compiler = shutil.which("cc")
    if compiler is None:
        raise AssertionError("needs a C compiler, named cc")
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    set_clock(offset, 0)
    lab.undisturbed()
    preloaded = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset)}
    sweep = lab.start(lab.new_store(), environment=preloaded)
    moments = sorted(rng.sample(range(1, 7), 2))
    sweep.wait_for_records(moments[0])
    before = len(sweep.look())
    set_clock(offset, YEAR)
    sweep.wait_for_records(moments[1])
    set_clock(offset, -YEAR)
    sweep.end()
    years = {json.loads(line)["started"][:4] for _, line in ledger_lines(sweep.store)}
    if len(years) < 2:
        raise AssertionError(f"the clock did not jump: all runs are of {years}")
    return Outcome(sweep.store, [sweep], before, told="(nothing)")


def set_clock(offset: Path, seconds: int) -> None:
    """Sets how far ahead of the true clock the preloaded one runs, also for those who run now."""
    with offset.open("r+b" if offset.exists() else "wb") as file:
        file.write(struct.pack("q", seconds))
